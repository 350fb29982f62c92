//! Tests requests that send to-device messages. Unit tests check their delivery.

use serde_json::json;

use crate::{chat::new_transaction, harness::Server};

const SEND_TO_DEVICE_PATH: &str = "/_matrix/client/v3/sendToDevice/org.example.type";

#[tokio::test]
async fn messages_are_accepted_for_known_and_unknown_devices() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    let messages = json!({
        bob.id: { bob.device_id: { "n": 1 } },
        "@nobody:localhost": { "*": {} },
        "@elsewhere:example.org": { "*": {} },
    });
    let body = json!({ "messages": messages });
    let first = alice
        .client
        .put(&format!("{SEND_TO_DEVICE_PATH}/1"), body.clone())
        .await;
    let again = alice
        .client
        .put(&format!("{SEND_TO_DEVICE_PATH}/1"), body)
        .await;

    assert_eq!(first.expect_ok(), json!({}));
    assert_eq!(again.expect_ok(), json!({}));
}

#[tokio::test]
async fn invalid_to_device_requests_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let path = format!("{SEND_TO_DEVICE_PATH}/1");

    let no_messages = alice.client.put(&path, json!({})).await;
    no_messages.expect_error(400, "M_BAD_JSON");
    let no_user = json!({ "messages": { "nobody": { "*": {} } } });
    alice
        .client
        .put(&path, no_user)
        .await
        .expect_error(400, "M_BAD_JSON");
    let large = json!({ "messages": { alice.id: { "*": { "x": "x".repeat(70_000) } } } });
    alice
        .client
        .put(&path, large)
        .await
        .expect_error(413, "M_TOO_LARGE");
    let stranger = server.put(&path, json!({ "messages": {} })).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn to_device_messages_have_a_separate_rate_limit() {
    let server = Server::with_config(|config| config.limits.enabled = true).await;
    let alice = server.register("alice").await;
    let body = json!({ "messages": {} });

    let mut sent = 0;
    let refused = loop {
        let path = format!("{SEND_TO_DEVICE_PATH}/{sent}");
        let answer = alice.client.put(&path, body.clone()).await;
        if answer.status != 200 || sent > 2_000 {
            break answer;
        }
        sent += 1;
    };

    refused.expect_error(429, "M_LIMIT_EXCEEDED");
    assert!(sent >= 100);
    // The limit does not affect events.
    alice.creates_open_room().await;
}

#[tokio::test]
async fn the_stored_size_of_one_request_is_limited() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    // A message of 62 KB for each of these devices exceeds 4 MiB.
    for _ in 0..70 {
        server.log_in("alice").await;
    }
    let sends = async |bytes: usize| {
        let path = format!("/_matrix/client/v3/sendToDevice/m.x/{}", new_transaction());
        let content = json!({ "text": "x".repeat(bytes) });
        let messages = json!({ "messages": { &*alice.id: { "*": content } } });
        alice.client.put(&path, messages).await
    };

    sends(50_000).await.expect_ok();
    sends(62_000).await.expect_error(413, "M_TOO_LARGE");
}
