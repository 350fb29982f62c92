//! Two servers that share a room: device list changes and EDUs reach the other server.

use serde_json::{Value, json};

use super::Network;
use crate::{
    chat::{encoded, ephemeral},
    harness::{Server, User},
    keys::device_keys,
};

/// A user on each of two servers, in a room together.
struct Two {
    home: Server,
    away: Server,
    alice: User,
    bob: User,
    room: String,
    /// Syncs of Alice and of Bob from before the room was shared.
    since: (Value, Value),
    _network: Network,
}

impl Two {
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
        let (room, via) = (encoded(&self.room), self.home.name());
        let path = format!("/_matrix/client/v3/join/{room}?via={via}");
        self.bob.client.post(&path, json!({})).await.expect_ok();
    }
}

/// Syncs until there are device list changes, and asserts that they are exactly these.
async fn lists_told(user: &User, since: &Value, (changed, left): (&[&User], &[&User])) -> Value {
    let mut sync = user.syncs_after(since).await;
    while sync["device_lists"].is_null() {
        sync = user.waits_after(&sync).await;
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
type Told<'a> = Box<dyn Fn(&Value) -> bool + 'a>;

/// Syncs until a check of the sync succeeds.
async fn until(user: &User, since: &Value, is_told: impl Fn(&Value) -> bool) -> Value {
    let mut sync = user.syncs_after(since).await;
    while !is_told(&sync) {
        sync = user.waits_after(&sync).await;
    }
    sync
}

async fn key_of(user: &User, other: &User) -> Value {
    let told = user.queries(&other.id).await;
    let keys = &told["device_keys"][&other.id][&other.device_id]["keys"];
    keys[&format!("ed25519:{}", other.device_id)].clone()
}

#[tokio::test]
async fn whose_devices_changed_is_told_across_servers() {
    let two = Two::new().await;
    let (alice, bob) = (&two.alice, &two.bob);
    let alices = lists_told(alice, &two.since.0, (&[bob], &[])).await;
    let bobs = lists_told(bob, &two.since.1, (&[alice, bob], &[])).await;

    bob.has_keys(1).await;
    let alices = lists_told(alice, &alices, (&[bob], &[])).await;
    assert_eq!(key_of(alice, bob).await, "key1");
    let phone = two.home.log_in("alice").await;
    phone.has_keys(2).await;
    lists_told(alice, &alices, (&[alice], &[])).await;
    // Bob's own keys come first, and then Alice's.
    let bobs = lists_told(bob, &bobs, (&[bob], &[])).await;
    lists_told(bob, &bobs, (&[alice], &[])).await;
    assert_eq!(key_of(bob, &phone).await, "key2");
}

#[tokio::test]
async fn changes_of_devices_reach_a_server_that_was_away() {
    let two = Two::new().await;
    let (alice, bob) = (&two.alice, &two.bob);
    let bobs = lists_told(bob, &two.since.1, (&[alice, bob], &[])).await;
    // Bob's server knows Alice's devices from here on.
    assert_eq!(key_of(bob, alice).await, Value::Null);

    let (alice, home) = (two.alice, two.home);
    let away = two
        .away
        .restart_after(async |_| {
            alice.has_keys(1).await;
        })
        .await;
    let bob = two.bob.at(&away);

    let bobs = lists_told(&bob, &bobs, (&[&alice], &[])).await;
    assert_eq!(key_of(&bob, &alice).await, "key1");
    let home = home.restart().await;
    let alice = alice.at(&home);
    alice.has_keys(2).await;
    lists_told(&bob, &bobs, (&[&alice], &[])).await;
    assert_eq!(key_of(&bob, &alice).await, "key2");
}

#[tokio::test]
async fn a_user_who_comes_back_has_the_devices_of_now() {
    let two = Two::new().await;
    let (alice, bob) = (&two.alice, &two.bob);
    bob.has_keys(1).await;
    let joined = until(alice, &two.since.0, |sync| {
        sync["device_lists"]["changed"] == json!([bob.id])
    });
    let mut alices = joined.await;
    while key_of(alice, bob).await != "key1" {
        alices = alice.waits_after(&alices).await;
    }

    bob.leaves(&two.room).await;
    let left = until(alice, &alices, |sync| {
        sync["device_lists"]["left"] == json!([bob.id])
    });
    let left = left.await;
    bob.has_keys(2).await;
    assert_eq!(key_of(alice, bob).await, "key2");
    bob.has_keys(3).await;
    two.bob_joins().await;

    lists_told(alice, &left, (&[bob], &[])).await;
    assert_eq!(key_of(alice, bob).await, "key3");
    assert_eq!(device_keys(bob, 3)["device_id"], json!(bob.device_id));
}

#[tokio::test]
async fn typing_receipts_presence_and_messages_to_devices_cross_servers() {
    let two = Two::new().await;
    let (alice, bob, room) = (&two.alice, &two.bob, &*two.room);
    let said = alice.says(room, "tea").await;
    let bobs = until(bob, &two.since.1, |sync| {
        sync["rooms"]["join"][room].to_string().contains(&said)
    });
    let bobs = bobs.await;
    let alices = alice.syncs().await;

    bob.has_read(room, &said).await;
    bob.types(room).await;
    let status = json!({ "presence": "online", "status_msg": "tea" });
    let path = format!("/_matrix/client/v3/presence/{}/status", bob.id);
    bob.client.put(&path, status).await.expect_ok();
    let hello = json!({ "messages": { &*alice.id: { "*": { "n": 1 } } } });
    let path = "/_matrix/client/v3/sendToDevice/m.hello/1";
    bob.client.put(path, hello).await.expect_ok();
    alice.types(room).await;

    let mut sync = alice.syncs_after(&alices).await;
    let mut wanted: Vec<(&str, Told<'_>)> = vec![
        (
            "typing",
            Box::new(|sync| {
                let typing = ephemeral(sync, room, "m.typing");
                typing.to_string().contains(&bob.id)
            }),
        ),
        (
            "receipt",
            Box::new(|sync| {
                let receipt = ephemeral(sync, room, "m.receipt");
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
        sync = alice.waits_after(&sync).await;
    }
    until(bob, &bobs, |sync| {
        let typing = ephemeral(sync, room, "m.typing");
        typing.to_string().contains(&alice.id)
    })
    .await;
}
