//! Tests sending messages, state and redactions.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    chat::{event_ids, message_bodies, new_transaction, percent_encoded, room_path, timeline},
    harness::Server,
};

fn text_content(body: &str) -> Value {
    json!({ "msgtype": "m.text", "body": body })
}

#[tokio::test]
async fn a_sent_message_is_returned_unchanged() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;

    let event_id = alice.says(&room, "hello").await;

    let event = bob.event(&room, &event_id).await.expect_ok();
    assert_eq!(event["event_id"], event_id);
    assert_eq!(event["room_id"], room);
    assert_eq!(event["sender"], alice.id);
    assert_eq!(event["type"], "m.room.message");
    assert_eq!(event["content"], text_content("hello"));
    assert_eq!(event["state_key"], Value::Null);
    assert!(event["origin_server_ts"].is_u64());
    assert!(event["unsigned"]["age"].is_u64());
    assert_eq!(event["unsigned"]["membership"], "join");
}

#[tokio::test]
async fn a_transaction_id_is_scoped_to_room_device_and_type() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let phone = server.log_in("alice").await;
    let room = alice.creates(json!({})).await;
    let other = alice.creates(json!({})).await;
    let path = |room: &str, kind: &str| room_path(room, &format!("send/{kind}/txn"));
    let message = path(&room, "m.room.message");

    let first = alice
        .client
        .put(&message, text_content("one"))
        .await
        .expect_ok();
    let again = alice
        .client
        .put(&message, text_content("two"))
        .await
        .expect_ok();
    let others = [
        phone.client.put(&message, text_content("three")).await,
        alice
            .client
            .put(&path(&room, "org.example"), text_content("four"))
            .await,
        alice
            .client
            .put(&path(&other, "m.room.message"), text_content("five"))
            .await,
    ];

    assert_eq!(again, first);
    for other in others {
        assert_ne!(other.expect_ok(), first);
    }
    let page = alice.messages(&room, "dir=b").await;
    assert_eq!(message_bodies(&page["chunk"]), ["four", "three", "one"]);
}

#[tokio::test]
async fn a_transaction_id_survives_a_restart() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let message = room_path(&room, "send/m.room.message/txn");
    let first = alice
        .client
        .put(&message, text_content("one"))
        .await
        .expect_ok();
    let target = first["event_id"].as_str().expect("an ID").to_owned();
    let redaction = room_path(&room, &format!("redact/{target}/txn"));
    let redacted = alice.client.put(&redaction, json!({})).await.expect_ok();

    let server = server.restart().await;
    let alice = alice.on_server(&server);
    let again = alice
        .client
        .put(&message, text_content("one"))
        .await
        .expect_ok();
    let redacted_again = alice.client.put(&redaction, json!({})).await;

    assert_eq!(again, first);
    assert_eq!(redacted_again.expect_ok(), redacted);
}

#[tokio::test]
async fn a_retry_succeeds_after_the_sender_has_left() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let message = room_path(&room, "send/m.room.message/txn");
    let first = alice
        .client
        .put(&message, text_content("one"))
        .await
        .expect_ok();
    let target = first["event_id"].as_str().expect("an ID").to_owned();
    let redaction = room_path(&room, &format!("redact/{target}/txn"));
    let redacted = alice.client.put(&redaction, json!({})).await.expect_ok();
    alice.leaves(&room).await;

    let again = alice.client.put(&message, text_content("one")).await;
    let redacted_again = alice.client.put(&redaction, json!({})).await;
    let another = alice.tries_to_send(&room, "m.room.message", text_content("two"));

    assert_eq!(again.expect_ok(), first);
    assert_eq!(redacted_again.expect_ok(), redacted);
    another.await.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn only_the_sending_device_sees_the_transaction_id() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let phone = server.log_in("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let path = room_path(&room, "send/m.room.message/mine");
    let sent = alice
        .client
        .put(&path, text_content("hello"))
        .await
        .expect_ok();
    let event_id = sent["event_id"].as_str().expect("an ID");

    let at_alice = alice.event(&room, event_id).await.expect_ok();
    let at_phone = phone.event(&room, event_id).await.expect_ok();
    let at_bob = bob.event(&room, event_id).await.expect_ok();

    assert_eq!(at_alice["unsigned"]["transaction_id"], "mine");
    assert_eq!(at_phone["unsigned"]["transaction_id"], Value::Null);
    assert_eq!(at_bob["unsigned"]["transaction_id"], Value::Null);
    let page = alice.messages(&room, "dir=b&limit=1").await;
    assert_eq!(page["chunk"][0]["unsigned"]["transaction_id"], "mine");
    let sync = alice.syncs().await;
    let events = timeline(&sync, &room).as_array().expect("a list");
    let last = events.last().expect("an event");
    assert_eq!(last["unsigned"]["transaction_id"], "mine");
}

