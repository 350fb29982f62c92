//! Tests registration: open, by token, as a guest, and by the shared secret.

use hmac::{Hmac, KeyInit, Mac};
use parlour::config::SecretString;
use reqwest::Method;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::harness::Server;

const REGISTER_PATH: &str = "/_matrix/client/v3/register";
const SHARED_SECRET_PATH: &str = "/_synapse/admin/v1/register";

async fn closed_server() -> Server {
    Server::with_config(|config| config.registration.open = false).await
}

fn dummy_registration(name: &str) -> Value {
    json!({ "username": name, "password": "password", "auth": { "type": "m.login.dummy" } })
}

fn token_registration(name: &str, token: &str) -> Value {
    let auth = json!({ "type": "m.login.registration_token", "token": token });
    json!({ "username": name, "password": "password", "auth": auth })
}

#[tokio::test]
async fn a_registration_logs_in() {
    let server = Server::start().await;

    let body = json!({
        "username": "Alice", "password": "password", "device_id": "PHONE",
        "initial_device_display_name": "Phone", "auth": { "type": "m.login.dummy" },
    });
    let answer = server.post(REGISTER_PATH, body).await.expect_ok();

    assert_eq!(answer["user_id"], "@alice:localhost");
    assert_eq!(answer["device_id"], "PHONE");
    let alice = server.user_from_login(&answer);
    let who = alice.client.get("/_matrix/client/v3/account/whoami").await;
    let expected = json!({ "user_id": "@alice:localhost", "device_id": "PHONE" });
    assert_eq!(who.expect_ok(), expected);
    let device = alice.client.get("/_matrix/client/v3/devices/PHONE").await;
    assert_eq!(device.expect_ok()["display_name"], "Phone");
}

#[tokio::test]
async fn a_probe_returns_the_flows_and_a_session() {
    let server = Server::start().await;

    let probe = server.post(REGISTER_PATH, json!({})).await;
    assert_eq!(probe.status, 401);
    let stages = json!([
        { "stages": ["m.login.dummy"] }, { "stages": ["m.login.registration_token"] },
    ]);
    assert_eq!(probe.body["flows"], stages);
    assert_eq!(probe.body["params"], json!({}));

    let session = &probe.body["session"];
    let again = server
        .post(REGISTER_PATH, json!({ "auth": { "session": session } }))
        .await;
    assert_eq!((again.status, &again.body["session"]), (401, session));

    let mut body = dummy_registration("alice");
    body["auth"]["session"] = session.clone();
    server.post(REGISTER_PATH, body).await.expect_ok();
}

#[tokio::test]
async fn a_login_can_be_inhibited() {
    let server = Server::start().await;

    let mut body = dummy_registration("alice");
    body["inhibit_login"] = json!(true);
    let answer = server.post(REGISTER_PATH, body).await.expect_ok();

    assert_eq!(answer, json!({ "user_id": "@alice:localhost" }));
}

#[tokio::test]
async fn taken_and_invalid_names_are_refused() {
    let server = Server::start().await;
    server.register("alice").await;

    let taken = server
        .post(REGISTER_PATH, dummy_registration("alice"))
        .await;
    taken.expect_error(400, "M_USER_IN_USE");
    for name in ["user name", "user:name", "£", "", &"x".repeat(300)] {
        let refused = server.post(REGISTER_PATH, dummy_registration(name)).await;
        refused.expect_error(400, "M_INVALID_USERNAME");
    }
    let mut weak = dummy_registration("bob");
    weak["password"] = json!("");
    let weak = server.post(REGISTER_PATH, weak).await;
    weak.expect_error(400, "M_WEAK_PASSWORD");
}

#[tokio::test]
async fn the_availability_of_a_name_can_be_checked() {
    let server = Server::start().await;
    server.register("alice").await;
    let ask = async |name: &str| {
        server
            .get(&format!("{REGISTER_PATH}/available?username={name}"))
            .await
    };

    assert_eq!(ask("bob").await.expect_ok(), json!({ "available": true }));
    ask("alice").await.expect_error(400, "M_USER_IN_USE");
    ask("a,b").await.expect_error(400, "M_INVALID_USERNAME");
}

