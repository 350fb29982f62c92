//! Events of erased users: servers that join later get redacted copies.

use serde_json::{Value, json};

use super::{Network, Peer, guest::Archive};
use crate::{
    chat::encoded,
    harness::{Server, User, password_of},
};

/// A room in which a user sent a message and then deactivated their account with erasure.
struct Erasure {
    network: Network,
    server: Server,
    _alice: User,
    room: String,
    said: String,
    topic: String,
    last: String,
}

impl Erasure {
    async fn new(version: &str) -> Self {
        let network = Network::new();
        let server = network.server().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let levels = json!({ "events": { "m.room.topic": 0, "m.room.encryption": 0 } });
        let room = json!({
            "preset": "public_chat", "room_version": version, "power_level_content_override": levels,
        });
        let room = alice.creates(room).await;
        bob.joins(&room).await;
        let said = bob.says(&room, "secret").await;
        let topic = json!({ "topic": "secret" });
        let topic = bob.sets(&room, "m.room.topic", topic).await;
        let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        bob.sets(&room, "m.room.encryption", encryption).await;
        let scene = Self {
            last: alice.says(&room, "tea").await,
            network,
            server,
            _alice: alice,
            room,
            said,
            topic,
        };
        let body = json!({ "auth": password_of("bob"), "erase": true });
        let path = "/_matrix/client/v3/account/deactivate";
        bob.client.post(path, body).await.expect_ok();
        scene
    }

    async fn joins(&self, name: &str) -> Peer {
        let archive = Archive::default();
        let peer = self.network.peer(archive.router()).await;
        peer.joins(&self.server, &self.room, (name, &archive)).await;
        peer
    }

    async fn gets(&self, peer: &Peer, path: &str) -> Value {
        let path = format!("/_matrix/federation/v1/{path}");
        peer.gets(&self.server, &path).await.expect_ok()
    }
}

#[tokio::test]
async fn a_server_that_joins_later_gets_redacted_copies_from_every_endpoint() {
    for version in ["10", "12"] {
        let scene = Erasure::new(version).await;
        let late = scene.joins("late").await;
        let room = encoded(&scene.room);
        let last = encoded(&scene.last);

        let event = scene
            .gets(&late, &format!("event/{}", encoded(&scene.said)))
            .await;
        assert_eq!(event["pdus"][0]["content"], json!({}), "{event}");
        let backfill = scene
            .gets(&late, &format!("backfill/{room}?v={last}&limit=50"))
            .await;
        let state = scene
            .gets(&late, &format!("state/{room}?event_id={last}"))
            .await;
        let path = format!("/_matrix/federation/v1/get_missing_events/{}", scene.room);
        let body = json!({ "earliest_events": [], "latest_events": [scene.last], "limit": 50 });
        let missing = late.posts(&scene.server, &path, &body).await.expect_ok();

        for told in [&backfill, &state, &missing] {
            assert!(!told.to_string().contains("secret"), "{told}");
        }
        assert!(backfill.to_string().contains("tea"), "{backfill}");
        // The room remains encrypted.
        assert!(
            state.to_string().contains("m.megolm.v1.aes-sha2"),
            "{state}"
        );
        let topic = scene
            .gets(&late, &format!("event/{}", encoded(&scene.topic)))
            .await;
        assert_eq!(topic["pdus"][0]["content"], json!({}), "{topic}");
    }
}

#[tokio::test]
async fn a_server_that_was_in_the_room_keeps_getting_what_was_said() {
    let network = Network::new();
    let server = network.server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let archive = Archive::default();
    let peer = network.peer(archive.router()).await;
    peer.joins(&server, &room, ("carol", &archive)).await;
    let said = bob.says(&room, "secret").await;
    let body = json!({ "auth": password_of("bob"), "erase": true });
    let path = "/_matrix/client/v3/account/deactivate";
    bob.client.post(path, body).await.expect_ok();
    let path = format!("/_matrix/federation/v1/event/{}", encoded(&said));

    let before = peer.gets(&server, &path).await.expect_ok();
    let server = server.restart().await;
    let after = peer.gets(&server, &path).await.expect_ok();

    assert_eq!(before["pdus"][0]["content"]["body"], "secret");
    assert_eq!(after["pdus"][0]["content"]["body"], "secret");
}
