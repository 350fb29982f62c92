//! Tests the extensions of sliding sync: to-device messages, keys, account data, receipts, typing and threads.

use serde_json::{Value, json};

use crate::{
    chat::{event_types, new_transaction},
    harness::{Server, User},
    sliding::{list_config, room_ids},
};

const THREADS_EXTENSION: &str = "io.element.msc4308.thread_subscriptions";

async fn send_to_device(sender: &User, to: &User, n: u64) {
    let txn_id = new_transaction();
    let path = format!("/_matrix/client/v3/sendToDevice/org.example/{txn_id}");
    let messages = json!({ &to.id: { &to.device_id: { "n": n } } });
    let sent = sender.client.put(&path, json!({ "messages": messages }));
    sent.await.expect_ok();
}

async fn set_account_data(user: &User, path: &str, content: Value) {
    let path = format!("/_matrix/client/v3/user/{}/{path}", user.id);
    user.client.put(&path, content).await.expect_ok();
}

/// Uploads device keys and `one_time` one-time keys.
async fn upload_keys(user: &User, one_time: u64) {
    let algorithms = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"];
    let device = json!({
        "user_id": user.id, "device_id": user.device_id, "algorithms": algorithms,
        "keys": { format!("ed25519:{}", user.device_id): "abc" }, "signatures": {},
    });
    let keys = (0..one_time).map(|n| (format!("signed_curve25519:{n}"), json!({ "key": "abc" })));
    let keys: serde_json::Map<String, Value> = keys.collect();
    let body = json!({ "device_keys": device, "one_time_keys": keys });
    let uploaded = user.client.post("/_matrix/client/v3/keys/upload", body);
    uploaded.await.expect_ok();
}

fn message_numbers(answer: &Value) -> Vec<u64> {
    let events = answer["extensions"]["to_device"]["events"].as_array();
    let events = events.map(Vec::as_slice).unwrap_or_default().iter();
    events
        .filter_map(|event| event["content"]["n"].as_u64())
        .collect()
}

async fn subscribe_to_thread(user: &User, room: &str, thread: &str) {
    let path = subscription_path(room, thread);
    user.client.put(&path, json!({})).await.expect_ok();
}

fn subscription_path(room: &str, thread: &str) -> String {
    let prefix = "/_matrix/client/unstable/io.element.msc4306";
    format!("{prefix}/rooms/{room}/thread/{thread}/subscription")
}

#[tokio::test]
async fn to_device_messages_are_repeated_until_acknowledged() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    for n in 0..3 {
        send_to_device(&bob, &alice, n).await;
    }
    let mut connection =
        alice.opens_with_extension("to_device", &json!({ "enabled": true, "limit": 2 }));

    let first = connection.poll().await;
    let again = connection.poll().await;
    let since = first["extensions"]["to_device"]["next_batch"].clone();
    connection.body["extensions"]["to_device"]["since"] = since.clone();
    let second = connection.poll().await;
    // Acknowledged messages are deleted, also for other connections.
    let mut other = alice.opens_with_extension("to_device", &json!({ "enabled": true }));
    other.body["conn_id"] = json!("other");
    let other = other.poll_without_advancing().await;
    let next = second["extensions"]["to_device"]["next_batch"].clone();
    connection.body["extensions"]["to_device"]["since"] = next;
    let third = connection.poll().await;

    assert_eq!(message_numbers(&first), [0, 1]);
    assert_eq!(message_numbers(&again), [0, 1]);
    assert_eq!(message_numbers(&second), [2]);
    assert_eq!(message_numbers(&other), [2]);
    assert!(message_numbers(&third).is_empty());
    assert!(third["extensions"]["to_device"]["next_batch"].is_string());
    assert!(since.is_string());
}

#[tokio::test]
async fn a_to_device_message_ends_a_long_poll() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let mut connection = alice.opens_with_extension("to_device", &json!({ "enabled": true }));
    let first = connection.poll().await;
    let since = first["extensions"]["to_device"]["next_batch"].clone();
    connection.body["extensions"]["to_device"]["since"] = since;

    let (told, ()) = tokio::join!(
        connection.poll_until_news(),
        send_to_device(&bob, &alice, 7)
    );

    assert_eq!(message_numbers(&told), [7]);
}

