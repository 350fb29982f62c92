//! Events of erased users: servers that join later get redacted copies.

use serde_json::{Value, json};

use super::{Network, Peer, peer_user::PeerArchive};
use crate::{
    chat::percent_encoded,
    harness::{Server, User, password_of},
};

/// A room in which a user sent a message and then deactivated their account with erasure.
struct ErasureScene {
    network: Network,
    server: Server,
    _alice: User,
    room: String,
    message_id: String,
    topic_id: String,
    last_id: String,
}

impl ErasureScene {
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
        let topic = bob.sets_state(&room, "m.room.topic", topic).await;
        let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        bob.sets_state(&room, "m.room.encryption", encryption).await;
        let scene = Self {
            last_id: alice.says(&room, "tea").await,
            network,
            server,
            _alice: alice,
            room,
            message_id: said,
            topic_id: topic,
        };
        let body = json!({ "auth": password_of("bob"), "erase": true });
        let path = "/_matrix/client/v3/account/deactivate";
        bob.client.post(path, body).await.expect_ok();
        scene
    }

    async fn joins_from_new_peer(&self, name: &str) -> Peer {
        let archive = PeerArchive::default();
        let peer = self.network.peer(archive.router()).await;
        peer.joins(&self.server, &self.room, (name, &archive)).await;
        peer
    }

    async fn gets_json(&self, peer: &Peer, path: &str) -> Value {
        let path = format!("/_matrix/federation/v1/{path}");
        peer.gets(&self.server, &path).await.expect_ok()
    }
}

#[tokio::test]
async fn a_server_that_joins_later_gets_redacted_copies_from_every_endpoint() {
    for version in ["10", "12"] {
        let scene = ErasureScene::new(version).await;
        let late = scene.joins_from_new_peer("late").await;
        let room = percent_encoded(&scene.room);
        let last = percent_encoded(&scene.last_id);

        let event = scene
            .gets_json(
                &late,
                &format!("event/{}", percent_encoded(&scene.message_id)),
            )
            .await;
        assert_eq!(event["pdus"][0]["content"], json!({}), "{event}");
        let backfill = scene
            .gets_json(&late, &format!("backfill/{room}?v={last}&limit=50"))
            .await;
        let state = scene
            .gets_json(&late, &format!("state/{room}?event_id={last}"))
            .await;
        let path = format!("/_matrix/federation/v1/get_missing_events/{}", scene.room);
        let body = json!({ "earliest_events": [], "latest_events": [scene.last_id], "limit": 50 });
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
            .gets_json(
                &late,
                &format!("event/{}", percent_encoded(&scene.topic_id)),
            )
            .await;
        assert_eq!(topic["pdus"][0]["content"], json!({}), "{topic}");
    }
}

#[tokio::test]
async fn a_server_in_the_room_keeps_access_to_erased_messages() {
    let network = Network::new();
    let server = network.server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let archive = PeerArchive::default();
    let peer = network.peer(archive.router()).await;
    peer.joins(&server, &room, ("carol", &archive)).await;
    let said = bob.says(&room, "secret").await;
    let body = json!({ "auth": password_of("bob"), "erase": true });
    let path = "/_matrix/client/v3/account/deactivate";
    bob.client.post(path, body).await.expect_ok();
    let path = format!("/_matrix/federation/v1/event/{}", percent_encoded(&said));

    let before = peer.gets(&server, &path).await.expect_ok();
    let server = server.restart().await;
    let after = peer.gets(&server, &path).await.expect_ok();

    assert_eq!(before["pdus"][0]["content"]["body"], "secret");
    assert_eq!(after["pdus"][0]["content"]["body"], "secret");
}
