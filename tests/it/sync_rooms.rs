//! Tests the rooms in a sync: joined, invited and left.

use serde_json::{Value, json};

use crate::{
    chat::{
        event_ids, event_types, filter_query, find_event, message_bodies, next_batch, state,
        texts_at, timeline, unread_counts,
    },
    harness::{Server, User},
};

async fn send_messages(user: &User, room: &str, count: usize) {
    for n in 0..count {
        user.says(room, &format!("message {n}")).await;
    }
}

fn lazy_filter() -> String {
    let lazy = json!({ "lazy_load_members": true });
    filter_query(&json!({ "room": { "state": lazy, "timeline": { "limit": 3 } } }))
}

/// Returns the users whose member events the state of a room contains.
fn synced_members<'a>(sync: &'a Value, room: &str) -> Vec<&'a str> {
    let events = state(sync, room).as_array().map(Vec::as_slice);
    let events = events.unwrap_or_default().iter();
    let members = events.filter(|event| event["type"] == "m.room.member");
    let mut found: Vec<&str> = members
        .filter_map(|event| event["state_key"].as_str())
        .collect();
    found.sort_unstable();
    found
}

#[tokio::test]
async fn a_limited_timeline_has_the_state_before_it() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "name": "One" })).await;
    let first = alice.syncs().await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Two" }))
        .await;
    alice
        .sets_state(&room, "m.room.topic", json!({ "topic": "Topic" }))
        .await;
    send_messages(&alice, &room, 8).await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Three" }))
        .await;
    send_messages(&alice, &room, 9).await;

    let anew = alice.syncs().await;
    let second = alice.syncs_after(&first).await;

    for sync in [&anew, &second] {
        let limited = &sync["rooms"]["join"][&room]["timeline"]["limited"];
        assert_eq!(*limited, true);
        let names = texts_at(timeline(sync, &room), "/content/name");
        assert_eq!(names, ["Three"]);
        let names = texts_at(state(sync, &room), "/content/name");
        assert_eq!(names, ["Two"]);
        assert!(event_types(state(sync, &room)).contains(&"m.room.topic"));
    }
    assert_eq!(state(&second, &room).as_array().map(Vec::len), Some(2));
    assert!(event_types(state(&anew, &room)).contains(&"m.room.create"));
}

#[tokio::test]
async fn use_state_after_returns_the_state_after_the_timeline() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "name": "One" })).await;
    let first = alice.syncs().await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Two" }))
        .await;

    let query = format!("since={}&use_state_after=true", next_batch(&first));
    let sync = alice.syncs_with(&query).await;

    let joined = &sync["rooms"]["join"][&room];
    let names = texts_at(&joined["state_after"]["events"], "/content/name");
    assert_eq!(names, ["Two"]);
    assert_eq!(joined["state"], Value::Null);
}

#[tokio::test]
async fn a_newly_joined_room_has_its_full_state() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    send_messages(&alice, &room, 8).await;
    let first = bob.syncs().await;
    send_messages(&alice, &room, 8).await;
    bob.joins(&room).await;

    let second = bob.syncs_after(&first).await;
    let third = bob.syncs_after(&second).await;

    let joined = &second["rooms"]["join"][&room];
    assert_eq!(joined["timeline"]["limited"], true);
    assert_eq!(timeline(&second, &room).as_array().map(Vec::len), Some(10));
    assert!(event_types(state(&second, &room)).contains(&"m.room.create"));
    assert_eq!(third["rooms"], Value::Null);
}

#[tokio::test]
async fn the_timeline_of_a_joined_room_is_limited() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let filter = json!({ "room": { "timeline": { "types": ["m.room.message"] } } });
    let filter = filter_query(&filter);
    let room = alice.creates_open_room().await;
    send_messages(&alice, &room, 4).await;
    let first = bob.syncs_with(&filter).await;
    bob.joins(&room).await;

    let query = format!("since={}&{filter}", next_batch(&first));
    let joined = bob.syncs_with(&query).await;

    let timeline = &joined["rooms"]["join"][&room]["timeline"];
    assert_eq!(message_bodies(&timeline["events"]).len(), 4);
    assert_eq!(timeline["limited"], true);
}

#[tokio::test]
async fn a_created_room_is_synced_from_its_first_event() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let first = alice.syncs().await;
    let room = alice.creates(json!({})).await;

    let sync = alice.syncs_after(&first).await;

    let told = &sync["rooms"]["join"][&room]["timeline"];
    assert_eq!(event_types(&told["events"])[0], "m.room.create");
    assert_eq!(told["limited"], false);
}

