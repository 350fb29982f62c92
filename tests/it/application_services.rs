//! Tests application services: their requests, and what they are sent.

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

#[tokio::test]
async fn a_service_registers_and_acts_as_its_users() {
    let service = TestService::start("").await;
    let server = service.server().await;

    let ghost = register_ghost(&server, "_bridge_bob").await;

    let whoami = bridge(&server)
        .get(&as_user("account/whoami", &ghost))
        .await;
    assert_eq!(whoami.expect_ok(), json!({ "user_id": ghost }));
    let own = bridge(&server)
        .get("/_matrix/client/v3/account/whoami")
        .await
        .expect_ok();
    assert_eq!(own["user_id"], "@_bridge_bot:localhost");
}

#[tokio::test]
async fn a_service_does_not_act_as_users_of_others() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;

    let bridge = bridge(&server);
    for user in [&*alice.id, "@_bridge_unknown:localhost"] {
        let refused = bridge.get(&as_user("account/whoami", user)).await;
        refused.expect_error(403, "M_FORBIDDEN");
    }
    let body = json!({ "type": "m.login.application_service", "username": "carol" });
    let path = "/_matrix/client/v3/register";
    bridge
        .post(path, body.clone())
        .await
        .expect_error(400, "M_EXCLUSIVE");
    let client = server.client();
    client
        .post(path, body.clone())
        .await
        .expect_error(401, "M_MISSING_TOKEN");
    client
        .with_token("wrong")
        .post(path, body)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn others_cannot_take_exclusive_names() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;

    for name in ["_bridge_bob", "_bridge_bot"] {
        let body = json!({
            "username": name, "password": "password", "auth": { "type": "m.login.dummy" },
        });
        let path = "/_matrix/client/v3/register";
        let refused = server.client().post(path, body).await;
        refused.expect_error(400, "M_EXCLUSIVE");
    }
    let room = alice.creates_open_room().await;
    let alias = "directory/room/%23_bridge_rust:localhost";
    let refused = alice.put(alias, json!({ "room_id": room })).await;
    refused.expect_error(400, "M_EXCLUSIVE");
    let body = json!({ "room_alias_name": "_bridge_rust" });
    let refused = alice.post("createRoom", body).await;
    refused.expect_error(400, "M_EXCLUSIVE");
    // The service may create its aliases, and no others.
    join(&server, "@_bridge_bot:localhost", &room).await;
    let bridge = bridge(&server);
    let body = json!({ "room_id": room });
    let created = bridge.put(&client_path(alias), body.clone()).await;
    created.expect_ok();
    let other = "/_matrix/client/v3/directory/room/%23rust:localhost";
    bridge
        .put(other, body)
        .await
        .expect_error(400, "M_EXCLUSIVE");
}

#[tokio::test]
async fn a_service_logs_in_its_users() {
    let service = TestService::start("").await;
    let server = service.server().await;
    register_ghost(&server, "_bridge_bob").await;
    server.register("alice").await;

    let body = |user: &str| {
        json!({
            "type": "m.login.application_service",
            "identifier": { "type": "m.id.user", "user": user },
            "device_id": "BRIDGE",
        })
    };
    let path = "/_matrix/client/v3/login";
    let login = bridge(&server).post(path, body("_bridge_bob")).await;
    let login = login.expect_ok();
    let ghost = server.user_from_login(&login);

    let whoami = ghost.get("account/whoami").await.expect_ok();
    assert_eq!(whoami["device_id"], "BRIDGE");
    let refused = bridge(&server).post(path, body("alice")).await;
    refused.expect_error(400, "M_EXCLUSIVE");
    let types = server.client().get(path).await.expect_ok();
    let types = types["flows"].to_string();
    assert!(types.contains("m.login.application_service"), "{types}");
}

