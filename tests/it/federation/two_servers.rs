//! Two servers that share a room: device list changes and EDUs reach the other server.

use serde_json::{Value, json};

use super::Network;
use crate::{
    chat::{ephemeral_content, percent_encoded, room_path},
    harness::{Server, User},
    keys::device_keys,
};

/// A user on each of two servers, in a room together.
struct TwoServerRoom {
    home: Server,
    away: Server,
    alice: User,
    bob: User,
    room: String,
    /// Syncs of Alice and of Bob from before the room was shared.
    since: (Value, Value),
    _network: Network,
}

impl TwoServerRoom {
    async fn new() -> Self {
        let network = Network::new();
        let (home, away) = (network.server().await, network.server().await);
        let (alice, bob) = (home.register("alice").await, away.register("bob").await);
        let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        let request = json!({
            "preset": "public_chat",
            "initial_state": [
                { "type": "m.room.encryption", "state_key": "", "content": encryption },
            ],
        });
        let room = alice.creates(request).await;
        let since = (alice.syncs().await, bob.syncs().await);
        let two = Self {
            home,
            away,
            alice,
            bob,
            room,
            since,
            _network: network,
        };
        two.bob_joins().await;
        two
    }

    async fn bob_joins(&self) {
        let (room, via) = (percent_encoded(&self.room), self.home.name());
        let path = format!("/_matrix/client/v3/join/{room}?via={via}");
        self.bob.client.post(&path, json!({})).await.expect_ok();
    }
}

/// Syncs until there are device list changes, and asserts that they are exactly these.
async fn wait_for_device_lists(
    user: &User,
    since: &Value,
    (changed, left): (&[&User], &[&User]),
) -> Value {
    let mut sync = user.syncs_after(since).await;
    while sync["device_lists"].is_null() {
        sync = user.long_polls_after(&sync).await;
    }
    let ids = |users: &[&User]| {
        let mut ids: Vec<String> = users.iter().map(|user| user.id.clone()).collect();
        ids.sort_unstable();
        ids
    };
    let told = &sync["device_lists"];
    let list = |name: &str| told[name].as_array().cloned().unwrap_or_default();
    assert_eq!(json!(list("changed")), json!(ids(changed)), "{told}");
    assert_eq!(json!(list("left")), json!(ids(left)), "{told}");
    sync
}

/// A check of whether a sync contains something.
type SyncCheck<'a> = Box<dyn Fn(&Value) -> bool + 'a>;

/// Syncs until a check of the sync succeeds.
async fn sync_until(user: &User, since: &Value, is_told: impl Fn(&Value) -> bool) -> Value {
    let mut sync = user.syncs_after(since).await;
    while !is_told(&sync) {
        sync = user.long_polls_after(&sync).await;
    }
    sync
}

async fn device_key(user: &User, other: &User) -> Value {
    let told = user.queries_keys(&other.id).await;
    let keys = &told["device_keys"][&other.id][&other.device_id]["keys"];
    keys[&format!("ed25519:{}", other.device_id)].clone()
}

#[tokio::test]
async fn device_list_changes_cross_servers() {
    let two = TwoServerRoom::new().await;
    let (alice, bob) = (&two.alice, &two.bob);
    let alices = wait_for_device_lists(alice, &two.since.0, (&[bob], &[])).await;
    let bobs = wait_for_device_lists(bob, &two.since.1, (&[alice, bob], &[])).await;

    bob.uploads_device_keys(1).await;
    let alices = wait_for_device_lists(alice, &alices, (&[bob], &[])).await;
    assert_eq!(device_key(alice, bob).await, "key1");
    let phone = two.home.log_in("alice").await;
    phone.uploads_device_keys(2).await;
    wait_for_device_lists(alice, &alices, (&[alice], &[])).await;
    // Bob's own keys come first, and then Alice's.
    let bobs = wait_for_device_lists(bob, &bobs, (&[bob], &[])).await;
    wait_for_device_lists(bob, &bobs, (&[alice], &[])).await;
    assert_eq!(device_key(bob, &phone).await, "key2");
}

#[tokio::test]
async fn device_changes_reach_a_server_that_was_away() {
    let two = TwoServerRoom::new().await;
    let (alice, bob) = (&two.alice, &two.bob);
    let bobs = wait_for_device_lists(bob, &two.since.1, (&[alice, bob], &[])).await;
    // Bob's server knows Alice's devices from here on.
    assert_eq!(device_key(bob, alice).await, Value::Null);

    let (alice, home) = (two.alice, two.home);
    let away = two
        .away
        .restart_after(async |_| {
            alice.uploads_device_keys(1).await;
        })
        .await;
    let bob = two.bob.on_server(&away);

    let bobs = wait_for_device_lists(&bob, &bobs, (&[&alice], &[])).await;
    assert_eq!(device_key(&bob, &alice).await, "key1");
    let home = home.restart().await;
    let alice = alice.on_server(&home);
    alice.uploads_device_keys(2).await;
    wait_for_device_lists(&bob, &bobs, (&[&alice], &[])).await;
    assert_eq!(device_key(&bob, &alice).await, "key2");
}