#[tokio::test]
async fn messages_without_permission_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let levels = json!({ "events": { "org.example": 50 } });
    alice.sets_state(&room, "m.room.power_levels", levels).await;

    let refused = [
        carol
            .tries_to_send(&room, "m.room.message", text_content("hi"))
            .await,
        bob.tries_to_send(&room, "org.example", json!({})).await,
        bob.tries_to_set_state(&room, "m.room.name", json!({ "name": "Bob's" }))
            .await,
        bob.tries_to_send("!unknown:localhost", "m.room.message", text_content("hi"))
            .await,
    ];

    for refused in refused {
        refused.expect_error(403, "M_FORBIDDEN");
    }
    let path = room_path(&room, "send/m.room.message/txn");
    let stranger = server.put(&path, text_content("hi")).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn invalid_event_content_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "room_version": "6" })).await;
    let cases = [
        (r#"{"body": 9007199254740992}"#, "M_BAD_JSON"),
        (r#"{"body": -9007199254740992}"#, "M_BAD_JSON"),
        (r#"{"body": 1.1}"#, "M_BAD_JSON"),
        ("[]", "M_BAD_JSON"),
        ("\"text\"", "M_BAD_JSON"),
        (r#"{"body": Infinity}"#, "M_NOT_JSON"),
        (r#"{"body": NaN}"#, "M_NOT_JSON"),
        ("{\"body\": \"\u{1}\"}", "M_NOT_JSON"),
        ("{", "M_NOT_JSON"),
    ];

    for (body, errcode) in cases {
        let send = room_path(&room, &format!("send/org.example/{}", new_transaction()));
        let set = room_path(&room, "state/org.example");
        for path in [send, set] {
            let refused = alice.client.send(reqwest::Method::PUT, &path, body).await;
            refused.expect_error(400, errcode);
        }
    }
}

#[tokio::test]
async fn events_that_are_too_large_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let large = json!({ "body": "x".repeat(64_000) });
    let too_large = json!({ "body": "x".repeat(70_000) });
    let long = "t".repeat(256);

    let sent = alice.tries_to_send(&room, "org.example", large).await;
    let refused = [
        alice
            .tries_to_send(&room, "org.example", too_large.clone())
            .await,
        alice
            .tries_to_set_state(&room, "org.example", too_large)
            .await,
        alice.tries_to_send(&room, &long, json!({})).await,
        alice
            .tries_to_set_state(&room, &format!("t/{long}"), json!({}))
            .await,
    ];

    sent.expect_ok();
    for refused in refused {
        refused.expect_error(413, "M_TOO_LARGE");
    }
}

#[tokio::test]
async fn state_is_stored_by_type_and_key() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;

    alice
        .sets_state(&room, "org.example/one", json!({ "n": 1 }))
        .await;
    alice
        .sets_state(&room, "org.example/two", json!({ "n": 2 }))
        .await;
    alice
        .sets_state(&room, "org.example/one", json!({ "n": 3 }))
        .await;

    let one = alice.state(&room, "org.example/one").await;
    assert_eq!(one, json!({ "n": 3 }));
    let two = alice.state(&room, "org.example/two").await;
    assert_eq!(two, json!({ "n": 2 }));
    let missing = alice.gets_in_room(&room, "state/org.example/three").await;
    missing.expect_error(404, "M_NOT_FOUND");
    let missing = alice.gets_in_room(&room, "state/org.example").await;
    missing.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_empty_state_key_needs_no_trailing_slash() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;

    for (n, set) in ["m.room.name", "m.room.name/"].into_iter().enumerate() {
        let content = json!({ "name": format!("name {n}") });
        alice.sets_state(&room, set, content.clone()).await;

        for got in ["m.room.name", "m.room.name/"] {
            assert_eq!(alice.state(&room, got).await, content);
        }
    }
}

#[tokio::test]
async fn identical_state_is_not_set_twice() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let levels = json!({ "state_default": 0 });
    alice.sets_state(&room, "m.room.power_levels", levels).await;

    let first = alice
        .sets_state(&room, "t", json!({ "a": 1, "b": 2 }))
        .await;
    let same = alice
        .sets_state(&room, "t", json!({ "b": 2, "a": 1 }))
        .await;
    let by_another = bob.sets_state(&room, "t", json!({ "a": 1, "b": 2 })).await;
    let other = bob.sets_state(&room, "t", json!({})).await;
    let back = bob.sets_state(&room, "t", json!({ "a": 1, "b": 2 })).await;

    assert_eq!(same, first);
    let mut all = vec![first, by_another, other, back];
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4);
}

