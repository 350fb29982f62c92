//! Logging in and out, and refreshing tokens.

use std::time::Duration;

use parlour::clock::Clock;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Server, password_of};

const LOGIN_PATH: &str = "/_matrix/client/v3/login";
const REFRESH_PATH: &str = "/_matrix/client/v3/refresh";
const WHOAMI_PATH: &str = "/_matrix/client/v3/account/whoami";

#[tokio::test]
async fn login_accepts_passwords_tokens_and_application_services() {
    let server = Server::start().await;

    let flows = server.get(LOGIN_PATH).await.expect_ok();
    let token = json!({ "type": "m.login.token", "get_login_token": true });
    let password = json!({ "type": "m.login.password" });
    let service = json!({ "type": "m.login.application_service" });
    let web = json!({ "type": "m.login.sso", "oauth_aware_preferred": true });
    assert_eq!(flows, json!({ "flows": [password, token, service, web] }));

    let other = json!({ "type": "org.example.smile" });
    server
        .post(LOGIN_PATH, other)
        .await
        .expect_error(400, "M_UNKNOWN");
    let identifier = json!({ "type": "org.example.face" });
    let odd = json!({
        "type": "m.login.password", "identifier": identifier, "password": "password",
    });
    server
        .post(LOGIN_PATH, odd)
        .await
        .expect_error(400, "M_UNKNOWN");
    server
        .post(LOGIN_PATH, json!({}))
        .await
        .expect_error(400, "M_BAD_JSON");
}

#[tokio::test]
async fn login_accepts_localpart_full_id_and_legacy_user() {
    let server = Server::start().await;
    server.register("alice").await;
    let old = json!({ "type": "m.login.password", "password": "password", "user": "alice" });

    for body in [password_of("alice"), password_of("@ALICE:localhost"), old] {
        let answer = server.post(LOGIN_PATH, body).await.expect_ok();
        assert_eq!(answer["user_id"], "@alice:localhost");
        let well_known = &answer["well_known"]["m.homeserver"]["base_url"];
        assert_eq!(*well_known, server.running.public_url().as_str());
    }
}

