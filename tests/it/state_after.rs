//! Tests the state after a timeline, under the name of the specification and under that of MSC4222.

use serde_json::{Value, json};

use crate::{
    chat::{event_types, find_event, next_batch, percent_encoded, texts_at, timeline},
    harness::{Server, User},
};

async fn sync_with_state_after(user: &User, name: &str, more: &str) -> Value {
    user.syncs_with(&format!("{name}=true&{more}")).await
}

#[tokio::test]
async fn state_after_is_returned_under_the_requested_name() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "one" }))
        .await;

    for (asked, answered) in [
        ("use_state_after", "state_after"),
        (
            "org.matrix.msc4222.use_state_after",
            "org.matrix.msc4222.state_after",
        ),
    ] {
        let sync = sync_with_state_after(&alice, asked, "").await;
        let joined = &sync["rooms"]["join"][&room];
        let name = find_event(&joined[answered]["events"], "m.room.name", "");
        assert_eq!(name["content"]["name"], "one");
        assert!(event_types(timeline(&sync, &room)).contains(&"m.room.name"));
        assert_eq!(joined["state"], Value::Null);
    }
    let usual = alice.syncs().await;
    let joined = &usual["rooms"]["join"][&room];
    assert_eq!(joined["state_after"], Value::Null);
}

#[tokio::test]
async fn state_after_includes_changes_from_the_timeline() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let before = alice.syncs().await;
    for name in ["one", "two"] {
        alice
            .sets_state(&room, "m.room.name", json!({ "name": name }))
            .await;
        for _ in 0..3 {
            alice.says(&room, "hello").await;
        }
    }
    let filter = percent_encoded(r#"{"room":{"timeline":{"limit":4}}}"#);

    let more = format!("since={}&filter={filter}", next_batch(&before));
    let after = sync_with_state_after(&alice, "use_state_after", &more).await;

    let joined = &after["rooms"]["join"][&room];
    let events = &joined["state_after"]["events"];
    assert_eq!(texts_at(events, "/content/name"), ["two"]);
    assert_eq!(joined["timeline"]["limited"], true);
    let nothing = sync_with_state_after(
        &alice,
        "use_state_after",
        &format!("since={}", next_batch(&after)),
    )
    .await;
    assert_eq!(nothing["rooms"], Value::Null);
}

#[tokio::test]
async fn lazy_state_after_includes_timeline_members() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates(json!({ "invite": [&bob.id] })).await;
    bob.joins(&room).await;
    let filter =
        percent_encoded(r#"{"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true}}}"#);

    let sync = sync_with_state_after(&alice, "use_state_after", &format!("filter={filter}")).await;

    let events = &sync["rooms"]["join"][&room]["state_after"]["events"];
    for user in [&alice, &bob] {
        let member = find_event(events, "m.room.member", &user.id);
        assert_eq!(member["content"]["membership"], "join");
    }
}

#[tokio::test]
async fn a_state_event_has_its_previous_content() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let first = alice
        .sets_state(&room, "m.room.name", json!({ "name": "one" }))
        .await;
    let second = alice
        .sets_state(&room, "m.room.name", json!({ "name": "two" }))
        .await;

    let event = alice.event(&room, &second).await.expect_ok();

    assert_eq!(event["unsigned"]["replaces_state"], first);
    assert_eq!(event["unsigned"]["prev_content"], json!({ "name": "one" }));
    assert_eq!(event["unsigned"]["membership"], "join");
}

#[tokio::test]
async fn event_sizes_and_type_lengths_are_limited() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let long = "x".repeat(256);

    let large = json!({ "body": "x".repeat(65_536) });
    let large = alice.tries_to_send(&room, "m.room.message", large).await;
    large.expect_error(413, "M_TOO_LARGE");
    alice
        .tries_to_send(&room, &long, json!({}))
        .await
        .expect_error(413, "M_TOO_LARGE");
    let key = alice
        .tries_to_set_state(&room, &format!("org.example/{long}"), json!({}))
        .await;
    key.expect_error(413, "M_TOO_LARGE");
    let fits = "x".repeat(255);
    alice
        .sets_state(&room, &format!("org.example/{fits}"), json!({}))
        .await;
    let joined = alice
        .posts_in_room(&format!("!{long}:localhost"), "join", json!({}))
        .await;
    joined.expect_error(400, "M_INVALID_PARAM");
}
