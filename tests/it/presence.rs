//! Tests presence.

use std::time::Duration;

use parlour::clock::Clock;
use serde_json::{Value, json};

use crate::{
    chat::next_batch,
    harness::{HttpAnswer, Server, User},
};

fn presence_path(user: &User) -> String {
    format!("/_matrix/client/v3/presence/{}/status", user.id)
}

/// Returns the presence of a user in a sync.
fn synced_presence<'a>(sync: &'a Value, user: &User) -> &'a Value {
    let events = sync["presence"]["events"].as_array();
    let events = events.map(Vec::as_slice).unwrap_or_default();
    let found = events.iter().find(|event| event["sender"] == user.id);
    found.map_or(&Value::Null, |event| &event["content"])
}

impl User {
    async fn sets_presence(&self, presence: &str) {
        let body = json!({ "presence": presence });
        self.client
            .put(&presence_path(self), body)
            .await
            .expect_ok();
    }

    async fn presence_of(&self, other: &User) -> HttpAnswer {
        self.client.get(&presence_path(other)).await
    }
}

#[tokio::test]
async fn presence_is_visible_to_users_who_share_a_room() {
    let clock = Clock::manual(1_000_000_000);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let initial = alice.presence_of(&alice).await;

    let body = json!({ "presence": "online", "status_msg": "tea" });
    let set = alice.client.put(&presence_path(&alice), body).await;
    clock.advance(Duration::from_secs(7));

    assert!(initial.expect_ok()["presence"].is_string());
    assert_eq!(set.expect_ok(), json!({}));
    let seen = bob.presence_of(&alice).await.expect_ok();
    let expected = json!({
        "presence": "online", "status_msg": "tea",
        "currently_active": true, "last_active_ago": 7000,
    });
    assert_eq!(seen, expected);
    let stranger = carol.presence_of(&alice).await;
    stranger.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_sync_sets_presence() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let first = bob.syncs().await;

    alice.syncs_with("set_presence=unavailable").await;
    let second = bob.syncs_after(&first).await;
    alice.syncs_with("set_presence=online").await;
    alice.says(&room, "awake").await;
    let third = bob.syncs_after(&second).await;

    assert_eq!(synced_presence(&second, &alice)["presence"], "unavailable");
    assert_eq!(synced_presence(&third, &alice)["presence"], "online");
}

#[tokio::test]
async fn a_sync_with_offline_does_not_change_presence() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    alice.syncs_with("set_presence=offline").await;
    let before = alice.presence_of(&alice).await.expect_ok();
    alice.sets_presence("online").await;
    alice.syncs_with("set_presence=offline").await;
    let after = alice.presence_of(&alice).await.expect_ok();

    assert_eq!(before["presence"], "offline");
    assert_eq!(after["presence"], "online");
}

#[tokio::test]
async fn a_presence_change_is_synced_once_and_wakes_waiting_syncs() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let first = bob.syncs().await;

    let body = json!({ "presence": "online", "status_msg": "tea" });
    let path = presence_path(&alice);
    let (second, set) = tokio::join!(bob.long_polls_after(&first), alice.client.put(&path, body));
    let third = bob.syncs_after(&second).await;

    set.expect_ok();
    assert_eq!(synced_presence(&second, &alice)["presence"], "online");
    assert_eq!(synced_presence(&second, &alice)["status_msg"], "tea");
    assert_eq!(third["presence"], Value::Null);
}

#[tokio::test]
async fn strangers_receive_no_presence() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    bob.creates_open_room().await;
    let first = bob.syncs().await;

    alice.sets_presence("online").await;

    assert_eq!(
        *synced_presence(&bob.syncs_after(&first).await, &alice),
        Value::Null
    );
    assert_eq!(*synced_presence(&bob.syncs().await, &alice), Value::Null);
}

#[tokio::test]
async fn a_join_sends_presence_to_both_users() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    alice.sets_presence("online").await;
    bob.sets_presence("unavailable").await;
    let (of_alice, of_bob) = (alice.syncs().await, bob.syncs().await);
    let of_alice = alice.syncs_after(&of_alice).await;

    bob.joins(&room).await;

    let told_to_bob = bob.syncs_after(&of_bob).await;
    assert_eq!(synced_presence(&told_to_bob, &alice)["presence"], "online");
    let told_to_alice = alice.syncs_after(&of_alice).await;
    assert!(synced_presence(&told_to_alice, &bob)["presence"].is_string());
    let later = alice.syncs_after(&told_to_alice).await;
    assert_eq!(later["presence"], Value::Null);
}

#[tokio::test]
async fn presence_is_synced_from_every_shared_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let with_bob = alice.creates(json!({ "invite": [bob.id] })).await;
    let with_carol = alice.creates(json!({ "invite": [carol.id] })).await;
    bob.joins(&with_bob).await;
    carol.joins(&with_carol).await;
    let first = alice.syncs().await;

    bob.sets_presence("online").await;
    carol.sets_presence("online").await;

    let second = alice.syncs_after(&first).await;
    for user in [&bob, &carol] {
        assert_eq!(synced_presence(&second, user)["presence"], "online");
    }
}

#[tokio::test]
async fn a_restart_resets_presence_and_keeps_tokens_valid() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    alice.sets_presence("unavailable").await;
    let first = alice.syncs_with("set_presence=offline").await;

    let server = server.restart().await;
    let alice = alice.on_server(&server);
    let query = format!("since={}&set_presence=offline", next_batch(&first));
    alice.syncs_with(&query).await;

    let now = alice.presence_of(&alice).await.expect_ok();
    assert_eq!(now["presence"], "offline");
}

#[tokio::test]
async fn invalid_presence_requests_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let online = json!({ "presence": "online" });

    let of_another = bob.client.put(&presence_path(&alice), online).await;
    let unknown = json!({ "presence": "dreaming" });
    let unknown = alice.client.put(&presence_path(&alice), unknown).await;
    let none = alice.client.put(&presence_path(&alice), json!({})).await;
    let nobody = "/_matrix/client/v3/presence/@nobody:localhost/status";
    let nobody = alice.client.get(nobody).await;

    of_another.expect_error(403, "M_FORBIDDEN");
    unknown.expect_error(400, "M_INVALID_PARAM");
    none.expect_error(400, "M_BAD_JSON");
    nobody.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_status_message_has_at_most_1024_bytes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let path = format!("/_matrix/client/v3/presence/{}/status", alice.id);
    let sets = async |bytes: usize| {
        let status = json!({ "presence": "online", "status_msg": "x".repeat(bytes) });
        alice.client.put(&path, status).await
    };

    sets(1_024).await.expect_ok();
    sets(1_025).await.expect_error(413, "M_TOO_LARGE");
}