#[tokio::test]
async fn guests_register_only_if_enabled() {
    let server = Server::start().await;
    let kind = format!("{REGISTER_PATH}?kind=guest");
    let refused = server.post(&kind, json!({})).await;
    refused.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");

    let server = Server::with_config(|config| config.registration.guests = true).await;
    let guest = server.post(&kind, json!({})).await.expect_ok();
    let guest = server.user_from_login(&guest);
    let who = guest.client.get("/_matrix/client/v3/account/whoami").await;
    assert_eq!(who.expect_ok()["is_guest"], true);
    let change = json!({ "new_password": "other" });
    let refused = guest
        .client
        .post("/_matrix/client/v3/account/password", change)
        .await;
    refused.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
}

#[tokio::test]
async fn closed_registration_requires_a_token() {
    let server = closed_server().await;
    let token = server.first_admin_token();
    let path = "/_matrix/client/v1/register/m.login.registration_token/validity";
    let is_valid = async |token: &str| {
        let answer = server.get(&format!("{path}?token={token}")).await;
        answer.expect_ok()["valid"].clone()
    };
    assert_eq!(is_valid(&token).await, true);
    assert_eq!(is_valid("guess").await, false);

    let refused = server
        .post(REGISTER_PATH, dummy_registration("alice"))
        .await;
    assert_eq!(refused.status, 401);
    let refused = server
        .post(REGISTER_PATH, token_registration("alice", "guess"))
        .await;
    refused.expect_error(401, "M_FORBIDDEN");
    server
        .post(REGISTER_PATH, token_registration("alice", &token))
        .await
        .expect_ok();

    assert_eq!(is_valid(&token).await, false);
}

#[tokio::test]
async fn the_first_token_registers_exactly_one_user() {
    let server = closed_server().await;
    let token = server.first_admin_token();

    let (alice, bob) = tokio::join!(
        server.post(REGISTER_PATH, token_registration("alice", &token)),
        server.post(REGISTER_PATH, token_registration("bob", &token)),
    );

    let succeeded = [alice.status, bob.status]
        .iter()
        .filter(|s| **s == 200)
        .count();
    assert_eq!(succeeded, 1, "{} {}", alice.text, bob.text);
}

fn signed_registration(nonce: &str, secret: &str) -> Value {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC accepts any key");
    mac.update(format!("{nonce}\0alice\0password\0admin").as_bytes());
    let bytes = mac.finalize().into_bytes();
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let hex: String = digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect();
    json!({
        "nonce": nonce, "username": "alice", "password": "password", "admin": true, "mac": hex,
    })
}

#[tokio::test]
async fn the_shared_secret_registers_an_administrator() {
    let server = Server::with_config(|config| {
        config.registration.shared_secret = Some(SecretString::new("swordfish"));
    })
    .await;
    let nonce = async || {
        let answer = server.get(SHARED_SECRET_PATH).await.expect_ok();
        answer["nonce"].as_str().expect("a nonce").to_owned()
    };

    let wrong = signed_registration(&nonce().await, "guess");
    let refused = server.post(SHARED_SECRET_PATH, wrong).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let right = signed_registration(&nonce().await, "swordfish");
    let answer = server.post(SHARED_SECRET_PATH, right).await.expect_ok();

    assert_eq!(answer["user_id"], "@alice:localhost");
    assert_eq!(answer["home_server"], "localhost");
    let alice = server.user_from_login(&answer);
    alice
        .client
        .get("/_matrix/client/v3/account/whoami")
        .await
        .expect_ok();
}

