//! An OpenID Connect provider in the test process. It signs everyone in as the person that the test has chosen.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use parlour::{
    clock::Clock,
    config::{Config, ProviderSection, SecretString},
};
use ruma::serde::{Base64, base64::UrlSafe};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, task::JoinHandle};
use url::{Url, form_urlencoded};

use super::{PUBLIC_URL, start_server_with};
use crate::{
    browser::Browser,
    harness::{HttpAnswer, Server},
};

const CLIENT_ID: &str = "parlour";
const CLIENT_SECRET: &str = "swordfish";
/// The id of the provider in the configuration.
pub(super) const PROVIDER_ID: &str = "test";
pub(super) const BEGIN_PATH: &str = "/_parlour/oauth/providers/test/begin";
pub(super) const LOGOUT_PATH: &str = "/_parlour/oauth/providers/test/backchannel-logout";
/// The time of servers with a provider, in milliseconds.
const START_MS: u64 = 1_700_000_000_000;

/// A change of the claims of a token.
type ClaimsChange = Box<dyn FnMut(&mut Value) + Send>;

/// A provider in the test process.
pub(super) struct TestProvider {
    issuer: String,
    pub(super) clock: Clock,
    state: Arc<Mutex<ProviderState>>,
    task: JoinHandle<()>,
}

struct ProviderState {
    issuer: String,
    clock: Clock,
    key: SigningKey,
    key_id: String,
    /// The key with which tokens are really signed, if it is another one.
    wrong_key: Option<SigningKey>,
    /// The claims about the person who is signed in.
    person: Value,
    /// The names of claims that are not in the ID token.
    user_info_claims: Vec<&'static str>,
    change: Option<ClaimsChange>,
    /// The queries of the requests, by code.
    requests: HashMap<String, HashMap<String, String>>,
    /// The query of the latest request.
    latest: HashMap<String, String>,
}

impl TestProvider {
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let issuer = format!("http://{address}/realm");
        let clock = Clock::manual(START_MS);
        let state = Arc::new(Mutex::new(ProviderState {
            issuer: issuer.clone(),
            clock: clock.clone(),
            key: signing_key(1),
            key_id: "first".to_owned(),
            wrong_key: None,
            person: alice(),
            user_info_claims: Vec::new(),
            change: None,
            requests: HashMap::new(),
            latest: HashMap::new(),
        }));
        let router = Router::new()
            .route("/realm/.well-known/openid-configuration", get(discovery))
            .route("/realm/keys", get(keys))
            .route("/realm/authorize", get(authorize))
            .route("/realm/token", post(exchange))
            .route("/realm/userinfo", get(user_info))
            .with_state(state.clone());
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serves");
        });
        Self {
            issuer,
            clock,
            state,
            task,
        }
    }

    /// Starts a server whose users can sign in with this provider.
    pub(super) async fn server(&self) -> Server {
        self.server_with(|_| {}).await
    }

    pub(super) async fn server_with(&self, change: impl FnOnce(&mut Config)) -> Server {
        let provider = ProviderSection {
            id: PROVIDER_ID.to_owned(),
            name: "Test & co".to_owned(),
            issuer: self.issuer.clone(),
            client_id: CLIENT_ID.to_owned(),
            client_secret: Some(SecretString::new(CLIENT_SECRET)),
            ..ProviderSection::default()
        };
        start_server_with(self.clock.clone(), |config| {
            config.oauth.providers.push(provider);
            change(config);
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, ProviderState> {
        self.state.lock().expect("not poisoned")
    }

    /// Chooses the person who is signed in at the provider.
    pub(super) fn signs_in(&self, person: Value) {
        self.state().person = person;
    }

    /// Changes the claims of the next ID tokens.
    pub(super) fn changes_claims(&self, change: impl FnMut(&mut Value) + Send + 'static) {
        self.state().change = Some(Box::new(change));
    }

    /// Leaves claims out of the ID tokens, so that only the UserInfo endpoint has them.
    pub(super) fn keeps_for_user_info(&self, claims: &[&'static str]) {
        self.state().user_info_claims = claims.to_vec();
    }

    /// Signs tokens with a key that is not the published one.
    pub(super) fn signs_with_wrong_key(&self) {
        self.state().wrong_key = Some(signing_key(9));
    }

    /// Replaces the key.
    pub(super) fn rotates_key(&self) {
        let mut state = self.state();
        state.key = signing_key(2);
        "second".clone_into(&mut state.key_id);
    }

    /// Returns a parameter of the latest request to sign a user in.
    pub(super) fn latest_parameter(&self, name: &str) -> Option<String> {
        self.state().latest.get(name).cloned()
    }

    pub(super) fn stop(&self) {
        self.task.abort();
    }

    /// Returns the address to which the provider sends a browser back that has been sent to it.
    pub(super) async fn way_back(&self, sent: &HttpAnswer) -> String {
        assert_eq!(sent.status, 303, "{}", sent.text);
        let address = sent.header("location");
        assert!(address.starts_with(&self.issuer), "{address}");
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let http = http.build().expect("a client");
        let answer = http.get(address).send().await.expect("answers");
        let back = answer.headers().get(LOCATION).expect("leads back");
        let back = back.to_str().expect("is text").to_owned();
        assert!(back.starts_with(PUBLIC_URL), "{back}");
        back
    }

    /// Sends a browser to the provider and back. Returns the answer of the server.
    pub(super) async fn visit(&self, browser: &Browser, begin: &str) -> HttpAnswer {
        let sent = browser.open(begin).await;
        let back = self.way_back(&sent).await;
        browser.open(&back).await
    }

    /// Returns a browser in which a new user has registered with the provider.
    pub(super) async fn registered_browser(&self, server: &Server, name: &str) -> Browser {
        let browser = Browser::new(server);
        let unknown = self.visit(&browser, BEGIN_PATH).await;
        let page = unknown.header("location").to_owned();
        let fields = [("change", "create"), ("user", name)];
        let done = browser.submit(&page, &fields).await;
        assert_eq!(done.status, 303, "{}", done.text);
        browser
    }

    /// Returns a logout token that ends the sessions of the person.
    pub(super) fn logout_token(&self, change: impl FnOnce(&mut Value)) -> String {
        let state = self.state();
        let mut claims = json!({
            "iss": state.issuer, "aud": [CLIENT_ID], "iat": state.clock.now_ms() / 1_000,
            "exp": state.clock.now_ms() / 1_000 + 120,
            "jti": format!("{:x}", rand::random::<u64>()),
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
        });
        change(&mut claims);
        state.sign(&claims)
    }
}

impl ProviderState {
    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": self.key_id, "typ": "JWT" });
        let text = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims.to_string())
        );
        let key = self.wrong_key.as_ref().unwrap_or(&self.key);
        let signature: Signature = key.sign(text.as_bytes());
        format!("{text}.{}", encode(signature.to_bytes()))
    }

    fn id_token(&mut self, nonce: &str) -> String {
        let now = self.clock.now_ms() / 1_000;
        let mut claims = json!({
            "iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce,
            "auth_time": now,
        });
        let person = self.person.as_object().expect("is an object");
        for (claim, value) in person {
            if !self.user_info_claims.contains(&claim.as_str()) {
                claims[claim] = value.clone();
            }
        }
        if let Some(change) = &mut self.change {
            change(&mut claims);
        }
        self.sign(&claims)
    }
}

