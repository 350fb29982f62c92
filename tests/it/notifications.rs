//! Tests the list of notifications.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    chat::{new_transaction, percent_encoded, texts_at},
    harness::{Server, User},
    stored_rows::StoredRows,
};

const NOTIFICATIONS_PATH: &str = "/_matrix/client/v3/notifications";
const RULES_PATH: &str = "/_matrix/client/v3/pushrules/global";
/// More events than one request examines.
const MANY_EVENTS: usize = 1_100;

impl User {
    async fn mentions(&self, room: &str, user: &User, text: &str) {
        let content = json!({
            "msgtype": "m.text", "body": text, "m.mentions": { "user_ids": [user.id] },
        });
        let sent = self.tries_to_send(room, "m.room.message", content).await;
        sent.expect_ok();
    }

    /// Returns a page of the user's notifications.
    async fn notifications(&self, query: &str) -> Value {
        let path = format!("{NOTIFICATIONS_PATH}?{query}");
        self.client.get(&path).await.expect_ok()
    }

    /// Returns the texts of all notifications, read in pages.
    async fn notified_texts(&self, query: &str) -> Vec<String> {
        let (mut texts, mut from) = (Vec::new(), String::new());
        loop {
            let page = self.notifications(&format!("{query}{from}")).await;
            let found = notification_bodies(&page);
            texts.extend(found.into_iter().map(ToOwned::to_owned));
            let Some(token) = page["next_token"].as_str() else {
                return texts;
            };
            from = format!("&from={token}");
        }
    }

    async fn sets_push_rule(&self, path: &str, rule: Value) {
        let path = format!("{RULES_PATH}/{path}");
        self.client.put(&path, rule).await.expect_ok();
    }

    /// Turns off the notifications of messages, so that only mentions notify.
    async fn wants_only_mentions(&self) {
        for rule in ["message", "room_one_to_one", "encrypted_room_one_to_one"] {
            let rule = format!("underride/.m.rule.{rule}/enabled");
            self.sets_push_rule(&rule, json!({ "enabled": false }))
                .await;
        }
    }

    async fn says_often(&self, room: &str, times: usize) {
        for _ in (0..times).step_by(50) {
            join_all((0..50).map(|_| self.says(room, "chatter"))).await;
        }
    }
}

fn notification_bodies(page: &Value) -> Vec<&str> {
    texts_at(&page["notifications"], "/event/content/body")
}

#[tokio::test]
async fn notifications_list_unread_and_read_events() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    alice.says(&room, "before").await;
    bob.joins(&room).await;
    let other = alice.creates_open_room().await;
    bob.joins(&other).await;

    let one = alice.says(&room, "one").await;
    alice.says(&other, "two").await;
    bob.says(&room, "own").await;
    alice.mentions(&room, &bob, "three").await;
    bob.sends_read_receipt(&room, &one).await;

    let all = bob.notifications("").await;
    assert_eq!(notification_bodies(&all), ["three", "two", "one"]);
    assert_eq!(all["next_token"], Value::Null);
    let reads = all["notifications"].as_array().expect("a list");
    let reads: Vec<&Value> = reads.iter().map(|found| &found["read"]).collect();
    assert_eq!(reads, [&json!(false), &json!(false), &json!(true)]);
    let first = &all["notifications"][0];
    assert_eq!(first["room_id"], room);
    assert!(first["ts"].is_u64() && first["event"]["event_id"].is_string());
    assert_eq!(first["actions"][0], "notify");
    let highlights = bob.notifications("only=highlight").await;
    assert_eq!(notification_bodies(&highlights), ["three"]);
    assert_eq!(notification_bodies(&alice.notifications("").await), ["own"]);
}

#[tokio::test]
async fn notifications_are_paginated() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..3 {
        let room = alice.creates_open_room().await;
        bob.joins(&room).await;
        rooms.push(room);
    }
    let mut said = Vec::new();
    for n in 0..60 {
        alice.says(&rooms[n % 3], &n.to_string()).await;
        said.push(n.to_string());
    }
    said.reverse();

    let (mut seen, mut query) = (Vec::new(), "limit=7".to_owned());
    loop {
        let page = bob.notifications(&query).await;
        seen.extend(
            notification_bodies(&page)
                .into_iter()
                .map(ToOwned::to_owned),
        );
        let Some(token) = page["next_token"].as_str() else {
            break;
        };
        query = format!("limit=7&from={token}");
    }

    assert_eq!(seen, said);
    let garbage = bob
        .client
        .get(&format!("{NOTIFICATIONS_PATH}?from=x"))
        .await;
    garbage.expect_error(400, "M_INVALID_PARAM");
    let stranger = server.get(NOTIFICATIONS_PATH).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn left_and_muted_rooms_cause_no_notifications() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (left, silenced) = (
        alice.creates_open_room().await,
        alice.creates_open_room().await,
    );
    bob.joins(&left).await;
    bob.joins(&silenced).await;
    alice.says(&left, "one").await;
    bob.leaves(&left).await;

    let rule = format!("/_matrix/client/v3/pushrules/global/room/{silenced}");
    let set = bob.client.put(&rule, json!({ "actions": [] })).await;
    set.expect_ok();
    alice.says(&silenced, &new_transaction()).await;

    assert_eq!(bob.notifications("").await, json!({ "notifications": [] }));
}

