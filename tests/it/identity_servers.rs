//! Tests what users do with identity servers: connecting addresses with their accounts, and invites to addresses.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use ruma::{
    CanonicalJsonObject,
    serde::{Base64, base64::UrlSafe},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    federation::{FEDERATION_PORT, Network, Peer},
    harness::{HttpAnswer, Server, User},
};

const BIND_PATH: &str = "/_matrix/client/v3/account/3pid/bind";
const UNBIND_PATH: &str = "/_matrix/client/v3/account/3pid/unbind";
const ON_BIND_PATH: &str = "/_matrix/federation/v1/3pid/onbind";
const ACCESS_TOKEN: &str = "token of the user";
const PEPPER: &str = "pepper";
const INVITE_TOKEN: &str = "invite_token";

/// An identity server in the test process.
struct IdentityServer {
    name: String,
    state: IdentityState,
}

#[derive(Clone)]
struct IdentityState {
    requests: Arc<Mutex<Vec<(String, Value)>>>,
    /// The user behind the address of the tests, if the identity server knows one.
    known_user: Arc<Mutex<Option<String>>>,
    key: Arc<Ed25519KeyPair>,
}

impl IdentityState {
    fn record(&self, path: &str, body: &Value) {
        let mut requests = self.requests.lock().expect("not poisoned");
        requests.push((path.to_owned(), body.clone()));
    }

    fn requests(&self) -> Vec<(String, Value)> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

fn is_authorized(headers: &HeaderMap) -> bool {
    headers
        .get("authorization")
        .is_some_and(|value| value == &format!("Bearer {ACCESS_TOKEN}"))
}

async fn hash_details(headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    if !is_authorized(&headers) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    Ok(Json(
        json!({ "algorithms": ["none", "sha256"], "lookup_pepper": PEPPER }),
    ))
}

async fn look_up(State(state): State<IdentityState>, Json(body): Json<Value>) -> Json<Value> {
    state.record("lookup", &body);
    let known_user = state.known_user.lock().expect("not poisoned").clone();
    let hash = Sha256::digest(format!("bob@example.org email {PEPPER}").as_bytes());
    let hash = Base64::<UrlSafe, _>::new(hash).encode();
    let mut mappings = json!({});
    if let Some(user_id) = known_user {
        mappings[hash] = json!(user_id);
    }
    Json(json!({ "mappings": mappings }))
}

async fn store_invite(State(state): State<IdentityState>, Json(body): Json<Value>) -> Json<Value> {
    state.record("store-invite", &body);
    let public_key = Base64::<UrlSafe, _>::new(state.key.public_key().to_vec()).encode();
    let valid = "https://id.example.org/_matrix/identity/v2/pubkey/isvalid";
    Json(json!({
        "token": INVITE_TOKEN, "display_name": "b...@e...",
        "public_keys": [{ "public_key": public_key, "key_validity_url": valid }],
    }))
}

async fn bind(
    State(state): State<IdentityState>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    state.record("bind", &body);
    if !is_authorized(&headers) || body["sid"] != "session" {
        let error = json!({ "errcode": "M_SESSION_NOT_VALIDATED", "error": "no" });
        return (StatusCode::BAD_REQUEST, Json(error));
    }
    let bound = json!({ "medium": "email", "address": "bob@example.org", "mxid": body["mxid"] });
    (StatusCode::OK, Json(bound))
}

async fn unbind(
    State(state): State<IdentityState>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> StatusCode {
    let authorization = headers.get("authorization").map(|value| value.to_str());
    if !matches!(authorization, Some(Ok(value)) if value.starts_with("X-Matrix ")) {
        return StatusCode::FORBIDDEN;
    }
    state.record("unbind", &body);
    StatusCode::OK
}

impl IdentityServer {
    async fn start(network: &Network) -> Self {
        let document = Ed25519KeyPair::generate();
        let key = Ed25519KeyPair::from_der(&document, "0".to_owned()).expect("a key");
        let state = IdentityState {
            requests: Arc::default(),
            known_user: Arc::default(),
            key: Arc::new(key),
        };
        let router = Router::new()
            .route("/_matrix/identity/v2/hash_details", get(hash_details))
            .route("/_matrix/identity/v2/lookup", post(look_up))
            .route("/_matrix/identity/v2/store-invite", post(store_invite))
            .route("/_matrix/identity/v2/3pid/bind", post(bind))
            .route("/_matrix/identity/v2/3pid/unbind", post(unbind))
            .with_state(state.clone());
        let peer: Peer = network.peer(router).await;
        Self {
            name: format!("{}:{FEDERATION_PORT}", peer.name),
            state,
        }
    }

    fn invitation(&self) -> Value {
        json!({
            "id_server": self.name, "id_access_token": ACCESS_TOKEN,
            "medium": "email", "address": "bob@example.org",
        })
    }

    fn knows(&self, user: &User) {
        let mut known_user = self.state.known_user.lock().expect("not poisoned");
        *known_user = Some(user.id.clone());
    }

    /// Returns the report that the address belongs to a user, who was invited to a room.
    fn report(&self, user: &User, sender: &User, room: &str) -> Value {
        let signed = json!({ "mxid": user.id, "token": INVITE_TOKEN });
        let mut signed: CanonicalJsonObject =
            serde_json::from_value(signed).expect("canonical JSON");
        sign_json(&self.name, &*self.state.key, &mut signed).expect("it can be signed");
        json!({
            "medium": "email", "address": "bob@example.org", "mxid": user.id,
            "invites": [{
                "medium": "email", "address": "bob@example.org", "mxid": user.id,
                "room_id": room, "sender": sender.id, "signed": signed,
            }],
        })
    }
}

struct IdentityTest {
    // Holds the certificates of the identity server.
    _network: Network,
    server: Server,
    identity: IdentityServer,
    alice: User,
    bob: User,
    room: String,
}

impl IdentityTest {
    async fn start() -> Self {
        let network = Network::new();
        let server = network.server().await;
        let identity = IdentityServer::start(&network).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let body = json!({ "preset": "private_chat", "name": "Plans" });
        let room = alice.creates(body).await;
        Self {
            _network: network,
            server,
            identity,
            alice,
            bob,
            room,
        }
    }

    async fn invites(&self, sender: &User, invitation: Value) -> HttpAnswer {
        let path = format!("/_matrix/client/v3/rooms/{}/invite", self.room);
        sender.client.post(&path, invitation).await
    }

    async fn bobs_membership(&self) -> Value {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/state/m.room.member/{}",
            self.room, self.bob.id
        );
        let answer = self.alice.client.get(&path).await;
        answer.body["membership"].clone()
    }
}

#[tokio::test]
async fn an_invite_to_a_known_address_invites_its_user() {
    let test = IdentityTest::start().await;
    test.identity.knows(&test.bob);

    let invitation = test.identity.invitation();
    test.invites(&test.alice, invitation).await.expect_ok();

    assert_eq!(test.bobs_membership().await, "invite");
    let requests = test.identity.state.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(!requests[0].1.to_string().contains("bob@example.org"));
}

#[tokio::test]
async fn an_invite_to_an_unknown_address_waits_for_its_owner() {
    let test = IdentityTest::start().await;
    let invitation = test.identity.invitation();
    test.invites(&test.alice, invitation).await.expect_ok();
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.third_party_invite/{INVITE_TOKEN}",
        test.room
    );
    let stored = test.alice.client.get(&path).await.expect_ok();
    assert_eq!(stored["display_name"], "b...@e...");
    let sent = test.identity.state.requests().pop().expect("a request");
    assert_eq!(sent.0, "store-invite");
    assert_eq!(sent.1["room_name"], "Plans");
    assert_eq!(sent.1["sender"], test.alice.id);
    assert_eq!(test.bobs_membership().await, Value::Null);

