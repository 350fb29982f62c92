//! Tests threads: their list, their receipts and unread counts, and subscriptions to them.

use serde_json::{Value, json};

use crate::{
    chat::{ephemeral_content, event_ids, filter_query, next_batch, unread_counts},
    harness::{HttpAnswer, Server, User},
};

fn thread_reply(thread: &str, text: &str) -> Value {
    json!({
        "msgtype": "m.text", "body": text,
        "m.relates_to": { "rel_type": "m.thread", "event_id": thread },
    })
}

/// Returns the content of a message that mentions a user, in a thread or in the main timeline.
fn mention_content(thread: Option<&str>, user: &User) -> Value {
    let mut content = match thread {
        Some(thread) => thread_reply(thread, "you!"),
        None => json!({ "msgtype": "m.text", "body": "you!" }),
    };
    content["m.mentions"] = json!({ "user_ids": [user.id] });
    content
}

/// Returns the notification and highlight counts of a thread.
fn unread_thread_counts(sync: &Value, room: &str, thread: &str) -> (u64, u64) {
    let counts = &sync["rooms"]["join"][room]["unread_thread_notifications"][thread];
    let count = |name: &str| counts[name].as_u64().unwrap_or(0);
    (count("notification_count"), count("highlight_count"))
}

impl User {
    async fn sends_content(&self, room: &str, content: Value) -> String {
        let sent = self.tries_to_send(room, "m.room.message", content).await;
        let sent = sent.expect_ok();
        sent["event_id"].as_str().expect("an ID").to_owned()
    }

    async fn replies(&self, room: &str, thread: &str, text: &str) -> String {
        self.sends_content(room, thread_reply(thread, text)).await
    }

    async fn threads(&self, room: &str, query: &str) -> HttpAnswer {
        let path = format!("/_matrix/client/v1/rooms/{room}/threads{query}");
        self.client.get(&path).await
    }

    async fn tries_to_read(&self, room: &str, event_id: &str, body: Value) -> HttpAnswer {
        self.posts_in_room(room, &format!("receipt/m.read/{event_id}"), body)
            .await
    }

    async fn reads_thread(&self, room: &str, event_id: &str, thread: &str) {
        let body = json!({ "thread_id": thread });
        self.tries_to_read(room, event_id, body).await.expect_ok();
    }

    /// Syncs with counts for each thread, from `since` or for the first time.
    async fn syncs_with_threads(&self, since: Option<&Value>) -> Value {
        let filter = json!({ "room": { "timeline": { "unread_thread_notifications": true } } });
        let since = since.map_or_else(String::new, |sync| format!("&since={}", next_batch(sync)));
        self.syncs_with(&format!("{}{since}", filter_query(&filter)))
            .await
    }

    /// Returns the unread counts of the room, of the main timeline and of the thread, each as
    /// (notifications, highlights).
    async fn all_unread_counts(&self, room: &str, thread: &str) -> [(u64, u64); 3] {
        let all = self.syncs().await;
        let apart = self.syncs_with_threads(None).await;
        assert!(all["rooms"]["join"][room]["unread_thread_notifications"].is_null());
        [
            unread_counts(&all, room),
            unread_counts(&apart, room),
            unread_thread_counts(&apart, room, thread),
        ]
    }
}

#[tokio::test]
async fn threads_are_listed_by_their_newest_reply() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let one = alice.says(&room, "one").await;
    let two = alice.says(&room, "two").await;
    let three = alice.says(&room, "three").await;
    alice.replies(&room, &one, "a").await;
    alice.replies(&room, &two, "b").await;
    alice.replies(&room, &three, "c").await;
    let last = bob.replies(&room, &one, "d").await;

    let all = bob.threads(&room, "").await.expect_ok();
    let mine = bob.threads(&room, "?include=participated").await;
    let page = bob.threads(&room, "?limit=2").await.expect_ok();
    let token = page["next_batch"].as_str().expect("a token");
    let rest = bob.threads(&room, &format!("?from={token}")).await;

    assert_eq!(event_ids(&all["chunk"]), [&one, &three, &two]);
    assert_eq!(all["next_batch"], Value::Null);
    let thread = &all["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!(thread["latest_event"]["event_id"], last);
    assert_eq!(event_ids(&mine.expect_ok()["chunk"]), [&one]);
    assert_eq!(event_ids(&page["chunk"]), [&one, &three]);
    assert_eq!(event_ids(&rest.expect_ok()["chunk"]), [&two]);
}