#[tokio::test]
async fn a_mention_is_found_before_any_number_of_messages() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (room, muted) = (
        alice.creates_open_room().await,
        alice.creates_open_room().await,
    );
    bob.joins(&room).await;
    bob.joins(&muted).await;
    bob.wants_only_mentions().await;

    alice.mentions(&room, &bob, "for Bob").await;
    alice.says_often(&room, MANY_EVENTS).await;
    alice.says_often(&muted, 50).await;

    let found = bob.notifications("").await;
    assert_eq!(notification_bodies(&found), ["for Bob"]);
    assert_eq!(found["next_token"], Value::Null);
    let found = bob.notifications("only=highlight").await;
    assert_eq!(notification_bodies(&found), ["for Bob"]);
}

#[tokio::test]
async fn a_message_is_found_before_any_number_of_state_events() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;

    let content = json!({ "body": "all", "msgtype": "m.text", "m.mentions": { "room": true } });
    let sent = alice.tries_to_send(&room, "m.room.message", content).await;
    sent.expect_ok();
    alice.says(&room, "one").await;
    for number in 0..MANY_EVENTS {
        let content = json!({ "number": number });
        alice
            .sets_state(&room, "org.example.counter", content)
            .await;
    }

    let found = bob.notifications("").await;
    assert_eq!(notification_bodies(&found), ["one", "all"]);
    assert_eq!(found["next_token"], Value::Null);
    let found = bob.notifications("only=highlight").await;
    assert_eq!(notification_bodies(&found), ["all"]);
    bob.wants_only_mentions().await;
    let found = bob.notifications("").await;
    assert_eq!(notification_bodies(&found), ["all"]);
    let muted = json!({ "actions": [], "conditions": [
        { "kind": "event_match", "key": "room_id", "pattern": room },
    ] });
    let path = format!("override/{}", percent_encoded(&room));
    bob.sets_push_rule(&path, muted).await;
    let found = bob.notifications("").await;
    assert_eq!(found, json!({ "notifications": [] }));
}

#[tokio::test]
async fn rules_of_the_user_notify() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    bob.wants_only_mentions().await;
    let keyword = json!({ "pattern": "cake", "actions": ["notify"] });
    bob.sets_push_rule("content/cake", keyword).await;
    let reactions = json!({ "actions": ["notify"], "conditions": [
        { "kind": "event_match", "key": "type", "pattern": "org.example.thing" },
    ] });
    bob.sets_push_rule("underride/things", reactions).await;

    alice.says(&room, "tea").await;
    alice.says(&room, "cake").await;
    let thing = json!({ "body": "thing" });
    let sent = alice.tries_to_send(&room, "org.example.thing", thing).await;
    sent.expect_ok();

    assert_eq!(bob.notified_texts("").await, ["thing", "cake"]);
    assert_eq!(bob.notified_texts("only=highlight").await, [""; 0]);
    let gone = bob
        .client
        .delete(&format!("{RULES_PATH}/content/cake"))
        .await;
    gone.expect_ok();
    assert_eq!(bob.notified_texts("").await, ["thing"]);
}

#[tokio::test]
async fn read_mentions_are_listed_as_read() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    bob.wants_only_mentions().await;
    alice.mentions(&room, &bob, "one").await;
    let last = alice.says(&room, "two").await;

    let path = format!("receipt/m.read/{}", percent_encoded(&last));
    let of_main_timeline = json!({ "thread_id": "main" });
    let read = bob.posts_in_room(&room, &path, of_main_timeline).await;
    read.expect_ok();
    alice.mentions(&room, &bob, "three").await;

    let found = bob.notifications("").await;
    assert_eq!(notification_bodies(&found), ["three", "one"]);
    assert_eq!(found["notifications"][0]["read"], false);
    assert_eq!(found["notifications"][1]["read"], true);
}

#[tokio::test]
async fn redacted_events_are_not_listed() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let ordinary = alice.says(&room, "ordinary").await;
    alice.mentions(&room, &bob, "mention").await;
    let found = bob.notifications("").await;
    let mention = found["notifications"][0]["event"]["event_id"].as_str();

    alice.redacts(&room, &ordinary).await;
    alice.redacts(&room, mention.expect("an id")).await;
    alice.says(&room, "kept").await;

    assert_eq!(bob.notified_texts("").await, ["kept"]);
}

