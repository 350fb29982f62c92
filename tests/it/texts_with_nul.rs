//! Tests texts that a database may refuse: texts with U+0000, which PostgreSQL cannot store, and texts that
//! are too long for an index.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    chat::{percent_encoded, room_path},
    harness::{Server, User},
};

/// A request: method, path and body.
type NulTextRequest = (Method, String, Value);

/// Paths of `PUT` requests in a room, and their bodies.
const ROOM_PATHS_WITH_NUL: [(&str, &str); 8] = [
    ("send/a%00b/1", "{}"),
    ("send/m.x/a%00b", "{}"),
    ("send/m.x/a%00b?org.matrix.msc4140.delay=9", "{}"),
    ("send/a%00b/3?org.matrix.msc4140.delay=9", "{}"),
    ("redact/%24a%00/5", "{}"),
    ("state/a%00b/", "{}"),
    ("state/m.x/a%00b", "{}"),
    ("state/m.room.join_rules", r#"{ "join_rule": "a\u0000b" }"#),
];

fn put_requests(alice: &User, room: &str, event: &str) -> Vec<NulTextRequest> {
    let id = &alice.id;
    let relates = json!({ "rel_type": "a\0", "event_id": "$a\0", "key": "\0" });
    let member = json!({ "membership": "join", "displayname": "a\0b", "avatar_url": "\0" });
    let status = json!({ "presence": "online", "status_msg": "a\0" });
    let rule = json!({ "actions": [], "conditions": [] });
    let fixed = ROOM_PATHS_WITH_NUL.map(|(path, body)| {
        let body = serde_json::from_str(body).expect("JSON");
        (room_path(room, path), body)
    });
    let in_room = |path: String, body: Value| (room_path(room, &path), body);
    let v3 = |path: String, body: Value| (format!("/_matrix/client/v3/{path}"), body);
    let thread = format!(
        "/_matrix/client/unstable/io.element.msc4306/rooms/{}/thread/%24a%00/subscription",
        percent_encoded(room)
    );
    let others = [
        in_room("send/m.x/2".to_owned(), json!({ "m.relates_to": relates })),
        in_room(
            "send/m.room.redaction/4".to_owned(),
            json!({ "redacts": "$a\0" }),
        ),
        in_room(format!("redact/{event}/a%00b"), json!({})),
        in_room("state/m.room.name".to_owned(), json!({ "name": "a\0b" })),
        in_room("state/m.room.topic".to_owned(), json!({ "topic": "a\0b" })),
        in_room("state/m.room.avatar".to_owned(), json!({ "url": "a\0b" })),
        in_room(format!("state/m.room.member/{id}"), member),
        v3(format!("user/{id}/account_data/a%00b"), json!({})),
        v3(
            format!("user/{id}/rooms/{}/tags/a%00b", percent_encoded(room)),
            json!({}),
        ),
        v3(
            "directory/room/%23a%00b:x".to_owned(),
            json!({ "room_id": room }),
        ),
        v3("pushrules/global/override/a%00b".to_owned(), rule),
        v3(
            format!("profile/{id}/displayname"),
            json!({ "displayname": "a\0" }),
        ),
        v3(format!("presence/{id}/status"), status),
        (thread, json!({})),
    ];
    let all = fixed.into_iter().chain(others);
    all.map(|(path, body)| (Method::PUT, path, body)).collect()
}

fn post_requests(alice: &User, room: &str, event: &str) -> Vec<NulTextRequest> {
    let in_room = |path: &str, body: Value| (room_path(room, path), body);
    let v3 = |path: &str, body: Value| (format!("/_matrix/client/v3/{path}"), body);
    let listed = json!({ "filter": { "generic_search_term": "a\0b", "room_types": ["\0"] } });
    let search = json!({ "search_categories": { "room_events": { "search_term": "a\0b" } } });
    let delayed = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/a%00b";
    let receipt = format!("receipt/m.read/{event}");
    let all = [
        v3("createRoom", json!({ "name": "a\0b", "topic": "\0" })),
        v3("publicRooms", listed),
        v3("user_directory/search", json!({ "search_term": "a\0b" })),
        v3("search", search),
        v3(
            "keys/query",
            json!({ "device_keys": { &*alice.id: ["a\0b"] } }),
        ),
        v3("delete_devices", json!({ "devices": ["a\0b"] })),
        in_room("receipt/m.read/%24a%00", json!({})),
        in_room(&receipt, json!({ "thread_id": "$\0" })),
        in_room("read_markers", json!({ "m.fully_read": "$a\0" })),
        in_room("report/%24a%00", json!({ "reason": "a\0b" })),
        (delayed.to_owned(), json!({ "action": "cancel" })),
    ];
    let all = all.into_iter();
    all.map(|(path, body)| (Method::POST, path, body)).collect()
}

fn get_requests(room: &str, event: &str) -> Vec<NulTextRequest> {
    let relations = |path: &str| {
        let room = percent_encoded(room);
        format!("/_matrix/client/v1/rooms/{room}/relations/{path}")
    };
    let filter = "messages?dir=b&filter=%7B%22types%22%3A%5B%22%5Cu0000%22%5D%7D";
    let all = [
        room_path(room, "event/%24a%00"),
        room_path(room, "context/%24a%00"),
        room_path(room, filter),
        relations("%24a%00"),
        relations(&format!("{event}/a%00/a%00")),
        "/_matrix/client/v3/profile/%40a%00%3Ax".to_owned(),
        "/_matrix/client/v3/room_keys/version/a%00".to_owned(),
    ];
    let all = all.into_iter();
    all.map(|path| (Method::GET, path, Value::Null)).collect()
}

#[tokio::test]
async fn texts_with_nul_cause_no_internal_error() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let event = alice.says(&room, "tea").await;

    let event = percent_encoded(&event);
    let requests = [
        put_requests(&alice, &room, &event),
        post_requests(&alice, &room, &event),
        get_requests(&room, &event),
    ];
    for (method, path, body) in requests.concat() {
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
async fn event_types_keys_and_transaction_ids_with_nul_are_refused() {
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
        let answer = alice.client.put(&room_path(&room, path), json!({})).await;
        answer.expect_error(400, code);
    }
}

#[tokio::test]
async fn a_transaction_id_has_at_most_1024_bytes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    // Random letters, because PostgreSQL would compress repeated ones.
    let letters: String = (0..40)
        .map(|_| ruma::TransactionId::new().to_string())
        .collect();
    let send = async |txn_id: &str| {
        let path = room_path(&room, &format!("send/m.x/{txn_id}"));
        alice.client.put(&path, json!({})).await
    };

    send(&letters[..1_024]).await.expect_ok();
    send(&letters).await.expect_error(400, "M_INVALID_PARAM");
}
