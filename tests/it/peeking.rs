//! Tests the legacy `/initialSync` and `/events` endpoints, also for rooms that the user has not joined.

use serde_json::{Value, json};

use crate::{
    chat::{encoded, find, said, types},
    harness::{Answer, Server, User},
};

async fn tries(user: &User, rest: &str) -> Answer {
    let path = format!("/_matrix/client/v3/{rest}");
    user.client.get(&path).await
}

async fn gets(user: &User, rest: &str) -> Value {
    tries(user, rest).await.expect_ok()
}

fn end(answer: &Value) -> &str {
    answer["end"].as_str().expect("a token")
}

#[tokio::test]
async fn anybody_reads_a_world_readable_room_without_joining_it() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_room_with_history("world_readable").await;
    let event = alice.says(&room, "hello").await;

    let look = bob.asks(&room, "initialSync").await.expect_ok();
    assert_eq!(look["membership"], "leave");
    assert_eq!(said(&look["messages"]["chunk"]), ["hello"]);
    assert_eq!(
        find(&look["state"], "m.room.create", "")["sender"],
        alice.id
    );
    assert_eq!(look["visibility"], "private");
    assert_eq!(
        said(&bob.messages(&room, "dir=b").await["chunk"]),
        ["hello"]
    );
    bob.event(&room, &event).await.expect_ok();
    bob.asks(&room, &format!("context/{event}"))
        .await
        .expect_ok();
    bob.asks(&room, "state").await.expect_ok();
}

#[tokio::test]
async fn whoever_looks_into_a_room_is_told_what_happens_there() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_room_with_history("world_readable").await;
    let room_id = encoded(&room);
    let start = gets(&bob, &format!("events?room_id={room_id}&timeout=0")).await;
    assert_eq!(start["chunk"], json!([]));

    let query = format!(
        "events?room_id={room_id}&timeout=30000&from={}",
        end(&start)
    );
    let (heard, _) = tokio::join!(gets(&bob, &query), alice.says(&room, "hello"));

    assert_eq!(said(&heard["chunk"]), ["hello"]);
    assert_eq!(heard["chunk"][0]["room_id"], room);
    let query = format!("events?room_id={room_id}&from={}", end(&heard));
    assert_eq!(gets(&bob, &query).await["chunk"], json!([]));
}

#[tokio::test]
async fn rooms_that_are_not_world_readable_cannot_be_looked_into() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    let event = alice.says(&room, "secret").await;

    bob.asks(&room, "initialSync")
        .await
        .expect_error(403, "M_FORBIDDEN");
    let events = tries(&bob, &format!("events?room_id={}", encoded(&room))).await;
    events.expect_error(403, "M_FORBIDDEN");
    let one = tries(&bob, &format!("events/{}", encoded(&event))).await;
    one.expect_error(404, "M_NOT_FOUND");
    for path in ["events", "initialSync", "events/$x"] {
        let path = format!("/_matrix/client/v3/{path}");
        server.get(&path).await.expect_error(401, "M_MISSING_TOKEN");
    }
}

#[tokio::test]
async fn one_event_is_found_by_its_id_alone() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let event = alice.says(&room, "hello").await;

    let found = gets(&alice, &format!("events/{}", encoded(&event))).await;

    assert_eq!(
        (&found["event_id"], &found["room_id"]),
        (&json!(event), &json!(room))
    );
    tries(&alice, "events/$unknown")
        .await
        .expect_error(404, "M_NOT_FOUND");
    tries(&alice, "events/x")
        .await
        .expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn the_old_initial_sync_has_rooms_as_a_list() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let joined = alice.creates_open_room().await;
    alice.says(&joined, "hello").await;
    let left = bob.creates_open_room().await;
    alice.joins(&left).await;
    alice.leaves(&left).await;
    let invited = bob.creates(json!({ "invite": [&alice.id] })).await;

    let answer = gets(&alice, "initialSync?limit=1").await;
    let archived = gets(&alice, "initialSync?archived=true").await;

    let of = |answer: &Value, room: &str| -> Value {
        let rooms = answer["rooms"].as_array().expect("a list");
        let found = rooms.iter().find(|shown| shown["room_id"] == room);
        found.cloned().unwrap_or_default()
    };
    let shown = of(&answer, &joined);
    assert_eq!(shown["membership"], "join");
    assert_eq!(said(&shown["messages"]["chunk"]), ["hello"]);
    assert_eq!(shown["messages"]["chunk"][0]["room_id"], joined);
    assert_eq!(
        find(&shown["state"], "m.room.create", "")["room_id"],
        joined
    );
    let invitation = of(&answer, &invited);
    assert_eq!(invitation["membership"], "invite");
    assert_eq!(invitation["invite"]["content"]["membership"], "invite");
    assert_eq!(of(&answer, &left), Value::Null);
    assert_eq!(of(&archived, &left)["membership"], "leave");
    assert!(types(&answer["account_data"]).contains(&"m.push_rules"));
    tries(&alice, "initialSync?limit=x")
        .await
        .expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn the_old_event_stream_tells_what_happens_in_the_rooms_of_a_user() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let start = gets(&bob, "initialSync").await;

    alice.says(&room, "hello").await;
    let heard = gets(&bob, &format!("events?from={}&timeout=30000", end(&start))).await;

    assert_eq!(said(&heard["chunk"]), ["hello"]);
    assert_eq!(heard["chunk"][0]["room_id"], room);
    tries(&bob, "events?from=x")
        .await
        .expect_error(400, "M_INVALID_PARAM");
}
