//! Tests read receipts, read markers and unread counts.

use serde_json::{Value, json};

use crate::{
    chat::{ephemeral_content, unread_counts},
    harness::{Server, User},
};

/// Returns the users whose receipts of a kind a sync contains for an event.
fn receipt_senders(sync: &Value, room: &str, event_id: &str, kind: &str) -> Vec<String> {
    let receipts = &ephemeral_content(sync, room, "m.receipt")[event_id][kind];
    let receipts = receipts.as_object().into_iter().flatten();
    receipts.map(|(user_id, _)| user_id.clone()).collect()
}

async fn send_receipt(user: &User, room: &str, receipt: &str, body: Value) {
    let path = format!("receipt/{receipt}");
    user.posts_in_room(room, &path, body).await.expect_ok();
}

#[tokio::test]
async fn a_receipt_is_sent_to_the_members() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let message = alice.says(&room, "hello").await;
    let first = alice.syncs().await;

    let (second, ()) = tokio::join!(
        alice.long_polls_after(&first),
        bob.sends_read_receipt(&room, &message)
    );
    let third = alice.syncs_after(&second).await;
    let anew = alice.syncs().await;

    assert_eq!(
        receipt_senders(&second, &room, &message, "m.read"),
        [&*bob.id]
    );
    let receipt = &ephemeral_content(&second, &room, "m.receipt")[&message]["m.read"][&bob.id];
    assert!(receipt["ts"].is_u64());
    let events = &second["rooms"]["join"][&room]["ephemeral"]["events"];
    assert_eq!(events[0]["room_id"], Value::Null);
    assert_eq!(third["rooms"], Value::Null);
    assert_eq!(
        receipt_senders(&anew, &room, &message, "m.read"),
        [&*bob.id]
    );
}

#[tokio::test]
async fn a_receipt_only_moves_forward() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let one = alice.says(&room, "one").await;
    let two = alice.says(&room, "two").await;

    bob.sends_read_receipt(&room, &two).await;
    bob.sends_read_receipt(&room, &one).await;

    let sync = alice.syncs().await;
    assert_eq!(receipt_senders(&sync, &room, &two, "m.read"), [&*bob.id]);
    assert_eq!(
        receipt_senders(&sync, &room, &one, "m.read"),
        Vec::<String>::new()
    );
    assert_eq!(unread_counts(&bob.syncs().await, &room), (0, 0));
}

#[tokio::test]
async fn a_private_receipt_is_visible_only_to_its_user() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let phone = server.log_in("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let message = alice.says(&room, "hello").await;
    let (first, of_phone) = (alice.syncs().await, phone.syncs().await);

    let receipt = format!("m.read.private/{message}");
    send_receipt(&bob, &room, &receipt, json!({})).await;
    let second = alice.syncs_after(&first).await;
    let later = phone.syncs_after(&of_phone).await;

    assert_eq!(second["rooms"], Value::Null);
    assert_eq!(unread_counts(&of_phone, &room), (1, 0));
    assert_eq!(unread_counts(&later, &room), (0, 0));
    let told = receipt_senders(&later, &room, &message, "m.read.private");
    assert_eq!(told, [&*bob.id]);
}

#[tokio::test]
async fn unread_counts_start_after_the_receipt_or_own_message() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    bob.says(&room, "ready").await;
    let mention = json!({
        "msgtype": "m.text", "body": "Bob!", "m.mentions": { "user_ids": [bob.id] },
    });
    let sent = alice.tries_to_send(&room, "m.room.message", mention).await;
    let mention = sent.expect_ok()["event_id"].as_str().map(str::to_owned);
    let mention = mention.expect("an ID");
    alice.says(&room, "one").await;
    alice.says(&room, "two").await;

    let before = bob.syncs().await;
    bob.sends_read_receipt(&room, &mention).await;
    let read = bob.syncs_after(&before).await;
    bob.says(&room, "answer").await;
    let answered = bob.syncs_after(&read).await;
    alice.says(&room, "three").await;
    let more = bob.syncs_after(&answered).await;

    assert_eq!(unread_counts(&before, &room), (3, 1));
    assert_eq!(unread_counts(&read, &room), (2, 0));
    assert_eq!(unread_counts(&answered, &room), (0, 0));
    assert_eq!(unread_counts(&more, &room), (1, 0));
    let server = server.restart().await;
    let bob = bob.on_server(&server);
    assert_eq!(unread_counts(&bob.syncs().await, &room), (1, 0));
}

#[tokio::test]
async fn threads_have_receipts_of_their_own() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let thread_root = alice.says(&room, "root").await;
    let receipt = format!("m.read/{thread_root}");

    send_receipt(&bob, &room, &receipt, json!({ "thread_id": thread_root })).await;
    let in_thread = alice.syncs().await;
    send_receipt(&bob, &room, &receipt, json!({ "thread_id": "main" })).await;
    let in_main = alice.syncs_after(&in_thread).await;

    let thread = |sync: &Value| {
        let receipts = &ephemeral_content(sync, &room, "m.receipt")[&thread_root]["m.read"];
        receipts[&bob.id]["thread_id"].clone()
    };
    assert_eq!(thread(&in_thread), thread_root);
    assert_eq!(thread(&in_main), "main");
}

#[tokio::test]
async fn invalid_thread_ids_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let message = alice.says(&room, "hello").await;
    let cases = [
        ("m.read", json!(""), "M_INVALID_PARAM"),
        ("m.read", json!("x"), "M_INVALID_PARAM"),
        ("m.read", json!(1), "M_BAD_JSON"),
        ("m.fully_read", json!("main"), "M_INVALID_PARAM"),
    ];

    for (kind, thread, errcode) in cases {
        let path = format!("receipt/{kind}/{message}");
        let body = json!({ "thread_id": thread });
        let refused = alice.posts_in_room(&room, &path, body).await;
        refused.expect_error(400, errcode);
    }
}

