//! An identity provider ends what its sign-ins have begun.

use serde_json::{Value, json};

use super::{
    ClientApp, WHOAMI_PATH,
    identity_provider::{BEGIN_PATH, TestProvider, alice, send_logout_token},
    signed_in_browser, text,
};
use crate::{
    browser::Browser,
    harness::{Client, Server},
};

const ACCOUNT_PATH: &str = "/_parlour/account";

async fn sign_in_device(server: &Server, browser: &Browser, device_id: &str) -> Client {
    let app = ClientApp::register(server).await;
    let tokens = app.sign_in(browser, device_id).await;
    server.client().with_token(&text(&tokens, "access_token"))
}

async fn is_signed_in(browser: &Browser) -> bool {
    browser.open(ACCOUNT_PATH).await.status == 200
}

#[tokio::test]
async fn the_end_of_a_session_at_the_provider_ends_its_browser_session_and_devices() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let first = provider.registered_browser(&server, "alice").await;
    let phone = sign_in_device(&server, &first, "PHONE").await;
    let mut person = alice();
    person["sid"] = json!("session 2");
    provider.signs_in(person);
    let second = Browser::new(&server);
    provider.visit(&second, BEGIN_PATH).await;
    let tablet = sign_in_device(&server, &second, "TABLET").await;

    let token = provider.logout_token(|claims| claims["sid"] = json!("session 1"));
    let ended = send_logout_token(&server, &token).await;
    assert_eq!(ended.status, 200, "{}", ended.text);

    assert!(!is_signed_in(&first).await);
    assert!(is_signed_in(&second).await);
    let refused = phone.get(WHOAMI_PATH).await;
    refused.expect_error(401, "M_UNKNOWN_TOKEN");
    tablet.get(WHOAMI_PATH).await.expect_ok();
    // The same token cannot be used again.
    assert_eq!(send_logout_token(&server, &token).await.status, 400);
}

#[tokio::test]
async fn the_end_of_all_sessions_of_a_person_ends_those_and_no_others() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let first = provider.registered_browser(&server, "alice").await;
    let phone = sign_in_device(&server, &first, "PHONE").await;
    let second = Browser::new(&server);
    provider.visit(&second, BEGIN_PATH).await;
    provider.signs_in(json!({ "sub": "other", "sid": "session 1" }));
    let others = provider.registered_browser(&server, "bob").await;
    let (with_password, carol) = signed_in_browser(&server, "carol").await;

    let token = provider.logout_token(|claims| claims["sub"] = json!("1234"));
    assert_eq!(send_logout_token(&server, &token).await.status, 200);

    assert!(!is_signed_in(&first).await);
    assert!(!is_signed_in(&second).await);
    let refused = phone.get(WHOAMI_PATH).await;
    refused.expect_error(401, "M_UNKNOWN_TOKEN");
    assert!(is_signed_in(&others).await && is_signed_in(&with_password).await);
    carol.client.get(WHOAMI_PATH).await.expect_ok();
}

#[tokio::test]
async fn a_device_that_signed_in_with_a_login_token_ends_with_the_sign_in() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let browser = provider.registered_browser(&server, "alice").await;
    let page = "/_parlour/oauth/sso?redirectUrl=https://old.example.org/";
    let allowed = browser.submit(page, &[("decision", "allow")]).await;
    let address = allowed.header("location");
    let (_, token) = address.split_once("loginToken=").expect("has a token");
    let login = json!({ "type": "m.login.token", "token": token });
    let login = server.post("/_matrix/client/v3/login", login).await;
    let old = server.user_from_login(&login.expect_ok());

    let token = provider.logout_token(|claims| claims["sub"] = json!("1234"));
    assert_eq!(send_logout_token(&server, &token).await.status, 200);

    let refused = old.client.get(WHOAMI_PATH).await;
    refused.expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_logout_token_with_a_wrong_claim_ends_nothing() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let browser = provider.registered_browser(&server, "alice").await;
    let wrong: [(&str, Value); 9] = [
        ("iss", json!("https://other.example.org")),
        ("aud", json!(["other"])),
        ("iat", json!(1_699_990_000)),
        ("exp", json!(1_699_999_999)),
        ("events", json!({})),
        (
            "events",
            json!({ "http://schemas.openid.net/event/other": {} }),
        ),
        ("nonce", json!("nonce")),
        ("jti", json!("")),
        ("sub", json!(null)),
    ];

    for (claim, value) in wrong {
        let token = provider.logout_token(|claims| {
            claims["sub"] = json!("1234");
            claims[claim] = value.clone();
        });
        let refused = send_logout_token(&server, &token).await;
        assert_eq!(refused.status, 400, "{claim} {value}: {}", refused.text);
        assert_eq!(refused.body["error"], "invalid_request");
    }
    let mismatched = provider.logout_token(|claims| {
        claims["sub"] = json!("other");
        claims["sid"] = json!("session 1");
    });
    send_logout_token(&server, &mismatched).await;
    provider.signs_with_wrong_key();
    let forged = provider.logout_token(|claims| claims["sub"] = json!("1234"));
    assert_eq!(send_logout_token(&server, &forged).await.status, 400);
    assert_eq!(send_logout_token(&server, "no token").await.status, 400);

    assert!(is_signed_in(&browser).await);
}
