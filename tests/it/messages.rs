//! Tests `/messages`, `/context` and `/timestamp_to_event`.

use std::time::Duration;

use parlour::clock::Clock;
use serde_json::{Value, json};

use crate::{
    chat::{
        event_ids, event_types, filter_query, message_bodies, next_batch, percent_encoded,
        room_path, texts_at, timeline,
    },
    harness::{Server, User},
};

/// Sends `count` messages and returns their event IDs.
async fn send_messages(user: &User, room: &str, count: usize) -> Vec<String> {
    let mut sent = Vec::new();
    for n in 0..count {
        sent.push(user.says(room, &format!("message {n}")).await);
    }
    sent
}

/// Reads all pages to the end and returns the event IDs of each.
async fn read_all_pages(user: &User, room: &str, query: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut from = String::new();
    loop {
        let page = user.messages(room, &format!("{query}{from}")).await;
        let events = event_ids(&page["chunk"]).into_iter().map(str::to_owned);
        pages.push(events.collect());
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn paging_in_both_directions_returns_every_event_once() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let sent = send_messages(&alice, &room, 130).await;
    let whole = alice.messages(&room, "dir=f&limit=1000").await;
    let whole = event_ids(&whole["chunk"]);

    for limit in [1, 7, 10, 100, 1000] {
        let back = read_all_pages(&alice, &room, &format!("dir=b&limit={limit}")).await;
        let forth = read_all_pages(&alice, &room, &format!("dir=f&limit={limit}")).await;

        let mut back = back.concat();
        back.reverse();
        assert_eq!(back, whole);
        assert_eq!(forth.concat(), whole);
    }
    assert!(whole.ends_with(&sent.iter().map(String::as_str).collect::<Vec<_>>()));
}

#[tokio::test]
async fn a_page_starts_at_its_token_and_adjoins_the_next() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    send_messages(&alice, &room, 3).await;
    let sync = alice.syncs().await;
    send_messages(&alice, &room, 4).await;
    let token = next_batch(&sync);

    let forth = alice
        .messages(&room, &format!("dir=f&limit=2&from={token}"))
        .await;
    let back = alice
        .messages(&room, &format!("dir=b&limit=2&from={token}"))
        .await;
    let end = forth["end"].as_str().expect("a token");
    let further = alice
        .messages(&room, &format!("dir=f&limit=5&from={end}"))
        .await;
    let returned = alice
        .messages(&room, &format!("dir=b&limit=3&from={end}"))
        .await;

    assert_eq!(message_bodies(&forth["chunk"]), ["message 0", "message 1"]);
    assert_eq!(forth["start"], token);
    assert_eq!(message_bodies(&back["chunk"]), ["message 2", "message 1"]);
    assert_eq!(
        message_bodies(&further["chunk"]),
        ["message 2", "message 3"]
    );
    assert_eq!(further["end"], Value::Null);
    let expected = ["message 1", "message 0", "message 2"];
    assert_eq!(message_bodies(&returned["chunk"]), expected);
}

#[tokio::test]
async fn a_page_stops_at_its_to_token() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let first = alice.syncs().await;
    send_messages(&alice, &room, 3).await;
    let second = alice.syncs_after(&first).await;
    send_messages(&alice, &room, 3).await;
    let (first, second) = (next_batch(&first), next_batch(&second));

    let forth = format!("dir=f&limit=50&from={first}&to={second}");
    let forth = alice.messages(&room, &forth).await;
    let back = format!("dir=b&limit=50&to={second}");
    let back = alice.messages(&room, &back).await;

    let expected = ["message 0", "message 1", "message 2"];
    assert_eq!(message_bodies(&forth["chunk"]), expected);
    let expected = ["message 2", "message 1", "message 0"];
    assert_eq!(message_bodies(&back["chunk"]), expected);
}

#[tokio::test]
async fn prev_batch_leads_to_the_events_before_a_limited_timeline() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    send_messages(&alice, &room, 30).await;
    let sync = alice.syncs().await;
    let prev_batch = &sync["rooms"]["join"][&room]["timeline"]["prev_batch"];
    let prev_batch = prev_batch.as_str().expect("a token");

    let before = format!("dir=b&limit=1000&from={prev_batch}");
    let before = alice.messages(&room, &before).await;

    let mut found = event_ids(&before["chunk"]);
    found.reverse();
    found.extend(event_ids(timeline(&sync, &room)));
    let whole = alice.messages(&room, "dir=f&limit=1000").await;
    assert_eq!(found, event_ids(&whole["chunk"]));
    assert_eq!(event_ids(timeline(&sync, &room)).len(), 10);
}

