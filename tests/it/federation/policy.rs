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
    guest::{Archive, Guest},
};
use crate::{
    chat::{encoded, in_room, said},
    harness::{Answer, Server, User},
};

/// The signing key of a policy server.
struct PolicyKey(Ed25519KeyPair);

impl PolicyKey {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate();
        let pair = Ed25519KeyPair::from_der(&document, "policy_server".to_owned());
        Self(pair.expect("a key"))
    }

    fn public(&self) -> String {
        Base64::<Standard>::new(self.0.public_key().to_vec()).encode()
    }

    /// Returns an event with the signature of the policy server.
    fn recommends(&self, event: &Value, server: &str) -> Value {
        let mut object: CanonicalJsonObject =
            serde_json::from_value(event.clone()).expect("canonical JSON");
        let rules = &RoomVersionRules::V11.redaction;
        sign_event(server, &self.0, &mut object, rules).expect("it is signed");
        serde_json::to_value(object).expect("it is JSON")
    }

    /// Answers a request with a signature, or with a refusal if the event is spam.
    fn answers(&self, event: &Value, server: &str) -> Response {
        if event["content"]["body"] == "spam" || event["content"]["displayname"] == "spam" {
            let refusal = json!({ "errcode": "M_FORBIDDEN", "error": "spam" });
            return (StatusCode::FORBIDDEN, Json(refusal)).into_response();
        }
        let signed = self.recommends(event, server);
        let signature = &signed["signatures"][server]["ed25519:policy_server"];
        let signatures = json!({ "ed25519:policy_server": signature });
        Json(json!({ server: signatures })).into_response()
    }
}

/// A room whose policy server is a peer, with Bob of that peer as a member.
struct Guarded {
    _network: Network,
    server: Server,
    alice: User,
    room: String,
    peer: Peer,
    bob: Guest,
    key: Arc<PolicyKey>,
    /// The number of requests to the policy server.
    asked: Arc<AtomicUsize>,
}

