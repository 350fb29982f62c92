//! Tests typing notifications.

use serde_json::{Value, json};

use crate::{
    chat::{ephemeral, in_room},
    harness::{Server, User},
};

fn typists(sync: &Value, room: &str) -> Value {
    ephemeral(sync, room, "m.typing")["user_ids"].clone()
}

async fn tells_typing(user: &User, room: &str, body: Value) {
    let path = in_room(room, &format!("typing/{}", user.id));
    user.client.put(&path, body).await.expect_ok();
}

#[tokio::test]
async fn members_are_told_who_begins_and_ceases_to_type() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let first = bob.syncs().await;

    let (typing, ()) = tokio::join!(bob.waits_after(&first), alice.types(&room));
    let unchanged = bob.syncs_after(&typing).await;
    let anew = bob.syncs().await;
    let stop = tells_typing(&alice, &room, json!({ "typing": false }));
    let (ceased, ()) = tokio::join!(bob.waits_after(&unchanged), stop);

    assert_eq!(typists(&typing, &room), json!([alice.id]));
    assert_eq!(unchanged["rooms"], Value::Null);
    assert_eq!(typists(&anew, &room), json!([alice.id]));
    assert_eq!(typists(&ceased, &room), json!([]));
    let events = &typing["rooms"]["join"][&room]["ephemeral"]["events"];
    let expected = json!([{ "type": "m.typing", "content": { "user_ids": [alice.id] } }]);
    assert_eq!(*events, expected);
}

#[tokio::test]
async fn a_notification_ends_at_its_timeout() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let first = alice.syncs().await;

    let body = json!({ "typing": true, "timeout": 500 });
    tells_typing(&alice, &room, body).await;
    let typing = alice.syncs_after(&first).await;
    let ended = alice.waits_after(&typing).await;

    assert_eq!(typists(&typing, &room), json!([alice.id]));
    assert_eq!(typists(&ended, &room), json!([]));
}

#[tokio::test]
async fn whoever_leaves_ceases_to_type() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    bob.types(&room).await;
    carol.types(&room).await;
    let typing = alice.syncs().await;

    bob.leaves(&room).await;
    alice.kicks(&room, &carol).await;

    let sync = alice.syncs_after(&typing).await;
    assert_eq!(typists(&typing, &room), json!([bob.id, carol.id]));
    assert_eq!(typists(&sync, &room), json!([]));
}

#[tokio::test]
async fn strangers_neither_type_nor_learn_who_does() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let first = bob.syncs().await;
    alice.types(&room).await;

    let sync = bob.syncs_after(&first).await;
    let body = json!({ "typing": true, "timeout": 30_000 });
    let own = in_room(&room, &format!("typing/{}", bob.id));
    let own = bob.client.put(&own, body.clone()).await;
    let of_another = in_room(&room, &format!("typing/{}", alice.id));
    let of_another = bob.client.put(&of_another, body).await;

    assert_eq!(sync["rooms"], Value::Null);
    own.expect_error(403, "M_FORBIDDEN");
    of_another.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn bodies_that_say_nothing_of_typing_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let path = in_room(&room, &format!("typing/{}", alice.id));

    for body in [json!({}), json!({ "typing": "yes" })] {
        let refused = alice.client.put(&path, body).await;
        refused.expect_error(400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn typing_needs_no_timeout_and_is_ones_own() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;

    tells_typing(&alice, &room, json!({ "typing": true })).await;

    assert_eq!(typists(&bob.syncs().await, &room), json!([alice.id]));
    let path = in_room(&room, &format!("typing/{}", alice.id));
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
