//! Tests the transactions that application services receive.

use std::sync::Mutex;

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::{HS_TOKEN, ShortPaths, TestService, as_user, bridge, join, register_ghost};

#[tokio::test]
async fn a_service_is_sent_the_messages_of_its_rooms() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let (room, other) = (
        alice.creates_open_room().await,
        alice.creates_open_room().await,
    );
    let ghost = register_ghost(&server, "_bridge_bob").await;

    join(&server, &ghost, &room).await;
    alice.says(&other, "not for the bridge").await;
    alice.says(&room, "for the bridge").await;

    let request = service.next_transaction_with("events").await;
    assert_eq!(request.authorization, format!("Bearer {HS_TOKEN}"));
    assert_eq!(request.method, Method::PUT);
    let join = &request.body["events"][0];
    assert_eq!(
        (&join["type"], &join["state_key"]),
        (&json!("m.room.member"), &json!(ghost))
    );
    service.events.extend(
        request.body["events"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
    );
    let seen = Mutex::new(Vec::new());
    let message = service
        .next_event(|event| {
            seen.lock()
                .expect("not poisoned")
                .push(event["room_id"].clone());
            event["content"]["body"] == "for the bridge"
        })
        .await;
    assert_eq!(message["room_id"], json!(room));
    assert_eq!(message["sender"], json!(alice.id));
    assert!(!seen.lock().expect("not poisoned").contains(&json!(other)));
}

#[tokio::test]
async fn a_refused_transaction_is_repeated_unchanged_and_none_is_lost() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    service
        .next_event(|event| event["type"] == "m.room.member")
        .await;

    service.answers_next(StatusCode::INTERNAL_SERVER_ERROR);
    alice.says(&room, "one").await;
    let refused = service.next_transaction_with("events").await;
    alice.says(&room, "two").await;
    let repeated = service.next_transaction_with("events").await;

    assert_eq!((refused.path, refused.body), (repeated.path, repeated.body));
    service.next_message("two").await;
}

#[tokio::test]
async fn transactions_go_on_after_a_restart() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    service
        .next_event(|event| event["type"] == "m.room.member")
        .await;
    for _ in 0..2 {
        service.answers_next(StatusCode::BAD_GATEWAY);
    }
    alice.says(&room, "before the restart").await;
    let refused = service.next_transaction_with("events").await;

    let server = server.restart().await;
    let repeated = service.next_transaction_with("events").await;
    assert_eq!((refused.path, refused.body), (repeated.path, repeated.body));
    let alice = server.log_in("alice").await;
    alice.says(&room, "after the restart").await;

    service.next_message("after the restart").await;
}

#[tokio::test]
async fn receipts_typing_and_messages_for_devices_are_sent() {
    let mut service = TestService::start("receive_ephemeral: true").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let ghost = register_ghost(&server, "_bridge_bob").await;
    join(&server, &ghost, &room).await;
    let event = alice.says(&room, "hello").await;

    let path = format!("rooms/{room}/typing/{}", alice.id);
    let body = json!({ "typing": true, "timeout": 20_000 });
    alice.put(&path, body).await.expect_ok();
    let typing = service.next_transaction_with("ephemeral").await.body;
    assert_eq!(
        typing["ephemeral"][0],
        json!({ "type": "m.typing", "room_id": room, "content": { "user_ids": [alice.id] } })
    );
    let path = format!("rooms/{room}/receipt/m.read/{event}");
    alice.post(&path, json!({})).await.expect_ok();
    let receipt = service.next_transaction_with("ephemeral").await.body;
    let receipt = &receipt["ephemeral"][0];
    assert_eq!(receipt["type"], "m.receipt");
    assert!(receipt["content"][&event]["m.read"][&*alice.id].is_object());

    let path = as_user("devices/CRYPTO", &ghost);
    let created = bridge(&server).put(&path, json!({})).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let content = json!({ "messages": { &*ghost: { "CRYPTO": { "key": "value" } } } });
    let path = "sendToDevice/org.example.secret/1";
    alice.put(path, content).await.expect_ok();
    let message = service.next_transaction_with("to_device").await.body;
    let expected = json!({
        "type": "org.example.secret", "sender": alice.id, "content": { "key": "value" },
        "to_user_id": ghost, "to_device_id": "CRYPTO",
    });
    assert_eq!(message["to_device"], json!([expected]));
    assert_eq!(message["de.sorunome.msc2409.to_device"], json!([expected]));
}

#[tokio::test]
async fn device_changes_are_sent_to_services_that_want_them() {
    let mut service = TestService::start("receive_ephemeral: true\norg.matrix.msc3202: true").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;

    let keys = json!({ "device_keys": {
        "user_id": alice.id, "device_id": alice.device_id, "algorithms": [],
        "keys": {}, "signatures": {},
    } });
    alice.post("keys/upload", keys).await.expect_ok();

    let lists = service.next_transaction_with("device_lists").await.body;
    assert_eq!(lists["device_lists"]["changed"], json!([alice.id]));
    assert_eq!(
        lists["org.matrix.msc3202.device_lists"],
        lists["device_lists"]
    );
}

#[tokio::test]
async fn an_answered_ping_ends_the_pause_after_failures() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let ghost = register_ghost(&server, "_bridge_ghost").await;
    let room = alice.creates_open_room().await;
    join(&server, &ghost, &room).await;
    alice.says(&room, "first").await;
    service.next_message("first").await;
    // The pauses after these failures take more than a minute, which is longer than the test waits.
    for _ in 0..7 {
        service.answers_next(StatusCode::INTERNAL_SERVER_ERROR);
    }
    alice.says(&room, "second").await;
    service.on_request(|request| {
        let is_ping = request.path == "/_matrix/app/v1/ping";
        is_ping.then(|| (StatusCode::OK, json!({})))
    });
    let ping = "/_matrix/client/v1/appservice/bridge/ping";
    for _ in 0..7 {
        service.next_message("second").await;
        bridge(&server).post(ping, json!({})).await.expect_ok();
    }

    service.next_message("second").await;
}