#[tokio::test]
async fn lazy_loading_includes_senders_and_the_own_member() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    send_messages(&bob, &room, 3).await;

    let first = alice.syncs_with(&lazy_filter()).await;
    carol.says(&room, "hello").await;
    bob.says(&room, "hello").await;
    let query = format!("since={}&{}", next_batch(&first), lazy_filter());
    let second = alice.syncs_with(&query).await;
    let second_again = alice.syncs_with(&query).await;
    carol.says(&room, "again").await;
    let query = format!("since={}&{}", next_batch(&second), lazy_filter());
    let third = alice.syncs_with(&query).await;

    assert_eq!(synced_members(&first, &room), [&*alice.id, &*bob.id]);
    assert_eq!(synced_members(&second, &room), [&*carol.id]);
    // A client that repeats a request did not receive the first answer.
    assert_eq!(synced_members(&second_again, &room), [&*carol.id]);
    assert_eq!(synced_members(&third, &room), Vec::<&str>::new());
}

#[tokio::test]
async fn redundant_members_are_sent_if_requested() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    send_messages(&bob, &room, 12).await;
    let lazy = json!({ "lazy_load_members": true, "include_redundant_members": true });
    let filter = filter_query(&json!({ "room": { "state": lazy } }));

    let first = alice.syncs_with(&filter).await;
    bob.says(&room, "hello").await;
    let query = format!("since={}&{filter}", next_batch(&first));
    let second = alice.syncs_with(&query).await;

    assert_eq!(synced_members(&first, &room), [&*alice.id, &*bob.id]);
    assert_eq!(synced_members(&second, &room), [&*bob.id]);
}

#[tokio::test]
async fn lazy_loading_includes_membership_changes_in_a_gap() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let first = alice.syncs_with(&lazy_filter()).await;
    bob.leaves(&room).await;
    send_messages(&alice, &room, 5).await;

    let query = format!("since={}&{}", next_batch(&first), lazy_filter());
    let sync = alice.syncs_with(&query).await;

    let member = find_event(state(&sync, &room), "m.room.member", &bob.id);
    assert_eq!(member["content"]["membership"], "leave");
}

#[tokio::test]
async fn the_summary_has_member_counts_and_heroes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let first = alice.syncs().await;
    let request = json!({ "preset": "public_chat", "invite": [bob.id] });
    let room = alice.creates(request).await;
    let summary = |sync: &Value| sync["rooms"]["join"][&room]["summary"].clone();

    let invited = alice.syncs_after(&first).await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    let joined = alice.syncs_after(&invited).await;
    carol.leaves(&room).await;
    let left = alice.syncs_after(&joined).await;
    alice.says(&room, "hello").await;
    let unchanged = alice.syncs_after(&left).await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Pub" }))
        .await;
    let named = alice.syncs_after(&unchanged).await;

    let counts = |joined: u64, invited: u64, heroes: Value| {
        let mut counts = json!({
            "m.joined_member_count": joined, "m.invited_member_count": invited,
        });
        if heroes != Value::Null {
            counts["m.heroes"] = heroes;
        }
        counts
    };
    assert_eq!(summary(&invited), counts(1, 1, json!([bob.id])));
    let heroes = json!([bob.id, carol.id]);
    assert_eq!(summary(&joined), counts(3, 0, heroes));
    assert_eq!(summary(&left), counts(2, 0, json!([bob.id])));
    assert_eq!(summary(&unchanged), Value::Null);
    assert_eq!(summary(&named), counts(2, 0, Value::Null));
}

#[tokio::test]
async fn former_members_are_heroes_of_an_abandoned_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    bob.leaves(&room).await;

    let sync = alice.syncs().await;

    let summary = &sync["rooms"]["join"][&room]["summary"];
    assert_eq!(summary["m.heroes"], json!([bob.id]));
}

#[tokio::test]
async fn an_invitation_is_synced_once_with_stripped_state() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .creates(json!({ "name": "Pub", "topic": "Hours" }))
        .await;
    let first = bob.syncs().await;
    alice.invites(&room, &bob).await;

    let second = bob.syncs_after(&first).await;
    alice.says(&room, "not for bob yet").await;
    let third = bob.syncs_after(&second).await;
    let anew = bob.syncs().await;

    for sync in [&second, &anew] {
        let events = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
        let name = json!({
            "type": "m.room.name", "state_key": "", "sender": alice.id,
            "content": { "name": "Pub" },
        });
        assert_eq!(*find_event(events, "m.room.name", ""), name);
        for kind in ["m.room.create", "m.room.join_rules", "m.room.topic"] {
            assert!(find_event(events, kind, "").is_object(), "{kind}");
        }
        let of_alice = find_event(events, "m.room.member", &alice.id);
        assert_eq!(of_alice["content"]["membership"], "join");
        let of_bob = find_event(events, "m.room.member", &bob.id);
        assert_eq!(of_bob["content"]["membership"], "invite");
        assert_eq!(sync["rooms"]["join"], Value::Null);
    }
    assert_eq!(third["rooms"], Value::Null);
}

