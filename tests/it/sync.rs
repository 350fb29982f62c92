//! Tests `/sync`: initial and incremental, waiting, with filters, and data outside rooms.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    chat::{
        event_ids, event_types, filter_query, message_bodies, new_transaction, next_batch,
        percent_encoded, state, texts_at, timeline,
    },
    harness::{Server, User},
};

/// Sends a to-device message with a number.
async fn send_to_device(sender: &User, target: &User, n: usize) {
    let path = format!(
        "/_matrix/client/v3/sendToDevice/org.example/{}",
        new_transaction()
    );
    let messages = json!({ &*target.id: { &*target.device_id: { "n": n } } });
    let sent = sender.client.put(&path, json!({ "messages": messages }));
    sent.await.expect_ok();
}

/// Returns the numbers of the to-device messages in a sync.
fn received_numbers(sync: &Value) -> Vec<u64> {
    let events = sync["to_device"]["events"].as_array();
    let events = events.map(Vec::as_slice).unwrap_or_default();
    let number = |event: &Value| event["content"]["n"].as_u64().expect("a number");
    events.iter().map(number).collect()
}

async fn store_filter(user: &User, filter: Value) -> String {
    let path = format!("/_matrix/client/v3/user/{}/filter", user.id);
    let stored = user.client.post(&path, filter).await.expect_ok();
    stored["filter_id"].as_str().expect("an ID").to_owned()
}

#[tokio::test]
async fn an_initial_sync_contains_all_rooms_and_push_rules() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let one = alice.creates(json!({ "name": "One" })).await;
    let two = alice.creates(json!({ "name": "Two" })).await;

    let sync = alice.syncs().await;

    for room in [&one, &two] {
        assert_eq!(event_types(timeline(&sync, room))[0], "m.room.create");
        let joined = &sync["rooms"]["join"][room];
        assert_eq!(joined["timeline"]["limited"], false);
        assert!(joined["timeline"]["prev_batch"].is_string());
        assert!(joined["unread_notifications"].is_object());
    }
    assert!(event_types(&sync["account_data"]["events"]).contains(&"m.push_rules"));
}

#[tokio::test]
async fn an_incremental_sync_contains_only_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let one = alice.creates(json!({})).await;
    alice.creates(json!({})).await;
    let first = alice.syncs().await;
    let message = alice.says(&one, "hello").await;

    let second = alice.syncs_after(&first).await;
    let third = alice.syncs_after(&second).await;

    let rooms = second["rooms"]["join"].as_object().expect("an object");
    assert_eq!(rooms.len(), 1);
    assert_eq!(event_ids(timeline(&second, &one)), [message]);
    assert_eq!(*state(&second, &one), json!([]));
    assert_eq!(third["rooms"], Value::Null);
}

#[tokio::test]
async fn the_same_token_returns_the_same_sync() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let first = alice.syncs().await;
    alice.says(&room, "hello").await;

    let one = alice.syncs_after(&first).await;
    let other = alice.syncs_after(&first).await;

    assert_eq!(
        event_ids(timeline(&one, &room)),
        event_ids(timeline(&other, &room))
    );
}

#[tokio::test]
async fn a_new_event_wakes_a_waiting_sync() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let first = bob.syncs().await;

    let (sync, message) = tokio::join!(bob.long_polls_after(&first), alice.says(&room, "hello"));

    assert_eq!(event_ids(timeline(&sync, &room)), [message]);
}

#[tokio::test]
async fn invitations_and_to_device_messages_wake_a_waiting_sync() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    let first = bob.syncs().await;

    let (second, ()) = tokio::join!(bob.long_polls_after(&first), alice.invites(&room, &bob));
    let (third, ()) = tokio::join!(
        bob.long_polls_after(&second),
        send_to_device(&alice, &bob, 1)
    );

    assert!(second["rooms"]["invite"][&room].is_object());
    assert_eq!(received_numbers(&third), [1]);
}

#[tokio::test]
async fn a_waiting_sync_ends_empty_at_its_timeout() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    alice.creates(json!({})).await;
    let first = alice.syncs().await;

    let query = format!("since={}&timeout=50", next_batch(&first));
    let waiting = alice.syncs_with(&query);
    let sync = tokio::time::timeout(Duration::from_secs(20), waiting).await;

    let sync = sync.expect("the sync is answered");
    assert_eq!(sync["rooms"], Value::Null);
    assert!(sync["next_batch"].is_string());
}