impl Guarded {
    async fn new() -> Self {
        let network = Network::new();
        let server = network.server().await;
        let alice = server.register("alice").await;
        let request = json!({ "preset": "public_chat", "room_version": "11" });
        let room = alice.creates(request).await;
        let (archive, asked) = (Archive::default(), Arc::new(AtomicUsize::new(0)));
        let key = Arc::new(PolicyKey::new());
        let (signer, count) = (key.clone(), asked.clone());
        let router = |peer: &Peer| {
            let name = peer.name.clone();
            let sign = post(async move |Json(event): Json<Value>| {
                count.fetch_add(1, Ordering::SeqCst);
                signer.answers(&event, &name)
            });
            archive.router().route("/_matrix/policy/v1/sign", sign)
        };
        let peer = network.peer_with(router).await;
        let bob = peer.joins(&server, &room, ("bob", &archive)).await;
        let policy = json!({ "via": peer.name, "public_keys": { "ed25519": key.public() } });
        alice.sets(&room, "m.room.policy", policy).await;
        Self {
            _network: network,
            server,
            alice,
            room,
            peer,
            bob,
            key,
            asked,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Returns the texts of the messages in the room.
    async fn said(&self) -> Vec<String> {
        let page = self.alice.messages(&self.room, "dir=f&limit=100").await;
        said(&page["chunk"]).into_iter().map(Into::into).collect()
    }

    async fn says(&self, text: &str, transaction: &str) -> Answer {
        let room = encoded(&self.room);
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
        let content = json!({ "msgtype": "m.text", "body": text });
        self.alice.client.put(&path, content).await
    }
}

#[tokio::test]
async fn only_what_the_policy_server_recommends_is_shown() {
    let mut test = Guarded::new().await;
    let tea = test.bob.says(&test.peer, "tea");
    let spam = test.bob.says(&test.peer, "spam");
    let mut vouched = test.bob.says(&test.peer, "signed before");
    vouched.json = test.key.recommends(&vouched.json, &test.peer.name);

    let sent = [&tea, &spam, &vouched];
    let told = test.peer.sends(&test.server, &sent).await;

    assert_eq!(
        told,
        json!({ &*tea.id: {}, &*spam.id: {}, &*vouched.id: {} })
    );
    assert_eq!(test.said().await, ["tea", "signed before"]);
    assert_eq!(test.asked(), 2);
}

#[tokio::test]
async fn what_is_sent_from_here_has_the_signature_of_the_policy_server() {
    let test = Guarded::new().await;

    let sent = test.says("tea", "one").await.expect_ok();
    let again = test.says("tea", "one").await.expect_ok();
    test.says("spam", "two")
        .await
        .expect_error(403, "M_FORBIDDEN");

    assert_eq!(sent["event_id"], again["event_id"]);
    assert_eq!(test.said().await, ["tea"]);
    let id = sent["event_id"].as_str().expect("an id");
    let path = format!("/_matrix/federation/v1/event/{}", encoded(id));
    let got = test.peer.gets(&test.server, &path).await.expect_ok();
    let signatures = &got["pdus"][0]["signatures"][&test.peer.name];
    assert!(signatures["ed25519:policy_server"].is_string(), "{got}");
}

#[tokio::test]
async fn those_who_send_at_once_to_a_policy_server_all_come_through() {
    let test = Guarded::new().await;

    let texts: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    let sending = texts.iter().map(|text| test.says(text, text));
    for answer in join_all(sending).await {
        answer.expect_ok();
    }

    let mut said = test.said().await;
    said.sort_by_key(|text| text.parse::<u32>().ok());
    assert_eq!(said, texts);
    assert_eq!(test.asked(), texts.len());
}

#[tokio::test]
async fn the_policy_of_a_room_is_changed_though_its_policy_server_is_against_it() {
    let test = Guarded::new().await;
    let policy = json!({ "via": test.peer.name, "public_keys": { "ed25519": "c3BhbQ" } });
    test.alice.sets(&test.room, "m.room.policy", policy).await;
    test.says("tea", "one")
        .await
        .expect_error(403, "M_FORBIDDEN");

    test.alice
        .sets(&test.room, "m.room.policy", json!({}))
        .await;

    test.says("tea", "two").await.expect_ok();
}

#[tokio::test]
async fn whom_the_policy_server_does_not_recommend_nobody_lets_in() {
    let test = Guarded::new().await;
    let join = async |name: &str, shown: &str| {
        let user = test.peer.user(name);
        let prepared = test
            .peer
            .prepares(&test.server, "join", (&test.room, &user))
            .await;
        let mut prepared = prepared.expect_ok();
        prepared["event"]["content"]["displayname"] = json!(shown);
        let made = test.peer.completes(&prepared);
        let submitted = (&*test.room, &made);
        test.peer
            .submits(&test.server, "v2/send_join", submitted)
            .await
    };

    join("eve", "spam").await.expect_error(403, "M_FORBIDDEN");
    let let_in = join("dora", "Dora").await.expect_ok();

    let signatures = &let_in["event"]["signatures"][&test.peer.name];
    assert!(signatures["ed25519:policy_server"].is_string(), "{let_in}");
}

#[tokio::test]
async fn what_ends_a_room_that_is_replaced_has_the_signature_of_the_policy_server() {
    let test = Guarded::new().await;
    let before = test.asked();

    let path = in_room(&test.room, "upgrade");
    let version = json!({ "new_version": "12" });
    test.alice.client.post(&path, version).await.expect_ok();

    assert!(test.asked() > before);
    let path = in_room(&test.room, "state/m.room.tombstone/?format=event");
    let tombstone = test.alice.client.get(&path).await.expect_ok();
    let id = tombstone["event_id"].as_str().expect("an id");
    let path = format!("/_matrix/federation/v1/event/{}", encoded(id));
    let got = test.peer.gets(&test.server, &path).await.expect_ok();
    let signatures = &got["pdus"][0]["signatures"][&test.peer.name];
    assert!(signatures["ed25519:policy_server"].is_string(), "{got}");
}