#[tokio::test]
async fn invalid_thread_requests_and_strangers_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let eve = server.register("eve").await;
    let room = alice.creates_open_room().await;

    let of_stranger = eve.threads(&room, "").await;
    let bad_token = alice.threads(&room, "?from=x").await;
    let bad_include = alice.threads(&room, "?include=some").await;

    of_stranger.expect_error(403, "M_FORBIDDEN");
    bad_token.expect_error(400, "M_INVALID_PARAM");
    bad_include.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn only_visible_threads_are_listed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_room_with_history("joined").await;
    let before = alice.says(&room, "before").await;
    bob.joins(&room).await;
    let during = alice.says(&room, "during").await;
    let later = alice.says(&room, "later").await;
    alice.replies(&room, &before, "a").await;
    alice.replies(&room, &during, "b").await;
    bob.leaves(&room).await;
    alice.replies(&room, &later, "c").await;
    alice.replies(&room, &during, "d").await;

    let of_bob = bob.threads(&room, "").await.expect_ok();
    let of_alice = alice.threads(&room, "").await.expect_ok();

    assert_eq!(event_ids(&of_bob["chunk"]), [&during]);
    let thread = &of_bob["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!(thread["count"], 1);
    assert_eq!(event_ids(&of_alice["chunk"]), [&during, &later, &before]);
}

#[tokio::test]
async fn a_thread_cannot_begin_with_an_event_that_relates_to_another() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let thread = alice.says(&room, "root").await;
    let reply = alice.replies(&room, &thread, "a").await;

    let nested = alice
        .tries_to_send(&room, "m.room.message", thread_reply(&reply, "b"))
        .await;

    nested.expect_error(400, "M_UNKNOWN");
}

#[tokio::test]
async fn a_threaded_receipt_affects_only_its_thread() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let thread = alice.says(&room, "root").await;
    let first = alice.replies(&room, &thread, "a").await;
    alice
        .sends_content(&room, mention_content(Some(&thread), &bob))
        .await;
    let mention = alice
        .sends_content(&room, mention_content(None, &bob))
        .await;
    alice.replies(&room, &thread, "b").await;
    let last = alice.says(&room, "last").await;

    let unread = bob.all_unread_counts(&room, &thread).await;
    bob.reads_thread(&room, &thread, "main").await;
    let root_read = bob.all_unread_counts(&room, &thread).await;
    bob.reads_thread(&room, &first, &thread).await;
    let reply_read = bob.all_unread_counts(&room, &thread).await;
    bob.sends_read_receipt(&room, &mention).await;
    let all_read = bob.all_unread_counts(&room, &thread).await;
    bob.reads_thread(&room, &last, "main").await;
    let main_read = bob.all_unread_counts(&room, &thread).await;

    assert_eq!(unread, [(6, 2), (3, 1), (3, 1)]);
    assert_eq!(root_read, [(5, 2), (2, 1), (3, 1)]);
    assert_eq!(reply_read, [(4, 2), (2, 1), (2, 1)]);
    assert_eq!(all_read, [(2, 0), (1, 0), (1, 0)]);
    assert_eq!(main_read, [(1, 0), (0, 0), (1, 0)]);
    let server = server.restart().await;
    let bob = bob.on_server(&server);
    assert_eq!(bob.all_unread_counts(&room, &thread).await, main_read);
}

