//! Helpers for the actions of users in rooms and for reading their syncs.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};

use crate::harness::{HttpAnswer, Server, User};

/// Counts transactions, so that each transaction id is different.
static TRANSACTION_COUNTER: AtomicU64 = AtomicU64::new(0);

/// Returns a transaction id that has not been used before.
pub(crate) fn new_transaction() -> String {
    format!("txn{}", TRANSACTION_COUNTER.fetch_add(1, Ordering::SeqCst))
}

/// Returns the client API path of a resource in a room.
pub(crate) fn room_path(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{room}/{rest}")
}

/// Percent-encodes a text for a path or a query.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string succeeds");
        }
    }
    encoded
}

/// Returns the `filter` query parameter for a filter.
pub(crate) fn filter_query(filter: &Value) -> String {
    format!("filter={}", percent_encoded(&filter.to_string()))
}

/// Returns the text of a field (a JSON pointer) in each event that has it.
pub(crate) fn texts_at<'a>(events: &'a Value, field: &str) -> Vec<&'a str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts = events.iter().map(|event| event.pointer(field));
    texts.filter_map(|text| text?.as_str()).collect()
}

/// Returns the bodies of the messages among the events.
pub(crate) fn message_bodies(events: &Value) -> Vec<&str> {
    texts_at(events, "/content/body")
}

/// Returns the types of the events.
pub(crate) fn event_types(events: &Value) -> Vec<&str> {
    texts_at(events, "/type")
}

/// Returns the ids of the events.
pub(crate) fn event_ids(events: &Value) -> Vec<&str> {
    texts_at(events, "/event_id")
}

/// Returns the event of this type and state key.
pub(crate) fn find_event<'a>(events: &'a Value, kind: &str, state_key: &str) -> &'a Value {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let is_it = |event: &&Value| event["type"] == kind && event["state_key"] == state_key;
    events.iter().find(is_it).unwrap_or(&Value::Null)
}

/// Returns the events of a room's timeline in a sync.
pub(crate) fn timeline<'a>(sync: &'a Value, room: &str) -> &'a Value {
    &sync["rooms"]["join"][room]["timeline"]["events"]
}

/// Returns the events of a room's state in a sync.
pub(crate) fn state<'a>(sync: &'a Value, room: &str) -> &'a Value {
    &sync["rooms"]["join"][room]["state"]["events"]
}

/// Returns the content of an ephemeral event of a room in a sync.
pub(crate) fn ephemeral_content<'a>(sync: &'a Value, room: &str, kind: &str) -> &'a Value {
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array();
    let events = events.map(Vec::as_slice).unwrap_or_default();
    let found = events.iter().find(|event| event["type"] == kind);
    found.map_or(&Value::Null, |event| &event["content"])
}

/// Returns the unread notification count and the highlight count of a room in a sync.
pub(crate) fn unread_counts(sync: &Value, room: &str) -> (u64, u64) {
    let counts = &sync["rooms"]["join"][room]["unread_notifications"];
    let count = |name: &str| counts[name].as_u64().expect("a count");
    (count("notification_count"), count("highlight_count"))
}

/// Returns the `next_batch` token of a sync.
pub(crate) fn next_batch(sync: &Value) -> &str {
    sync["next_batch"].as_str().expect("a token")
}

impl User {
    /// Returns this user as a client of a restarted server.
    pub(crate) fn on_server(self, server: &Server) -> Self {
        Self {
            client: server.client().with_token(&self.token),
            ..self
        }
    }

    pub(crate) async fn creates(&self, request: Value) -> String {
        let created = self.tries_to_create(request).await.expect_ok();
        created["room_id"].as_str().expect("an id").to_owned()
    }

    pub(crate) async fn tries_to_create(&self, request: Value) -> HttpAnswer {
        self.client
            .post("/_matrix/client/v3/createRoom", request)
            .await
    }

    /// Creates a room that anyone may join.
    pub(crate) async fn creates_open_room(&self) -> String {
        self.creates(json!({ "preset": "public_chat" })).await
    }

    /// Creates a room that anyone may join, with this history visibility.
    pub(crate) async fn creates_room_with_history(&self, visibility: &str) -> String {
        let history = json!({
            "type": "m.room.history_visibility",
            "content": { "history_visibility": visibility },
        });
        self.creates(json!({ "preset": "public_chat", "initial_state": [history] }))
            .await
    }

    /// Posts a body to a resource of a room and returns the answer.
    pub(crate) async fn posts_in_room(&self, room: &str, what: &str, body: Value) -> HttpAnswer {
        self.client.post(&room_path(room, what), body).await
    }

    pub(crate) async fn joins(&self, room: &str) {
        self.posts_in_room(room, "join", json!({}))
            .await
            .expect_ok();
    }

    pub(crate) async fn leaves(&self, room: &str) {
        self.posts_in_room(room, "leave", json!({}))
            .await
            .expect_ok();
    }

    pub(crate) async fn forgets(&self, room: &str) {
        self.posts_in_room(room, "forget", json!({}))
            .await
            .expect_ok();
    }