#[tokio::test]
async fn filtered_events_do_not_wake_a_waiting_sync() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let filter = json!({
        "room": { "timeline": { "not_types": ["org.example"] } }, "presence": { "types": [] },
    });
    let first = bob.syncs_with(&filter_query(&filter)).await;

    let query = format!(
        "since={}&timeout=30000&{}",
        next_batch(&first),
        filter_query(&filter)
    );
    let talk = async {
        let hidden = alice.tries_to_send(&room, "org.example", json!({})).await;
        hidden.expect_ok();
        alice.says(&room, "hello").await
    };
    let (sync, message) = tokio::join!(bob.syncs_with(&query), talk);

    assert_eq!(event_ids(timeline(&sync, &room)), [message]);
}

#[tokio::test]
async fn full_state_returns_the_state_of_unchanged_rooms() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "name": "Pub" })).await;
    let first = alice.syncs().await;

    let query = format!("since={}&timeout=30000&full_state=true", next_batch(&first));
    let sync = alice.syncs_with(&query).await;

    let told = event_types(state(&sync, &room));
    for kind in ["m.room.create", "m.room.member", "m.room.name"] {
        assert!(told.contains(&kind), "{told:?}");
    }
    assert_eq!(*timeline(&sync, &room), json!([]));
}

#[tokio::test]
async fn a_stored_filter_works_like_an_inline_filter() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    alice.says(&room, "one").await;
    alice.says(&room, "two").await;
    let filter = json!({ "room": { "timeline": { "limit": 1 } } });
    let id = store_filter(&alice, filter.clone()).await;

    for query in [format!("filter={id}"), filter_query(&filter)] {
        let sync = alice.syncs_with(&query).await;

        assert_eq!(message_bodies(timeline(&sync, &room)), ["two"]);
        let limited = &sync["rooms"]["join"][&room]["timeline"]["limited"];
        assert_eq!(*limited, true);
    }
}

#[tokio::test]
async fn a_filter_selects_rooms_types_senders_and_fields() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let one = alice.creates_open_room().await;
    let other = alice.creates_open_room().await;
    bob.joins(&one).await;
    alice.says(&one, "of alice").await;
    bob.says(&one, "of bob").await;

    let filter = json!({
        "event_fields": ["type", "content.body"],
        "presence": { "types": [] },
        "account_data": { "not_types": ["*"] },
        "room": {
            "not_rooms": [other],
            "timeline": { "senders": [bob.id], "types": ["m.room.message"] },
            "state": { "types": ["m.room.create"] },
        },
    });
    let sync = alice.syncs_with(&filter_query(&filter)).await;

    assert_eq!(sync["rooms"]["join"][&other], Value::Null);
    let expected = json!([{ "type": "m.room.message", "content": { "body": "of bob" } }]);
    assert_eq!(*timeline(&sync, &one), expected);
    assert_eq!(event_types(state(&sync, &one)), ["m.room.create"]);
    assert_eq!(sync["presence"], Value::Null);
    assert_eq!(sync["account_data"], Value::Null);
}

#[tokio::test]
async fn state_hidden_by_the_timeline_filter_is_in_state() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "name": "One" })).await;
    alice.says(&room, "first").await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Two" }))
        .await;
    let filter = json!({ "room": { "timeline": { "types": ["m.room.message"] } } });
    let filter = filter_query(&filter);

    let first = alice.syncs_with(&filter).await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Three" }))
        .await;
    alice.says(&room, "second").await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Four" }))
        .await;
    let query = format!("since={}&{filter}", next_batch(&first));
    let second = alice.syncs_with(&query).await;

    assert_eq!(message_bodies(timeline(&first, &room)), ["first"]);
    assert_eq!(texts_at(state(&first, &room), "/content/name"), ["Two"]);
    assert_eq!(message_bodies(timeline(&second, &room)), ["second"]);
    assert_eq!(texts_at(state(&second, &room), "/content/name"), ["Four"]);
}