#[tokio::test]
async fn a_service_is_sent_the_messages_of_its_rooms() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let (room, other) = (
        alice.creates_open_room().await,
        alice.creates_open_room().await,
    );
    let ghost = register_ghost(&server, "_bridge_bob").await;

    join(&server, &ghost, &room).await;
    alice.says(&other, "not for the bridge").await;
    alice.says(&room, "for the bridge").await;

    let request = service.next_transaction_with("events").await;
    assert_eq!(request.authorization, format!("Bearer {HS_TOKEN}"));
    assert_eq!(request.method, Method::PUT);
    let join = &request.body["events"][0];
    assert_eq!(
        (&join["type"], &join["state_key"]),
        (&json!("m.room.member"), &json!(ghost))
    );
    service.events.extend(
        request.body["events"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
    );
    let seen = Mutex::new(Vec::new());
    let message = service
        .next_event(|event| {
            seen.lock()
                .expect("not poisoned")
                .push(event["room_id"].clone());
            event["content"]["body"] == "for the bridge"
        })
        .await;
    assert_eq!(message["room_id"], json!(room));
    assert_eq!(message["sender"], json!(alice.id));
    assert!(!seen.lock().expect("not poisoned").contains(&json!(other)));
}

#[tokio::test]
async fn a_refused_transaction_is_repeated_unchanged_and_none_is_lost() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    service
        .next_event(|event| event["type"] == "m.room.member")
        .await;

    service.answers_next(StatusCode::INTERNAL_SERVER_ERROR);
    alice.says(&room, "one").await;
    let refused = service.next_transaction_with("events").await;
    alice.says(&room, "two").await;
    let repeated = service.next_transaction_with("events").await;

    assert_eq!((refused.path, refused.body), (repeated.path, repeated.body));
    service.next_message("two").await;
}

#[tokio::test]
async fn transactions_go_on_after_a_restart() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    service
        .next_event(|event| event["type"] == "m.room.member")
        .await;
    for _ in 0..2 {
        service.answers_next(StatusCode::BAD_GATEWAY);
    }
    alice.says(&room, "before the restart").await;
    let refused = service.next_transaction_with("events").await;

    let server = server.restart().await;
    let repeated = service.next_transaction_with("events").await;
    assert_eq!((refused.path, refused.body), (repeated.path, repeated.body));
    let alice = server.log_in("alice").await;
    alice.says(&room, "after the restart").await;

    service.next_message("after the restart").await;
}

#[tokio::test]
async fn receipts_typing_and_messages_for_devices_are_sent() {
    let mut service = TestService::start("receive_ephemeral: true").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let ghost = register_ghost(&server, "_bridge_bob").await;
    join(&server, &ghost, &room).await;
    let event = alice.says(&room, "hello").await;

    let path = format!("rooms/{room}/typing/{}", alice.id);
    let body = json!({ "typing": true, "timeout": 20_000 });
    alice.put(&path, body).await.expect_ok();
    let typing = service.next_transaction_with("ephemeral").await.body;
    assert_eq!(
        typing["ephemeral"][0],
        json!({ "type": "m.typing", "room_id": room, "content": { "user_ids": [alice.id] } })
    );
    let path = format!("rooms/{room}/receipt/m.read/{event}");
    alice.post(&path, json!({})).await.expect_ok();
    let receipt = service.next_transaction_with("ephemeral").await.body;
    let receipt = &receipt["ephemeral"][0];
    assert_eq!(receipt["type"], "m.receipt");
    assert!(receipt["content"][&event]["m.read"][&*alice.id].is_object());

    let path = as_user("devices/CRYPTO", &ghost);
    let created = bridge(&server).put(&path, json!({})).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let content = json!({ "messages": { &*ghost: { "CRYPTO": { "key": "value" } } } });
    let path = "sendToDevice/org.example.secret/1";
    alice.put(path, content).await.expect_ok();
    let message = service.next_transaction_with("to_device").await.body;
    let expected = json!({
        "type": "org.example.secret", "sender": alice.id, "content": { "key": "value" },
        "to_user_id": ghost, "to_device_id": "CRYPTO",
    });
    assert_eq!(message["to_device"], json!([expected]));
    assert_eq!(message["de.sorunome.msc2409.to_device"], json!([expected]));
}