#[tokio::test]
async fn an_unthreaded_receipt_does_not_move_a_thread_back() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let thread = alice.says(&room, "root").await;
    alice.replies(&room, &thread, "a").await;
    let middle = alice.says(&room, "middle").await;
    let last = alice.replies(&room, &thread, "b").await;
    alice.says(&room, "last").await;

    bob.reads_thread(&room, &last, &thread).await;
    let in_thread = bob.all_unread_counts(&room, &thread).await;
    bob.sends_read_receipt(&room, &middle).await;
    let before = bob.all_unread_counts(&room, &thread).await;
    alice.replies(&room, &thread, "c").await;
    let more = bob.all_unread_counts(&room, &thread).await;

    assert_eq!(in_thread, [(3, 0), (3, 0), (0, 0)]);
    assert_eq!(before, [(1, 0), (1, 0), (0, 0)]);
    assert_eq!(more, [(2, 0), (1, 0), (1, 0)]);
    let server = server.restart().await;
    let bob = bob.on_server(&server);
    assert_eq!(bob.all_unread_counts(&room, &thread).await, more);
}

#[tokio::test]
async fn sending_clears_the_counts_of_its_timeline() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let thread = alice.says(&room, "root").await;
    alice
        .sends_content(&room, mention_content(Some(&thread), &bob))
        .await;

    bob.says(&room, "in the main timeline").await;
    let after_main = bob.all_unread_counts(&room, &thread).await;
    bob.replies(&room, &thread, "in the thread").await;
    let after_thread = bob.all_unread_counts(&room, &thread).await;

    assert_eq!(after_main, [(1, 1), (0, 0), (1, 1)]);
    assert_eq!(after_thread, [(0, 0), (0, 0), (0, 0)]);
    let server = server.restart().await;
    let bob = bob.on_server(&server);
    assert_eq!(bob.all_unread_counts(&room, &thread).await, after_thread);
}

#[tokio::test]
async fn thread_counts_are_updated_in_later_syncs() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let thread = alice.says(&room, "root").await;
    let other = alice.says(&room, "other").await;
    alice.replies(&room, &thread, "a").await;
    for n in 0..100 {
        alice.says(&room, &n.to_string()).await;
    }

    let first = bob.syncs_with_threads(None).await;
    alice.replies(&room, &thread, "b").await;
    let second = bob.syncs_with_threads(Some(&first)).await;
    let reply = alice.replies(&room, &other, "c").await;
    let third = bob.syncs_with_threads(Some(&second)).await;
    bob.reads_thread(&room, &reply, &other).await;
    let fourth = bob.syncs_with_threads(Some(&third)).await;

    let counts = |sync: &Value| {
        let count = |thread: &str| unread_thread_counts(sync, &room, thread).0;
        (unread_counts(sync, &room).0, count(&thread), count(&other))
    };
    assert_eq!(counts(&first), (102, 1, 0));
    assert_eq!(counts(&second), (102, 2, 0));
    assert_eq!(counts(&third), (102, 2, 1));
    assert_eq!(counts(&fourth), (102, 2, 0));
}

#[tokio::test]
async fn an_event_related_to_a_reply_is_in_its_thread() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let thread = alice.says(&room, "root").await;
    let reply = alice.replies(&room, &thread, "a").await;
    let reference = |parent: &str| {
        json!({
            "msgtype": "m.text", "body": "x",
            "m.relates_to": { "rel_type": "m.reference", "event_id": parent },
        })
    };
    let within = alice.sends_content(&room, reference(&reply)).await;
    let beside = alice.sends_content(&room, reference(&thread)).await;

    let unread = bob.all_unread_counts(&room, &thread).await;
    let as_main = json!({ "thread_id": "main" });
    let refused = bob.tries_to_read(&room, &within, as_main).await;
    bob.reads_thread(&room, &within, &thread).await;
    let read = bob.all_unread_counts(&room, &thread).await;
    // The event is in the main timeline, but is accepted as the position of a receipt for the thread.
    bob.reads_thread(&room, &beside, &thread).await;

    assert_eq!(unread, [(4, 0), (2, 0), (2, 0)]);
    refused.expect_error(400, "M_INVALID_PARAM");
    assert_eq!(read, [(2, 0), (2, 0), (0, 0)]);
}

#[tokio::test]
async fn a_receipt_for_another_thread_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let thread = alice.says(&room, "root").await;
    let other = alice.says(&room, "other").await;
    let reply = alice.replies(&room, &thread, "a").await;

    let as_other = json!({ "thread_id": other });
    let of_other = alice.tries_to_read(&room, &reply, as_other).await;
    let as_main = json!({ "thread_id": "main" });
    let of_main = alice.tries_to_read(&room, &reply, as_main).await;

    of_other.expect_error(400, "M_INVALID_PARAM");
    of_main.expect_error(400, "M_INVALID_PARAM");
    alice.reads_thread(&room, &thread, &thread).await;
    alice.reads_thread(&room, &thread, "main").await;
}

