//! A LiveKit server in the test process, which receives the requests of the server.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    routing::post,
};
use parlour::{
    config::{Config, LiveKitUrl, RtcSection, SecretString},
    json_web_token,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const KEY: &str = "parlour";
const SECRET: &str = "the secret of the LiveKit server";

/// The LiveKit server.
#[derive(Clone)]
pub(crate) struct TestLiveKit {
    url: String,
    state: LiveKitState,
}

#[derive(Clone, Default)]
struct LiveKitState {
    requests: Arc<Mutex<Vec<LiveKitRequest>>>,
}

/// A request that the LiveKit server received.
#[derive(Clone, Debug)]
pub(crate) struct LiveKitRequest {
    pub(crate) method: String,
    /// The verified claims of the token.
    pub(crate) claims: Value,
    pub(crate) body: Value,
}

async fn answer(
    State(state): State<LiveKitState>,
    Path(method): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let token = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
    let token = token.and_then(|it| it.strip_prefix("Bearer "));
    let Some(claims) = token.and_then(verified_claims) else {
        return (
            StatusCode::UNAUTHORIZED,
            Json(json!({ "code": "unauthenticated" })),
        );
    };
    let answer = json!({ "name": body["name"] });
    state
        .requests
        .lock()
        .expect("not poisoned")
        .push(LiveKitRequest {
            method,
            claims,
            body,
        });
    (StatusCode::OK, Json(answer))
}

/// Returns the claims of a token that is signed with the secret of the LiveKit server.
pub(crate) fn verified_claims(token: &str) -> Option<Value> {
    json_web_token::verify_with_secret(token, SECRET.as_bytes())
}

impl TestLiveKit {
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    pub(crate) async fn start() -> Self {
        let state = LiveKitState::default();
        let router = Router::new()
            .route("/sfu/twirp/livekit.RoomService/{method}", post(answer))
            .with_state(state.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("ws://{address}/sfu"),
            state,
        }
    }

    /// Configures a server to use this LiveKit server.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.rtc = RtcSection {
            livekit_url: LiveKitUrl::parse(&self.url),
            key: Some(KEY.to_owned()),
            secret: Some(SecretString::new(SECRET)),
        };
    }

    /// Returns the URL to which clients connect.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the requests received so far.
    pub(crate) fn requests(&self) -> Vec<LiveKitRequest> {
        self.state.requests.lock().expect("not poisoned").clone()
    }
}
