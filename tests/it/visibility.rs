//! Tests history visibility.

use serde_json::{Value, json};

use crate::{
    chat::{event_ids, filter_query, find_event, message_bodies, state, texts_at, timeline},
    harness::{Server, User, password_of},
    sliding,
};

/// Returns the names of the events that a user can read one by one.
async fn readable_events(user: &User, room: &str, events: &[(&str, String)]) -> Vec<String> {
    let mut readable = Vec::new();
    for (name, event_id) in events {
        let event = user.event(room, event_id).await;
        match event.status {
            200 => readable.push((*name).to_owned()),
            _ => drop(event.expect_error(404, "M_NOT_FOUND")),
        }
    }
    readable
}

/// A room with one message for each membership of Bob.
struct VisibilityScenario {
    server: Server,
    room: String,
    bob: User,
    events: Vec<(&'static str, String)>,
}

async fn create_scenario(visibility: &str) -> VisibilityScenario {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_room_with_history(visibility).await;
    let mut events = vec![("before", alice.says(&room, "before").await)];
    alice.invites(&room, &bob).await;
    events.push(("invited", alice.says(&room, "invited").await));
    bob.joins(&room).await;
    events.push(("joined", alice.says(&room, "joined").await));
    bob.leaves(&room).await;
    events.push(("left", alice.says(&room, "left").await));
    VisibilityScenario {
        server,
        room,
        bob,
        events,
    }
}

#[tokio::test]
async fn visibility_decides_readable_events_and_pages() {
    let cases = [
        (
            "world_readable",
            vec!["before", "invited", "joined", "left"],
        ),
        ("shared", vec!["before", "invited", "joined"]),
        ("invited", vec!["invited", "joined"]),
        ("joined", vec!["joined"]),
    ];

    for (visibility, expected) in cases {
        let story = create_scenario(visibility).await;

        let one_by_one = readable_events(&story.bob, &story.room, &story.events).await;
        let page = story.bob.messages(&story.room, "dir=f&limit=100").await;
        assert_eq!(one_by_one, expected, "{visibility}");
        assert_eq!(message_bodies(&page["chunk"]), expected, "{visibility}");
    }
}

#[tokio::test]
async fn visible_history_is_the_same_after_a_restart() {
    let story = create_scenario("invited").await;

    let server = story.server.restart().await;
    let bob = story.bob.on_server(&server);

    let page = bob.messages(&story.room, "dir=f&limit=100").await;
    assert_eq!(message_bodies(&page["chunk"]), ["invited", "joined"]);
}

#[tokio::test]
async fn invited_users_read_history_visible_to_them() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let cases = [
        ("world_readable", vec!["before", "after"]),
        ("shared", vec![]),
        ("invited", vec!["after"]),
        ("joined", vec![]),
    ];

    for (visibility, expected) in cases {
        let room = alice.creates_room_with_history(visibility).await;
        let before = alice.says(&room, "before").await;
        alice.invites(&room, &bob).await;
        let after = alice.says(&room, "after").await;

        let events = [("before", before), ("after", after)];
        let found = readable_events(&bob, &room, &events).await;
        assert_eq!(found, expected, "{visibility}");
    }
}

#[tokio::test]
async fn strangers_read_only_world_readable_rooms() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    for visibility in ["shared", "invited", "joined"] {
        let room = alice.creates_room_with_history(visibility).await;
        let message = alice.says(&room, "hello").await;

        let event = bob.event(&room, &message).await;
        event.expect_error(404, "M_NOT_FOUND");
        for what in ["messages?dir=b", "state", "members", "aliases"] {
            let asked = bob.gets_in_room(&room, what).await;
            asked.expect_error(403, "M_FORBIDDEN");
        }
    }
    let room = alice.creates_room_with_history("world_readable").await;
    let message = alice.says(&room, "hello").await;
    bob.event(&room, &message).await.expect_ok();
    for what in [
        "messages?dir=b",
        "state",
        "members",
        "aliases",
        "state/m.room.create",
    ] {
        bob.gets_in_room(&room, what).await.expect_ok();
    }
}

#[tokio::test]
async fn each_event_has_the_visibility_when_it_was_sent() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_room_with_history("joined").await;
    let kind = "m.room.history_visibility";
    let set = |visibility: &str| json!({ "history_visibility": visibility });
    alice.says(&room, "joined").await;
    alice.sets_state(&room, kind, set("shared")).await;
    alice.says(&room, "shared").await;
    alice.sets_state(&room, kind, set("invited")).await;
    alice.says(&room, "invited").await;
    alice.sets_state(&room, kind, set("world_readable")).await;
    alice.says(&room, "world readable").await;

    let by_stranger = bob.messages(&room, "dir=f&limit=100").await;
    bob.joins(&room).await;
    let by_member = bob.messages(&room, "dir=f&limit=100").await;

    assert_eq!(message_bodies(&by_stranger["chunk"]), ["world readable"]);
    let expected = ["shared", "world readable"];
    assert_eq!(message_bodies(&by_member["chunk"]), expected);
}