#[tokio::test]
async fn an_unthreaded_receipt_is_preferred_at_the_same_event() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let thread = alice.says(&room, "root").await;
    let reply = alice.replies(&room, &thread, "a").await;

    alice.sends_read_receipt(&room, &reply).await;
    alice.reads_thread(&room, &reply, &thread).await;

    let sync = alice.syncs().await;
    let receipt = &ephemeral_content(&sync, &room, "m.receipt")[&reply]["m.read"][&alice.id];
    assert!(receipt["ts"].is_u64());
    assert_eq!(receipt["thread_id"], Value::Null);
}

// ---------------------------------------------------------------------------------------------- subscriptions

fn subscription_path(room: &str, thread: &str) -> String {
    format!("/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{thread}/subscription")
}

#[tokio::test]
async fn a_thread_subscription_can_be_created_and_deleted() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let thread = alice.says(&room, "root").await;
    let path = subscription_path(&room, &thread);

    alice.client.delete(&path).await.expect_ok();
    alice.client.put(&path, json!({})).await.expect_ok();
    let subscribed = alice.client.get(&path).await.expect_ok();
    alice.client.delete(&path).await.expect_ok();
    let ended = alice.client.get(&path).await;

    assert_eq!(subscribed, json!({ "automatic": false }));
    ended.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_automatic_subscription_requires_a_newer_reply() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let thread = alice.says(&room, "root").await;
    let one = alice.replies(&room, &thread, "a").await;
    let path = subscription_path(&room, &thread);
    let because = |event_id: &str| json!({ "automatic": event_id });

    let of_root = alice.client.put(&path, because(&thread)).await;
    alice.client.put(&path, because(&one)).await.expect_ok();
    let automatic = alice.client.get(&path).await.expect_ok();
    alice.client.delete(&path).await.expect_ok();
    let again = alice.client.put(&path, because(&one)).await;
    let two = alice.replies(&room, &thread, "b").await;
    alice.client.put(&path, because(&two)).await.expect_ok();
    alice.client.put(&path, json!({})).await.expect_ok();
    alice.client.put(&path, because(&two)).await.expect_ok();
    let manual = alice.client.get(&path).await.expect_ok();

    of_root.expect_error(400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD");
    assert_eq!(automatic, json!({ "automatic": true }));
    again.expect_error(409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION");
    assert_eq!(manual, json!({ "automatic": false }));
}

#[tokio::test]
async fn invisible_threads_cannot_be_subscribed_to() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let eve = server.register("eve").await;
    let room = alice.creates_open_room().await;
    let thread = alice.says(&room, "root").await;

    let of_stranger = eve
        .client
        .put(&subscription_path(&room, &thread), json!({}))
        .await;
    let of_nothing = alice
        .client
        .put(&subscription_path(&room, "$nothing"), json!({}))
        .await;

    of_stranger.expect_error(403, "M_FORBIDDEN");
    of_nothing.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn subscription_changes_are_paginated() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let one = alice.says(&room, "one").await;
    let two = alice.says(&room, "two").await;
    for thread in [&one, &two] {
        let path = subscription_path(&room, thread);
        alice.client.put(&path, json!({})).await.expect_ok();
    }
    alice
        .client
        .delete(&subscription_path(&room, &one))
        .await
        .expect_ok();
    let path = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions?dir=b&limit=1";

    let first = alice.client.get(path).await.expect_ok();
    let token = first["end"].as_str().expect("a token");
    let second = alice.client.get(&format!("{path}&from={token}")).await;
    let second = second.expect_ok();
    let of_bob = bob.client.get(path).await.expect_ok();

    assert!(first["unsubscribed"][&room][&one]["bump_stamp"].is_u64());
    assert_eq!(second["subscribed"][&room][&two]["automatic"], false);
    assert_eq!(second["end"], Value::Null);
    assert_eq!(of_bob, json!({}));
}
