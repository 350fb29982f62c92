//! Rooms that use a policy server, which says what it recommends.

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
use ruma::{
    canonical_json::CanonicalJsonObject,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_event},
};
use serde_json::{Value, json};

use super::{
    Network,
    guest::{Archive, Made},
};
use crate::chat::said;

/// The key with which a policy server recommends events.
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

    /// Returns an event with its signature.
    fn recommends(&self, event: &Value, server: &str) -> Value {
        let mut object: CanonicalJsonObject =
            serde_json::from_value(event.clone()).expect("canonical JSON");
        let rules = &RoomVersionRules::V11.redaction;
        sign_event(server, &self.0, &mut object, rules).expect("it is signed");
        serde_json::to_value(object).expect("it is JSON")
    }

    /// Signs what is no spam.
    fn answers(&self, event: &Value) -> Response {
        if event["content"]["body"] == "spam" {
            let refusal = json!({ "errcode": "M_FORBIDDEN", "error": "spam" });
            return (StatusCode::FORBIDDEN, Json(refusal)).into_response();
        }
        let sender = event["sender"].as_str().expect("a sender");
        let (_, server) = sender.split_once(':').expect("a server");
        let signed = self.recommends(event, server);
        let signature = &signed["signatures"][server]["ed25519:policy_server"];
        let signatures = json!({ "ed25519:policy_server": signature });
        Json(json!({ server: signatures })).into_response()
    }
}

#[tokio::test]
async fn only_what_the_policy_server_recommends_is_shown() {
    let network = Network::new();
    let server = network.server().await;
    let alice = server.register("alice").await;
    let request = json!({ "preset": "public_chat", "room_version": "11" });
    let room = alice.creates(request).await;
    let (archive, asked) = (Archive::default(), Arc::new(AtomicUsize::new(0)));
    let key = Arc::new(PolicyKey::new());
    let (signer, count) = (key.clone(), asked.clone());
    let sign = post(async move |Json(event): Json<Value>| {
        count.fetch_add(1, Ordering::SeqCst);
        signer.answers(&event)
    });
    let router = archive.router().route("/_matrix/policy/v1/sign", sign);
    let peer = network.peer(router).await;
    let mut bob = peer.joins(&server, &room, ("bob", &archive)).await;
    let policy = json!({ "via": peer.name, "public_keys": { "ed25519": key.public() } });
    alice.sets(&room, "m.room.policy", policy).await;
    let ask = |made: &Made| key.recommends(&made.json, &peer.name);

    let tea = bob.says(&peer, "tea");
    let spam = bob.says(&peer, "spam");
    let mut vouched = bob.says(&peer, "signed before");
    vouched.json = ask(&vouched);
    let sent = [&tea, &spam, &vouched];
    let told = peer.sends(&server, &sent).await;

    assert_eq!(
        told,
        json!({ &*tea.id: {}, &*spam.id: {}, &*vouched.id: {} })
    );
    let page = alice.messages(&room, "dir=f&limit=100").await;
    assert_eq!(said(&page["chunk"]), ["tea", "signed before"]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}
