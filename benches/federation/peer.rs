//! The other server, with the endpoints that the measured server uses.

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{Method, Request, StatusCode},
    routing::{get, post, put},
    serve::Listener,
};
use parlour::{matrix::SigningKey, tasks::Tasks};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ruma::{
    OwnedServerName, OwnedUserId, api::federation::authentication::XMatrix,
    canonical_json::CanonicalJsonObject, signatures::Ed25519KeyPair,
};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    room::{BenchEvent, BigRoom, ROOM_VERSION},
    server::Server,
};

/// The port of servers whose names have no port.
const FEDERATION_PORT: u16 = 8448;
/// A time later than any measurement runs: in 2100.
const KEYS_VALID_UNTIL_MS: i64 = 4_102_444_800_000;

type PeerRooms = Arc<Mutex<HashMap<String, BigRoom>>>;

pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) key: Arc<SigningKey>,
    rooms: PeerRooms,
    transactions: AtomicU64,
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Peer {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let issuer = create_authority(&folder);
        let address = unused_address();
        let name: OwnedServerName = address.to_string().try_into().expect("a name");
        let key = SigningKey::from_der(name.clone(), &Ed25519KeyPair::generate(), "peer");
        let peer = Self {
            name: name.to_string(),
            key: Arc::new(key.expect("a key")),
            rooms: PeerRooms::default(),
            transactions: AtomicU64::new(0),
            issuer,
            folder,
        };
        peer.serve(address).await;
        peer
    }

    /// Returns the certificate file of the authority that both servers trust.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Creates a certificate and its key for an address, and returns their files.
    pub(crate) fn write_certificate(&self, address: Ipv4Addr) -> [PathBuf; 2] {
        let (certificate, key) = issue_certificate(&self.issuer, address);
        [("crt", certificate.pem()), ("key", key.serialize_pem())].map(|(kind, pem)| {
            let path = self.folder.path().join(format!("{address}.{kind}"));
            fs::write(&path, pem).expect("is written");
            path
        })
    }

    /// Adds a room to this server and returns its id.
    pub(crate) fn add_room(&self, room: BigRoom) -> String {
        let id = room.id.clone();
        lock_rooms(&self.rooms).insert(id.clone(), room);
        id
    }

    /// Creates a message in a room, without sending it.
    pub(crate) fn create_message(&self, room_id: &str) -> BenchEvent {
        let mut rooms = lock_rooms(&self.rooms);
        rooms
            .get_mut(room_id)
            .expect("the room exists")
            .add_message(&self.key)
    }

    /// Sends events in one transaction.
    pub(crate) async fn send_transaction(&self, server: &Server, events: &[BenchEvent]) -> Value {
        let n = self.transactions.fetch_add(1, Ordering::Relaxed);
        let path = format!("/_matrix/federation/v1/send/{n}");
        let pdus: Vec<_> = events.iter().map(|event| &event.json).collect();
        let body = json!({ "origin": self.name, "origin_server_ts": 0, "pdus": pdus, "edus": [] });
        let body = body.to_string();
        let proof = self.authorization_header(&server.name, &path, &body);
        server.receive_transaction(&path, body, &proof).await
    }

    fn authorization_header(&self, server: &str, path: &str, body: &str) -> String {
        let request = Request::builder().method(Method::PUT).uri(path);
        let request = request.body(body.as_bytes()).expect("a request");
        let destination: OwnedServerName = server.try_into().expect("a name");
        let input = self.key.signing_input(&destination);
        let proof = XMatrix::sign_http_request(&request, input);
        proof.expect("is signed").to_string()
    }

    async fn serve(&self, address: Ipv4Addr) {
        let keys = self
            .key
            .published_keys(KEYS_VALID_UNTIL_MS)
            .expect("are signed");
        let federation = Router::new()
            .route("/v1/make_join/{room}/{user}", get(make_join))
            .route("/v2/send_join/{room}/{event}", put(send_join))
            .route("/v1/get_missing_events/{room}", post(get_missing_events))
            .route("/v1/backfill/{room}", get(backfill))
            .route("/v1/state_ids/{room}", get(state_ids))
            .route("/v1/event/{event}", get(event))
            .route(
                "/v1/send/{transaction}",
                put(async || Json(json!({ "pdus": {} }))),
            );
        let router = Router::new()
            .route("/_matrix/key/v2/server", get(async || Json(keys)))
            .nest("/_matrix/federation", federation)
            .with_state(self.rooms.clone());
        let (certificate, key) = issue_certificate(&self.issuer, address);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the certificate can be used");
        let listener = TcpListener::bind((address, FEDERATION_PORT)).await;
        let listener = TlsListener {
            listener: listener.expect("the address is free"),
            acceptor: Arc::new(config).into(),
        };
        drop(Tasks::default().spawn(async move { axum::serve(listener, router).await }));
    }
}

