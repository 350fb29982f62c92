//! Tests of servers that talk to each other over TLS, each at its own loopback address, and of peers that a test plays.

mod access;
mod calls;
mod convergence;
mod directory;
mod edus;
mod encryption;
mod erasure;
mod gaps;
mod handshakes;
mod history;
mod hostile;
mod invitations;
mod inviting;
mod joining;
mod keys;
mod media;
mod missing;
mod nested_json;
mod outages;
pub(crate) mod peer_room;
mod peer_user;
mod policy;
mod profile;
mod redactions;
mod remote_devices;
mod sending;
mod spaces;
mod sticky_events;
mod transactions;
mod two_servers;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::Request,
    http,
    middleware::{Next, from_fn},
    routing::get,
    serve::Listener,
};
use parlour::{
    clock::Clock,
    config::{Config, ListenSection},
    matrix::SigningKey,
    tasks::Tasks,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::Method;
use ruma::{
    OwnedServerName,
    api::federation::authentication::XMatrix,
    signatures::{Ed25519KeyPair, KeyPair as _},
};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::harness::{HttpAnswer, Server};

/// The port at which servers whose names have no port listen.
pub(crate) const FEDERATION_PORT: u16 = 8448;
/// A time in 2100, later than any test runs, in milliseconds.
const FAR_FUTURE_MS: i64 = 4_102_444_800_000;

/// A set of servers that trust the same certificate authority.
pub(crate) struct Network {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// A server that the test plays: it answers as the test defines, and signs requests and events of the test.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) key: Arc<SigningKey>,
    pair: Ed25519KeyPair,
    requests: Arc<AtomicUsize>,
}

impl Network {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("ca.pem"), authority.pem()).expect("it is written");
        Self {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    /// Starts a server whose name is its address.
    pub(crate) async fn server(&self) -> Server {
        self.server_with_config(|_| {}).await
    }

    /// Starts a server that uses the clock of the test.
    pub(crate) async fn server_with_clock(&self, clock: Clock) -> Server {
        self.start(clock, |_| {}).await
    }

    /// Starts a server whose configuration the test changes.
    pub(crate) async fn server_with_config(&self, change: impl FnOnce(&mut Config)) -> Server {
        self.start(Clock::system(), change).await
    }

    async fn start(&self, clock: Clock, change: impl FnOnce(&mut Config)) -> Server {
        let address = unused_address();
        let (certificate, key) = self.certificate(address);
        let paths = [("crt", certificate), ("key", key.serialize_pem())].map(|(kind, pem)| {
            let path = self.folder.path().join(format!("{address}.{kind}"));
            fs::write(&path, pem).expect("it is written");
            path
        });
        let [tls_certificate, tls_key] = paths.map(Some);
        Server::with_clock(clock, |config| {
            config.server.name = address.to_string().try_into().expect("a name");
            config.listen.push(ListenSection {
                address: SocketAddr::from((address, FEDERATION_PORT)),
                tls_certificate,
                tls_key,
            });
            config.federation.enabled = true;
            config.federation.trusted_ca = vec![self.authority_path()];
            config.federation.allow_private_addresses = true;
            config.directory.public_without_login = true;
            change(config);
        })
        .await
    }

    /// Starts a peer that answers the requests of a router, besides those for its keys.
    pub(crate) async fn peer(&self, router: Router) -> Peer {
        self.peer_valid_until(router, FAR_FUTURE_MS).await
    }

    /// Starts a peer whose keys are valid until a time.
    pub(crate) async fn peer_valid_until(&self, router: Router, until: i64) -> Peer {
        self.start_peer(|_| router, until).await
    }

    /// Starts a peer whose router is built with the peer's own key.
    pub(crate) async fn peer_with(&self, router: impl FnOnce(&Peer) -> Router) -> Peer {
        self.start_peer(router, FAR_FUTURE_MS).await
    }

    async fn start_peer(&self, router: impl FnOnce(&Peer) -> Router, until: i64) -> Peer {
        let address = unused_address();
        let peer = Peer::new(&address.to_string());
        let keys = peer.key.published_keys(until).expect("they are signed");
        let router = router(&peer).route("/_matrix/key/v2/server", get(async || Json(keys)));
        self.serve(address, router, peer.requests.clone()).await;
        peer
    }

    /// Returns the path of the certificate of the authority that all servers trust.
    pub(crate) fn authority_path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    async fn serve(&self, address: Ipv4Addr, router: Router, requests: Arc<AtomicUsize>) {
        let router = router.layer(from_fn(move |request: Request, next: Next| {
            requests.fetch_add(1, Ordering::SeqCst);
            next.run(request)
        }));
        let listener = TcpListener::bind((address, FEDERATION_PORT)).await;
        let listener = TlsListener {
            listener: listener.expect("the address is free"),
            acceptor: self.tls_acceptor(address),
        };
        let serving = async move { axum::serve(listener, router).await };
        drop(Tasks::default().spawn(serving));
    }

    /// Returns what accepts TLS connections at an address, with a certificate of the authority that all servers trust.
    pub(crate) fn tls_acceptor(&self, address: Ipv4Addr) -> TlsAcceptor {
        let (certificate, key) = self.certificate_der(address);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("the certificate can be used");
        Arc::new(config).into()
    }

    fn certificate(&self, address: Ipv4Addr) -> (String, KeyPair) {
        let params = CertificateParams::new(vec![address.to_string()]).expect("an address");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("it is signed");
        (certificate.pem(), key)
    }

    fn certificate_der(
        &self,
        address: Ipv4Addr,
    ) -> (
        rustls_pki_types::CertificateDer<'static>,
        PrivateKeyDer<'static>,
    ) {
        let params = CertificateParams::new(vec![address.to_string()]).expect("an address");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("it is signed");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (certificate.der().clone(), key.into())
    }
}

impl Peer {
    /// Returns a peer that does not listen.
    pub(crate) fn new(name: &str) -> Self {
        let name: OwnedServerName = name.try_into().expect("a name");
        let document = Ed25519KeyPair::generate();
        let key = SigningKey::from_der(name.clone(), &document, "peer").expect("a key");
        let pair = Ed25519KeyPair::from_der(&document, "peer".to_owned()).expect("a key");
        Self {
            name: name.to_string(),
            key: Arc::new(key),
            pair,
            requests: Arc::default(),
        }
    }

    /// Returns the number of requests that the peer received.
    pub(crate) fn request_count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Sends a signed GET request to a server.
    pub(crate) async fn gets(&self, server: &Server, path: &str) -> HttpAnswer {
        self.sends_request(server, Method::GET, path, "").await
    }

    /// Sends a signed POST request to a server.
    pub(crate) async fn posts(&self, server: &Server, path: &str, body: &Value) -> HttpAnswer {
        self.sends_request(server, Method::POST, path, &body.to_string())
            .await
    }

    /// Sends a signed request to a server.
    pub(crate) async fn sends_request(
        &self,
        server: &Server,
        method: Method,
        path: &str,
        body: &str,
    ) -> HttpAnswer {
        let proof = self.authorization(server.name(), &method, path, body);
        let headers = [("authorization", &*proof)];
        server
            .client()
            .send_with_headers(method, path, body, &headers)
            .await
    }

    /// Returns the `Authorization` header that proves that a request to a server is the peer's.
    pub(crate) fn authorization(
        &self,
        server: &str,
        method: &Method,
        path: &str,
        body: &str,
    ) -> String {
        let request = http::Request::builder()
            .method(method.clone())
            .uri(path)
            .body(body.as_bytes())
            .expect("a request");
        let destination: OwnedServerName = server.try_into().expect("a name");
        let input = self.key.signing_input(&destination);
        let Ok(proof) = XMatrix::sign_http_request(&request, input) else {
            return self.authorization_for_text((server, method, path), body);
        };
        proof.to_string()
    }

    /// Returns the header for a body without a canonical form, as servers make it that do not check the form.
    fn authorization_for_text(
        &self,
        (server, method, path): (&str, &Method, &str),
        body: &str,
    ) -> String {
        let name = &self.name;
        let text = format!(
            r#"{{"content":{body},"destination":"{server}","method":"{method}","origin":"{name}","uri":"{path}"}}"#
        );
        let signature = self.pair.sign(text.as_bytes()).base64();
        let key = self.key.key_id();
        format!(r#"X-Matrix origin="{name}",destination="{server}",key="{key}",sig="{signature}""#)
    }
}

/// Returns a loopback address that no other test uses.
pub(crate) fn unused_address() -> Ipv4Addr {
    let [a, b, c, _] = rand::random::<u32>().to_be_bytes();
    // 127.0.0.0/16 is left to other programs.
    Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254))
}

/// A listener that accepts TLS connections.
struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else {
                continue;
            };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
