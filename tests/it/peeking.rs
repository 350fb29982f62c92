//! Tests the legacy `/initialSync` and `/events` endpoints, also for rooms that the user has not joined.

use serde_json::{Value, json};

use crate::{
    chat::{event_types, find_event, message_bodies, percent_encoded},
    harness::{HttpAnswer, Server, User},
};

async fn try_get(user: &User, rest: &str) -> HttpAnswer {
    let path = format!("/_matrix/client/v3/{rest}");
    user.client.get(&path).await
}

async fn get_ok(user: &User, rest: &str) -> Value {
    try_get(user, rest).await.expect_ok()
}

fn end_token(answer: &Value) -> &str {
    answer["end"].as_str().expect("a token")
}

#[tokio::test]
async fn a_world_readable_room_is_readable_without_joining() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_room_with_history("world_readable").await;
    let event = alice.says(&room, "hello").await;

    let look = bob.gets_in_room(&room, "initialSync").await.expect_ok();
    assert_eq!(look["membership"], "leave");
    assert_eq!(message_bodies(&look["messages"]["chunk"]), ["hello"]);
    assert_eq!(
        find_event(&look["state"], "m.room.create", "")["sender"],
        alice.id
    );
    assert_eq!(look["visibility"], "private");
    assert_eq!(
        message_bodies(&bob.messages(&room, "dir=b").await["chunk"]),
        ["hello"]
    );
    bob.event(&room, &event).await.expect_ok();
    bob.gets_in_room(&room, &format!("context/{event}"))
        .await
        .expect_ok();
    bob.gets_in_room(&room, "state").await.expect_ok();
}

#[tokio::test]
async fn a_peeking_user_receives_the_events_of_the_room() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_room_with_history("world_readable").await;
    let room_id = percent_encoded(&room);
    let start = get_ok(&bob, &format!("events?room_id={room_id}&timeout=0")).await;
    assert_eq!(start["chunk"], json!([]));

    let query = format!(
        "events?room_id={room_id}&timeout=30000&from={}",
        end_token(&start)
    );
    let (heard, _) = tokio::join!(get_ok(&bob, &query), alice.says(&room, "hello"));

    assert_eq!(message_bodies(&heard["chunk"]), ["hello"]);
    assert_eq!(heard["chunk"][0]["room_id"], room);
    let query = format!("events?room_id={room_id}&from={}", end_token(&heard));
    assert_eq!(get_ok(&bob, &query).await["chunk"], json!([]));
}

#[tokio::test]
async fn only_world_readable_rooms_can_be_peeked() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    let event = alice.says(&room, "secret").await;

    bob.gets_in_room(&room, "initialSync")
        .await
        .expect_error(403, "M_FORBIDDEN");
    let events = try_get(&bob, &format!("events?room_id={}", percent_encoded(&room))).await;
    events.expect_error(403, "M_FORBIDDEN");
    let one = try_get(&bob, &format!("events/{}", percent_encoded(&event))).await;
    one.expect_error(404, "M_NOT_FOUND");
    for path in ["events", "initialSync", "events/$x"] {
        let path = format!("/_matrix/client/v3/{path}");
        server.get(&path).await.expect_error(401, "M_MISSING_TOKEN");
    }
}

#[tokio::test]
async fn an_event_is_found_by_its_id_alone() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let event = alice.says(&room, "hello").await;

    let found = get_ok(&alice, &format!("events/{}", percent_encoded(&event))).await;

    assert_eq!(
        (&found["event_id"], &found["room_id"]),
        (&json!(event), &json!(room))
    );
    try_get(&alice, "events/$unknown")
        .await
        .expect_error(404, "M_NOT_FOUND");
    try_get(&alice, "events/x")
        .await
        .expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn the_legacy_initial_sync_lists_rooms() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let joined = alice.creates_open_room().await;
    alice.says(&joined, "hello").await;
    let left = bob.creates_open_room().await;
    alice.joins(&left).await;
    alice.leaves(&left).await;
    let invited = bob.creates(json!({ "invite": [&alice.id] })).await;

    let answer = get_ok(&alice, "initialSync?limit=1").await;
    let archived = get_ok(&alice, "initialSync?archived=true").await;

    let of = |answer: &Value, room: &str| -> Value {
        let rooms = answer["rooms"].as_array().expect("a list");
        let found = rooms.iter().find(|shown| shown["room_id"] == room);
        found.cloned().unwrap_or_default()
    };
    let shown = of(&answer, &joined);
    assert_eq!(shown["membership"], "join");
    assert_eq!(message_bodies(&shown["messages"]["chunk"]), ["hello"]);
    assert_eq!(shown["messages"]["chunk"][0]["room_id"], joined);
    assert_eq!(
        find_event(&shown["state"], "m.room.create", "")["room_id"],
        joined
    );
    let invitation = of(&answer, &invited);
    assert_eq!(invitation["membership"], "invite");
    assert_eq!(invitation["invite"]["content"]["membership"], "invite");
    assert_eq!(of(&answer, &left), Value::Null);
    assert_eq!(of(&archived, &left)["membership"], "leave");
    assert!(event_types(&answer["account_data"]).contains(&"m.push_rules"));
    try_get(&alice, "initialSync?limit=x")
        .await
        .expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn the_legacy_event_stream_returns_events_of_joined_rooms() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let start = get_ok(&bob, "initialSync").await;

    alice.says(&room, "hello").await;
    let heard = get_ok(
        &bob,
        &format!("events?from={}&timeout=30000", end_token(&start)),
    )
    .await;

    assert_eq!(message_bodies(&heard["chunk"]), ["hello"]);
    assert_eq!(heard["chunk"][0]["room_id"], room);
    try_get(&bob, "events?from=x")
        .await
        .expect_error(400, "M_INVALID_PARAM");
}
