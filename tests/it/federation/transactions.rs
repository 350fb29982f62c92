//! Transactions with which other servers send events.

use axum::Router;
use serde_json::{Value, json};

use super::{
    Network, Peer,
    peer_user::{PeerArchive, PeerUser},
};
use crate::{
    chat::{event_ids, message_bodies, percent_encoded, timeline},
    harness::{Server, User},
};

/// A server with a room that a user of a peer is in.
pub(super) struct SharedRoom {
    pub(super) network: Network,
    pub(super) server: Server,
    pub(super) alice: User,
    pub(super) room: String,
    pub(super) peer: Peer,
    pub(super) archive: PeerArchive,
    pub(super) bob: PeerUser,
}

impl SharedRoom {
    pub(super) async fn new() -> Self {
        Self::with_room(json!({ "preset": "public_chat" })).await
    }

    pub(super) async fn with_room(request: Value) -> Self {
        let network = Network::new();
        let server = network.server().await;
        let alice = server.register("alice").await;
        let room = alice.creates(request).await;
        let (peer, archive) = network.peer_with_archive().await;
        let bob = peer.joins(&server, &room, ("bob", &archive)).await;
        Self {
            network,
            server,
            alice,
            room,
            peer,
            archive,
            bob,
        }
    }

    /// Returns the texts of the messages in the room.
    pub(super) async fn message_texts(&self) -> Vec<String> {
        let page = self.alice.messages(&self.room, "dir=f&limit=100").await;
        let said = message_bodies(&page["chunk"]).into_iter();
        said.map(ToOwned::to_owned).collect()
    }
}

#[tokio::test]
async fn events_of_another_server_appear_in_their_room() {
    let mut shared = SharedRoom::new().await;
    let since = shared.alice.syncs().await;
    let tea = shared.bob.says(&shared.peer, "tea");
    let topic = json!({ "topic": "tea" });
    let topic = shared
        .bob
        .makes_event(&shared.peer, "m.custom", (None, &topic));

    let told = shared.peer.sends(&shared.server, &[&tea, &topic]).await;

    assert_eq!(told, json!({ &*tea.id: {}, &*topic.id: {} }));
    let sync = shared.alice.syncs_after(&since).await;
    assert_eq!(
        event_ids(timeline(&sync, &shared.room)),
        [&*tea.id, &*topic.id]
    );
    assert!(shared.archive.takes_requests().is_empty());
}

#[tokio::test]
async fn a_repeated_transaction_gets_the_same_answer() {
    let mut shared = SharedRoom::new().await;
    let tea = shared.bob.says(&shared.peer, "tea");
    let pdus = json!([tea.json]);
    let (peer, server) = (&shared.peer, &shared.server);
    let first = peer.tries_to_send(server, "t1", &pdus).await.expect_ok();
    let coffee = shared.bob.says(peer, "coffee");

    let other = json!([coffee.json]);
    let again = peer.tries_to_send(server, "t1", &other).await.expect_ok();

    assert_eq!(first, again);
    assert_eq!(shared.message_texts().await, ["tea"]);
    let as_new = peer.tries_to_send(server, "t2", &pdus).await.expect_ok();
    assert_eq!(first, as_new);
    assert_eq!(shared.message_texts().await, ["tea"]);
}

#[tokio::test]
async fn each_event_gets_its_own_result() {
    let mut shared = SharedRoom::new().await;
    let (peer, server) = (&shared.peer, &shared.server);
    let mut forged = shared.bob.clone().says(peer, "forged");
    forged.json["signatures"][&*peer.name] = json!({});
    let mut elsewhere = shared.bob.drafts_event("m.room.message", None, &json!({}));
    elsewhere["room_id"] = json!("!unknown:example.org");
    let elsewhere = peer.signs(&elsewhere, &shared.bob.rules);
    let levels = json!({ "users": { &*shared.bob.id: 100 } });
    let levels = shared
        .bob
        .clone()
        .makes_event(peer, "m.room.power_levels", (Some(""), &levels));
    let tea = shared.bob.says(peer, "tea");

    let told = peer
        .sends(server, &[&forged, &elsewhere, &levels, &tea])
        .await;

    assert_eq!(told.as_object().expect("an object").len(), 4);
    for refused in [&forged, &elsewhere, &levels] {
        assert!(told[&*refused.id]["error"].is_string(), "{told}");
    }
    assert_eq!(told[&*tea.id], json!({}));
    assert_eq!(shared.message_texts().await, ["tea"]);
}