#[tokio::test]
async fn e2ee_has_device_list_changes_and_key_counts() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    upload_keys(&alice, 2).await;
    let mut connection = alice.opens_with_extension("e2ee", &json!({ "enabled": true }));

    let first = connection.poll().await;
    bob.joins(&room).await;
    let joined = connection.poll().await;
    upload_keys(&bob, 0).await;
    let changed = connection.poll().await;
    let claim =
        json!({ "one_time_keys": { &alice.id: { &alice.device_id: "signed_curve25519" } } });
    let (claimed, _) = tokio::join!(connection.poll_until_news(), async {
        let path = "/_matrix/client/v3/keys/claim";
        bob.client.post(path, claim).await.expect_ok()
    });
    bob.leaves(&room).await;
    let left = connection.poll().await;

    let e2ee = |answer: &Value| answer["extensions"]["e2ee"].clone();
    let count =
        |answer: &Value| e2ee(answer)["device_one_time_keys_count"]["signed_curve25519"].as_u64();
    assert_eq!((count(&first), count(&claimed)), (Some(2), Some(1)));
    assert_eq!(e2ee(&first)["device_unused_fallback_key_types"], json!([]));
    assert!(e2ee(&first)["device_lists"].is_null());
    assert_eq!(e2ee(&joined)["device_lists"]["changed"], json!([bob.id]));
    assert_eq!(e2ee(&changed)["device_lists"]["changed"], json!([bob.id]));
    assert!(e2ee(&claimed)["device_lists"].is_null());
    assert_eq!(e2ee(&left)["device_lists"]["left"], json!([bob.id]));
}

#[tokio::test]
async fn account_data_covers_the_user_and_visible_rooms() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let hidden = alice.creates_open_room().await;
    let shown = alice.creates_open_room().await;
    for room in [&hidden, &shown] {
        let path = format!("rooms/{room}/account_data/org.example");
        set_account_data(&alice, &path, json!({ "n": 1 })).await;
    }
    set_account_data(&alice, "account_data/org.example", json!({ "n": 1 })).await;
    let mut connection = alice.opens_list(&list_config([0, 0], 1, &json!([])));
    connection.body["extensions"] = json!({ "account_data": { "enabled": true } });

    let first = connection.poll().await;
    let nothing = connection.poll().await;
    let path = format!("rooms/{shown}/account_data/org.other");
    set_account_data(&alice, &path, json!({ "n": 2 })).await;
    set_account_data(&alice, "account_data/org.other", json!({ "n": 2 })).await;
    let second = connection.poll().await;
    connection.body["lists"]["all"]["ranges"] = json!([[0, 1]]);
    let grown = connection.poll().await;

    let data = |answer: &Value| answer["extensions"]["account_data"].clone();
    assert_eq!(
        event_types(&data(&first)["global"]),
        ["org.example", "m.push_rules"]
    );
    assert_eq!(event_types(&data(&first)["rooms"][&shown]), ["org.example"]);
    assert!(data(&first)["rooms"][&hidden].is_null());
    assert!(data(&nothing).is_null());
    assert_eq!(event_types(&data(&second)["global"]), ["org.other"]);
    assert_eq!(event_types(&data(&second)["rooms"][&shown]), ["org.other"]);
    assert!(room_ids(&second).is_empty());
    assert_eq!(
        event_types(&data(&grown)["rooms"][&hidden]),
        ["org.example"]
    );
    assert!(data(&grown)["rooms"][&shown].is_null());
}

#[tokio::test]
async fn account_data_covers_rooms_of_pending_invitations() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    alice.invites(&room, &bob).await;
    let mut connection = bob.opens_all_rooms_list();
    connection.body["extensions"] = json!({ "account_data": { "enabled": true } });
    connection.poll().await;

    let path = format!("rooms/{room}/account_data/org.example");
    set_account_data(&bob, &path, json!({ "n": 1 })).await;
    let told = connection.poll().await;

    let data = &told["extensions"]["account_data"]["rooms"][&room];
    assert_eq!(event_types(data), ["org.example"]);
    assert!(room_ids(&told).is_empty());
}