#[tokio::test]
async fn a_left_room_is_synced_once_until_the_leave() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let first = bob.syncs().await;
    alice.says(&room, "before").await;
    bob.leaves(&room).await;
    alice.says(&room, "after").await;

    let second = bob.syncs_after(&first).await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Later" }))
        .await;
    let third = bob.syncs_after(&second).await;
    let anew = bob.syncs().await;

    let left = &second["rooms"]["leave"][&room];
    assert_eq!(message_bodies(&left["timeline"]["events"]), ["before"]);
    let own = find_event(&left["timeline"]["events"], "m.room.member", &bob.id);
    assert_eq!(own["content"]["membership"], "leave");
    assert_eq!(second["rooms"]["join"], Value::Null);
    assert_eq!(third["rooms"], Value::Null);
    assert_eq!(anew["rooms"], Value::Null);
}

#[tokio::test]
async fn include_leave_returns_rooms_left_earlier() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    alice
        .sets_state(&room, "org.example", json!({ "n": "before" }))
        .await;
    bob.leaves(&room).await;
    alice
        .sets_state(&room, "org.example", json!({ "n": "after" }))
        .await;
    alice.says(&room, "after").await;
    let with_left = filter_query(&json!({ "room": { "include_leave": true } }));
    let empty = json!({ "room": { "include_leave": true, "timeline": { "limit": 0 } } });

    let first = bob.syncs_with(&with_left).await;
    let query = format!("since={}&{with_left}", next_batch(&first));
    let second = bob.syncs_with(&query).await;
    let full = bob.syncs_with(&format!("{query}&full_state=true")).await;
    let stateful = bob.syncs_with(&filter_query(&empty)).await;

    let left = &first["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(texts_at(left, "/content/n"), ["before"]);
    assert_eq!(message_bodies(left), Vec::<&str>::new());
    assert_eq!(second["rooms"], Value::Null);
    assert!(full["rooms"]["leave"][&room].is_object());
    let left = &stateful["rooms"]["leave"][&room];
    assert_eq!(left["timeline"]["events"], json!([]));
    let own = find_event(&left["state"]["events"], "m.room.member", &bob.id);
    assert_eq!(own["content"]["membership"], "leave");
    let content = &find_event(&left["state"]["events"], "org.example", "")["content"];
    assert_eq!(*content, json!({ "n": "before" }));
}

#[tokio::test]
async fn a_rejoined_room_is_synced_only_as_joined() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let outside = bob.syncs().await;
    bob.joins(&room).await;
    let inside = bob.syncs_after(&outside).await;
    bob.leaves(&room).await;
    alice.says(&room, "between").await;
    bob.joins(&room).await;

    let from_outside = bob.syncs_after(&outside).await;
    let from_inside = bob.syncs_after(&inside).await;

    for sync in [&from_outside, &from_inside] {
        assert_eq!(sync["rooms"]["leave"], Value::Null);
        assert_eq!(message_bodies(timeline(sync, &room)), ["between"]);
    }
    let memberships = texts_at(timeline(&from_inside, &room), "/content/membership");
    assert_eq!(memberships, ["leave", "join"]);
}

#[tokio::test]
async fn a_timeline_stops_at_state_replaced_out_of_sight() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let request = json!({ "preset": "public_chat", "name": "One" });
    let room = alice.creates(request).await;
    let kind = "m.room.history_visibility";
    let joined = json!({ "history_visibility": "joined" });
    alice.sets_state(&room, kind, joined).await;
    let two = json!({ "name": "Two" });
    alice.sets_state(&room, "m.room.name", two).await;
    let outside = bob.syncs().await;
    bob.joins(&room).await;

    for sync in [bob.syncs().await, bob.syncs_after(&outside).await] {
        let events = timeline(&sync, &room);
        assert_eq!(event_types(events), [kind, "m.room.member"]);
        assert_eq!(texts_at(state(&sync, &room), "/content/name"), ["Two"]);
        let limited = &sync["rooms"]["join"][&room]["timeline"]["limited"];
        assert_eq!(*limited, true);
    }
}