#[tokio::test]
async fn only_malformed_events_are_dropped() {
    let mut shared = SharedRoom::new().await;
    let mut broken = shared.bob.clone().says(&shared.peer, "broken");
    broken.json["content"]["float"] = json!(1.5);
    let tea = shared.bob.says(&shared.peer, "tea");
    let pdus = json!([{}, { "room_id": 7 }, broken.json, tea.json]);
    let sent = shared.peer.tries_to_send(&shared.server, "t1", &pdus).await;

    let told = sent.expect_ok();

    assert_eq!(told["pdus"].as_object().expect("an object").len(), 2);
    assert_eq!(told["pdus"][&*tea.id], json!({}));
    assert!(told["pdus"][&*broken.id]["error"].is_string(), "{told}");
    assert_eq!(shared.message_texts().await, ["tea"]);
}

#[tokio::test]
async fn a_transaction_with_too_many_entries_is_refused() {
    let shared = SharedRoom::new().await;
    let (peer, server) = (&shared.peer, &shared.server);
    let path = "/_matrix/federation/v1/send/t1";

    let many = json!(vec![json!({}); 51]);
    let answer = peer.tries_to_send(server, "t1", &many).await;
    answer.expect_error(400, "M_INVALID_PARAM");
    let many = json!({ "pdus": [], "edus": vec![json!({}); 101] });
    let answer = peer.puts(server, path, &many).await;
    answer.expect_error(400, "M_INVALID_PARAM");
    let wrong = json!({ "pdus": {} });
    let answer = peer.puts(server, path, &wrong).await;
    answer.expect_error(400, "M_BAD_JSON");
    let empty = json!({ "pdus": null });
    let told = peer.puts(server, path, &empty).await.expect_ok();
    assert_eq!(told, json!({ "pdus": {} }));
}

#[tokio::test]
async fn events_of_a_server_denied_by_the_acl_are_refused() {
    let mut shared = SharedRoom::new().await;
    let acl = json!({ "allow": ["*"], "deny": [shared.peer.name] });
    let room = shared.room.clone();
    shared
        .alice
        .sets_state(&room, "m.room.server_acl", acl)
        .await;
    let tea = shared.bob.says(&shared.peer, "tea");

    let told = shared.peer.sends(&shared.server, &[&tea]).await;

    assert!(told[&*tea.id]["error"].is_string());
    assert!(shared.message_texts().await.is_empty());
}

#[tokio::test]
async fn an_event_needs_the_signature_of_its_senders_server() {
    let mut shared = SharedRoom::new().await;
    let other = shared.network.peer(Router::new()).await;
    let tea = shared.bob.says(&shared.peer, "tea");
    let mut foreign = shared.bob.drafts_event("m.room.message", None, &json!({}));
    foreign["sender"] = json!(shared.alice.id);
    let foreign = shared.peer.signs(&foreign, &shared.bob.rules);

    let relayed = other.sends(&shared.server, &[&tea]).await;
    let told = other.sends(&shared.server, &[&foreign]).await;

    // Any server may forward a correctly signed event.
    assert_eq!(relayed[&*tea.id], json!({}));
    assert!(told[&*foreign.id]["error"].is_string());
    assert_eq!(shared.message_texts().await, ["tea"]);
}

#[tokio::test]
async fn closing_a_room_to_guests_remotely_removes_local_guests() {
    let levels = json!({ "events": { "m.room.guest_access": 0 } });
    let access =
        json!({ "type": "m.room.guest_access", "content": { "guest_access": "can_join" } });
    let mut shared = SharedRoom::with_room(json!({
        "preset": "public_chat", "initial_state": [access], "power_level_content_override": levels,
    }))
    .await;
    shared.server = shared
        .server
        .restart_with(|config| config.registration.guests = true)
        .await;
    shared.alice = shared.alice.on_server(&shared.server);
    let guest = shared.server.register_guest().await;
    guest.joins(&shared.room).await;
    let joined = guest.syncs().await;
    let closed = json!({ "guest_access": "forbidden" });

    let closed = shared
        .bob
        .makes_event(&shared.peer, "m.room.guest_access", (Some(""), &closed));
    shared.peer.sends(&shared.server, &[&closed]).await;

    guest.syncs_until_removed(&shared.room, &joined).await;
    let member = shared.alice.member(&shared.room, &guest).await;
    assert_eq!(member["membership"], "leave");
}

#[tokio::test]
async fn an_event_id_field_is_ignored_in_later_room_versions() {
    let mut shared = SharedRoom::new().await;
    let content = json!({ "msgtype": "m.text", "body": "tea" });
    let mut message = shared.bob.drafts_event("m.room.message", None, &content);
    message["event_id"] = json!("$chosen:x");
    let message = shared.peer.signs(&message, &shared.bob.rules);
    shared.bob.advances_to(&message);
    shared.peer.sends(&shared.server, &[&message]).await;

    let answer = shared.alice.says(&shared.room, "thank you").await;

    let path = format!("/_matrix/federation/v1/event/{}", percent_encoded(&answer));
    let served = shared.peer.gets(&shared.server, &path).await.expect_ok();
    assert_eq!(served["pdus"][0]["prev_events"], json!([message.id]));
}
