//! Tests `OpenID` tokens, with which users prove their identity to other services.

use std::time::Duration;

use parlour::clock::Clock;
use serde_json::json;

use crate::harness::Server;

fn request_token_path(user_id: &str) -> String {
    format!("/_matrix/client/v3/user/{user_id}/openid/request_token")
}

fn userinfo_path(token: &str) -> String {
    format!("/_matrix/federation/v1/openid/userinfo?access_token={token}")
}

#[tokio::test]
async fn an_openid_token_identifies_its_user_until_it_expires() {
    let clock = Clock::manual(1_000_000);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let alice = server.register("alice").await;

    let answer = alice
        .client
        .post(&request_token_path(&alice.id), json!({}))
        .await;
    let answer = answer.expect_ok();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["matrix_server_name"], "localhost");
    assert_eq!(answer["expires_in"], 3600);
    let token = answer["access_token"].as_str().expect("a token");

    let info = server.get(&userinfo_path(token)).await.expect_ok();
    assert_eq!(info, json!({ "sub": alice.id }));
    clock.advance(Duration::from_hours(1));
    let late = server.get(&userinfo_path(token)).await;
    late.expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn an_openid_token_is_valid_only_for_openid() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    let of_another = alice
        .client
        .post(&request_token_path(&bob.id), json!({}))
        .await;
    of_another.expect_error(403, "M_FORBIDDEN");
    let answer = alice
        .client
        .post(&request_token_path(&alice.id), json!({}))
        .await;
    let answer = answer.expect_ok();
    let token = answer["access_token"].as_str().expect("a token");
    let client = server.client().with_token(token);
    let who = client.get("/_matrix/client/v3/account/whoami").await;
    who.expect_error(401, "M_UNKNOWN_TOKEN");
    let info = server.get(&userinfo_path(&alice.token)).await;
    info.expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn userinfo_without_a_token_is_refused() {
    let server = Server::start().await;

    let answer = server.get("/_matrix/federation/v1/openid/userinfo").await;

    answer.expect_error(401, "M_MISSING_TOKEN");
}