#[tokio::test]
async fn the_shared_secret_endpoint_requires_a_configured_secret() {
    let server = Server::start().await;

    let asked = server.get(SHARED_SECRET_PATH).await;
    asked.expect_error(404, "M_UNRECOGNIZED");
    let posted = server
        .post(SHARED_SECRET_PATH, signed_registration("x", "y"))
        .await;
    posted.expect_error(404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn ten_people_behind_one_address_can_register() {
    let server = Server::with_config(|config| config.limits.enabled = true).await;

    for n in 0..10 {
        // The page requests the flows, checks the name, and completes the stage with a session.
        let body = json!({ "username": format!("user{n}"), "password": "password" });
        let asked = server.post(REGISTER_PATH, json!({})).await;
        assert_eq!(asked.status, 401, "{}", asked.text);
        let available = format!("{REGISTER_PATH}/available?username=user{n}");
        server.get(&available).await.expect_ok();
        let asked = server.post(REGISTER_PATH, body.clone()).await;
        let session = asked.body["session"].as_str().expect("a session");
        let mut body = body;
        body["auth"] = json!({ "type": "m.login.dummy", "session": session });
        server.post(REGISTER_PATH, body).await.expect_ok();
    }
}

#[tokio::test]
async fn a_bot_cannot_try_many_registration_tokens() {
    let server = Server::with_config(|config| {
        config.limits.enabled = true;
        config.registration.open = false;
    })
    .await;
    let mut tried = 0;

    for n in 0..40 {
        let token = format!("token{n}");
        let auth = json!({ "type": "m.login.registration_token", "token": token });
        let body = json!({ "username": "bot", "password": "password", "auth": auth });
        let path = "/_matrix/client/v1/register/m.login.registration_token/validity";
        let registered = server.post(REGISTER_PATH, body).await.status;
        let looked = server.get(&format!("{path}?token={token}")).await.status;
        tried += [registered, looked]
            .iter()
            .filter(|status| **status != 429)
            .count();
    }

    assert_eq!(tried, 20);
    // The flows can still be requested.
    assert_eq!(server.post(REGISTER_PATH, json!({})).await.status, 401);
}

#[tokio::test]
async fn the_registration_limit_is_configurable() {
    let server = Server::with_config(|config| {
        config.limits.enabled = true;
        config.limits.registration_burst = 1;
    })
    .await;
    let register = async |name: &str| {
        let body = json!({ "username": name, "auth": { "type": "m.login.dummy" } });
        server.post(REGISTER_PATH, body).await
    };

    register("alice").await.expect_ok();
    register("alice")
        .await
        .expect_error(429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_session_registers_its_user_and_repeats_its_answer() {
    let server = Server::start().await;
    let first = json!({ "username": "alice", "password": "password" });
    let asked = server.post(REGISTER_PATH, first).await;
    assert_eq!(asked.status, 401);
    let auth = json!({ "type": "m.login.dummy", "session": asked.body["session"] });
    let alone = json!({ "auth": auth });

    let registered = server.post(REGISTER_PATH, alone.clone()).await.expect_ok();
    let again = server.post(REGISTER_PATH, alone).await.expect_ok();

    assert_eq!(registered["user_id"], "@alice:localhost");
    assert_eq!(again, registered);
    server.log_in("alice").await;
    let other = json!({ "username": "bob", "password": "password", "auth": auth });
    let refused = server.post(REGISTER_PATH, other).await;
    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_session_without_a_username_creates_no_account() {
    let server = Server::start().await;
    let asked = server.post(REGISTER_PATH, json!({})).await;

    let auth = json!({ "type": "m.login.dummy", "session": asked.body["session"] });
    let refused = server.post(REGISTER_PATH, json!({ "auth": auth })).await;

    refused.expect_error(400, "M_MISSING_PARAM");
}

#[tokio::test]
async fn a_session_remembers_inhibit_login() {
    let server = Server::start().await;
    let first = json!({ "username": "alice", "password": "password", "inhibit_login": true });
    let asked = server.post(REGISTER_PATH, first).await;

    let mut body = dummy_registration("alice");
    body["auth"]["session"] = asked.body["session"].clone();
    let registered = server.post(REGISTER_PATH, body).await.expect_ok();

    assert_eq!(registered["user_id"], "@alice:localhost");
    assert_eq!(registered["access_token"], Value::Null);
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_have_separate_limits() {
    let server = Server::with_config(|config| {
        config.limits.enabled = true;
        config.limits.registration_burst = 1;
        config.connections.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    })
    .await;
    let register = async |name: &str, address: &str| {
        let body = json!({ "username": name, "auth": { "type": "m.login.dummy" } }).to_string();
        let headers = [("x-forwarded-for", address)];
        let client = server.client();
        client
            .send_with_headers(Method::POST, REGISTER_PATH, &body, &headers)
            .await
    };

    register("alice", "198.51.100.1").await.expect_ok();
    register("bob", "198.51.100.2").await.expect_ok();
    // Addresses that a client adds before the one that the proxy saw are ignored.
    let forged = register("carol", "203.0.113.5, 198.51.100.2").await;
    forged.expect_error(429, "M_LIMIT_EXCEEDED");
}
