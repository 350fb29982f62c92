//! Rooms with a policy server, which signs the events that it recommends.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::future::join_all;
use ruma::{
    canonical_json::CanonicalJsonObject,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_event},
};
use serde_json::{Value, json};

use super::{
    Network, Peer,
    peer_user::{PeerArchive, PeerUser},
};
use crate::{
    chat::{message_bodies, percent_encoded, room_path},
    harness::{HttpAnswer, Server, User},
};

/// The signing key of a policy server.
struct PolicyKey(Ed25519KeyPair);

impl PolicyKey {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate();
        let pair = Ed25519KeyPair::from_der(&document, "policy_server".to_owned());
        Self(pair.expect("a key"))
    }

    fn public_key(&self) -> String {
        Base64::<Standard>::new(self.0.public_key().to_vec()).encode()
    }

    /// Returns an event with the signature of the policy server.
    fn signs(&self, event: &Value, server: &str) -> Value {
        let mut object: CanonicalJsonObject =
            serde_json::from_value(event.clone()).expect("canonical JSON");
        let rules = &RoomVersionRules::V11.redaction;
        sign_event(server, &self.0, &mut object, rules).expect("it is signed");
        serde_json::to_value(object).expect("it is JSON")
    }

    /// Answers a request with a signature, or with a refusal if the event is spam.
    fn signs_unless_spam(&self, event: &Value, server: &str) -> Response {
        if event["content"]["body"] == "spam" || event["content"]["displayname"] == "spam" {
            let refusal = json!({ "errcode": "M_FORBIDDEN", "error": "spam" });
            return (StatusCode::FORBIDDEN, Json(refusal)).into_response();
        }
        let signed = self.signs(event, server);
        let signature = &signed["signatures"][server]["ed25519:policy_server"];
        let signatures = json!({ "ed25519:policy_server": signature });
        Json(json!({ server: signatures })).into_response()
    }
}

/// A room whose policy server is a peer, with Bob of that peer as a member.
struct PolicyServerRoom {
    _network: Network,
    server: Server,
    alice: User,
    room: String,
    peer: Peer,
    bob: PeerUser,
    key: Arc<PolicyKey>,
    /// The number of requests to the policy server.
    request_counter: Arc<AtomicUsize>,
}

impl PolicyServerRoom {
    async fn new() -> Self {
        let network = Network::new();
        let server = network.server().await;
        let alice = server.register("alice").await;
        let request = json!({ "preset": "public_chat", "room_version": "11" });
        let room = alice.creates(request).await;
        let (archive, asked) = (PeerArchive::default(), Arc::new(AtomicUsize::new(0)));
        let key = Arc::new(PolicyKey::new());
        let (signer, count) = (key.clone(), asked.clone());
        let router = |peer: &Peer| {
            let name = peer.name.clone();
            let sign = post(async move |Json(event): Json<Value>| {
                count.fetch_add(1, Ordering::SeqCst);
                signer.signs_unless_spam(&event, &name)
            });
            archive.router().route("/_matrix/policy/v1/sign", sign)
        };
        let peer = network.peer_with(router).await;
        let bob = peer.joins(&server, &room, ("bob", &archive)).await;
        let policy = json!({ "via": peer.name, "public_keys": { "ed25519": key.public_key() } });
        alice.sets_state(&room, "m.room.policy", policy).await;
        Self {
            _network: network,
            server,
            alice,
            room,
            peer,
            bob,
            key,
            request_counter: asked,
        }
    }

    fn request_count(&self) -> usize {
        self.request_counter.load(Ordering::SeqCst)
    }

    /// Returns the texts of the messages in the room.
    async fn message_texts(&self) -> Vec<String> {
        let page = self.alice.messages(&self.room, "dir=f&limit=100").await;
        message_bodies(&page["chunk"])
            .into_iter()
            .map(Into::into)
            .collect()
    }

    async fn says(&self, text: &str, transaction: &str) -> HttpAnswer {
        let room = percent_encoded(&self.room);
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
        let content = json!({ "msgtype": "m.text", "body": text });
        self.alice.client.put(&path, content).await
    }
}