#[tokio::test]
async fn a_rejoining_user_has_their_current_devices() {
    let two = TwoServerRoom::new().await;
    let (alice, bob) = (&two.alice, &two.bob);
    bob.uploads_device_keys(1).await;
    let joined = sync_until(alice, &two.since.0, |sync| {
        sync["device_lists"]["changed"] == json!([bob.id])
    });
    let mut alices = joined.await;
    while device_key(alice, bob).await != "key1" {
        alices = alice.long_polls_after(&alices).await;
    }

    bob.leaves(&two.room).await;
    let left = sync_until(alice, &alices, |sync| {
        sync["device_lists"]["left"] == json!([bob.id])
    });
    let left = left.await;
    bob.uploads_device_keys(2).await;
    assert_eq!(device_key(alice, bob).await, "key2");
    bob.uploads_device_keys(3).await;
    two.bob_joins().await;

    wait_for_device_lists(alice, &left, (&[bob], &[])).await;
    assert_eq!(device_key(alice, bob).await, "key3");
    assert_eq!(device_keys(bob, 3)["device_id"], json!(bob.device_id));
}

#[tokio::test]
async fn typing_receipts_presence_and_to_device_messages_cross_servers() {
    let two = TwoServerRoom::new().await;
    let (alice, bob, room) = (&two.alice, &two.bob, &*two.room);
    let said = alice.says(room, "tea").await;
    let bobs = sync_until(bob, &two.since.1, |sync| {
        sync["rooms"]["join"][room].to_string().contains(&said)
    });
    let bobs = bobs.await;
    let alices = alice.syncs().await;

    bob.sends_read_receipt(room, &said).await;
    bob.starts_typing(room).await;
    let status = json!({ "presence": "online", "status_msg": "tea" });
    let path = format!("/_matrix/client/v3/presence/{}/status", bob.id);
    bob.client.put(&path, status).await.expect_ok();
    let hello = json!({ "messages": { &*alice.id: { "*": { "n": 1 } } } });
    let path = "/_matrix/client/v3/sendToDevice/m.hello/1";
    bob.client.put(path, hello).await.expect_ok();
    alice.starts_typing(room).await;

    let mut sync = alice.syncs_after(&alices).await;
    let mut wanted: Vec<(&str, SyncCheck<'_>)> = vec![
        (
            "typing",
            Box::new(|sync| {
                let typing = ephemeral_content(sync, room, "m.typing");
                typing.to_string().contains(&bob.id)
            }),
        ),
        (
            "receipt",
            Box::new(|sync| {
                let receipt = ephemeral_content(sync, room, "m.receipt");
                receipt[&said]["m.read"][&bob.id].is_object()
            }),
        ),
        (
            "presence",
            Box::new(|sync| {
                sync["presence"]
                    .to_string()
                    .contains("\"status_msg\":\"tea\"")
            }),
        ),
        (
            "message",
            Box::new(|sync| sync["to_device"]["events"][0]["content"]["n"] == 1),
        ),
    ];
    loop {
        wanted.retain(|(_, is_told)| !is_told(&sync));
        if wanted.is_empty() {
            break;
        }
        sync = alice.long_polls_after(&sync).await;
    }
    sync_until(bob, &bobs, |sync| {
        let typing = ephemeral_content(sync, room, "m.typing");
        typing.to_string().contains(&alice.id)
    })
    .await;
}

#[tokio::test]
async fn related_events_that_arrive_after_a_redaction_are_redacted() {
    let two = TwoServerRoom::new().await;
    let (alice, bob, room) = (&two.alice, &two.bob, &two.room);
    let message = alice.says(room, "tea").await;
    sync_until(bob, &two.since.1, |sync| {
        sync.to_string().contains(&message)
    })
    .await;

    let path = format!("redact/{}/1", percent_encoded(&message));
    let body = json!({ "with_rel_types": ["m.annotation"] });
    let redacted = alice.client.put(&room_path(room, &path), body).await;
    redacted.expect_ok();
    bob.syncs_until_redacted(room, &message).await;
    let reaction = bob.reacts(room, &message, "+").await.expect_ok();

    let reaction = reaction["event_id"].as_str().expect("an id");
    bob.syncs_until_redacted(room, reaction).await;
    let redacted = bob.event(room, reaction).await.expect_ok();
    let because = &redacted["unsigned"]["redacted_because"];
    assert_eq!(because["sender"], alice.id);
}