#[tokio::test]
async fn events_have_the_membership_of_the_reader() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let request = json!({ "preset": "public_chat", "name": "Pub" });
    let room = alice.creates(request).await;
    alice.says(&room, "before").await;
    bob.joins(&room).await;
    alice.says(&room, "after").await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Bar" }))
        .await;

    let sync = bob.syncs().await;

    let events = timeline(&sync, &room);
    let memberships = texts_at(events, "/unsigned/membership");
    let mut expected = vec!["leave"; memberships.len() - 3];
    expected.extend(["join"; 3]);
    assert_eq!(memberships, expected);
    let name = events.as_array().and_then(|events| events.last());
    let name = name.expect("an event");
    assert_eq!(name["content"]["name"], "Bar");
    assert_eq!(name["unsigned"]["prev_content"], json!({ "name": "Pub" }));
    let ages = events.as_array().expect("a list").iter();
    let mut ages = ages.map(|event| &event["unsigned"]["age"]);
    assert!(ages.all(Value::is_u64));
    assert_eq!(texts_at(events, "/room_id"), Vec::<&str>::new());
}

#[tokio::test]
async fn a_redaction_and_the_redacted_event_are_synced() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let first = alice.syncs().await;
    let target = alice.says(&room, "secret").await;
    let redaction = alice.redacts(&room, &target).await;

    let sync = alice.syncs_after(&first).await;

    let events = timeline(&sync, &room);
    assert_eq!(event_ids(events), [&*target, &*redaction]);
    assert_eq!(events[0]["content"], json!({}));
    let because = &events[0]["unsigned"]["redacted_because"];
    assert_eq!(because["event_id"], redaction);
    assert_eq!(events[1]["redacts"], target);
}

#[tokio::test]
async fn messages_count_as_unread_and_mentions_as_highlights() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    bob.says(&room, "ready").await;
    carol.says(&room, "ready, too").await;
    let mention = json!({
        "msgtype": "m.text", "body": "Bob!", "m.mentions": { "user_ids": [bob.id] },
    });
    alice.says(&room, "hello").await;
    alice
        .tries_to_send(&room, "m.room.message", mention)
        .await
        .expect_ok();
    alice
        .tries_to_send(&room, "org.example", json!({}))
        .await
        .expect_ok();

    assert_eq!(unread_counts(&alice.syncs().await, &room), (0, 0));
    assert_eq!(unread_counts(&bob.syncs().await, &room), (3, 1));
    assert_eq!(unread_counts(&carol.syncs().await, &room), (2, 0));

    let server = server.restart().await;
    let (bob, carol) = (bob.on_server(&server), carol.on_server(&server));
    assert_eq!(unread_counts(&bob.syncs().await, &room), (3, 1));
    assert_eq!(unread_counts(&carol.syncs().await, &room), (2, 0));
}

#[tokio::test]
async fn every_timeline_has_a_prev_batch() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let left = alice.creates_open_room().await;
    let invited = alice.creates(json!({})).await;
    bob.joins(&left).await;
    alice.invites(&invited, &bob).await;
    let before = bob.syncs().await;
    bob.leaves(&left).await;
    bob.leaves(&invited).await;
    let joined = alice.creates_open_room().await;
    bob.joins(&joined).await;

    let with_left = filter_query(&json!({ "room": { "include_leave": true } }));
    let all = bob.syncs_with(&with_left).await;
    let news = bob.syncs_after(&before).await;

    for sync in [&all, &news] {
        for (section, room) in [("join", &joined), ("leave", &left), ("leave", &invited)] {
            let timeline = &sync["rooms"][section][room]["timeline"];
            assert!(timeline["prev_batch"].is_string(), "{section}: {timeline}");
        }
        let from = sync["rooms"]["join"][&joined]["timeline"]["prev_batch"].clone();
        let from = from.as_str().expect("a token");
        bob.messages(&joined, &format!("dir=b&from={from}")).await;
        bob.messages(&joined, &format!("dir=b&from={}", next_batch(sync)))
            .await;
    }
}

#[tokio::test]
async fn a_room_with_only_filtered_changes_is_omitted() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let hidden = json!({ "room": {
        "timeline": { "types": ["m.room.message"] }, "state": { "types": [] },
    } });
    let hidden = filter_query(&hidden);
    let before = bob.syncs_with(&hidden).await;
    bob.joins(&room).await;
    let joined = bob
        .syncs_with(&format!("since={}&{hidden}", next_batch(&before)))
        .await;

    let member = json!({ "membership": "join", "displayname": "Bobby" });
    bob.sets_state(&room, &format!("m.room.member/{}", bob.id), member)
        .await;
    alice
        .sets_state(&room, "m.room.topic", json!({ "topic": "tea" }))
        .await;
    let renamed = bob
        .syncs_with(&format!("since={}&{hidden}", next_batch(&joined)))
        .await;

    // The room is new, so it is sent even if the filter hides all its events.
    assert!(joined["rooms"]["join"][&room].is_object());
    assert_eq!(renamed["rooms"], Value::Null);
}
