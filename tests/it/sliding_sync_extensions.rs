//! Tests the extensions of sliding sync: to-device messages, keys, account data, receipts, typing and threads.

use serde_json::{Value, json};

use crate::{
    chat::{new_transaction, types},
    harness::{Server, User},
    sliding::{list, rooms},
};

const THREADS: &str = "io.element.msc4308.thread_subscriptions";

async fn sends_to(sender: &User, to: &User, n: u64) {
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
async fn uploads_keys(user: &User, one_time: u64) {
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

fn numbers(answer: &Value) -> Vec<u64> {
    let events = answer["extensions"]["to_device"]["events"].as_array();
    let events = events.map(Vec::as_slice).unwrap_or_default().iter();
    events
        .filter_map(|event| event["content"]["n"].as_u64())
        .collect()
}

async fn subscribes(user: &User, room: &str, thread: &str) {
    let path = subscription(room, thread);
    user.client.put(&path, json!({})).await.expect_ok();
}

fn subscription(room: &str, thread: &str) -> String {
    let prefix = "/_matrix/client/unstable/io.element.msc4306";
    format!("{prefix}/rooms/{room}/thread/{thread}/subscription")
}

#[tokio::test]
async fn messages_to_a_device_are_told_until_they_are_acknowledged() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    for n in 0..3 {
        sends_to(&bob, &alice, n).await;
    }
    let mut connection = alice.extends("to_device", &json!({ "enabled": true, "limit": 2 }));

    let first = connection.next().await;
    let again = connection.next().await;
    let since = first["extensions"]["to_device"]["next_batch"].clone();
    connection.body["extensions"]["to_device"]["since"] = since.clone();
    let second = connection.next().await;
    // Acknowledged messages are deleted, also for other connections.
    let mut other = alice.extends("to_device", &json!({ "enabled": true }));
    other.body["conn_id"] = json!("other");
    let other = other.peeks().await;
    let next = second["extensions"]["to_device"]["next_batch"].clone();
    connection.body["extensions"]["to_device"]["since"] = next;
    let third = connection.next().await;

    assert_eq!(numbers(&first), [0, 1]);
    assert_eq!(numbers(&again), [0, 1]);
    assert_eq!(numbers(&second), [2]);
    assert_eq!(numbers(&other), [2]);
    assert!(numbers(&third).is_empty());
    assert!(third["extensions"]["to_device"]["next_batch"].is_string());
    assert!(since.is_string());
}

#[tokio::test]
async fn a_message_to_a_device_ends_a_poll() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let mut connection = alice.extends("to_device", &json!({ "enabled": true }));
    let first = connection.next().await;
    let since = first["extensions"]["to_device"]["next_batch"].clone();
    connection.body["extensions"]["to_device"]["since"] = since;

    let (told, ()) = tokio::join!(connection.waits(), sends_to(&bob, &alice, 7));

    assert_eq!(numbers(&told), [7]);
}

#[tokio::test]
async fn the_keys_of_others_and_what_is_left_of_ones_own_are_told() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    uploads_keys(&alice, 2).await;
    let mut connection = alice.extends("e2ee", &json!({ "enabled": true }));

    let first = connection.next().await;
    bob.joins(&room).await;
    let joined = connection.next().await;
    uploads_keys(&bob, 0).await;
    let changed = connection.next().await;
    let claim =
        json!({ "one_time_keys": { &alice.id: { &alice.device_id: "signed_curve25519" } } });
    let (claimed, _) = tokio::join!(connection.waits(), async {
        let path = "/_matrix/client/v3/keys/claim";
        bob.client.post(path, claim).await.expect_ok()
    });
    bob.leaves(&room).await;
    let left = connection.next().await;

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
async fn account_data_is_told_globally_and_of_the_rooms_in_sight() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let hidden = alice.creates_open_room().await;
    let shown = alice.creates_open_room().await;
    for room in [&hidden, &shown] {
        let path = format!("rooms/{room}/account_data/org.example");
        set_account_data(&alice, &path, json!({ "n": 1 })).await;
    }
    set_account_data(&alice, "account_data/org.example", json!({ "n": 1 })).await;
    let mut connection = alice.lists(&list([0, 0], 1, &json!([])));
    connection.body["extensions"] = json!({ "account_data": { "enabled": true } });

    let first = connection.next().await;
    let nothing = connection.next().await;
    let path = format!("rooms/{shown}/account_data/org.other");
    set_account_data(&alice, &path, json!({ "n": 2 })).await;
    set_account_data(&alice, "account_data/org.other", json!({ "n": 2 })).await;
    let second = connection.next().await;
    connection.body["lists"]["all"]["ranges"] = json!([[0, 1]]);
    let grown = connection.next().await;

    let data = |answer: &Value| answer["extensions"]["account_data"].clone();
    assert_eq!(
        types(&data(&first)["global"]),
        ["org.example", "m.push_rules"]
    );
    assert_eq!(types(&data(&first)["rooms"][&shown]), ["org.example"]);
    assert!(data(&first)["rooms"][&hidden].is_null());
    assert!(data(&nothing).is_null());
    assert_eq!(types(&data(&second)["global"]), ["org.other"]);
    assert_eq!(types(&data(&second)["rooms"][&shown]), ["org.other"]);
    assert!(rooms(&second).is_empty());
    assert_eq!(types(&data(&grown)["rooms"][&hidden]), ["org.example"]);
    assert!(data(&grown)["rooms"][&shown].is_null());
}

