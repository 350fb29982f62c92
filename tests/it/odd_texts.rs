//! Texts that a database may refuse: with U+0000, which PostgreSQL cannot store, and too long for an index.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    chat::{encoded, in_room},
    harness::{Server, User},
};

/// Requests whose texts have U+0000 wherever something may be stored or looked up by them.
fn requests_with_nul(alice: &User, room: &str, event: &str) -> Vec<(Method, String, Value)> {
    let user = |path: &str| format!("/_matrix/client/v3/user/{}/{path}", alice.id);
    let v3 = |path: &str| format!("/_matrix/client/v3/{path}");
    let v1 = |path: &str| format!("/_matrix/client/v1/{path}");
    let room_path = |path: &str| in_room(room, path);
    let event = encoded(event);
    let delayed = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/a%00b";
    let subscription = format!(
        "/_matrix/client/unstable/io.element.msc4306/rooms/{}/thread/%24a%00/subscription",
        encoded(room)
    );
    let put = |path: String, body: Value| (Method::PUT, path, body);
    let post = |path: String, body: Value| (Method::POST, path, body);
    let get = |path: String| (Method::GET, path, Value::Null);
    let term = json!({ "filter": { "generic_search_term": "a\0b", "room_types": ["\0"] } });
    let member = json!({ "membership": "join", "displayname": "a\0b", "avatar_url": "\0" });
    let relates = json!({ "m.relates_to": { "rel_type": "a\0", "event_id": "$a\0", "key": "\0" } });
    vec![
        put(room_path("send/a%00b/1"), json!({})),
        put(room_path("send/m.x/a%00b"), json!({})),
        put(room_path("send/m.x/2"), relates),
        put(
            room_path("send/m.x/a%00b?org.matrix.msc4140.delay=9"),
            json!({}),
        ),
        put(
            room_path("send/a%00b/3?org.matrix.msc4140.delay=9"),
            json!({}),
        ),
        put(
            room_path("send/m.room.redaction/4"),
            json!({ "redacts": "$a\0" }),
        ),
        put(room_path(&format!("redact/{event}/a%00b")), json!({})),
        put(room_path("redact/%24a%00/5"), json!({})),
        put(room_path("state/a%00b/"), json!({})),
        put(room_path("state/m.x/a%00b"), json!({})),
        put(room_path("state/m.room.name"), json!({ "name": "a\0b" })),
        put(room_path("state/m.room.topic"), json!({ "topic": "a\0b" })),
        put(room_path("state/m.room.avatar"), json!({ "url": "a\0b" })),
        put(
            room_path("state/m.room.join_rules"),
            json!({ "join_rule": "a\0b" }),
        ),
        put(
            room_path(&format!("state/m.room.member/{}", alice.id)),
            member,
        ),
        put(user("account_data/a%00b"), json!({})),
        put(
            user(&format!("rooms/{}/tags/a%00b", encoded(room))),
            json!({}),
        ),
        put(v3("directory/room/%23a%00b:x"), json!({ "room_id": room })),
        put(
            v3("pushrules/global/override/a%00b"),
            json!({ "actions": [], "conditions": [] }),
        ),
        put(
            v3(&format!("profile/{}/displayname", alice.id)),
            json!({ "displayname": "a\0" }),
        ),
        put(
            v3(&format!("presence/{}/status", alice.id)),
            json!({ "presence": "online", "status_msg": "a\0" }),
        ),
        put(subscription, json!({})),
        post(v3("createRoom"), json!({ "name": "a\0b", "topic": "\0" })),
        post(v3("publicRooms"), term),
        post(
            v3("user_directory/search"),
            json!({ "search_term": "a\0b" }),
        ),
        post(
            v3("search"),
            json!({ "search_categories": { "room_events": { "search_term": "a\0b" } } }),
        ),
        post(room_path("receipt/m.read/%24a%00"), json!({})),
        post(
            room_path(&format!("receipt/m.read/{event}")),
            json!({ "thread_id": "$\0" }),
        ),
        post(room_path("read_markers"), json!({ "m.fully_read": "$a\0" })),
        post(room_path("report/%24a%00"), json!({ "reason": "a\0b" })),
        post(
            v3("keys/query"),
            json!({ "device_keys": { &*alice.id: ["a\0b"] } }),
        ),
        post(v3("delete_devices"), json!({ "devices": ["a\0b"] })),
        post(delayed.to_owned(), json!({ "action": "cancel" })),
        get(room_path("event/%24a%00")),
        get(room_path("context/%24a%00")),
        get(v1(&format!("rooms/{}/relations/%24a%00", encoded(room)))),
        get(v1(&format!(
            "rooms/{}/relations/{event}/a%00/a%00",
            encoded(room)
        ))),
        get(room_path(
            "messages?dir=b&filter=%7B%22types%22%3A%5B%22%5Cu0000%22%5D%7D",
        )),
        get(v3("profile/%40a%00%3Ax")),
        get(v3("room_keys/version/a%00")),
    ]
}

#[tokio::test]
async fn no_text_with_nul_makes_a_request_fail() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let event = alice.says(&room, "tea").await;

    for (method, path, body) in requests_with_nul(&alice, &room, &event) {
        let answer = alice.client.send(method, &path, &body.to_string()).await;
        assert!(answer.status < 500, "{path} {body}: {answer:?}");
    }

    alice.says(&room, "after").await;
    alice.syncs().await;
    let search = json!({ "search_term": "a" });
    let path = "/_matrix/client/v3/user_directory/search";
    alice.client.post(path, search).await.expect_ok();
}

#[tokio::test]
async fn types_state_keys_and_transaction_ids_with_nul_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    for (path, code) in [
        ("send/a%00b/1", "M_BAD_JSON"),
        ("state/a%00b/", "M_BAD_JSON"),
        ("state/m.x/a%00b", "M_BAD_JSON"),
        ("send/m.x/a%00b", "M_INVALID_PARAM"),
        ("send//2", "M_BAD_JSON"),
    ] {
        let answer = alice.client.put(&in_room(&room, path), json!({})).await;
        answer.expect_error(400, code);
    }
}

#[tokio::test]
async fn a_transaction_id_has_at_most_1024_bytes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    // Nothing that PostgreSQL can make smaller.
    let letters: String = (0..40)
        .map(|_| ruma::TransactionId::new().to_string())
        .collect();
    let send = async |txn_id: &str| {
        let path = in_room(&room, &format!("send/m.x/{txn_id}"));
        alice.client.put(&path, json!({})).await
    };

    send(&letters[..1_024]).await.expect_ok();
    send(&letters).await.expect_error(400, "M_INVALID_PARAM");
}