type PeerAnswer = Result<Json<Value>, StatusCode>;

async fn make_join(
    State(rooms): State<PeerRooms>,
    Path((room, user)): Path<(String, OwnedUserId)>,
) -> PeerAnswer {
    answer_for_room(
        &rooms,
        &room,
        |room| json!({ "room_version": ROOM_VERSION, "event": room.join_template(&user) }),
    )
}

async fn send_join(
    State(rooms): State<PeerRooms>,
    Path((room, _)): Path<(String, String)>,
    Json(join): Json<CanonicalJsonObject>,
) -> PeerAnswer {
    answer_for_room(&rooms, &room, |room| {
        let told = json!({
            "event": join, "state": parse_events(&room.state), "auth_chain": parse_events(room.auth_chain()), "origin": "peer",
        });
        room.add_join(&join);
        told
    })
}

async fn get_missing_events(
    State(rooms): State<PeerRooms>,
    Path(room): Path<String>,
    Json(asked): Json<Value>,
) -> PeerAnswer {
    let limit = asked["limit"].as_u64().unwrap_or(10);
    let latest = asked["latest_events"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    answer_for_room(
        &rooms,
        &room,
        |room| json!({ "events": parse_events(messages_before(room, &latest, limit, false)) }),
    )
}

async fn backfill(
    State(rooms): State<PeerRooms>,
    Path(room): Path<String>,
    Query(asked): Query<HashMap<String, String>>,
) -> PeerAnswer {
    let limit = asked.get("limit").and_then(|limit| limit.parse().ok());
    let from = asked.get("v").cloned().unwrap_or_default();
    answer_for_room(&rooms, &room, |room| {
        let mut pdus = parse_events(messages_before(room, &from, limit.unwrap_or(10), true));
        pdus.reverse();
        json!({ "origin": "peer", "origin_server_ts": 0, "pdus": pdus })
    })
}

async fn state_ids(State(rooms): State<PeerRooms>, Path(room): Path<String>) -> PeerAnswer {
    answer_for_room(&rooms, &room, |room| {
        let ids = |events: &[BenchEvent]| {
            events
                .iter()
                .map(|event| event.id.clone())
                .collect::<Vec<_>>()
        };
        json!({ "pdu_ids": ids(&room.state), "auth_chain_ids": ids(room.auth_chain()) })
    })
}

async fn event(State(rooms): State<PeerRooms>, Path(id): Path<String>) -> PeerAnswer {
    let rooms = lock_rooms(&rooms);
    let mut all = rooms
        .values()
        .flat_map(|room| room.state.iter().chain(&room.messages));
    let found = all
        .find(|event| event.id == id)
        .ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(
        json!({ "origin": "peer", "origin_server_ts": 0, "pdus": [found.json] }),
    ))
}

fn answer_for_room(
    rooms: &PeerRooms,
    room: &str,
    tell: impl FnOnce(&mut BigRoom) -> Value,
) -> PeerAnswer {
    let mut rooms = lock_rooms(rooms);
    rooms
        .get_mut(room)
        .map(|room| Json(tell(room)))
        .ok_or(StatusCode::NOT_FOUND)
}

/// Returns the messages before an event, including the event itself if `with_itself` is set.
fn messages_before<'a>(
    room: &'a BigRoom,
    id: &str,
    limit: u64,
    with_itself: bool,
) -> &'a [BenchEvent] {
    let at = room.messages.iter().position(|event| event.id == id);
    let end = at.map_or(0, |at| at + usize::from(with_itself));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    &room.messages[end.saturating_sub(limit)..end]
}

fn parse_events(events: &[BenchEvent]) -> Vec<Value> {
    let json = |event: &BenchEvent| serde_json::from_str(event.json.get()).expect("is JSON");
    events.iter().map(json).collect()
}

fn lock_rooms(rooms: &PeerRooms) -> MutexGuard<'_, HashMap<String, BigRoom>> {
    rooms.lock().unwrap_or_else(PoisonError::into_inner)
}

fn create_authority(folder: &tempfile::TempDir) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("is written");
    Issuer::new(params, key)
}

fn issue_certificate(
    issuer: &Issuer<'static, KeyPair>,
    address: Ipv4Addr,
) -> (rcgen::Certificate, KeyPair) {
    let params = CertificateParams::new(vec![address.to_string()]).expect("an address");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("is signed");
    (certificate, key)
}

/// Returns a loopback address that no other process uses.
pub(crate) fn unused_address() -> Ipv4Addr {
    let [a, b, c, _] = rand::random::<u32>().to_be_bytes();
    // Other processes use 127.0.0.0/16.
    Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254))
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.listener.accept().await.expect("the listener accepts");
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