/// Returns the claims about a person.
pub(super) fn alice() -> Value {
    json!({
        "sub": "1234", "sid": "session 1", "preferred_username": "Alice", "name": "Alice Liddell",
        "email": "alice@example.org", "email_verified": true,
    })
}

fn signing_key(byte: u8) -> SigningKey {
    SigningKey::from_slice(&[byte; 32]).expect("is a key")
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    Base64::<UrlSafe, _>::new(bytes.as_ref().to_vec()).encode()
}

type SharedState = State<Arc<Mutex<ProviderState>>>;

async fn discovery(State(state): SharedState) -> Json<Value> {
    let issuer = state.lock().expect("not poisoned").issuer.clone();
    let address = |name: &str| format!("{issuer}/{name}");
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": address("authorize"),
        "token_endpoint": address("token"),
        "userinfo_endpoint": address("userinfo"),
        "jwks_uri": address("keys"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }))
}

async fn keys(State(state): SharedState) -> Json<Value> {
    let state = state.lock().expect("not poisoned");
    let point = state.key.verifying_key().to_encoded_point(false);
    let part = |bytes: Option<&p256::FieldBytes>| encode(bytes.expect("is a point"));
    Json(json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": state.key_id,
        "x": part(point.x()), "y": part(point.y()),
    }] }))
}

async fn authorize(State(state): SharedState, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let query: HashMap<String, String> = form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    assert_eq!(query["client_id"], CLIENT_ID);
    assert_eq!(query["code_challenge_method"], "S256");
    assert_eq!(query["scope"], "openid profile email");
    let code = format!("code{:x}", rand::random::<u64>());
    let mut back = Url::parse(&query["redirect_uri"]).expect("is an address");
    back.query_pairs_mut()
        .append_pair("code", &code)
        .append_pair("state", &query["state"]);
    let mut state = state.lock().expect("not poisoned");
    state.latest.clone_from(&query);
    state.requests.insert(code, query);
    (StatusCode::FOUND, [(LOCATION, back.as_str())]).into_response()
}

async fn exchange(State(state): SharedState, headers: HeaderMap, body: String) -> Response {
    let form: HashMap<String, String> = form_urlencoded::parse(body.as_bytes())
        .into_owned()
        .collect();
    let mut state = state.lock().expect("not poisoned");
    let credentials = Base64::<ruma::serde::base64::Standard, _>::new(
        format!("{CLIENT_ID}:{CLIENT_SECRET}").into_bytes(),
    );
    let request = state.requests.remove(&form["code"]);
    let is_known = headers["authorization"] == format!("Basic {}=", credentials.encode())
        || headers["authorization"] == format!("Basic {}", credentials.encode());
    let challenge = encode(Sha256::digest(form["code_verifier"].as_bytes()));
    let Some(request) =
        request.filter(|request| is_known && request["code_challenge"] == challenge)
    else {
        let body = json!({ "error": "invalid_grant" });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    };
    let token = state.id_token(&request["nonce"]);
    Json(json!({
        "access_token": "access", "token_type": "Bearer", "expires_in": 60, "id_token": token,
    }))
    .into_response()
}

async fn user_info(State(state): SharedState, headers: HeaderMap) -> Json<Value> {
    assert_eq!(headers["authorization"], "Bearer access");
    let state = state.lock().expect("not poisoned");
    Json(state.person.clone())
}

/// Sends a logout token to the server, as the provider does.
pub(super) async fn send_logout_token(server: &Server, token: &str) -> HttpAnswer {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("logout_token", token);
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let client = server.client();
    client
        .send_with_headers(reqwest::Method::POST, LOGOUT_PATH, &form.finish(), &headers)
        .await
}