#[tokio::test]
async fn device_changes_are_sent_to_services_that_want_them() {
    let mut service = TestService::start("receive_ephemeral: true\norg.matrix.msc3202: true").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;

    let keys = json!({ "device_keys": {
        "user_id": alice.id, "device_id": alice.device_id, "algorithms": [],
        "keys": {}, "signatures": {},
    } });
    alice.post("keys/upload", keys).await.expect_ok();

    let lists = service.next_transaction_with("device_lists").await.body;
    assert_eq!(lists["device_lists"]["changed"], json!([alice.id]));
    assert_eq!(
        lists["org.matrix.msc3202.device_lists"],
        lists["device_lists"]
    );
}

#[tokio::test]
async fn a_service_acts_with_a_device_of_its_user() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let ghost = register_ghost(&server, "_bridge_bob").await;
    let bridge = bridge(&server);
    let path = as_user("devices/CRYPTO", &ghost);
    let created = bridge.put(&path, json!({ "display_name": "Bridge" })).await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(bridge.put(&path, json!({})).await.status, 200);

    for name in ["device_id", "org.matrix.msc3202.device_id"] {
        let path = as_user(&format!("account/whoami?{name}=CRYPTO"), &ghost);
        let whoami = bridge.get(&path).await.expect_ok();
        assert_eq!(whoami["device_id"], "CRYPTO");
    }
    let unknown = as_user("account/whoami?device_id=OTHER", &ghost);
    let refused = bridge.get(&unknown).await;
    refused.expect_error(400, "M_UNKNOWN_DEVICE");
    let no_device = as_user("keys/upload", &ghost);
    let refused = bridge.post(&no_device, json!({})).await;
    refused.expect_error(400, "M_MISSING_PARAM");
    // A service needs no interactive authentication to delete a device.
    let deleted = bridge.delete(&path).await;
    deleted.expect_ok();
    let gone = bridge.get(&path).await;
    gone.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn requests_without_device_have_transaction_ids() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let (bob, carol) = (
        register_ghost(&server, "_bridge_bob").await,
        register_ghost(&server, "_bridge_carol").await,
    );
    for ghost in [&bob, &carol] {
        join(&server, ghost, &room).await;
    }
    let bridge = bridge(&server);
    let path = format!("rooms/{room}/send/m.room.message/1");
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let send = async |ghost: &str| {
        let sent = bridge.put(&as_user(&path, ghost), body.clone()).await;
        sent.expect_ok()["event_id"].clone()
    };

    let first = send(&bob).await;

    assert_eq!(send(&bob).await, first);
    assert_ne!(send(&carol).await, first);
    let path = as_user("sendToDevice/org.example/1", &bob);
    let content = json!({ "messages": { &*alice.id: { "*": {} } } });
    for _ in 0..2 {
        bridge.put(&path, content.clone()).await.expect_ok();
    }
    let sync = alice.get("sync").await.expect_ok();
    let messages = sync["to_device"]["events"].as_array().expect("a list");
    assert_eq!(messages.len(), 1);
}

#[tokio::test]
async fn only_a_service_chooses_the_time_of_an_event() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    let bridge = bridge(&server);
    let body = json!({ "msgtype": "m.text", "body": "old" });
    let path = format!("rooms/{room}/send/m.room.message/1?ts=1000");
    let full = format!("/_matrix/client/v3/{path}");

    let old = bridge.put(&full, body.clone()).await.expect_ok();
    let new = alice.put(&path, body).await.expect_ok();
    let path = format!("/_matrix/client/v3/rooms/{room}/state/org.example/?ts=2000");
    let power = json!({ "users": { "@_bridge_bot:localhost": 50 } });
    let levels = format!("rooms/{room}/state/m.room.power_levels/");
    alice.put(&levels, power).await.expect_ok();
    let state = bridge.put(&path, json!({})).await.expect_ok();

    let time_of = async |event: &Value| {
        let event_id = event["event_id"].as_str().expect("an event id");
        let path = format!("rooms/{room}/event/{event_id}");
        let event = alice.get(&path).await.expect_ok();
        event["origin_server_ts"].as_i64().expect("a time")
    };
    assert_eq!(time_of(&old).await, 1000);
    assert_eq!(time_of(&state).await, 2000);
    assert!(time_of(&new).await > 2000);
}

