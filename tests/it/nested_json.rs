//! Tests deeply nested JSON and other JSON that parsers treat differently.

use parlour::matrix::MAX_JSON_DEPTH;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, User};

/// Returns an object with `depth` levels of nesting.
pub(crate) fn nested_object(depth: usize) -> String {
    r#"{"a":"#.repeat(depth - 1) + "{}" + &"}".repeat(depth - 1)
}

/// Returns requests that store or forward their bodies, with `object` in each body.
fn requests_with(object: &str, alice: &User, room: &str) -> Vec<(Method, String, String)> {
    let (id, device) = (&alice.id, &alice.device_id);
    let user = format!("user/{id}");
    let device_keys = format!(
        r#"{{"device_keys":{{"user_id":"{id}","device_id":"{device}","algorithms":[],"keys":{{}},"signatures":{{}},"x":{object}}}}}"#
    );
    let master_key = format!(
        r#"{{"master_key":{{"user_id":"{id}","usage":["master"],"keys":{{"ed25519:M":"M"}},"x":{object}}}}}"#
    );
    let within = format!(r#"{{"x":{object}}}"#);
    let messages = format!(r#"{{"messages":{{"{id}":{{"*":{object}}}}}}}"#);
    let state = format!(r#"{{"initial_state":[{{"type":"org.x","content":{object}}}]}}"#);
    [
        (
            Method::PUT,
            format!("rooms/{room}/send/m.room.message/1"),
            &within,
        ),
        (Method::PUT, format!("rooms/{room}/state/org.x"), &within),
        (Method::PUT, format!("{user}/account_data/org.x"), &within),
        (
            Method::PUT,
            format!("{user}/rooms/{room}/account_data/org.x"),
            &within,
        ),
        (Method::PUT, "sendToDevice/org.x/1".to_owned(), &messages),
        (Method::POST, "keys/upload".to_owned(), &device_keys),
        (
            Method::POST,
            "keys/device_signing/upload".to_owned(),
            &master_key,
        ),
        (Method::POST, "keys/signatures/upload".to_owned(), &within),
        (Method::POST, "createRoom".to_owned(), &state),
        (Method::POST, format!("rooms/{room}/leave"), &within),
    ]
    .map(|(method, path, body)| (method, path, body.clone()))
    .into()
}

#[tokio::test]
async fn every_endpoint_refuses_deeply_nested_json() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;

    for depth in [MAX_JSON_DEPTH, 126, 127, 128, 30_000] {
        for (method, path, body) in requests_with(&nested_object(depth), &alice, &room) {
            let path = format!("/_matrix/client/v3/{path}");
            let answer = alice.client.send(method, &path, &body).await;

            let error = answer.expect_error(400, "M_BAD_JSON");
            let text = error["error"].as_str().expect("a string");
            assert!(text.contains("nested"), "{path}: {text}");
        }
    }
}

#[tokio::test]
async fn nested_json_within_the_limit_reaches_every_reader() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.client
        .post(&format!("/_matrix/client/v3/join/{room}"), json!({}))
        .await
        .expect_ok();
    let path = format!("/_matrix/client/v3/rooms/{room}/send/org.x/1");

    let sent = alice
        .client
        .send(Method::PUT, &path, &nested_object(MAX_JSON_DEPTH))
        .await;

    let event_id = sent.expect_ok()["event_id"]
        .as_str()
        .expect("an ID")
        .to_owned();
    let path = format!("/_matrix/client/v3/rooms/{room}/event/{event_id}");
    let content: Value = serde_json::from_str(&nested_object(MAX_JSON_DEPTH)).expect("JSON");
    assert_eq!(bob.client.get(&path).await.expect_ok()["content"], content);
    bob.syncs().await;
}

#[tokio::test]
async fn a_duplicate_key_keeps_its_last_value() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let data = format!("/_matrix/client/v3/user/{}/account_data/org.x", alice.id);
    let state = format!("/_matrix/client/v3/rooms/{room}/state/org.x");

    for path in [data, state] {
        let twice = r#"{"x":{"y":1,"y":2},"x":{"y":3,"y":4}}"#;
        alice
            .client
            .send(Method::PUT, &path, twice)
            .await
            .expect_ok();

        assert_eq!(alice.client.get(&path).await.text, r#"{"x":{"y":4}}"#);
    }
}

#[tokio::test]
async fn an_empty_body_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let data = format!("/_matrix/client/v3/user/{}/account_data/org.x", alice.id);
    alice
        .client
        .put(&data, json!({ "kept": true }))
        .await
        .expect_ok();

    let paths = [
        data.clone(),
        format!("/_matrix/client/v3/rooms/{room}/state/m.room.topic"),
        format!("/_matrix/client/v3/directory/list/room/{room}"),
    ];
    for path in paths {
        let refused = alice.client.send(Method::PUT, &path, "").await;
        refused.expect_error(400, "M_NOT_JSON");
    }

    assert_eq!(
        alice.client.get(&data).await.expect_ok(),
        json!({ "kept": true })
    );
}

#[tokio::test]
async fn joining_leaving_and_forgetting_need_no_body() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;

    for action in ["join", "leave", "forget"] {
        let path = format!("/_matrix/client/v3/rooms/{room}/{action}");
        bob.client.send(Method::POST, &path, "").await.expect_ok();
    }
}

#[tokio::test]
async fn a_to_device_message_must_be_an_object() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for content in ["5", "null", "[]", "\"text\""] {
        for user in [&*alice.id, "@elsewhere:example.org"] {
            let body = format!(r#"{{"messages":{{"{user}":{{"*":{content}}}}}}}"#);
            let path = "/_matrix/client/v3/sendToDevice/org.x/1";
            let refused = alice.client.send(Method::PUT, path, &body).await;
            refused.expect_error(400, "M_BAD_JSON");
        }
    }
}