#[tokio::test]
async fn a_wrong_user_or_password_is_forbidden() {
    let server = Server::start().await;
    server.register("alice").await;
    let mut wrong = password_of("alice");
    wrong["password"] = json!("wrong");

    for body in [wrong, password_of("bob"), password_of("@alice:other.org")] {
        server
            .post(LOGIN_PATH, body)
            .await
            .expect_error(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn a_login_to_a_known_device_replaces_its_token() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let mut body = password_of("alice");
    body["device_id"] = json!(alice.device_id);
    let again = server.post(LOGIN_PATH, body).await.expect_ok();

    assert_eq!(again["device_id"], alice.device_id);
    alice
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
    server
        .user_from_login(&again)
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_ok();
}

#[tokio::test]
async fn an_access_token_works_in_header_or_query() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let query = server
        .get(&format!("{WHOAMI_PATH}?access_token={}", alice.token))
        .await;
    assert_eq!(query.expect_ok()["user_id"], alice.id);
    server
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_MISSING_TOKEN");
    let unknown = server.client().with_token("unknown").get(WHOAMI_PATH).await;
    let body = unknown.expect_error(401, "M_UNKNOWN_TOKEN");
    assert_eq!(body["soft_logout"], false);
}

#[tokio::test]
async fn logout_removes_one_device_and_logout_all_removes_all() {
    let server = Server::start().await;
    let phone = server.register("alice").await;
    let (desk, third) = (server.log_in("alice").await, server.log_in("alice").await);

    let out = desk
        .client
        .post("/_matrix/client/v3/logout", json!({}))
        .await;
    assert_eq!(out.expect_ok(), json!({}));
    desk.client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
    let devices = phone
        .client
        .get("/_matrix/client/v3/devices")
        .await
        .expect_ok();
    assert_eq!(devices["devices"].as_array().map(Vec::len), Some(2));

    phone
        .client
        .post("/_matrix/client/v3/logout/all", json!({}))
        .await
        .expect_ok();
    phone
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
    third
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
    let again = phone
        .client
        .post("/_matrix/client/v3/logout", json!({}))
        .await;
    again.expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn an_expired_token_is_refreshed() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    server.register("alice").await;
    let mut body = password_of("alice");
    body["refresh_token"] = json!(true);
    let login = server.post(LOGIN_PATH, body).await.expect_ok();
    let lifetime = login["expires_in_ms"].as_u64().expect("the token expires");
    let old = server.user_from_login(&login);
    old.client.get(WHOAMI_PATH).await.expect_ok();

    clock.advance(Duration::from_millis(lifetime));
    let expired = old
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
    assert_eq!(expired["soft_logout"], true);

    let refresh = json!({ "refresh_token": login["refresh_token"] });
    let new = server.post(REFRESH_PATH, refresh.clone()).await.expect_ok();
    let token = new["access_token"].as_str().expect("a token");
    server
        .client()
        .with_token(token)
        .get(WHOAMI_PATH)
        .await
        .expect_ok();
    let again = server.post(REFRESH_PATH, refresh).await;
    again.expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn password_guessing_is_rate_limited() {
    let server = Server::with_config(|config| config.limits.enabled = true).await;

    for _ in 0..20 {
        let guess = server.post(LOGIN_PATH, password_of("alice")).await;
        guess.expect_error(403, "M_FORBIDDEN");
    }

    let limited = server.post(LOGIN_PATH, password_of("alice")).await;
    limited.expect_error(429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_few_failed_logins_do_not_lock_a_user_out() {
    let server = Server::with_config(|config| config.limits.enabled = true).await;
    server.register("alice").await;

    for _ in 0..10 {
        let mut guess = password_of("alice");
        guess["password"] = json!("wrong");
        server
            .post(LOGIN_PATH, guess)
            .await
            .expect_error(403, "M_FORBIDDEN");
    }

    server.log_in("alice").await;
}

#[tokio::test]
async fn password_guessing_from_many_addresses_is_rate_limited() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = Server::with_clock(clock, |config| {
        config.limits.enabled = true;
        config.limits.login_burst = 2;
        config.connections.trusted_proxies = vec!["127.0.0.1".parse().expect("is an address")];
    })
    .await;
    server.register("alice").await;
    server.register("bob").await;
    let logs_in = async |user: &str, password: &str, host: usize| {
        let mut body = password_of(user);
        body["password"] = json!(password);
        let address = format!("198.51.100.{host}");
        let headers = [("x-forwarded-for", &*address)];
        let client = server.client();
        let body = body.to_string();
        client
            .send_with_headers(Method::POST, LOGIN_PATH, &body, &headers)
            .await
    };
    let right = password_of("bob")["password"].clone();
    let right = right.as_str().expect("is a text");

    for host in 0..10 {
        let wrong = logs_in("alice", "wrong", host).await;
        wrong.expect_error(403, "M_FORBIDDEN");
    }
    let limited = logs_in("@alice:localhost", "wrong", 100).await;

    limited.expect_error(429, "M_LIMIT_EXCEEDED");
    logs_in("bob", right, 100).await.expect_ok();
}

#[tokio::test]
async fn valid_tokens_work_despite_guesses_from_the_same_address() {
    let server = Server::with_config(|config| config.limits.enabled = true).await;
    server.register("alice").await;
    let mut body = password_of("alice");
    body["refresh_token"] = json!(true);
    let login = server.post(LOGIN_PATH, body).await.expect_ok();
    let validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token";
    let admin = server.running.first_admin_url();

    for n in 0..25 {
        server
            .post(
                REFRESH_PATH,
                json!({ "refresh_token": format!("guess{n}") }),
            )
            .await;
        server.get(&format!("{validity}=guess{n}")).await;
        server
            .get(&format!("/_parlour/client/v1/invite_links/guess{n}"))
            .await;
    }
    let guess = server
        .post(REFRESH_PATH, json!({ "refresh_token": "guess" }))
        .await;
    let refresh = json!({ "refresh_token": login["refresh_token"] });
    let refreshed = server.post(REFRESH_PATH, refresh).await;

    guess.expect_error(429, "M_LIMIT_EXCEEDED");
    refreshed.expect_ok();
    let url = admin.expect("there is no administrator yet");
    let (_, token) = url.split_once('=').expect("the URL has a token");
    let valid = server.get(&format!("{validity}={token}")).await.expect_ok();
    assert_eq!(valid["valid"], true);
}