#[tokio::test]
async fn an_extension_covers_its_lists_and_rooms() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let listed = alice.creates(json!({ "name": "Listed" })).await;
    let opened = alice.creates_open_room().await;
    for room in [&listed, &opened] {
        let path = format!("rooms/{room}/account_data/org.example");
        set_account_data(&alice, &path, json!({ "n": 1 })).await;
    }
    let mut body = json!({ "lists": { "all": list_config([1, 1], 1, &json!([])) } });
    let config = json!({ "timeline_limit": 1, "required_state": [] });
    body["room_subscriptions"] = json!({ &opened: config });
    let told = async |config: Value| -> Vec<String> {
        let mut body = body.clone();
        body["extensions"] = json!({ "account_data": config });
        let answer = alice.opens_connection(body).poll().await;
        let rooms = &answer["extensions"]["account_data"]["rooms"];
        let rooms = rooms.as_object().into_iter().flatten();
        rooms.map(|(room_id, _)| room_id.clone()).collect()
    };
    let mut both = vec![listed.clone(), opened.clone()];
    both.sort_unstable();

    assert_eq!(told(json!({ "enabled": true })).await, both);
    assert!(told(json!({ "enabled": false })).await.is_empty());
    let no_lists = json!({ "enabled": true, "lists": [] });
    assert_eq!(told(no_lists).await, [opened.as_str()]);
    let one_list = json!({ "enabled": true, "lists": ["all"], "rooms": [] });
    assert_eq!(told(one_list).await, [listed.as_str()]);
    let one_room = json!({ "enabled": true, "lists": [], "rooms": [listed] });
    assert_eq!(told(one_room).await, [listed.as_str()]);
    let subscribed = json!({ "enabled": true, "lists": ["other"], "rooms": ["*"] });
    assert_eq!(told(subscribed).await, [opened.as_str()]);
}

#[tokio::test]
async fn an_extension_enabled_later_starts_completely() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let path = format!("rooms/{room}/account_data/org.example");
    set_account_data(&alice, &path, json!({ "n": 1 })).await;
    let mut connection = alice.opens_all_rooms_list();
    connection.poll().await;

    connection.body["extensions"] = json!({ "account_data": { "enabled": true } });
    let told = connection.poll().await;

    let data = &told["extensions"]["account_data"];
    assert_eq!(event_types(&data["rooms"][&room]), ["org.example"]);
    assert_eq!(event_types(&data["global"]), ["m.push_rules"]);
    assert!(room_ids(&told).is_empty());
}

#[tokio::test]
async fn receipts_cover_shown_events_and_later_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    for user in [&bob, &carol] {
        user.joins(&room).await;
    }
    let old = alice.says(&room, "old").await;
    let new = carol.says(&room, "new").await;
    alice.sends_read_receipt(&room, &old).await;
    carol.sends_read_receipt(&room, &old).await;
    bob.sends_read_receipt(&room, &new).await;
    let mut connection = alice.opens_list(&list_config([0, 9], 1, &json!([])));
    connection.body["extensions"] = json!({ "receipts": { "enabled": true } });

    let first = connection.poll().await;
    let private = format!("receipt/m.read.private/{new}");
    bob.posts_in_room(&room, &private, json!({}))
        .await
        .expect_ok();
    let hidden = connection.poll().await;
    carol.sends_read_receipt(&room, &new).await;
    let second = connection.poll().await;

    let told = &first["extensions"]["receipts"]["rooms"][&room];
    assert_eq!(told["type"], "m.receipt");
    assert!(told["content"][&new]["m.read"][&bob.id]["ts"].is_u64());
    // The user's own receipt is sent at every event, even at one outside the timeline.
    assert!(told["content"][&old]["m.read"][&alice.id].is_object());
    assert!(told["content"][&old]["m.read"][&carol.id].is_null());
    assert!(hidden["extensions"]["receipts"].is_null());
    let told = &second["extensions"]["receipts"]["rooms"][&room]["content"];
    assert!(told[&new]["m.read"][&carol.id].is_object());
    assert!(told[&new]["m.read"][&bob.id].is_null());
    assert!(room_ids(&second).is_empty());
}

