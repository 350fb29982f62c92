//! Apps sign users in with an authorization code.

use reqwest::Method;
use serde_json::json;

use super::{
    ClientApp, REDIRECT_URI, WHOAMI_PATH, callback_of, scope_of, sign_in, signed_in_browser,
    start_server, text,
};
use crate::{browser::Browser, harness::Server};

#[tokio::test]
async fn a_user_signs_in_an_app_on_the_pages_of_the_server() {
    let server = start_server().await;
    server.register("alice").await;
    let app = ClientApp::register(&server).await;
    let browser = Browser::new(&server);

    let form = browser.follow(&app.authorization_address("PHONE")).await;
    assert!(form.text.contains("<h1>Sign in</h1>"), "{}", form.text);
    let page = app.authorization_address("PHONE");
    let next = url::form_urlencoded::byte_serialize(page.as_bytes()).collect::<String>();
    let sign_in_page = format!("/_parlour/sign-in?next={next}");
    let fields = [("user", "alice"), ("password", "password")];
    let signed_in = browser.submit(&sign_in_page, &fields).await;
    assert_eq!(signed_in.header("location"), page);
    let question = browser.open(&page).await;
    for shown in ["Example App", "example.com", "@alice:localhost", "/terms"] {
        assert!(question.text.contains(shown), "{}", question.text);
    }
    let tokens = app.sign_in(&browser, "PHONE").await;

    assert_eq!(text(&tokens, "token_type"), "Bearer");
    assert_eq!(text(&tokens, "scope"), scope_of("PHONE"));
    assert_eq!(tokens["expires_in"], 3_600);
    let phone = server.client().with_token(&text(&tokens, "access_token"));
    let identity = phone.get(WHOAMI_PATH).await.expect_ok();
    assert_eq!(identity["device_id"], "PHONE");
    assert_eq!(identity["user_id"], "@alice:localhost");
    let device = "/_matrix/client/v3/devices/PHONE";
    let device = phone.get(device).await.expect_ok();
    assert_eq!(device["display_name"], "Example App");
}

#[tokio::test]
async fn a_user_registers_on_the_way_to_an_app() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let browser = Browser::new(&server);
    let mut parameters = app.authorization_parameters("PHONE");
    parameters.push(("prompt", "create".to_owned()));
    let page = app.authorization_address_with(&parameters);

    let begun = browser.open(&page).await;
    let form = begun.header("location").to_owned();
    assert!(form.starts_with("/_parlour/register?next="), "{form}");
    let fields = [("user", "alice"), ("password", "password")];
    let registered = browser.submit(&form, &fields).await;

    assert_eq!(registered.header("location"), page);
    let tokens = app.sign_in(&browser, "PHONE").await;
    let phone = server.client().with_token(&text(&tokens, "access_token"));
    let identity = phone.get(WHOAMI_PATH).await.expect_ok();
    assert_eq!(identity["user_id"], "@alice:localhost");
    // The registration itself makes no device.
    let devices = phone.get("/_matrix/client/v3/devices").await.expect_ok();
    assert_eq!(devices["devices"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_user_who_cancels_is_sent_back_without_a_code() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;

    let page = app.authorization_address("PHONE");
    let denied = browser.submit(&page, &[("decision", "deny")]).await;

    let result = callback_of(&denied);
    assert_eq!(result["error"], "access_denied");
    assert_eq!(result["state"], "the state");
    assert_eq!(result.get("code"), None);
}

#[tokio::test]
async fn nobody_is_sent_to_an_address_that_the_app_has_not_registered() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;

    for (name, value) in [
        ("redirect_uri", "https://evil.example.org/"),
        ("redirect_uri", "https://app.example.com/callback/more"),
        ("client_id", "unknown"),
    ] {
        let mut parameters = app.authorization_parameters("PHONE");
        parameters.retain(|(known, _)| *known != name);
        parameters.push((name, value.to_owned()));
        let page = app.authorization_address_with(&parameters);
        let shown = browser.submit(&page, &[("decision", "allow")]).await;
        assert_eq!(shown.status, 400, "{}", shown.text);
        assert!(shown.text.contains("role=\"alert\""), "{}", shown.text);
    }
}

