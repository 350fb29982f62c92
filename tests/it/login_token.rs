//! Login tokens, with which a user logs in another device.

use std::time::Duration;

use parlour::clock::Clock;
use serde_json::json;

use crate::harness::{HttpAnswer, Server, User, password_of};

const LOGIN_PATH: &str = "/_matrix/client/v3/login";
const GET_TOKEN_PATH: &str = "/_matrix/client/v1/login/get_token";

async fn request_login_token(user: &User, name: &str) -> String {
    let body = json!({ "auth": password_of(name) });
    let answer = user.client.post(GET_TOKEN_PATH, body).await.expect_ok();
    assert_eq!(answer["expires_in_ms"], 120_000);
    answer["login_token"].as_str().expect("a token").to_owned()
}

async fn log_in_with_token(server: &Server, token: &str) -> HttpAnswer {
    let body = json!({ "type": "m.login.token", "token": token });
    server.post(LOGIN_PATH, body).await
}

#[tokio::test]
async fn a_login_token_logs_another_device_in_once() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let token = request_login_token(&alice, "alice").await;

    let first = log_in_with_token(&server, &token).await.expect_ok();
    let second = log_in_with_token(&server, &token).await;

    assert_eq!(first["user_id"], alice.id);
    assert_ne!(first["device_id"], alice.device_id);
    server.user_from_login(&first).syncs().await;
    second.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_login_token_expires() {
    let clock = Clock::manual(1_000_000);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let alice = server.register("alice").await;
    let token = request_login_token(&alice, "alice").await;

    clock.advance(Duration::from_mins(2));

    let late = log_in_with_token(&server, &token).await;
    late.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn each_login_token_requires_the_password_again() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    request_login_token(&alice, "alice").await;

    let again = alice.client.post(GET_TOKEN_PATH, json!({})).await;

    assert_eq!(again.status, 401);
    assert_eq!(
        again.body["flows"][0]["stages"],
        json!(["m.login.password"])
    );
}