#[tokio::test]
async fn format_event_returns_the_whole_state_event() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "name": "Pub" })).await;
    let event_id = alice
        .sets_state(&room, "m.room.name", json!({ "name": "Bar" }))
        .await;

    let event = alice
        .gets_in_room(&room, "state/m.room.name?format=event")
        .await;
    let event = event.expect_ok();

    assert_eq!(event["content"], json!({ "name": "Bar" }));
    assert_eq!(event["event_id"], event_id);
    assert_eq!(event["room_id"], room);
    assert_eq!(event["sender"], alice.id);
    assert_eq!(event["state_key"], "");
    let whole = alice.gets_in_room(&room, "state").await.expect_ok();
    assert!(event_ids(&whole).contains(&&*event_id));
    let event = alice.event(&room, &event_id).await.expect_ok();
    assert_eq!(event["unsigned"]["prev_content"], json!({ "name": "Pub" }));
}

#[tokio::test]
async fn state_against_the_room_rules_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .creates(json!({ "preset": "public_chat", "room_version": "11" }))
        .await;
    bob.joins(&room).await;
    let members = format!("m.room.member/{}", alice.id);
    let own = format!("org.example/{}", alice.id);

    let created = alice
        .tries_to_set_state(&room, "m.room.create", json!({}))
        .await;
    created.expect_error(400, "M_INVALID_PARAM");
    let refused = [
        bob.tries_to_set_state(&room, &members, json!({ "membership": "leave" }))
            .await,
        bob.tries_to_set_state(&room, &own, json!({})).await,
    ];

    for refused in refused {
        refused.expect_error(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn the_users_of_power_levels_can_be_demoted_by_their_default() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let levels = |default: i64| {
        json!({
            "users_default": default, "users": { &*alice.id: 100 },
            "events": {}, "notifications": {},
        })
    };
    let request = json!({
        "preset": "public_chat", "room_version": "11", "power_level_content_override": levels(100),
    });
    let room = alice.creates(request).await;

    alice
        .sets_state(&room, "m.room.power_levels", levels(40))
        .await;

    let found = alice.state(&room, "m.room.power_levels").await;
    assert_eq!(found, levels(40));
}

#[tokio::test]
async fn a_redaction_removes_the_content_and_has_a_reason() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    for version in ["10", "11", "12"] {
        let request = json!({ "preset": "public_chat", "room_version": version });
        let room = alice.creates(request).await;
        bob.joins(&room).await;
        let target = alice.says(&room, "secret").await;
        let redaction = alice.redacts(&room, &target).await;

        let event = bob.event(&room, &target).await.expect_ok();
        assert_eq!(event["content"], json!({}));
        let because = &event["unsigned"]["redacted_because"];
        assert_eq!(because["event_id"], redaction);
        assert_eq!(because["content"]["reason"], "spam");
        let event = bob.event(&room, &redaction).await.expect_ok();
        assert_eq!(event["redacts"], target);
        assert_eq!(event["content"]["redacts"], target);
    }
}

#[tokio::test]
async fn redacting_events_of_others_requires_power() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;

    for version in ["10", "12"] {
        let request = json!({ "preset": "public_chat", "room_version": version });
        let room = alice.creates(request).await;
        bob.joins(&room).await;
        let of_alice = alice.says(&room, "one").await;
        let of_bob = bob.says(&room, "two").await;
        let by_hand = json!({ "redacts": of_alice });

        for nothing in [
            json!({}),
            json!({ "redacts": 5 }),
            json!({ "redacts": "x" }),
        ] {
            let sent = alice.tries_to_send(&room, "m.room.redaction", nothing);
            sent.await.expect_error(400, "M_BAD_JSON");
        }
        let refused = [
            bob.tries_to_redact(&room, &of_alice).await,
            carol.tries_to_redact(&room, &of_alice).await,
            bob.tries_to_send(&room, "m.room.redaction", by_hand).await,
        ];
        let unknown = bob.tries_to_redact(&room, "$unknown").await;
        bob.redacts(&room, &of_bob).await;
        let left = alice.event(&room, &of_alice).await.expect_ok();
        alice.redacts(&room, &of_alice).await;

        for refused in refused {
            refused.expect_error(403, "M_FORBIDDEN");
        }
        unknown.expect_error(404, "M_NOT_FOUND");
        assert_eq!(left["content"], text_content("one"));
    }
}