    let report = test.identity.report(&test.bob, &test.alice, &test.room);
    test.server
        .client()
        .put(ON_BIND_PATH, report)
        .await
        .expect_ok();

    assert_eq!(test.bobs_membership().await, "invite");
    test.bob.joins(&test.room).await;
    assert_eq!(test.bobs_membership().await, "join");
}

#[tokio::test]
async fn a_report_with_a_wrong_signature_invites_nobody() {
    let test = IdentityTest::start().await;
    let invitation = test.identity.invitation();
    test.invites(&test.alice, invitation).await.expect_ok();

    let mut report = test.identity.report(&test.bob, &test.alice, &test.room);
    report["invites"][0]["signed"]["token"] = json!("another");
    let client = test.server.client();
    client.put(ON_BIND_PATH, report).await.expect_ok();

    assert_eq!(test.bobs_membership().await, Value::Null);
}

#[tokio::test]
async fn only_members_make_the_server_ask_an_identity_server() {
    let test = IdentityTest::start().await;

    let invitation = test.identity.invitation();
    let refused = test.invites(&test.bob, invitation).await;
    refused.expect_error(403, "M_FORBIDDEN");

    assert!(test.identity.state.requests().is_empty());
}

#[tokio::test]
async fn a_new_room_invites_addresses() {
    let test = IdentityTest::start().await;
    test.identity.knows(&test.bob);

    let body = json!({ "invite_3pid": [test.identity.invitation()] });
    let room = test.alice.creates(body).await;

    let path = format!(
        "/_matrix/client/v3/rooms/{room}/state/m.room.member/{}",
        test.bob.id
    );
    let member = test.alice.client.get(&path).await.expect_ok();
    assert_eq!(member["membership"], "invite");
}

#[tokio::test]
async fn an_address_is_bound_and_forgotten() {
    let test = IdentityTest::start().await;
    let mut request = json!({
        "client_secret": "secret", "sid": "unknown",
        "id_server": test.identity.name, "id_access_token": ACCESS_TOKEN,
    });
    let refused = test.bob.client.post(BIND_PATH, request.clone()).await;
    refused.expect_error(403, "M_FORBIDDEN");
    request["sid"] = json!("session");
    test.bob.client.post(BIND_PATH, request).await.expect_ok();

    let address = json!({ "medium": "email", "address": "bob@example.org" });
    let forgotten = test.bob.client.post(UNBIND_PATH, address.clone()).await;

    let expected = json!({ "id_server_unbind_result": "success" });
    assert_eq!(forgotten.expect_ok(), expected);
    let (path, body) = test.identity.state.requests().pop().expect("a request");
    assert_eq!(path, "unbind");
    assert_eq!(body, json!({ "mxid": test.bob.id, "threepid": address }));
    let again = test.bob.client.post(UNBIND_PATH, address).await;
    let expected = json!({ "id_server_unbind_result": "no-support" });
    assert_eq!(again.expect_ok(), expected);
}

#[tokio::test]
async fn without_federation_no_identity_server_is_contacted() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let request = json!({
        "client_secret": "secret", "sid": "session",
        "id_server": "id.example.org", "id_access_token": ACCESS_TOKEN,
    });

    let refused = alice.client.post(BIND_PATH, request).await;

    refused.expect_error(403, "M_FORBIDDEN");
}