#[tokio::test]
async fn mentions_in_a_room_are_listed_again_after_the_user_rejoins() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    alice.mentions(&room, &bob, "before").await;

    bob.leaves(&room).await;
    assert_eq!(bob.notified_texts("").await, [""; 0]);
    alice.mentions(&room, &bob, "meanwhile").await;
    bob.joins(&room).await;
    alice.mentions(&room, &bob, "after").await;

    assert_eq!(bob.notified_texts("").await, ["after", "before"]);
}

#[tokio::test]
async fn invitations_to_joined_rooms_are_listed() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let first = alice.creates(json!({ "invite": [bob.id] })).await;
    let second = alice.creates(json!({})).await;
    alice.invites(&second, &bob).await;
    let third = alice.creates(json!({ "invite": [bob.id] })).await;

    bob.joins(&first).await;
    bob.joins(&second).await;

    let found = bob.notifications("").await;
    assert_eq!(
        texts_at(&found["notifications"], "/room_id"),
        [&second, &first]
    );
    assert_ne!(second, third);
    let memberships = texts_at(&found["notifications"], "/event/content/membership");
    assert_eq!(memberships, ["invite", "invite"]);
}

#[tokio::test]
async fn pages_have_no_gaps_and_no_repeated_notifications() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut said = Vec::new();
    let mut rooms = Vec::new();
    // More rooms than one request reads pages of.
    for number in 0..40 {
        let room = alice.creates_open_room().await;
        bob.joins(&room).await;
        alice.says(&room, &format!("first {number}")).await;
        said.push(format!("first {number}"));
        rooms.push(room);
    }
    for (number, room) in rooms.iter().enumerate() {
        let text = format!("second {number}");
        match number % 4 {
            0 => alice.mentions(room, &bob, &text).await,
            1 => drop(alice.sets_state(room, "org.example.state", json!({})).await),
            _ => drop(alice.says(room, &text).await),
        }
        if number % 4 != 1 {
            said.push(text);
        }
    }
    said.reverse();

    assert_eq!(bob.notified_texts("limit=100").await, said);
    assert_eq!(bob.notified_texts("limit=1").await, said);
    assert_eq!(bob.notified_texts("limit=7").await, said);
    let mentions: Vec<String> = (0..40)
        .rev()
        .step_by(4)
        .map(|number| format!("second {}", number - 3))
        .collect();
    let found = bob.notified_texts("limit=3&only=highlight").await;
    assert_eq!(found, mentions);
}

#[tokio::test]
async fn events_from_before_the_update_are_found_with_the_current_rules() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (room, other) = (
        alice.creates_open_room().await,
        alice.creates_open_room().await,
    );
    bob.joins(&room).await;
    bob.joins(&other).await;
    bob.wants_only_mentions().await;
    alice.mentions(&room, &bob, "one").await;
    alice.mentions(&other, &bob, "two").await;
    alice.says(&room, "unimportant").await;
    let before_update = async |server: &Server| {
        let mut rows = StoredRows::open(server).await;
        rows.execute_sql("DELETE FROM personal_notifications").await;
        let start =
            "UPDATE personal_notification_start SET position = (SELECT position FROM journal)";
        rows.execute_sql(start).await;
        rows.close().await;
    };

    let server = server.restart_after(before_update).await;
    let (alice, bob) = (alice.on_server(&server), bob.on_server(&server));
    alice.mentions(&other, &bob, "three").await;
    alice.says(&room, "unimportant").await;

    assert_eq!(bob.notified_texts("").await, ["three", "two", "one"]);
    assert_eq!(bob.notified_texts("limit=1").await, ["three", "two", "one"]);
    let found = bob.notified_texts("limit=1&only=highlight").await;
    assert_eq!(found, ["three", "two", "one"]);
}

#[tokio::test]
async fn nothing_is_stored_for_the_members_whom_a_message_does_not_mention() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    carol.wants_only_mentions().await;
    alice.says(&room, "ordinary").await;
    alice.mentions(&room, &bob, "for Bob").await;
    alice.mentions(&room, &carol, "for Carol").await;

    let body = json!({ "auth": crate::harness::password_of("carol") });
    let path = "/_matrix/client/v3/account/deactivate";
    carol.client.post(path, body).await.expect_ok();

    server.running.stop().await;
    server.running.wait_until_stopped().await;
    let mut rows = StoredRows::open(&server).await;
    // Carol's notifications were removed with the account.
    assert_eq!(rows.row_texts("personal_notifications").await.len(), 1);
}