#[tokio::test]
async fn a_returning_member_reads_shared_history_of_the_absence() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let cases = [
        ("shared", vec!["one", "two", "three"]),
        ("joined", vec!["one", "three"]),
    ];

    for (visibility, expected) in cases {
        let room = alice.creates_room_with_history(visibility).await;
        bob.joins(&room).await;
        alice.says(&room, "one").await;
        bob.leaves(&room).await;
        alice.says(&room, "two").await;
        bob.joins(&room).await;
        alice.says(&room, "three").await;

        let page = bob.messages(&room, "dir=f&limit=100").await;
        assert_eq!(message_bodies(&page["chunk"]), expected, "{visibility}");
    }
}

#[tokio::test]
async fn an_unknown_visibility_counts_as_shared() {
    let story = create_scenario("org.example.unknown").await;

    let found = readable_events(&story.bob, &story.room, &story.events).await;

    assert_eq!(found, ["before", "invited", "joined"]);
}

#[tokio::test]
async fn later_members_see_events_of_erased_users_redacted() {
    let server = Server::start().await;
    let (alice, bob, carol) = (
        server.register("alice").await,
        server.register("bob").await,
        server.register("carol").await,
    );
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    bob.joins(&room).await;
    let said = alice.says(&room, "remember me").await;

    let goodbye = json!({ "erase": true, "auth": password_of("alice") });
    let path = "/_matrix/client/v3/account/deactivate";
    alice.client.post(path, goodbye).await.expect_ok();
    carol.joins(&room).await;

    let path = format!("/_matrix/client/v3/rooms/{room}/event/{said}");
    let for_bob = bob.client.get(&path).await.expect_ok();
    let for_carol = carol.client.get(&path).await.expect_ok();
    assert_eq!(for_bob["content"]["body"], "remember me");
    assert_eq!(for_carol["content"], json!({}));
    let synced = carol
        .client
        .get("/_matrix/client/v3/sync")
        .await
        .expect_ok();
    assert!(!synced.to_string().contains("remember me"));
}

#[tokio::test]
async fn a_timeline_skips_hidden_events() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_room_with_history("joined").await;
    bob.joins(&room).await;
    alice.says(&room, "one").await;
    bob.leaves(&room).await;
    alice.says(&room, "hidden").await;
    bob.joins(&room).await;
    alice.says(&room, "two").await;

    let limit = filter_query(&json!({ "room": { "timeline": { "limit": 50 } } }));
    let sync = bob.syncs_with(&limit).await;

    assert_eq!(message_bodies(timeline(&sync, &room)), ["one", "two"]);
    let list = sliding::list_config([0, 9], 50, &json!([]));
    let slid = bob.opens_list(&list).poll().await;
    assert_eq!(
        message_bodies(&slid["rooms"][&room]["timeline"]),
        ["one", "two"]
    );
    // Pagination hides the same event.
    let page = bob.messages(&room, "dir=b&limit=50").await;
    assert_eq!(message_bodies(&page["chunk"]), ["two", "one"]);
}

#[tokio::test]
async fn state_changed_while_hidden_is_in_the_first_sync() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_room_with_history("joined").await;
    bob.joins(&room).await;
    alice
        .sets_state(&room, "m.room.topic", json!({ "topic": "seen" }))
        .await;
    alice.says(&room, "one").await;
    bob.leaves(&room).await;
    alice
        .sets_state(&room, "m.room.topic", json!({ "topic": "hidden" }))
        .await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "hidden" }))
        .await;
    bob.joins(&room).await;
    alice.says(&room, "two").await;

    let limit = filter_query(&json!({ "room": { "timeline": { "limit": 50 } } }));
    let sync = bob.syncs_with(&limit).await;

    // The timeline does not contain the earlier topic, because it would replace the current one.
    let timeline = timeline(&sync, &room);
    assert_eq!(message_bodies(timeline), ["one", "two"]);
    assert_eq!(*find_event(timeline, "m.room.topic", ""), Value::Null);
    let state = state(&sync, &room);
    assert_eq!(
        find_event(state, "m.room.topic", "")["content"]["topic"],
        "hidden"
    );
    assert_eq!(
        find_event(state, "m.room.name", "")["content"]["name"],
        "hidden"
    );
}

#[tokio::test]
async fn own_member_events_are_visible_under_every_visibility() {
    let story = create_scenario("joined").await;
    let alice = story.server.log_in("alice").await;
    let own = alice.messages(&story.room, "dir=f&limit=100").await;
    let own = own["chunk"].as_array().cloned().unwrap_or_default();
    let own = own
        .into_iter()
        .filter(|event| event["state_key"] == story.bob.id.as_str());
    let own: Value = own.collect();

    let page = story.bob.messages(&story.room, "dir=f&limit=100").await;

    assert_eq!(
        texts_at(&own, "/content/membership"),
        ["invite", "join", "leave"]
    );
    for event_id in event_ids(&own) {
        story.bob.event(&story.room, event_id).await.expect_ok();
        assert!(event_ids(&page["chunk"]).contains(&event_id));
    }
}