#[tokio::test]
async fn account_data_of_a_room_that_one_is_not_in_is_told_as_well() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    alice.invites(&room, &bob).await;
    let mut connection = bob.lists_all();
    connection.body["extensions"] = json!({ "account_data": { "enabled": true } });
    connection.next().await;

    let path = format!("rooms/{room}/account_data/org.example");
    set_account_data(&bob, &path, json!({ "n": 1 })).await;
    let told = connection.next().await;

    let data = &told["extensions"]["account_data"]["rooms"][&room];
    assert_eq!(types(data), ["org.example"]);
    assert!(rooms(&told).is_empty());
}

#[tokio::test]
async fn an_extension_tells_of_the_lists_and_rooms_that_it_names() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let listed = alice.creates(json!({ "name": "Listed" })).await;
    let opened = alice.creates_open_room().await;
    for room in [&listed, &opened] {
        let path = format!("rooms/{room}/account_data/org.example");
        set_account_data(&alice, &path, json!({ "n": 1 })).await;
    }
    let mut body = json!({ "lists": { "all": list([1, 1], 1, &json!([])) } });
    let config = json!({ "timeline_limit": 1, "required_state": [] });
    body["room_subscriptions"] = json!({ &opened: config });
    let told = async |config: Value| -> Vec<String> {
        let mut body = body.clone();
        body["extensions"] = json!({ "account_data": config });
        let answer = alice.asks_for(body).next().await;
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
async fn an_extension_that_is_switched_on_later_tells_all() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let path = format!("rooms/{room}/account_data/org.example");
    set_account_data(&alice, &path, json!({ "n": 1 })).await;
    let mut connection = alice.lists_all();
    connection.next().await;

    connection.body["extensions"] = json!({ "account_data": { "enabled": true } });
    let told = connection.next().await;

    let data = &told["extensions"]["account_data"];
    assert_eq!(types(&data["rooms"][&room]), ["org.example"]);
    assert_eq!(types(&data["global"]), ["m.push_rules"]);
    assert!(rooms(&told).is_empty());
}

#[tokio::test]
async fn receipts_are_told_at_the_events_that_are_shown_and_then_as_they_come() {
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
    alice.has_read(&room, &old).await;
    carol.has_read(&room, &old).await;
    bob.has_read(&room, &new).await;
    let mut connection = alice.lists(&list([0, 9], 1, &json!([])));
    connection.body["extensions"] = json!({ "receipts": { "enabled": true } });

    let first = connection.next().await;
    let private = format!("receipt/m.read.private/{new}");
    bob.tries(&room, &private, json!({})).await.expect_ok();
    let hidden = connection.next().await;
    carol.has_read(&room, &new).await;
    let second = connection.next().await;

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
    assert!(rooms(&second).is_empty());
}

#[tokio::test]
async fn who_types_is_told() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let mut connection = alice.lists_all();
    connection.body["extensions"] = json!({ "typing": { "enabled": true } });
    let silent = connection.next().await;

    let (typing, ()) = tokio::join!(connection.waits(), bob.types(&room));
    let mut anew = alice.lists_all();
    anew.body["conn_id"] = json!("anew");
    anew.body["extensions"] = json!({ "typing": { "enabled": true } });
    let anew = anew.next().await;
    let ceased = crate::chat::in_room(&room, &format!("typing/{}", bob.id));
    let ceased = bob.client.put(&ceased, json!({ "typing": false }));
    ceased.await.expect_ok();
    let ceased = connection.next().await;

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
async fn subscriptions_to_threads_are_told_the_latest_first() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut threads = Vec::new();
    for n in 0..3 {
        let thread = alice.says(&room, &n.to_string()).await;
        subscribes(&alice, &room, &thread).await;
        threads.push(thread);
    }
    let mut connection = alice.extends(THREADS, &json!({ "enabled": true, "limit": 2 }));

    let first = connection.next().await;
    let (ended, _) = tokio::join!(connection.waits(), async {
        let path = subscription(&room, &threads[0]);
        alice.client.delete(&path).await.expect_ok()
    });
    let nothing = connection.next().await;

    let told = &first["extensions"][THREADS];
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
    let told = &ended["extensions"][THREADS];
    assert!(told["unsubscribed"][&room][&threads[0]]["bump_stamp"].is_u64());
    assert!(told["prev_batch"].is_null());
    assert_eq!(nothing["extensions"], json!({}));
}

#[tokio::test]
async fn what_was_not_told_of_threads_is_found_between_two_positions() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let before = alice.says(&room, "before").await;
    subscribes(&alice, &room, &before).await;
    let mut connection = alice.extends(THREADS, &json!({ "enabled": true, "limit": 1 }));
    connection.next().await;
    let to = connection.pos.clone().expect("a position");
    let mut threads = Vec::new();
    for n in 0..3 {
        let thread = alice.says(&room, &n.to_string()).await;
        subscribes(&alice, &room, &thread).await;
        threads.push(thread);
    }

    let told = connection.next().await;
    let from = told["extensions"][THREADS]["prev_batch"].as_str();
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
async fn what_nobody_asked_for_is_not_told() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    alice.creates_open_room().await;
    sends_to(&bob, &alice, 1).await;

    let told = alice.lists_all().next().await;

    assert_eq!(told["extensions"], json!({}));
}