#[tokio::test]
async fn read_markers_set_every_named_receipt() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let one = alice.says(&room, "one").await;
    let two = alice.says(&room, "two").await;
    let first = bob.syncs().await;

    let markers = json!({ "m.fully_read": one, "m.read": one, "m.read.private": two });
    let set = bob.posts_in_room(&room, "read_markers", markers).await;
    let second = bob.syncs_after(&first).await;

    assert_eq!(set.expect_ok(), json!({}));
    assert_eq!(receipt_senders(&second, &room, &one, "m.read"), [&*bob.id]);
    assert_eq!(
        receipt_senders(&second, &room, &two, "m.read.private"),
        [&*bob.id]
    );
    let data = &second["rooms"]["join"][&room]["account_data"]["events"];
    let expected = json!([{ "type": "m.fully_read", "content": { "event_id": one } }]);
    assert_eq!(*data, expected);
    assert_eq!(unread_counts(&second, &room), (0, 0));
}

#[tokio::test]
async fn the_fully_read_marker_does_not_affect_counts() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let message = alice.says(&room, "hello").await;

    let receipt = format!("m.fully_read/{message}");
    send_receipt(&bob, &room, &receipt, json!({})).await;

    let sync = bob.syncs().await;
    assert_eq!(unread_counts(&sync, &room), (1, 0));
    let path = format!(
        "/_matrix/client/v3/user/{}/rooms/{room}/account_data/m.fully_read",
        bob.id
    );
    let marker = bob.client.get(&path).await.expect_ok();
    assert_eq!(marker, json!({ "event_id": message }));
    assert_eq!(
        *ephemeral_content(&alice.syncs().await, &room, "m.receipt"),
        Value::Null
    );
}

#[tokio::test]
async fn invalid_receipts_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let other = alice.creates(json!({})).await;
    let message = alice.says(&room, "hello").await;
    let elsewhere = alice.says(&other, "hello").await;
    let receipt = |kind: &str, event_id: &str| format!("receipt/{kind}/{event_id}");

    let by_stranger = bob
        .posts_in_room(&room, &receipt("m.read", &message), json!({}))
        .await;
    let unknown = alice
        .posts_in_room(&room, &receipt("m.read", "$unknown"), json!({}))
        .await;
    let of_other = alice
        .posts_in_room(&room, &receipt("m.read", &elsewhere), json!({}))
        .await;
    let no_kind = alice
        .posts_in_room(&room, &receipt("m.example", &message), json!({}))
        .await;
    let in_nothing = alice
        .posts_in_room(
            "!unknown:localhost",
            &receipt("m.read", &message),
            json!({}),
        )
        .await;

    by_stranger.expect_error(403, "M_FORBIDDEN");
    unknown.expect_error(404, "M_NOT_FOUND");
    of_other.expect_error(404, "M_NOT_FOUND");
    no_kind.expect_error(400, "M_INVALID_PARAM");
    in_nothing.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_display_name_highlights_unless_mentions_are_explicit() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;

    alice.says(&room, "Hello Bob!").await;
    alice.says(&room, "bobsleigh").await;
    let content = json!({ "msgtype": "m.text", "body": "bob", "m.mentions": {} });
    alice
        .tries_to_send(&room, "m.room.message", content)
        .await
        .expect_ok();

    assert_eq!(unread_counts(&bob.syncs().await, &room), (3, 1));
}

#[tokio::test]
async fn profile_changes_do_not_reset_unread_counts() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    for text in ["one", "two", "three"] {
        alice.says(&room, text).await;
    }
    let before = bob.syncs().await;

    for (field, value) in [
        ("displayname", "Bob"),
        ("avatar_url", "mxc://localhost/picture"),
    ] {
        let path = format!("/_matrix/client/v3/profile/{}/{field}", bob.id);
        let set = bob.client.put(&path, json!({ field: value })).await;
        set.expect_ok();
    }
    let member = json!({ "membership": "join", "displayname": "Bobby" });
    let kind = format!("m.room.member/{}", bob.id);
    bob.sets_state(&room, &kind, member).await;

    let after = bob.syncs_after(&before).await;
    assert_eq!(unread_counts(&before, &room), (3, 0));
    assert_eq!(unread_counts(&after, &room), (3, 0));
    // The counts are the same after a restart.
    let server = server.restart().await;
    let bob = bob.on_server(&server);
    assert_eq!(unread_counts(&bob.syncs().await, &room), (3, 0));
    bob.says(&room, "hello").await;
    assert_eq!(unread_counts(&bob.syncs().await, &room), (0, 0));
}

#[tokio::test]
async fn a_user_who_joins_again_gets_the_receipts_and_typing_users_of_the_absence() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = bob.creates_open_room().await;
    alice.joins(&room).await;
    let event_id = alice.says(&room, "hi").await;
    alice.leaves(&room).await;
    bob.sends_read_receipt(&room, &event_id).await;
    bob.starts_typing(&room).await;
    let away = alice.syncs().await;

    alice.joins(&room).await;
    let back = alice.syncs_after(&away).await;

    let events = back["rooms"]["join"][&room]["ephemeral"]["events"].to_string();
    assert!(
        events.contains("m.receipt") && events.contains(&event_id),
        "{events}"
    );
    assert!(
        events.contains("m.typing") && events.contains(&bob.id),
        "{events}"
    );
}
