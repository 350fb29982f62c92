//! Tests redacting the events that relate to a redacted event (MSC3912).

use serde_json::{Value, json};

use crate::{
    chat::{event_ids, new_transaction, percent_encoded, room_path},
    harness::{HttpAnswer, Server, User},
    relations::{edit, related_content},
    stored_rows::StoredRows,
};

impl User {
    async fn tries_to_redact_with(&self, room: &str, target: &str, body: Value) -> HttpAnswer {
        let target = percent_encoded(target);
        let path = room_path(room, &format!("redact/{target}/{}", new_transaction()));
        self.client.put(&path, body).await
    }

    async fn redacts_with(&self, room: &str, target: &str, rel_types: &[&str]) {
        let body = json!({ "with_rel_types": rel_types, "reason": "tidying up" });
        let redacted = self.tries_to_redact_with(room, target, body).await;
        redacted.expect_ok();
    }

    pub(crate) async fn is_redacted(&self, room: &str, event_id: &str) -> bool {
        let event = self.event(room, event_id).await.expect_ok();
        event["content"] == json!({})
    }

    /// Syncs until an event is redacted.
    pub(crate) async fn syncs_until_redacted(&self, room: &str, event_id: &str) {
        let mut sync = self.syncs().await;
        while !self.is_redacted(room, event_id).await {
            sync = self.long_polls_after(&sync).await;
        }
    }

    async fn replies_in_thread(&self, room: &str, thread_root: &str, text: &str) -> String {
        self.sends_related(room, related_content("m.thread", thread_root, text))
            .await
    }
}

#[tokio::test]
async fn related_events_of_the_named_types_are_redacted() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let message = alice.says(&room, "tea").await;
    let reference = alice
        .sends_related(&room, related_content("m.reference", &message, "see above"))
        .await;
    let wrong_edit = bob.sends_related(&room, edit(&message, "poison")).await;
    let reaction = bob.reacts(&room, &message, "+").await.expect_ok();
    let reaction = reaction["event_id"].as_str().expect("an id");
    let first = alice.sends_related(&room, edit(&message, "coffee")).await;
    let second = alice.sends_related(&room, edit(&message, "milk")).await;

    alice
        .redacts_with(&room, &message, &["m.annotation", "m.replace"])
        .await;

    bob.syncs_until_redacted(&room, &second).await;
    for event_id in [&*message, reaction, &first] {
        assert!(bob.is_redacted(&room, event_id).await);
    }
    // A replacement by someone else is not valid.
    assert!(!bob.is_redacted(&room, &wrong_edit).await);
    assert!(!bob.is_redacted(&room, &reference).await);
    let last = bob.event(&room, &second).await.expect_ok();
    let because = &last["unsigned"]["redacted_because"];
    assert_eq!(because["sender"], alice.id);
    assert_eq!(because["content"]["reason"], "tidying up");
}

#[tokio::test]
async fn a_moderator_redacts_a_whole_thread_at_once() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let thread_root = bob.says(&room, "root").await;
    let mut replies = Vec::new();
    // More than are redacted in one turn.
    for number in 0..60 {
        let text = number.to_string();
        replies.push(bob.replies_in_thread(&room, &thread_root, &text).await);
    }
    let before = alice.syncs().await;

    let body = json!({ "org.matrix.msc3912.with_relations": ["*"] });
    let redacted = alice.tries_to_redact_with(&room, &thread_root, body).await;
    let redacted = redacted.expect_ok();

    bob.syncs_until_redacted(&room, &replies[59]).await;
    for reply in &replies {
        assert!(bob.is_redacted(&room, reply).await);
    }
    // The redaction of the root comes first, and the others in the order of their events.
    let query = format!(
        "dir=f&limit=100&from={}",
        before["next_batch"].as_str().expect("a token")
    );
    let page = alice.messages(&room, &query).await;
    assert_eq!(event_ids(&page["chunk"])[0], redacted["event_id"]);
    let targets: Vec<&Value> = page["chunk"]
        .as_array()
        .expect("a list")
        .iter()
        .skip(1)
        .map(|redaction| &redaction["content"]["redacts"])
        .collect();
    let expected: Vec<Value> = replies.iter().map(|id| json!(id)).collect();
    assert_eq!(targets, expected.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn related_events_that_the_user_may_not_redact_are_kept() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let thread_root = bob.says(&room, "root").await;
    let others = alice.replies_in_thread(&room, &thread_root, "mine").await;
    let own = bob.replies_in_thread(&room, &thread_root, "own").await;

    bob.redacts_with(&room, &thread_root, &["m.thread"]).await;

    alice.syncs_until_redacted(&room, &own).await;
    assert!(!alice.is_redacted(&room, &others).await);
    let refused = json!({ "with_rel_types": ["*"] });
    let refused = bob.tries_to_redact_with(&room, &others, refused).await;
    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn related_events_are_redacted_after_a_restart() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let thread_root = alice.says(&room, "root").await;
    let reply = alice.replies_in_thread(&room, &thread_root, "reply").await;
    let store_request = async |server: &Server| {
        let mut rows = StoredRows::open(server).await;
        let request = format!(
            "INSERT INTO related_redactions (room, target, sender, rel_types, requested_ts)
             SELECT r.num, '{thread_root}', s.num, '[\"m.thread\"]', 9000000000000 FROM rooms r
             JOIN strings s ON s.text = '{}' WHERE r.room_id = '{room}'",
            alice.id
        );
        rows.execute_sql(&request).await;
        rows.close().await;
    };

    let server = server.restart_after(store_request).await;

    let alice = alice.on_server(&server);
    alice.syncs_until_redacted(&room, &reply).await;
}

#[tokio::test]
async fn invalid_relationship_types_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let message = alice.says(&room, "tea").await;
    let refused = async |rel_types: Value| {
        let body = json!({ "with_rel_types": rel_types });
        alice.tries_to_redact_with(&room, &message, body).await
    };

    refused(json!("*")).await.expect_error(400, "M_BAD_JSON");
    refused(json!([7])).await.expect_error(400, "M_BAD_JSON");
    let long = refused(json!(["x".repeat(256)])).await;
    long.expect_error(400, "M_INVALID_PARAM");
    let many = refused(json!(vec!["x"; 51])).await;
    many.expect_error(400, "M_INVALID_PARAM");
    assert!(!alice.is_redacted(&room, &message).await);
    refused(json!([])).await.expect_ok();
    assert!(alice.is_redacted(&room, &message).await);
}