#[tokio::test]
async fn filters_select_the_events_of_a_page() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    alice.says(&room, "one").await;
    bob.says(&room, "two").await;
    let image = json!({ "body": "three", "url": "mxc://localhost/a" });
    alice
        .tries_to_send(&room, "m.room.message", image)
        .await
        .expect_ok();
    let cases = [
        (
            json!({ "types": ["m.room.message"] }),
            vec!["three", "two", "one"],
        ),
        (
            json!({ "types": ["m.room.m*"], "not_types": ["*.member"] }),
            vec!["three", "two", "one"],
        ),
        (
            json!({ "not_types": ["m.room.message"], "types": [] }),
            vec![],
        ),
        (json!({ "senders": [bob.id] }), vec!["two"]),
        (json!({ "not_senders": [bob.id] }), vec!["three", "one"]),
        (json!({ "contains_url": true }), vec!["three"]),
        (
            json!({ "contains_url": false, "types": ["m.room.message"] }),
            vec!["two", "one"],
        ),
        (json!({ "rooms": [] }), vec![]),
        (json!({ "not_rooms": [room] }), vec![]),
        (json!({ "rooms": [room], "limit": 1 }), vec!["three"]),
    ];

    for (filter, expected) in cases {
        let query = format!("dir=b&limit=100&{}", filter_query(&filter));
        let page = alice.messages(&room, &query).await;

        assert_eq!(message_bodies(&page["chunk"]), expected, "{filter}");
    }
}

#[tokio::test]
async fn lazy_loading_returns_the_members_who_sent_the_page() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    bob.says(&room, "one").await;
    let sync = alice.syncs().await;
    carol.says(&room, "two").await;
    let lazy = filter_query(&json!({ "lazy_load_members": true }));

    let query = format!("dir=f&from={}&{lazy}", next_batch(&sync));
    let page = alice.messages(&room, &query).await;
    let eager = alice.messages(&room, "dir=b").await;

    assert_eq!(event_types(&page["state"]), ["m.room.member"]);
    assert_eq!(texts_at(&page["state"], "/state_key"), [&*carol.id]);
    assert_eq!(page["state"][0]["content"]["membership"], "join");
    assert_eq!(event_ids(&eager["state"]), Vec::<&str>::new());
}

#[tokio::test]
async fn pages_are_the_same_after_a_restart() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let sent = send_messages(&alice, &room, 120).await;
    alice.redacts(&room, &sent[3]).await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "one" }))
        .await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "two" }))
        .await;
    let strip = |mut page: Value| {
        for event in page["chunk"].as_array_mut().expect("a list") {
            event["unsigned"]["age"] = Value::Null;
        }
        page
    };
    let first = alice.messages(&room, "dir=b&limit=50").await;
    let end = first["end"].as_str().expect("a token").to_owned();
    let rest = format!("dir=b&limit=200&from={end}");
    let second = alice.messages(&room, &rest).await;

    let server = server.restart().await;
    let alice = alice.on_server(&server);

    let again = alice.messages(&room, "dir=b&limit=50").await;
    assert_eq!(strip(again), strip(first));
    let again = alice.messages(&room, &rest).await;
    assert_eq!(strip(again), strip(second));
}

#[tokio::test]
async fn a_context_contains_the_surrounding_events() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let sent = send_messages(&alice, &room, 9).await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "late" }))
        .await;

    let context = alice
        .gets_in_room(&room, &format!("context/{}?limit=4", sent[4]))
        .await
        .expect_ok();

    assert_eq!(context["event"]["event_id"], sent[4]);
    let before = ["message 3", "message 2"];
    assert_eq!(message_bodies(&context["events_before"]), before);
    let after = ["message 5", "message 6"];
    assert_eq!(message_bodies(&context["events_after"]), after);
    assert!(event_types(&context["state"]).contains(&"m.room.create"));
    assert!(!event_types(&context["state"]).contains(&"m.room.name"));
    let start = context["start"].as_str().expect("a token");
    let back = alice
        .messages(&room, &format!("dir=b&limit=2&from={start}"))
        .await;
    assert_eq!(message_bodies(&back["chunk"]), ["message 1", "message 0"]);
    let end = context["end"].as_str().expect("a token");
    let forth = alice
        .messages(&room, &format!("dir=f&limit=2&from={end}"))
        .await;
    assert_eq!(message_bodies(&forth["chunk"]), ["message 7", "message 8"]);
}