#[tokio::test]
async fn invalid_sync_parameters_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let broken = format!("filter={}", percent_encoded("{"));
    let wrong = filter_query(&json!({ "room": { "timeline": { "types": 1 } } }));
    let cases = [
        ("since=x", 400, "M_INVALID_PARAM"),
        ("since=s-1_0_0_x", 400, "M_INVALID_PARAM"),
        ("timeout=x", 400, "M_INVALID_PARAM"),
        ("timeout=-1", 400, "M_INVALID_PARAM"),
        ("full_state=x", 400, "M_INVALID_PARAM"),
        (&broken, 400, "M_INVALID_PARAM"),
        (&wrong, 400, "M_INVALID_PARAM"),
        ("filter=77", 404, "M_NOT_FOUND"),
        ("filter=x", 404, "M_NOT_FOUND"),
    ];

    for (query, status, errcode) in cases {
        let refused = alice.tries_to_sync(query).await;
        refused.expect_error(status, errcode);
    }
    let stranger = server.get("/_matrix/client/v3/sync").await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn invalid_filters_are_not_stored() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let path = format!("/_matrix/client/v3/user/{}/filter", alice.id);
    let timeline = |value: Value| json!({ "room": { "timeline": value } });
    let cases = [
        json!({ "presence": "not_an_object" }),
        json!({ "room": { "state": "not_an_object" } }),
        json!({ "room": { "ephemeral": "not_an_object" } }),
        json!({ "room": { "account_data": "not_an_object" } }),
        timeline(json!("not_an_object")),
        timeline(json!({ "rooms": "not_a_list" })),
        timeline(json!({ "not_rooms": "not_a_list" })),
        timeline(json!({ "senders": "not_a_list" })),
        timeline(json!({ "not_senders": "not_a_list" })),
        timeline(json!({ "types": "not_a_list" })),
        timeline(json!({ "not_types": "not_a_list" })),
        timeline(json!({ "types": [1] })),
        timeline(json!({ "rooms": ["not_a_room_id"] })),
        timeline(json!({ "senders": ["not_a_sender_id"] })),
    ];

    for filter in cases {
        let refused = alice.client.post(&path, filter).await;
        refused.expect_error(400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn a_sync_token_is_valid_after_a_restart() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let first = alice.syncs().await;
    let before = alice.says(&room, "before").await;

    let server = server.restart().await;
    let alice = alice.on_server(&server);
    let after = alice.says(&room, "after").await;
    let second = alice.syncs_after(&first).await;
    let third = alice.syncs_after(&second).await;

    assert_eq!(event_ids(timeline(&second, &room)), [before, after]);
    assert_eq!(third["rooms"], Value::Null);
}

#[tokio::test]
async fn a_future_sync_token_loses_no_later_events() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    alice.starts_typing(&room).await;

    let future = format!("since=s{0}_{0}_0_0", i64::MAX);
    let sync = bob.syncs_with(&future).await;
    let message = alice.says(&room, "hello").await;
    send_to_device(&alice, &bob, 1).await;
    let later = bob.syncs_after(&sync).await;

    assert_eq!(event_ids(timeline(&later, &room)), [message]);
    assert_eq!(received_numbers(&later), [1]);
}

#[tokio::test]
async fn to_device_messages_are_delivered_once_across_a_restart() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let first = bob.syncs().await;
    for n in 0..250 {
        send_to_device(&alice, &bob, n).await;
    }

    let second = bob.syncs_after(&first).await;
    let second_again = bob.syncs_after(&first).await;
    let server = server.restart().await;
    let bob = bob.on_server(&server);
    let third = bob.syncs_after(&second).await;
    let fourth = bob.syncs_after(&third).await;
    let fifth = bob.syncs_after(&fourth).await;
    let anew = bob.syncs().await;

    assert_eq!(received_numbers(&second), received_numbers(&second_again));
    let all = [
        received_numbers(&second),
        received_numbers(&third),
        received_numbers(&fourth),
    ]
    .concat();
    assert_eq!(all, (0..250).collect::<Vec<_>>());
    assert_eq!(received_numbers(&fifth), Vec::<u64>::new());
    assert_eq!(received_numbers(&anew), Vec::<u64>::new());
}

#[tokio::test]
async fn account_data_is_synced_on_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let phone = server.log_in("alice").await;
    let room = alice.creates(json!({})).await;
    let first = phone.syncs().await;
    let global = format!(
        "/_matrix/client/v3/user/{}/account_data/org.example",
        alice.id
    );
    let of_room = format!(
        "/_matrix/client/v3/user/{}/rooms/{room}/account_data/org.example",
        alice.id
    );

    let set = async {
        let set = alice.client.put(&global, json!({ "n": 1 })).await;
        set.expect_ok();
    };
    let (second, ()) = tokio::join!(phone.long_polls_after(&first), set);
    let set = alice.client.put(&of_room, json!({ "n": 2 })).await;
    set.expect_ok();
    let third = phone.syncs_after(&second).await;
    let anew = phone.syncs().await;

    let one = json!({ "type": "org.example", "content": { "n": 1 } });
    let two = json!({ "type": "org.example", "content": { "n": 2 } });
    assert_eq!(second["account_data"]["events"], json!([one]));
    let data = |sync: &Value| sync["rooms"]["join"][&room]["account_data"]["events"].clone();
    assert_eq!(data(&third), json!([two]));
    assert_eq!(third["account_data"], Value::Null);
    assert_eq!(data(&anew), json!([two]));
    let all = anew["account_data"]["events"].as_array().expect("a list");
    assert!(all.contains(&one));
}