#[tokio::test]
async fn the_app_learns_what_is_wrong_with_its_request() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;

    for (name, value, error) in [
        ("response_type", "token", "unsupported_response_type"),
        ("scope", "openid", "invalid_scope"),
        ("code_challenge", "short", "invalid_request"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("response_mode", "form_post", "invalid_request"),
    ] {
        let mut parameters = app.authorization_parameters("PHONE");
        parameters.retain(|(known, _)| *known != name);
        parameters.push((name, value.to_owned()));
        let page = app.authorization_address_with(&parameters);
        let shown = browser.open(&page).await;
        // The user is not sent to the app unasked, because anyone can register one.
        assert_eq!(shown.status, 400, "{}", shown.text);
        let link = format!("href=\"{REDIRECT_URI}#state=the+state&amp;error={error}&amp;");
        if name == "response_mode" {
            assert!(
                shown.text.contains(&link.replace('#', "?")),
                "{}",
                shown.text
            );
        } else {
            assert!(shown.text.contains(&link), "{}", shown.text);
        }
    }
}

#[tokio::test]
async fn the_result_goes_to_the_part_of_the_address_that_the_app_wants() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;
    let mut parameters = app.authorization_parameters("PHONE");
    let page = app.authorization_address_with(&parameters);
    let fragment = browser.submit(&page, &[("decision", "allow")]).await;

    parameters.retain(|(name, _)| *name != "response_mode");
    let page = app.authorization_address_with(&parameters);
    let query = browser.submit(&page, &[("decision", "allow")]).await;

    let begins_with = |begin: &str, address: &str| {
        assert!(
            address.starts_with(&format!("{REDIRECT_URI}{begin}state=")),
            "{address}"
        );
    };
    begins_with("#", fragment.header("location"));
    begins_with("?", query.header("location"));
}

#[tokio::test]
async fn the_same_app_gets_the_same_client_id() {
    let server = start_server().await;
    let one = ClientApp::register(&server).await;
    let other = ClientApp::register(&server).await;

    assert_eq!(one.client_id, other.client_id);
    let mut renamed = super::client_metadata();
    renamed["client_name"] = json!("Another App");
    let renamed = one.register_client(renamed).await;
    assert_ne!(renamed.body["client_id"], json!(one.client_id));
}

#[tokio::test]
async fn an_app_with_a_foreign_redirect_uri_cannot_register() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let mut metadata = super::client_metadata();
    metadata["redirect_uris"] = json!(["https://evil.example.org/"]);

    let refused = app.register_client(metadata).await;

    super::expect_oauth_error(&refused, "invalid_redirect_uri");
    let refused = app.register_client(json!({ "client_uri": 5 })).await;
    super::expect_oauth_error(&refused, "invalid_client_metadata");
}

#[tokio::test]
async fn a_server_behind_a_proxy_without_a_public_address_does_not_offer_its_pages() {
    let server = Server::start().await;
    let client = server.client();
    let headers = [("host", "chat.example.org")];

    for path in [
        "/_matrix/client/v1/auth_metadata",
        "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata",
    ] {
        let direct = client.get(path).await;
        assert_eq!(direct.status, 200, "{}", direct.text);
        let refused = client.send_with_headers(Method::GET, path, "", &headers);
        refused.await.expect_error(404, "M_UNRECOGNIZED");
    }
}

#[tokio::test]
async fn the_oauth_api_can_be_switched_off() {
    let server = Server::with_config(|config| {
        config.server.public_url = parlour::config::BaseUrl::parse(super::PUBLIC_URL);
        config.oauth.enabled = false;
    })
    .await;

    let refused = server.get("/_matrix/client/v1/auth_metadata").await;
    refused.expect_error(404, "M_UNRECOGNIZED");
    let flows = server.get("/_matrix/client/v3/login").await;
    assert!(!flows.text.contains("m.login.sso"), "{}", flows.text);
}

#[tokio::test]
async fn an_older_client_signs_in_with_a_login_token() {
    let server = start_server().await;
    server.register("alice").await;
    let browser = Browser::new(&server);
    let target = "https://old.example.org/?x=1";
    let path = format!("/_matrix/client/v3/login/sso/redirect?redirectUrl={target}");

    let form = browser.follow(&path).await;
    assert!(form.text.contains("<h1>Sign in</h1>"), "{}", form.text);
    sign_in(&browser, "alice", "password").await;
    let question = browser.follow(&path).await;
    assert!(
        question.text.contains("old.example.org"),
        "{}",
        question.text
    );
    let page = browser.open(&path).await.header("location").to_owned();
    let allowed = browser.submit(&page, &[("decision", "allow")]).await;

    let address = allowed.header("location");
    let token = address.strip_prefix(&format!("{target}&loginToken="));
    let token = token.unwrap_or_else(|| panic!("{address} has no token"));
    let login = json!({ "type": "m.login.token", "token": token });
    let login = server.post("/_matrix/client/v3/login", login).await;
    assert_eq!(login.expect_ok()["user_id"], "@alice:localhost");
}
