//! Tests application services, with one in the test process.

mod acting;
mod questions;
mod registration;
mod transactions;

use std::{
    collections::VecDeque,
    fs,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, ready},
};
use parlour::config::Config;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

use crate::harness::{Client, HttpAnswer, Server, User};

const AS_TOKEN: &str = "token-of-the-bridge";
const HS_TOKEN: &str = "token-of-the-server";
/// The time within which an expected request arrives.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A request that the service received.
#[derive(Clone, Debug)]
struct ServiceRequest {
    method: Method,
    path: String,
    query: String,
    authorization: String,
    body: Value,
}

type ServiceAnswer = (StatusCode, Value);
/// Returns the answer of the service to a request; `None` is the usual one.
type OnRequest =
    Arc<dyn Fn(&ServiceRequest) -> BoxFuture<'static, Option<ServiceAnswer>> + Send + Sync>;

#[derive(Clone)]
struct ServiceState {
    /// The answers to the next transactions; when there are none, each is accepted.
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
    on_request: Arc<Mutex<Option<OnRequest>>>,
    received: mpsc::UnboundedSender<ServiceRequest>,
}

/// An application service in the test process.
struct TestService {
    registration: NamedTempFile,
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
    on_request: Arc<Mutex<Option<OnRequest>>>,
    received: mpsc::UnboundedReceiver<ServiceRequest>,
    /// Events of a transaction that were not looked at yet.
    events: VecDeque<Value>,
}

async fn answer_request(
    State(state): State<ServiceState>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let authorization = headers.get("authorization").map(|value| value.to_str());
    let request = ServiceRequest {
        method,
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        authorization: authorization
            .and_then(Result::ok)
            .unwrap_or_default()
            .to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let on_request = state.on_request.lock().expect("not poisoned").clone();
    let own = match on_request {
        Some(on_request) => on_request(&request).await,
        None => None,
    };
    let is_transaction = request.path.contains("/transactions/");
    let _ = state.received.send(request);
    let (status, body) = match own {
        Some(answer) => answer,
        None if is_transaction => {
            let next = state.answers.lock().expect("not poisoned").pop_front();
            (next.unwrap_or(StatusCode::OK), json!({}))
        }
        None => (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND" })),
    };
    (status, Json(body))
}

impl TestService {
    /// Starts a service with this addition to its registration.
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    async fn start(addition: &str) -> Self {
        let answers = Arc::<Mutex<VecDeque<StatusCode>>>::default();
        let on_request = Arc::<Mutex<Option<OnRequest>>>::default();
        let (sender, received) = mpsc::unbounded_channel();
        let state = ServiceState {
            answers: answers.clone(),
            on_request: on_request.clone(),
            received: sender,
        };
        let router = Router::new().fallback(answer_request).with_state(state);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        let registration = NamedTempFile::new().expect("a temporary file");
        let text = format!(
            r##"
id: bridge
url: "http://{address}"
as_token: {AS_TOKEN}
hs_token: {HS_TOKEN}
sender_localpart: _bridge_bot
namespaces:
  users:
    - exclusive: true
      regex: "@_bridge_.*"
  aliases:
    - exclusive: true
      regex: "#_bridge_.*"
  rooms: []
protocols: [example]
{addition}
"##
        );
        fs::write(registration.path(), text).expect("the file is writable");
        Self {
            registration,
            answers,
            on_request,
            received,
            events: VecDeque::new(),
        }
    }

    fn registration_text(&self) -> String {
        fs::read_to_string(self.registration.path()).expect("the file is readable")
    }

    fn register(&self, config: &mut Config) {
        let path = self.registration.path().to_owned();
        config.appservices.registrations = vec![path];
    }

    async fn server(&self) -> Server {
        Server::with_config(|config| self.register(config)).await
    }

    /// Makes the service answer requests in its own way.
    fn on_request(
        &self,
        on_request: impl Fn(&ServiceRequest) -> Option<ServiceAnswer> + Send + Sync + 'static,
    ) {
        let answer: OnRequest = Arc::new(move |request| ready(on_request(request)).boxed());
        *self.on_request.lock().expect("not poisoned") = Some(answer);
    }

    /// Makes the service send a request to the server before it answers requests for a path with success.
    fn sends_before_answering(
        &self,
        path: &'static str,
        send: impl Fn() -> BoxFuture<'static, HttpAnswer> + Send + Sync + 'static,
    ) {
        let answer: OnRequest = Arc::new(move |request| {
            if request.path != path {
                return ready(None).boxed();
            }
            let answer = send();
            async move {
                answer.await.expect_ok();
                Some((StatusCode::OK, json!({})))
            }
            .boxed()
        });
        *self.on_request.lock().expect("not poisoned") = Some(answer);
    }

    fn answers_next(&self, status: StatusCode) {
        let mut answers = self.answers.lock().expect("not poisoned");
        answers.push_back(status);
    }

    /// Returns the next request.
    async fn next(&mut self) -> ServiceRequest {
        let next = timeout(REQUEST_TIMEOUT, self.received.recv()).await;
        next.expect("a request arrives").expect("the service runs")
    }

    /// Returns the next transaction that has this field.
    async fn next_transaction_with(&mut self, field: &str) -> ServiceRequest {
        loop {
            let next = self.next().await;
            if next.path.contains("/transactions/") && next.body.get(field).is_some() {
                return next;
            }
        }
    }

    /// Returns the next event for which this holds, out of any transaction.
    async fn next_event(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let found = self.events.iter().position(&is_wanted);
            if let Some(event) = found.and_then(|place| self.events.drain(..=place).next_back()) {
                return event;
            }
            self.events.clear();
            let next = self.next_transaction_with("events").await;
            let events = next.body["events"].as_array().expect("a list").clone();
            self.events.extend(events);
        }
    }

    async fn next_message(&mut self, text: &str) -> Value {
        self.next_event(|event| event["content"]["body"] == text)
            .await
    }
}

fn bridge(server: &Server) -> Client {
    server.client().with_token(AS_TOKEN)
}

/// Registers a user of the service.
async fn register_ghost(server: &Server, name: &str) -> String {
    let body = json!({ "type": "m.login.application_service", "username": name });
    let path = "/_matrix/client/v3/register";
    let registered = bridge(server).post(path, body).await.expect_ok();
    registered["user_id"]
        .as_str()
        .expect("a user id")
        .to_owned()
}

fn as_user(path: &str, user_id: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("/_matrix/client/v3/{path}{separator}user_id={user_id}")
}

/// Sends requests to the client API with short paths.
trait ShortPaths {
    fn client(&self) -> &Client;

    async fn get(&self, path: &str) -> HttpAnswer {
        self.client().get(&client_path(path)).await
    }

    async fn post(&self, path: &str, body: Value) -> HttpAnswer {
        self.client().post(&client_path(path), body).await
    }

    async fn put(&self, path: &str, body: Value) -> HttpAnswer {
        self.client().put(&client_path(path), body).await
    }
}

impl ShortPaths for User {
    fn client(&self) -> &Client {
        &self.client
    }
}

fn client_path(path: &str) -> String {
    format!("/_matrix/client/v3/{path}")
}

/// Lets a user of the service join a room.
async fn join(server: &Server, ghost: &str, room: &str) {
    let path = as_user(&format!("join/{room}"), ghost);
    bridge(server).post(&path, json!({})).await.expect_ok();
}