#[tokio::test]
async fn typing_users_are_sent() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection = alice.opens_all_rooms_list();
    connection.body["extensions"] = json!({ "typing": { "enabled": true } });
    let silent = connection.poll().await;

    let (typing, ()) = tokio::join!(connection.poll_until_news(), bob.starts_typing(&room));
    let mut anew = alice.opens_all_rooms_list();
    anew.body["conn_id"] = json!("anew");
    anew.body["extensions"] = json!({ "typing": { "enabled": true } });
    let anew = anew.poll().await;
    let ceased = crate::chat::room_path(&room, &format!("typing/{}", bob.id));
    let ceased = bob.client.put(&ceased, json!({ "typing": false }));
    ceased.await.expect_ok();
    let ceased = connection.poll().await;

    let users = |answer: &Value| {
        let room = &answer["extensions"]["typing"]["rooms"][&room];
        room["content"]["user_ids"].clone()
    };
    assert_eq!(silent["extensions"], json!({}));
    assert_eq!(users(&typing), json!([bob.id]));
    assert_eq!(users(&anew), json!([bob.id]));
    assert_eq!(users(&ceased), json!([]));
}

#[tokio::test]
async fn thread_subscriptions_are_sent_newest_first() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut threads = Vec::new();
    for n in 0..3 {
        let thread = alice.says(&room, &n.to_string()).await;
        subscribe_to_thread(&alice, &room, &thread).await;
        threads.push(thread);
    }
    let mut connection =
        alice.opens_with_extension(THREADS_EXTENSION, &json!({ "enabled": true, "limit": 2 }));

    let first = connection.poll().await;
    let (ended, _) = tokio::join!(connection.poll_until_news(), async {
        let path = subscription_path(&room, &threads[0]);
        alice.client.delete(&path).await.expect_ok()
    });
    let nothing = connection.poll().await;

    let told = &first["extensions"][THREADS_EXTENSION];
    let subscribed = told["subscribed"][&room].as_object().expect("an object");
    assert_eq!(subscribed.len(), 2);
    assert_eq!(subscribed[&threads[2]]["automatic"], false);
    assert!(subscribed[&threads[2]]["bump_stamp"].is_u64());
    let from = told["prev_batch"].as_str().expect("a token");
    let path = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";
    let page = alice.client.get(&format!("{path}?dir=b&from={from}")).await;
    let page = page.expect_ok();
    // The subscription ended in the meantime, and only its end is sent.
    assert!(page["subscribed"].is_null());
    let told = &ended["extensions"][THREADS_EXTENSION];
    assert!(told["unsubscribed"][&room][&threads[0]]["bump_stamp"].is_u64());
    assert!(told["prev_batch"].is_null());
    assert_eq!(nothing["extensions"], json!({}));
}

#[tokio::test]
async fn omitted_thread_subscriptions_are_found_between_two_positions() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let before = alice.says(&room, "before").await;
    subscribe_to_thread(&alice, &room, &before).await;
    let mut connection =
        alice.opens_with_extension(THREADS_EXTENSION, &json!({ "enabled": true, "limit": 1 }));
    connection.poll().await;
    let to = connection.pos.clone().expect("a position");
    let mut threads = Vec::new();
    for n in 0..3 {
        let thread = alice.says(&room, &n.to_string()).await;
        subscribe_to_thread(&alice, &room, &thread).await;
        threads.push(thread);
    }

    let told = connection.poll().await;
    let from = told["extensions"][THREADS_EXTENSION]["prev_batch"].as_str();
    let query = format!("dir=b&from={}&to={to}", from.expect("a token"));
    let path = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";
    let page = alice.client.get(&format!("{path}?{query}")).await;
    let page = page.expect_ok();

    let found = page["subscribed"][&room].as_object().expect("an object");
    let mut expected = [threads[0].as_str(), &threads[1]];
    expected.sort_unstable();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected);
    assert!(page["end"].is_null());
}

#[tokio::test]
async fn extensions_are_omitted_unless_requested() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    alice.creates_open_room().await;
    send_to_device(&bob, &alice, 1).await;

    let told = alice.opens_all_rooms_list().poll().await;

    assert_eq!(told["extensions"], json!({}));
}