#[tokio::test]
async fn a_context_can_be_limited_filtered_and_lazy() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let first = alice.says(&room, "one").await;
    alice.sets_state(&room, "org.example", json!({})).await;
    bob.says(&room, "two").await;
    alice.says(&room, "three").await;

    let alone = alice
        .gets_in_room(&room, &format!("context/{first}?limit=0"))
        .await;
    let filter = json!({
        "types": ["m.room.message"], "not_senders": [bob.id], "lazy_load_members": true,
    });
    let query = format!("context/{first}?limit=10&{}", filter_query(&filter));
    let filtered = alice.gets_in_room(&room, &query).await.expect_ok();

    let alone = alone.expect_ok();
    assert_eq!(alone["event"]["event_id"], first);
    assert_eq!(alone["events_before"], json!([]));
    assert_eq!(alone["events_after"], json!([]));
    assert_eq!(message_bodies(&filtered["events_after"]), ["three"]);
    let members = texts_at(&filtered["state"], "/content/membership");
    assert_eq!(members.len(), 1);
}

#[tokio::test]
async fn only_current_and_former_members_read_a_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates(json!({ "invite": [carol.id] })).await;
    let event_id = alice.says(&room, "secret").await;
    let context = format!("context/{event_id}");

    for stranger in [&bob, &carol] {
        for what in [
            "messages?dir=b",
            &context,
            "state",
            "members",
            "joined_members",
            "aliases",
        ] {
            let asked = stranger.gets_in_room(&room, what).await;
            asked.expect_error(403, "M_FORBIDDEN");
        }
        let asked = stranger.event(&room, &event_id).await;
        asked.expect_error(404, "M_NOT_FOUND");
    }
    for what in ["messages?dir=b", "state", "members", "context/$x"] {
        let asked = alice.gets_in_room("!unknown:localhost", what).await;
        asked.expect_error(403, "M_FORBIDDEN");
    }
    for what in ["event/$unknown", "context/$unknown"] {
        let asked = alice.gets_in_room(&room, what).await;
        asked.expect_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn an_event_of_another_room_is_not_found() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let one = alice.creates(json!({})).await;
    let other = alice.creates(json!({})).await;
    let event_id = alice.says(&one, "here").await;

    let event = alice.event(&other, &event_id).await;
    let context = alice
        .gets_in_room(&other, &format!("context/{event_id}"))
        .await;

    event.expect_error(404, "M_NOT_FOUND");
    context.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn invalid_tokens_and_filters_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let not_json = format!("dir=b&filter={}", percent_encoded("{"));
    let not_a_list = format!("dir=b&{}", filter_query(&json!({ "types": 1 })));
    let cases = [
        ("from=x", "M_INVALID_PARAM"),
        ("dir=x", "M_INVALID_PARAM"),
        ("dir=b&from=x", "M_INVALID_PARAM"),
        ("dir=b&to=x", "M_INVALID_PARAM"),
        ("dir=b&limit=-1", "M_INVALID_PARAM"),
        ("dir=b&limit=x", "M_INVALID_PARAM"),
        (&not_json, "M_INVALID_PARAM"),
        (&not_a_list, "M_INVALID_PARAM"),
    ];

    for (query, errcode) in cases {
        let path = room_path(&room, &format!("messages?{query}"));
        let refused = alice.client.get(&path).await;
        refused.expect_error(400, errcode);
    }
}

#[tokio::test]
async fn messages_are_read_backwards_by_default() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    alice.says(&room, "one").await;
    alice.says(&room, "two").await;

    let page = alice.messages(&room, "limit=2").await;

    assert_eq!(message_bodies(&page["chunk"]), ["two", "one"]);
}

#[tokio::test]
async fn a_page_shortened_by_a_filter_has_an_end_token() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    alice.says(&room, "one").await;
    let filter = filter_query(&json!({ "types": ["m.room.message"] }));

    let page = alice.messages(&room, &format!("dir=b&{filter}")).await;
    let end = page["end"].as_str().expect("a token");
    let rest = alice
        .messages(&room, &format!("dir=b&{filter}&from={end}"))
        .await;

    assert_eq!(message_bodies(&page["chunk"]), ["one"]);
    assert_eq!((&rest["chunk"], &rest["end"]), (&json!([]), &Value::Null));
}