#[tokio::test]
async fn a_service_creates_an_alias_when_someone_asks_for_it() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    let client = bridge(&server);
    service.sends_before_answering(
        "/_matrix/app/v1/rooms/%23_bridge_rust:localhost",
        move || {
            let (client, body) = (client.clone(), json!({ "room_id": room }));
            let path = client_path("directory/room/%23_bridge_rust:localhost");
            async move { client.put(&path, body).await }.boxed()
        },
    );

    let joined = alice
        .post("join/%23_bridge_rust:localhost", json!({}))
        .await;

    joined.expect_ok();
    let unknown = alice.get("directory/room/%23_bridge_other:localhost").await;
    unknown.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_service_creates_a_user_when_someone_invites_them() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let client = bridge(&server);
    service.sends_before_answering("/_matrix/app/v1/users/@_bridge_bob:localhost", move || {
        let client = client.clone();
        let body = json!({ "type": "m.login.application_service", "username": "_bridge_bob" });
        async move { client.post(&client_path("register"), body).await }.boxed()
    });

    let ghost = "@_bridge_bob:localhost";
    let path = format!("rooms/{room}/invite");
    alice
        .post(&path, json!({ "user_id": ghost }))
        .await
        .expect_ok();

    let invitation = service
        .next_event(|event| event["state_key"] == ghost)
        .await;
    assert_eq!(invitation["content"]["membership"], "invite");
    let profile = alice.get(&format!("profile/{ghost}")).await;
    profile.expect_ok();
}

#[tokio::test]
async fn a_ping_says_whether_the_service_answers() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v1/appservice/bridge/ping";
    let bridge = bridge(&server);

    let refused = bridge.post(path, json!({})).await;
    let refused = refused.expect_error(502, "M_BAD_STATUS");
    assert_eq!(refused["status"], 404);
    service.on_request(|request| {
        (request.path == "/_matrix/app/v1/ping" && request.body["transaction_id"] == "meow")
            .then(|| (StatusCode::OK, json!({})))
    });
    let answered = bridge.post(path, json!({ "transaction_id": "meow" })).await;
    assert!(answered.expect_ok()["duration_ms"].is_u64());
    let other = "/_matrix/client/v1/appservice/other/ping";
    let refused = bridge.post(other, json!({})).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let refused = alice.client.post(path, json!({})).await;
    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn networks_are_looked_up_at_the_service() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let protocol = json!({
        "user_fields": [], "location_fields": [], "icon": "mxc://a/b", "field_types": {},
        "instances": [{ "desc": "Example", "network_id": "net", "fields": {} }],
    });
    let location =
        json!([{ "alias": "#_bridge_rust:localhost", "protocol": "example", "fields": {} }]);
    let (answer, found) = (protocol.clone(), location.clone());
    service.on_request(move |request| match &*request.path {
        "/_matrix/app/v1/thirdparty/protocol/example" => Some((StatusCode::OK, answer.clone())),
        "/_matrix/app/v1/thirdparty/location/example" if request.query == "channel=%23rust" => {
            Some((StatusCode::OK, found.clone()))
        }
        "/_matrix/app/v1/thirdparty/location" => Some((StatusCode::OK, found.clone())),
        _ => None,
    });

    let protocols = alice.get("thirdparty/protocols").await.expect_ok();
    assert_eq!(protocols["example"]["icon"], protocol["icon"]);
    assert_eq!(
        protocols["example"]["instances"][0]["instance_id"],
        "bridge|net"
    );
    let one = alice.get("thirdparty/protocol/example").await.expect_ok();
    assert_eq!(one, protocols["example"]);
    for path in [
        "thirdparty/location/example?channel=%23rust",
        "thirdparty/location?alias=%23_bridge_rust:localhost",
    ] {
        assert_eq!(alice.get(path).await.expect_ok(), location, "{path}");
    }
    for path in [
        "thirdparty/protocol/other",
        "thirdparty/user/example?nick=bob",
    ] {
        alice.get(path).await.expect_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_service_lists_rooms_in_its_network() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let path = format!("directory/list/appservice/net/{room}");
    let list = async |visibility: &str| {
        let path = format!("/_matrix/client/v3/{path}");
        let body = json!({ "visibility": visibility });
        bridge(&server).put(&path, body).await.expect_ok();
    };
    let listed = async |body: Value| {
        let page = alice.post("publicRooms", body).await.expect_ok();
        page["chunk"].as_array().expect("a list").len()
    };

    list("public").await;

    assert_eq!(listed(json!({})).await, 0);
    for id in ["net", "bridge|net"] {
        assert_eq!(listed(json!({ "third_party_instance_id": id })).await, 1);
    }
    assert_eq!(
        listed(json!({ "third_party_instance_id": "other" })).await,
        0
    );
    assert_eq!(listed(json!({ "include_all_networks": true })).await, 1);
    list("private").await;
    assert_eq!(listed(json!({ "include_all_networks": true })).await, 0);
    let refused = alice.put(&path, json!({ "visibility": "public" })).await;
    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_service_can_be_exempt_from_rate_limits() {
    let service = TestService::start("rate_limited: false").await;
    let server = Server::with_config(|config| {
        service.register(config);
        config.limits.enabled = true;
    })
    .await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    let bridge = bridge(&server);

    for number in 0..100 {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
        let body = json!({ "msgtype": "m.text", "body": "hello" });
        bridge.put(&path, body).await.expect_ok();
    }
}

#[tokio::test]
async fn an_invalid_registration_stops_the_start() {
    let server = Server::start().await;
    let file = NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), "id: bridge\n").expect("the file is writable");
    let path = file.path().to_owned();

    let error = server
        .restart_error(|config| config.appservices.registrations = vec![path.clone()])
        .await;

    assert!(error.contains("as_token"), "{error}");
    assert!(error.contains(&path.display().to_string()), "{error}");
}