#[tokio::test]
async fn only_events_signed_by_the_policy_server_are_shown() {
    let mut test = PolicyServerRoom::new().await;
    let tea = test.bob.says(&test.peer, "tea");
    let spam = test.bob.says(&test.peer, "spam");
    let mut vouched = test.bob.says(&test.peer, "signed before");
    vouched.json = test.key.signs(&vouched.json, &test.peer.name);

    let sent = [&tea, &spam, &vouched];
    let told = test.peer.sends(&test.server, &sent).await;

    assert_eq!(
        told,
        json!({ &*tea.id: {}, &*spam.id: {}, &*vouched.id: {} })
    );
    assert_eq!(test.message_texts().await, ["tea", "signed before"]);
    assert_eq!(test.request_count(), 2);
}

#[tokio::test]
async fn local_events_carry_the_policy_server_signature() {
    let test = PolicyServerRoom::new().await;

    let sent = test.says("tea", "one").await.expect_ok();
    let again = test.says("tea", "one").await.expect_ok();
    test.says("spam", "two")
        .await
        .expect_error(403, "M_FORBIDDEN");

    assert_eq!(sent["event_id"], again["event_id"]);
    assert_eq!(test.message_texts().await, ["tea"]);
    let id = sent["event_id"].as_str().expect("an id");
    let path = format!("/_matrix/federation/v1/event/{}", percent_encoded(id));
    let got = test.peer.gets(&test.server, &path).await.expect_ok();
    let signatures = &got["pdus"][0]["signatures"][&test.peer.name];
    assert!(signatures["ed25519:policy_server"].is_string(), "{got}");
}

#[tokio::test]
async fn simultaneous_messages_all_get_the_policy_server_signature() {
    let test = PolicyServerRoom::new().await;

    let texts: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    let sending = texts.iter().map(|text| test.says(text, text));
    for answer in join_all(sending).await {
        answer.expect_ok();
    }

    let mut said = test.message_texts().await;
    said.sort_by_key(|text| text.parse::<u32>().ok());
    assert_eq!(said, texts);
    assert_eq!(test.request_count(), texts.len());
}

#[tokio::test]
async fn the_policy_server_cannot_block_a_policy_change() {
    let test = PolicyServerRoom::new().await;
    let policy = json!({ "via": test.peer.name, "public_keys": { "ed25519": "c3BhbQ" } });
    test.alice
        .sets_state(&test.room, "m.room.policy", policy)
        .await;
    test.says("tea", "one")
        .await
        .expect_error(403, "M_FORBIDDEN");

    test.alice
        .sets_state(&test.room, "m.room.policy", json!({}))
        .await;

    test.says("tea", "two").await.expect_ok();
}

#[tokio::test]
async fn a_join_refused_by_the_policy_server_is_refused() {
    let test = PolicyServerRoom::new().await;
    let join = async |name: &str, shown: &str| {
        let user = test.peer.user(name);
        let prepared = test
            .peer
            .requests_template(&test.server, "join", (&test.room, &user))
            .await;
        let mut prepared = prepared.expect_ok();
        prepared["event"]["content"]["displayname"] = json!(shown);
        let made = test.peer.signs_template(&prepared);
        let submitted = (&*test.room, &made);
        test.peer
            .sends_member_event(&test.server, "v2/send_join", submitted)
            .await
    };

    join("eve", "spam").await.expect_error(403, "M_FORBIDDEN");
    let let_in = join("dora", "Dora").await.expect_ok();

    let signatures = &let_in["event"]["signatures"][&test.peer.name];
    assert!(signatures["ed25519:policy_server"].is_string(), "{let_in}");
}

#[tokio::test]
async fn the_tombstone_of_an_upgraded_room_has_the_policy_signature() {
    let test = PolicyServerRoom::new().await;
    let before = test.request_count();

    let path = room_path(&test.room, "upgrade");
    let version = json!({ "new_version": "12" });
    test.alice.client.post(&path, version).await.expect_ok();

    assert!(test.request_count() > before);
    let path = room_path(&test.room, "state/m.room.tombstone/?format=event");
    let tombstone = test.alice.client.get(&path).await.expect_ok();
    let id = tombstone["event_id"].as_str().expect("an id");
    let path = format!("/_matrix/federation/v1/event/{}", percent_encoded(id));
    let got = test.peer.gets(&test.server, &path).await.expect_ok();
    let signatures = &got["pdus"][0]["signatures"][&test.peer.name];
    assert!(signatures["ed25519:policy_server"].is_string(), "{got}");
}
