//! Tests typing notifications.

use serde_json::{Value, json};

use crate::{
    chat::{ephemeral_content, room_path},
    harness::{Server, User},
};

fn typing_users(sync: &Value, room: &str) -> Value {
    ephemeral_content(sync, room, "m.typing")["user_ids"].clone()
}

async fn send_typing(user: &User, room: &str, body: Value) {
    let path = room_path(room, &format!("typing/{}", user.id));
    user.client.put(&path, body).await.expect_ok();
}

#[tokio::test]
async fn members_receive_typing_starts_and_stops() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let first = bob.syncs().await;

    let (typing, ()) = tokio::join!(bob.long_polls_after(&first), alice.starts_typing(&room));
    let unchanged = bob.syncs_after(&typing).await;
    let anew = bob.syncs().await;
    let stop = send_typing(&alice, &room, json!({ "typing": false }));
    let (ceased, ()) = tokio::join!(bob.long_polls_after(&unchanged), stop);

    assert_eq!(typing_users(&typing, &room), json!([alice.id]));
    assert_eq!(unchanged["rooms"], Value::Null);
    assert_eq!(typing_users(&anew, &room), json!([alice.id]));
    assert_eq!(typing_users(&ceased, &room), json!([]));
    let events = &typing["rooms"]["join"][&room]["ephemeral"]["events"];
    let expected = json!([{ "type": "m.typing", "content": { "user_ids": [alice.id] } }]);
    assert_eq!(*events, expected);
}

#[tokio::test]
async fn a_typing_notification_ends_at_its_timeout() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let first = alice.syncs().await;

    let body = json!({ "typing": true, "timeout": 500 });
    send_typing(&alice, &room, body).await;
    let typing = alice.syncs_after(&first).await;
    let ended = alice.long_polls_after(&typing).await;

    assert_eq!(typing_users(&typing, &room), json!([alice.id]));
    assert_eq!(typing_users(&ended, &room), json!([]));
}

#[tokio::test]
async fn leaving_a_room_ends_typing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    bob.starts_typing(&room).await;
    carol.starts_typing(&room).await;
    let typing = alice.syncs().await;

    bob.leaves(&room).await;
    alice.kicks(&room, &carol).await;

    let sync = alice.syncs_after(&typing).await;
    assert_eq!(typing_users(&typing, &room), json!([bob.id, carol.id]));
    assert_eq!(typing_users(&sync, &room), json!([]));
}

#[tokio::test]
async fn strangers_neither_send_nor_receive_typing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let first = bob.syncs().await;
    alice.starts_typing(&room).await;

    let sync = bob.syncs_after(&first).await;
    let body = json!({ "typing": true, "timeout": 30_000 });
    let own = room_path(&room, &format!("typing/{}", bob.id));
    let own = bob.client.put(&own, body.clone()).await;
    let of_another = room_path(&room, &format!("typing/{}", alice.id));
    let of_another = bob.client.put(&of_another, body).await;

    assert_eq!(sync["rooms"], Value::Null);
    own.expect_error(403, "M_FORBIDDEN");
    of_another.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn invalid_typing_bodies_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let path = room_path(&room, &format!("typing/{}", alice.id));

    for body in [json!({}), json!({ "typing": "yes" })] {
        let refused = alice.client.put(&path, body).await;
        refused.expect_error(400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn typing_needs_no_timeout_and_only_for_oneself() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;

    send_typing(&alice, &room, json!({ "typing": true })).await;

    assert_eq!(typing_users(&bob.syncs().await, &room), json!([alice.id]));
    let path = room_path(&room, &format!("typing/{}", alice.id));
    for body in [
        json!({ "typing": true }),
        json!({ "typing": true, "timeout": 5 }),
    ] {
        let refused = bob.client.put(&path, body).await;
        refused.expect_error(403, "M_FORBIDDEN");
    }
    for body in [
        json!({}),
        json!({ "typing": "yes" }),
        json!({ "typing": true, "timeout": -1 }),
    ] {
        let refused = alice.client.put(&path, body).await;
        refused.expect_error(400, "M_BAD_JSON");
    }
}