#[tokio::test]
async fn redacted_state_keeps_protected_fields_after_a_restart() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let name = alice
        .sets_state(&room, "m.room.name", json!({ "name": "rude" }))
        .await;
    let rules = json!({ "join_rule": "public", "org.example": 1 });
    let rules = alice.sets_state(&room, "m.room.join_rules", rules).await;

    alice.redacts(&room, &name).await;
    alice.redacts(&room, &rules).await;

    let name = alice.state(&room, "m.room.name").await;
    assert_eq!(name, json!({}));
    let server = server.restart().await;
    let alice = alice.on_server(&server);
    let name = alice.state(&room, "m.room.name").await;
    assert_eq!(name, json!({}));
    let rules = alice.state(&room, "m.room.join_rules").await;
    assert_eq!(rules, json!({ "join_rule": "public" }));
}

#[tokio::test]
async fn a_new_profile_is_shown_in_the_rooms_of_the_user() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let before = alice.syncs().await;
    let fields = [
        ("displayname", json!("Alice")),
        ("avatar_url", json!("mxc://localhost/a")),
    ];

    for (field, value) in fields {
        let path = format!("/_matrix/client/v3/profile/{}/{field}", alice.id);
        let set = alice.client.put(&path, json!({ field: value })).await;
        set.expect_ok();
    }

    let member = alice.member(&room, &alice).await;
    let expected = json!({
        "membership": "join", "displayname": "Alice", "avatar_url": "mxc://localhost/a",
    });
    assert_eq!(member, expected);
    let sync = alice.syncs_after(&before).await;
    let events = timeline(&sync, &room);
    assert_eq!(events[0]["content"]["displayname"], "Alice");
    assert_eq!(events[1]["content"], expected);
}

#[tokio::test]
async fn a_server_acl_cannot_exclude_the_own_server() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let kind = "m.room.server_acl";

    for acl in [
        json!({ "allow": ["*"], "deny": ["local*"] }),
        json!({ "allow": ["else.where"] }),
        json!({}),
    ] {
        let refused = alice.tries_to_set_state(&room, kind, acl).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    let acl = json!({ "allow": ["*"], "deny": ["evil.org"] });
    alice.sets_state(&room, kind, acl).await;
}

#[tokio::test]
async fn an_event_can_be_redacted_without_a_transaction_id() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let event_id = alice.says(&room, "oops").await;

    let path = format!("redact/{}", percent_encoded(&event_id));
    let redacted = alice
        .posts_in_room(&room, &path, json!({ "reason": "typo" }))
        .await;

    let redaction = redacted.expect_ok()["event_id"].clone();
    let event = alice.event(&room, &event_id).await.expect_ok();
    assert_eq!(event["content"], json!({}));
    let because = &event["unsigned"]["redacted_because"];
    assert_eq!(because["event_id"], redaction);
    assert_eq!(because["content"]["reason"], "typo");
    assert_eq!(event["unsigned"]["redacted_by"], redaction);
}

#[tokio::test]
async fn an_empty_body_is_accepted_only_for_a_retry() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let path = room_path(&room, "send/m.room.message/1");

    let new = alice.client.send(Method::PUT, &path, "").await;
    new.expect_error(400, "M_NOT_JSON");
    let body = json!({ "msgtype": "m.text", "body": "tea" });
    let sent = alice.client.put(&path, body).await.expect_ok();
    let again = alice.client.send(Method::PUT, &path, "").await.expect_ok();

    assert_eq!(again["event_id"], sent["event_id"]);
    let state = room_path(&room, "state/send/");
    let refused = alice.client.send(Method::PUT, &state, "").await;
    refused.expect_error(400, "M_NOT_JSON");
}

#[tokio::test]
async fn an_event_of_another_room_is_not_redacted() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let (room, other) = (
        alice.creates_open_room().await,
        alice.creates_open_room().await,
    );
    let event = alice.says(&other, "tea").await;

    let path = room_path(&room, &format!("redact/{event}/1"));
    let refused = alice.client.put(&path, json!({})).await;

    refused.expect_error(400, "M_INVALID_PARAM");
}