    pub(crate) async fn invites(&self, room: &str, guest: &User) {
        let body = json!({ "user_id": guest.id });
        self.posts_in_room(room, "invite", body).await.expect_ok();
    }

    pub(crate) async fn kicks(&self, room: &str, target: &User) {
        let body = json!({ "user_id": target.id });
        self.posts_in_room(room, "kick", body).await.expect_ok();
    }

    pub(crate) async fn bans(&self, room: &str, target: &User) {
        let body = json!({ "user_id": target.id });
        self.posts_in_room(room, "ban", body).await.expect_ok();
    }

    /// Sends a message and returns its event id.
    pub(crate) async fn says(&self, room: &str, text: &str) -> String {
        let content = json!({ "msgtype": "m.text", "body": text });
        let sent = self.tries_to_send(room, "m.room.message", content).await;
        event_id(&sent.expect_ok())
    }

    pub(crate) async fn tries_to_send(&self, room: &str, kind: &str, content: Value) -> HttpAnswer {
        let path = room_path(room, &format!("send/{kind}/{}", new_transaction()));
        self.client.put(&path, content).await
    }

    /// Sets state and returns the event id; `kind` is the type, with a slash and the state key if there is one.
    pub(crate) async fn sets_state(&self, room: &str, kind: &str, content: Value) -> String {
        event_id(
            &self
                .tries_to_set_state(room, kind, content)
                .await
                .expect_ok(),
        )
    }

    pub(crate) async fn tries_to_set_state(
        &self,
        room: &str,
        kind: &str,
        content: Value,
    ) -> HttpAnswer {
        let path = room_path(room, &format!("state/{kind}"));
        self.client.put(&path, content).await
    }

    /// Redacts an event and returns the id of the redaction.
    pub(crate) async fn redacts(&self, room: &str, target: &str) -> String {
        event_id(&self.tries_to_redact(room, target).await.expect_ok())
    }

    pub(crate) async fn tries_to_redact(&self, room: &str, target: &str) -> HttpAnswer {
        let target = percent_encoded(target); // event ids of room version 3 contain slashes
        let path = room_path(room, &format!("redact/{target}/{}", new_transaction()));
        self.client.put(&path, json!({ "reason": "spam" })).await
    }

    /// Sends a read receipt.
    pub(crate) async fn sends_read_receipt(&self, room: &str, event_id: &str) {
        let path = format!("receipt/m.read/{event_id}");
        self.posts_in_room(room, &path, json!({})).await.expect_ok();
    }

    pub(crate) async fn starts_typing(&self, room: &str) {
        let path = room_path(room, &format!("typing/{}", self.id));
        let body = json!({ "typing": true, "timeout": 30_000 });
        self.client.put(&path, body).await.expect_ok();
    }

    /// Gets a resource of a room.
    pub(crate) async fn gets_in_room(&self, room: &str, what: &str) -> HttpAnswer {
        self.client.get(&room_path(room, what)).await
    }

    /// Returns the content of a state event.
    pub(crate) async fn state(&self, room: &str, kind: &str) -> Value {
        self.gets_in_room(room, &format!("state/{kind}"))
            .await
            .expect_ok()
    }

    /// Returns the content of a user's member event.
    pub(crate) async fn member(&self, room: &str, user: &User) -> Value {
        self.state(room, &format!("m.room.member/{}", user.id))
            .await
    }

    pub(crate) async fn event(&self, room: &str, event_id: &str) -> HttpAnswer {
        self.gets_in_room(room, &format!("event/{}", percent_encoded(event_id)))
            .await
    }

    /// Returns a page of a room's messages.
    pub(crate) async fn messages(&self, room: &str, query: &str) -> Value {
        self.gets_in_room(room, &format!("messages?{query}"))
            .await
            .expect_ok()
    }

    /// Makes an initial sync.
    pub(crate) async fn syncs(&self) -> Value {
        self.syncs_with("").await
    }

    /// Syncs from the end of another sync, without waiting for new events.
    pub(crate) async fn syncs_after(&self, sync: &Value) -> Value {
        self.syncs_with(&format!("since={}", next_batch(sync)))
            .await
    }

    /// Syncs from the end of another sync, and waits for new events.
    pub(crate) async fn long_polls_after(&self, sync: &Value) -> Value {
        self.syncs_with(&format!("since={}&timeout=30000", next_batch(sync)))
            .await
    }

    /// Syncs until the user is no longer in a room.
    pub(crate) async fn syncs_until_removed(&self, room: &str, since: &Value) {
        let mut sync = self.syncs_after(since).await;
        while sync["rooms"]["leave"][room].is_null() {
            sync = self.long_polls_after(&sync).await;
        }
    }

    pub(crate) async fn syncs_with(&self, query: &str) -> Value {
        self.tries_to_sync(query).await.expect_ok()
    }

    pub(crate) async fn tries_to_sync(&self, query: &str) -> HttpAnswer {
        let path = format!("/_matrix/client/v3/sync?{query}");
        self.client.get(&path).await
    }
}

fn event_id(sent: &Value) -> String {
    sent["event_id"].as_str().expect("an id").to_owned()
}
