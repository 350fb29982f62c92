//! Tests the state after a timeline, under the name of the specification and under that of MSC4222.

use serde_json::{Value, json};

use crate::{
    chat::{each, encoded, find, next, timeline, types},
    harness::{Server, User},
};

async fn syncs(user: &User, name: &str, more: &str) -> Value {
    user.syncs_with(&format!("{name}=true&{more}")).await
}

#[tokio::test]
async fn the_state_is_that_after_the_timeline_under_the_name_that_was_asked_for() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    alice
        .sets(&room, "m.room.name", json!({ "name": "one" }))
        .await;

    for (asked, answered) in [
        ("use_state_after", "state_after"),
        (
            "org.matrix.msc4222.use_state_after",
            "org.matrix.msc4222.state_after",
        ),
    ] {
        let sync = syncs(&alice, asked, "").await;
        let joined = &sync["rooms"]["join"][&room];
        let name = find(&joined[answered]["events"], "m.room.name", "");
        assert_eq!(name["content"]["name"], "one");
        assert!(types(timeline(&sync, &room)).contains(&"m.room.name"));
        assert_eq!(joined["state"], Value::Null);
    }
    let usual = alice.syncs().await;
    let joined = &usual["rooms"]["join"][&room];
    assert_eq!(joined["state_after"], Value::Null);
}

#[tokio::test]
async fn a_later_sync_tells_all_state_that_changed_also_what_the_timeline_shows() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let before = alice.syncs().await;
    for name in ["one", "two"] {
        alice
            .sets(&room, "m.room.name", json!({ "name": name }))
            .await;
        for _ in 0..3 {
            alice.says(&room, "hello").await;
        }
    }
    let filter = encoded(r#"{"room":{"timeline":{"limit":4}}}"#);

    let more = format!("since={}&filter={filter}", next(&before));
    let after = syncs(&alice, "use_state_after", &more).await;

    let joined = &after["rooms"]["join"][&room];
    let events = &joined["state_after"]["events"];
    assert_eq!(each(events, "/content/name"), ["two"]);
    assert_eq!(joined["timeline"]["limited"], true);
    let nothing = syncs(
        &alice,
        "use_state_after",
        &format!("since={}", next(&after)),
    )
    .await;
    assert_eq!(nothing["rooms"], Value::Null);
}

#[tokio::test]
async fn members_of_whom_the_timeline_has_events_are_there_where_members_are_loaded_lazily() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates(json!({ "invite": [&bob.id] })).await;
    bob.joins(&room).await;
    let filter =
        encoded(r#"{"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true}}}"#);

    let sync = syncs(&alice, "use_state_after", &format!("filter={filter}")).await;

    let events = &sync["rooms"]["join"][&room]["state_after"]["events"];
    for user in [&alice, &bob] {
        let member = find(events, "m.room.member", &user.id);
        assert_eq!(member["content"]["membership"], "join");
    }
}

#[tokio::test]
async fn what_a_state_event_replaced_stands_beside_it() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let first = alice
        .sets(&room, "m.room.name", json!({ "name": "one" }))
        .await;
    let second = alice
        .sets(&room, "m.room.name", json!({ "name": "two" }))
        .await;

    let event = alice.event(&room, &second).await.expect_ok();

    assert_eq!(event["unsigned"]["replaces_state"], first);
    assert_eq!(event["unsigned"]["prev_content"], json!({ "name": "one" }));
    assert_eq!(event["unsigned"]["membership"], "join");
}

#[tokio::test]
async fn events_and_their_names_have_limits() {
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
        .tries_to_set(&room, &format!("org.example/{long}"), json!({}))
        .await;
    key.expect_error(413, "M_TOO_LARGE");
    let fits = "x".repeat(255);
    alice
        .sets(&room, &format!("org.example/{fits}"), json!({}))
        .await;
    let joined = alice
        .tries(&format!("!{long}:localhost"), "join", json!({}))
        .await;
    joined.expect_error(400, "M_INVALID_PARAM");
}
