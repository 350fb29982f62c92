//! Codes and tokens of apps: their exchange, refresh and revocation.

use std::time::Duration;

use parlour::clock::Clock;

use super::{
    CODE_VERIFIER, ClientApp, REDIRECT_URI, WHOAMI_PATH, expect_oauth_error, signed_in_browser,
    start_server, start_server_with, text,
};

#[tokio::test]
async fn a_code_is_exchanged_only_with_the_values_of_its_request() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;
    let code = app.get_code(&browser, "PHONE").await;
    let right = [
        ("grant_type", "authorization_code"),
        ("code", &*code),
        ("redirect_uri", REDIRECT_URI),
        ("client_id", &*app.client_id),
        ("code_verifier", CODE_VERIFIER),
    ];

    for (name, error) in [
        ("grant_type", "unsupported_grant_type"),
        ("code", "invalid_grant"),
        ("redirect_uri", "invalid_grant"),
        ("client_id", "invalid_client"),
        ("code_verifier", "invalid_grant"),
    ] {
        let mut wrong = right;
        let changed = wrong.iter_mut().find(|(known, _)| *known == name);
        changed.expect("is a parameter").1 = "wrong";
        expect_oauth_error(&app.request_tokens(&wrong).await, error);
    }

    app.request_tokens(&right).await.expect_ok();
}

#[tokio::test]
async fn a_code_that_is_used_twice_signs_the_device_out() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;
    let code = app.get_code(&browser, "PHONE").await;
    let tokens = app.exchange_code(&code).await.expect_ok();

    expect_oauth_error(&app.exchange_code(&code).await, "invalid_grant");

    let phone = server.client().with_token(&text(&tokens, "access_token"));
    let refused = phone.get(WHOAMI_PATH).await;
    refused.expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_code_expires() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = start_server_with(clock.clone(), |_| {}).await;
    let app = ClientApp::register(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;
    let code = app.get_code(&browser, "PHONE").await;

    clock.advance(Duration::from_mins(1));

    expect_oauth_error(&app.exchange_code(&code).await, "invalid_grant");
}

#[tokio::test]
async fn an_app_refreshes_its_tokens_and_no_other_app_does() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = start_server_with(clock.clone(), |_| {}).await;
    let app = ClientApp::register(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;
    let first = app.sign_in(&browser, "PHONE").await;
    clock.advance(Duration::from_hours(1));
    let old = server.client().with_token(&text(&first, "access_token"));
    let expired = old.get(WHOAMI_PATH).await;
    let expired = expired.expect_error(401, "M_UNKNOWN_TOKEN");
    assert_eq!(expired["soft_logout"], true);

    let refresh_token = text(&first, "refresh_token");
    let other = ClientApp {
        client_id: "other".to_owned(),
        client: server.client(),
        metadata: app.metadata.clone(),
    };
    expect_oauth_error(&other.refresh(&refresh_token).await, "invalid_grant");
    let second = app.refresh(&refresh_token).await.expect_ok();

    assert_eq!(second["scope"], first["scope"]);
    let phone = server.client().with_token(&text(&second, "access_token"));
    phone.get(WHOAMI_PATH).await.expect_ok();
    // The new token was used, so the old refresh token is over.
    expect_oauth_error(&app.refresh(&refresh_token).await, "invalid_grant");
    app.refresh(&text(&second, "refresh_token"))
        .await
        .expect_ok();
}

#[tokio::test]
async fn the_refresh_token_of_a_password_login_is_not_one_of_an_app() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    server.register("alice").await;
    let mut login = crate::harness::password_of("alice");
    login["refresh_token"] = true.into();
    let login = server.post("/_matrix/client/v3/login", login).await;

    let refresh_token = text(&login.expect_ok(), "refresh_token");

    expect_oauth_error(&app.refresh(&refresh_token).await, "invalid_grant");
}

#[tokio::test]
async fn revoking_either_token_signs_the_device_out() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let (browser, alice) = signed_in_browser(&server, "alice").await;

    for kind in ["access_token", "refresh_token"] {
        let tokens = app.sign_in(&browser, "PHONE").await;
        let revoked = app
            .post_form("revocation_endpoint", &[("token", &text(&tokens, kind))])
            .await;
        assert_eq!(revoked.status, 200, "{}", revoked.text);
        let phone = server.client().with_token(&text(&tokens, "access_token"));
        let refused = phone.get(WHOAMI_PATH).await;
        refused.expect_error(401, "M_UNKNOWN_TOKEN");
        let refresh = app.refresh(&text(&tokens, "refresh_token")).await;
        expect_oauth_error(&refresh, "invalid_grant");
        let device = alice.client.get("/_matrix/client/v3/devices/PHONE").await;
        device.expect_error(404, "M_NOT_FOUND");
    }
    let unknown = app
        .post_form("revocation_endpoint", &[("token", "x")])
        .await;
    assert_eq!(unknown.status, 200);
}

#[tokio::test]
async fn a_locked_user_gets_no_tokens() {
    let server = start_server().await;
    let admin = server.register_admin("admin").await;
    let app = ClientApp::register(&server).await;
    let (browser, alice) = signed_in_browser(&server, "alice").await;
    let code = app.get_code(&browser, "PHONE").await;

    let path = format!("/_matrix/client/v1/admin/lock/{}", alice.id);
    let locked = serde_json::json!({ "locked": true });
    admin.client.put(&path, locked).await.expect_ok();

    expect_oauth_error(&app.exchange_code(&code).await, "invalid_grant");
    let page = browser.open("/_parlour/account").await;
    assert!(page.header("location").starts_with("/_parlour/sign-in"));
    let again = super::sign_in(&browser, "alice", "password").await;
    assert_eq!(again.status, 401, "{}", again.text);
}