#[tokio::test]
async fn a_filter_selects_events_by_their_relations() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let parent = alice.says(&room, "parent").await;
    for (user, rel_type) in [(&alice, "m.thread"), (&bob, "m.reference")] {
        let content = json!({
            "msgtype": "m.text", "body": rel_type,
            "m.relates_to": { "rel_type": rel_type, "event_id": parent },
        });
        let sent = user.tries_to_send(&room, "m.room.message", content).await;
        sent.expect_ok();
    }
    let cases = [
        (json!({ "rel_types": ["m.thread"] }), vec!["m.thread"]),
        (
            json!({ "org.matrix.msc3874.rel_types": ["m.reference"] }),
            vec!["m.reference"],
        ),
        (
            json!({ "not_rel_types": ["m.thread"], "types": ["m.room.message"] }),
            vec!["m.reference", "parent"],
        ),
        (
            json!({ "related_by_rel_types": ["m.thread"] }),
            vec!["parent"],
        ),
        (json!({ "related_by_rel_types": ["m.replace"] }), vec![]),
        (json!({ "related_by_senders": [bob.id] }), vec!["parent"]),
        (
            json!({ "related_by_senders": [bob.id], "related_by_rel_types": ["m.thread"] }),
            vec![],
        ),
    ];

    for (filter, expected) in cases {
        let query = format!("dir=b&{}", filter_query(&filter));
        let page = alice.messages(&room, &query).await;
        assert_eq!(message_bodies(&page["chunk"]), expected, "{filter}");
    }
    let query = format!(
        "messages?dir=b&{}",
        filter_query(&json!({ "rel_types": 1 }))
    );
    let refused = alice.gets_in_room(&room, &query).await;
    refused.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_kicked_user_does_not_see_later_relations() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let early = alice.says(&room, "early").await;
    let late = alice.says(&room, "late").await;
    let reaction = |event_id: &str| {
        let relates_to = json!({ "rel_type": "m.annotation", "event_id": event_id, "key": "+1" });
        json!({ "m.relates_to": relates_to })
    };
    let sent = alice
        .tries_to_send(&room, "m.reaction", reaction(&early))
        .await;
    sent.expect_ok();
    alice.kicks(&room, &bob).await;
    let sent = alice
        .tries_to_send(&room, "m.reaction", reaction(&late))
        .await;
    sent.expect_ok();

    let filter = filter_query(&json!({ "related_by_rel_types": ["m.annotation"] }));
    let of_alice = alice.messages(&room, &format!("dir=b&{filter}")).await;
    let of_bob = bob.messages(&room, &format!("dir=b&{filter}")).await;

    assert_eq!(message_bodies(&of_alice["chunk"]), ["late", "early"]);
    assert_eq!(message_bodies(&of_bob["chunk"]), ["early"]);
}

#[tokio::test]
async fn timestamp_to_event_finds_the_closest_event_in_both_directions() {
    let clock = Clock::manual(1_000_000);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let alice = server.register("alice").await;
    let eve = server.register("eve").await;
    let room = alice.creates_open_room().await;
    clock.advance(Duration::from_secs(10));
    let one = alice.says(&room, "one").await;
    clock.advance(Duration::from_secs(10));
    let two = alice.says(&room, "two").await;
    let path = format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event");
    let at = |ts: i64, dir: &str| format!("{path}?ts={ts}&dir={dir}");

    let forward = alice.client.get(&at(1_010_001, "f")).await.expect_ok();
    let backward = alice.client.get(&at(1_019_999, "b")).await.expect_ok();
    let exact = alice.client.get(&at(1_010_000, "f")).await.expect_ok();
    let later = alice.client.get(&at(1_020_001, "f")).await;
    let earlier = alice.client.get(&at(1, "b")).await;
    let of_stranger = eve.client.get(&at(1, "f")).await;

    assert_eq!(forward["event_id"], two);
    assert_eq!(forward["origin_server_ts"], 1_020_000);
    assert_eq!(backward["event_id"], one);
    assert_eq!(exact["event_id"], one);
    later.expect_error(404, "M_NOT_FOUND");
    earlier.expect_error(404, "M_NOT_FOUND");
    of_stranger.expect_error(403, "M_FORBIDDEN");
}