#[tokio::test]
async fn an_administrator_registers_and_removes_a_service() {
    let mut service = TestService::start("").await;
    let server = Server::start().await;
    let (admin, alice) = (
        server.register_admin("admin").await,
        server.register("alice").await,
    );
    let path = "/_parlour/admin/v1/application_services/bridge";
    let text = service.registration_text();
    let refused = alice.client.send(Method::PUT, path, &text).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let other_path = "/_parlour/admin/v1/application_services/other";
    let refused = admin.client.send(Method::PUT, other_path, &text).await;
    refused.expect_error(400, "M_INVALID_PARAM");

    admin
        .client
        .send(Method::PUT, path, &text)
        .await
        .expect_ok();
    let ghost = register_ghost(&server, "_bridge_ghost").await;
    let room = alice.creates_open_room().await;
    join(&server, &ghost, &room).await;
    alice.says(&room, "hello").await;
    service.next_message("hello").await;
    let server = server.restart().await;
    let (admin, alice) = (admin.on_server(&server), alice.on_server(&server));
    alice.says(&room, "after the restart").await;
    service.next_message("after the restart").await;
    let list = admin.client.get("/_parlour/admin/v1/application_services");
    let list = list.await.expect_ok();
    let listed = &list["application_services"][0];
    assert_eq!(
        (&listed["id"], &listed["source"]),
        (&json!("bridge"), &json!("database"))
    );
    assert!(!list.to_string().contains("token"), "{list}");

    let removed = admin.client.delete(path).await;
    removed.expect_ok();
    let whoami = "/_matrix/client/v3/account/whoami";
    let unknown = bridge(&server).get(whoami).await;
    unknown.expect_error(401, "M_UNKNOWN_TOKEN");
    let again = admin.client.delete(path).await;
    again.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_answered_ping_ends_the_pause_after_failures() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let ghost = register_ghost(&server, "_bridge_ghost").await;
    let room = alice.creates_open_room().await;
    join(&server, &ghost, &room).await;
    alice.says(&room, "first").await;
    service.next_message("first").await;
    // The pauses after these failures take more than a minute, which is longer than the test waits.
    for _ in 0..7 {
        service.answers_next(StatusCode::INTERNAL_SERVER_ERROR);
    }
    alice.says(&room, "second").await;
    service.on_request(|request| {
        let is_ping = request.path == "/_matrix/app/v1/ping";
        is_ping.then(|| (StatusCode::OK, json!({})))
    });
    let ping = "/_matrix/client/v1/appservice/bridge/ping";
    for _ in 0..7 {
        service.next_message("second").await;
        bridge(&server).post(ping, json!({})).await.expect_ok();
    }

    service.next_message("second").await;
}
