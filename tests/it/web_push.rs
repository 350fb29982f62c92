//! Tests Web Push: what a push service receives, and what the client can decrypt of it.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use parlour::clock::Clock;
use ruma::serde::{Base64, base64::UrlSafe};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use web_push_native::{
    Auth,
    p256::{SecretKey, elliptic_curve::sec1::ToEncodedPoint},
};

use crate::{
    harness::{HttpAnswer, Server, User},
    push_gateway::{SET_PUSHER_PATH, allow_test_gateways},
};

const PUSHERS_PATH: &str = "/_matrix/client/v3/pushers";
pub(crate) const ACTIVATION_PATH: &str = "/_matrix/client/unstable/org.matrix.msc4174/pushers/ack";
const APP_ID: &str = "org.example.page";
/// The time within which an expected message arrives.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// A push service in the test process, with one subscription of a browser.
pub(crate) struct TestPushService {
    url: String,
    private_key: SecretKey,
    auth_secret: Auth,
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
    received: mpsc::UnboundedReceiver<ReceivedMessage>,
}

struct ReceivedMessage {
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Clone)]
struct ServiceState {
    /// The next answers; when there are none, everything is accepted.
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
    received: mpsc::UnboundedSender<ReceivedMessage>,
}

async fn receive(State(state): State<ServiceState>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let next = state.answers.lock().expect("not poisoned").pop_front();
    let _ = state.received.send(ReceivedMessage { headers, body });
    next.unwrap_or(StatusCode::CREATED)
}

fn encode(bytes: &[u8]) -> String {
    Base64::<UrlSafe, _>::new(bytes).encode()
}

impl TestPushService {
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    pub(crate) async fn start() -> Self {
        let answers = Arc::<Mutex<VecDeque<StatusCode>>>::default();
        let (sender, received) = mpsc::unbounded_channel();
        let state = ServiceState {
            answers: answers.clone(),
            received: sender,
        };
        let router = Router::new()
            .route("/send/1", post(receive))
            .with_state(state);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("http://{address}/send/1"),
            private_key: SecretKey::from_slice(&[7; 32]).expect("a valid key"),
            auth_secret: Auth::from([9; 16]),
            answers,
            received,
        }
    }

    /// Returns a pusher for the subscription.
    pub(crate) fn pusher(&self) -> Value {
        let public_key = self.private_key.public_key().to_encoded_point(false);
        json!({
            "pushkey": encode(public_key.as_bytes()), "app_id": APP_ID,
            "kind": "org.matrix.msc4174.webpush", "lang": "en",
            "app_display_name": "Example", "device_display_name": "Browser",
            "data": {
                "url": self.url, "auth": encode(&self.auth_secret),
                "default_payload": { "notification_detail": "text" },
            },
        })
    }

    /// Makes the next message get this answer.
    fn answers_next(&self, status: StatusCode) {
        self.answers.lock().expect("not poisoned").push_back(status);
    }

    /// Returns the next message as the push service sees it.
    async fn next_encrypted(&mut self) -> ReceivedMessage {
        let next = timeout(MESSAGE_TIMEOUT, self.received.recv()).await;
        next.expect("a message arrives").expect("the service runs")
    }

    /// Returns the next message as the browser sees it.
    pub(crate) async fn next(&mut self) -> Value {
        let message = self.next_encrypted().await;
        self.decrypt(&message)
    }

    fn decrypt(&self, message: &ReceivedMessage) -> Value {
        let body = message.body.to_vec();
        let text = web_push_native::decrypt(body, &self.private_key, &self.auth_secret);
        serde_json::from_slice(&text.expect("the browser can decrypt it")).expect("JSON")
    }
}

/// A room of Alice and Bob, and a push service for Bob's browser.
struct WebPushTest {
    server: Server,
    service: TestPushService,
    alice: User,
    bob: User,
    room: String,
}

impl WebPushTest {
    async fn start() -> Self {
        Self::with_clock(Clock::system()).await
    }

    async fn with_clock(clock: Clock) -> Self {
        let server = Server::with_clock(clock, allow_test_gateways).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.creates_open_room().await;
        bob.joins(&room).await;
        Self {
            server,
            service: TestPushService::start().await,
            alice,
            bob,
            room,
        }
    }

    async fn bob_sets(&self, pusher: Value) -> HttpAnswer {
        self.bob.client.post(SET_PUSHER_PATH, pusher).await
    }

    async fn bob_acknowledges(&self, token: &Value) -> HttpAnswer {
        let body = json!({ "app_id": APP_ID, "ack_token": token });
        self.bob.client.post(ACTIVATION_PATH, body).await
    }

    async fn bobs_pushers(&self) -> Value {
        let pushers = self.bob.client.get(PUSHERS_PATH).await;
        pushers.expect_ok()["pushers"].clone()
    }

    /// Sets and activates Bob's pusher.
    async fn bob_subscribes(&mut self, pusher: Value) {
        assert_eq!(self.bob_sets(pusher).await.status, 201);
        let activation = self.service.next().await;
        let acknowledged = self.bob_acknowledges(&activation["ack_token"]).await;
        acknowledged.expect_ok();
    }
}

#[tokio::test]
async fn a_browser_receives_messages_once_it_has_activated_the_pusher() {
    let mut test = WebPushTest::start().await;
    let set = test.bob_sets(test.service.pusher()).await;
    assert_eq!(set.status, 201);
    let activation = test.service.next().await;
    assert_eq!(activation["app_id"], APP_ID);
    assert_eq!(test.bobs_pushers().await[0]["data"]["activated"], false);
    test.alice.says(&test.room, "before").await;

    let acknowledged = test.bob_acknowledges(&activation["ack_token"]).await;
    acknowledged.expect_ok();
    let event_id = test.alice.says(&test.room, "after").await;

    assert_eq!(
        test.service.next().await,
        json!({
            "notification_detail": "text",
            "content": { "msgtype": "m.text", "body": "after" },
            "event_id": event_id, "room_id": test.room, "type": "m.room.message",
            "sender": test.alice.id, "user_is_target": false,
            "prio": "high", "counts": { "unread": 2 }, "tweaks": { "sound": "default" },
        })
    );
    assert_eq!(test.bobs_pushers().await[0]["data"]["activated"], true);
    let again = test.bob_sets(test.service.pusher()).await;
    assert_eq!(again.status, 200);
}

#[tokio::test]
async fn messages_are_encrypted_and_signed_with_the_key_of_the_server() {
    let mut test = WebPushTest::start().await;
    let capabilities = test.bob.client.get("/_matrix/client/v3/capabilities").await;
    let capabilities = capabilities.expect_ok();
    let capability = &capabilities["capabilities"]["org.matrix.msc4174.webpush"];
    assert_eq!(capability["enabled"], true);
    let key = capability["vapid"].as_str().expect("a key").to_owned();
    test.bob_subscribes(test.service.pusher()).await;

    let test = {
        let server = test.server.restart().await;
        WebPushTest {
            alice: test.alice.on_server(&server),
            bob: test.bob.on_server(&server),
            server,
            ..test
        }
    };
    let mut test = test;
    test.alice.says(&test.room, "secret").await;
    let message = test.service.next_encrypted().await;

    let header = |name: &str| message.headers[name].to_str().expect("a text");
    assert_eq!(header("content-encoding"), "aes128gcm");
    assert_eq!(header("ttl"), "86400");
    assert_eq!(header("urgency"), "high");
    let authorization = header("authorization");
    assert!(authorization.starts_with("vapid t="), "{authorization}");
    assert!(authorization.ends_with(&format!(", k={key}")));
    assert!(!String::from_utf8_lossy(&message.body).contains("secret"));
    assert_eq!(test.service.decrypt(&message)["content"]["body"], "secret");
}

#[tokio::test]
async fn a_browser_may_ask_for_the_event_id_only() {
    let mut test = WebPushTest::start().await;
    let mut only_ids = test.service.pusher();
    only_ids["data"]["format"] = json!("event_id_only");
    only_ids["data"]["default_payload"] = json!({ "notification_detail": "nothing" });
    test.bob_subscribes(only_ids).await;

    let event_id = test.alice.says(&test.room, "hello").await;

    assert_eq!(
        test.service.next().await,
        json!({
            "notification_detail": "nothing", "event_id": event_id, "room_id": test.room, "prio": "high",
            "counts": { "unread": 1 },
        })
    );
}

#[tokio::test]
async fn the_content_of_a_long_message_is_left_out() {
    let mut test = WebPushTest::start().await;
    test.bob_subscribes(test.service.pusher()).await;

    let event_id = test.alice.says(&test.room, &"long ".repeat(1_000)).await;

    let message = test.service.next_encrypted().await;
    assert!(message.body.len() <= 4_096);
    let message = test.service.decrypt(&message);
    assert_eq!(message["event_id"], event_id);
    assert_eq!(message["sender"], test.alice.id);
    assert_eq!(message["content"], Value::Null);
}

#[tokio::test]
async fn only_the_newest_token_activates_a_pusher_and_only_in_time() {
    let clock = Clock::manual(1_700_000_000_000);
    let mut test = WebPushTest::with_clock(clock.clone()).await;
    let without_pusher = test.bob_acknowledges(&json!("x")).await;
    without_pusher.expect_error(404, "M_NOT_FOUND");
    test.bob_sets(test.service.pusher()).await;
    let first = test.service.next().await;
    test.bob_sets(test.service.pusher()).await;
    let second = test.service.next().await;

    let replaced = test.bob_acknowledges(&first["ack_token"]).await;
    replaced.expect_error(400, "M_UNKNOWN_ACTIVATION_TOKEN");
    clock.advance(Duration::from_mins(5));
    let late = test.bob_acknowledges(&second["ack_token"]).await;
    late.expect_error(410, "M_EXPIRED_ACTIVATION_TOKEN");

    test.bob_subscribes(test.service.pusher()).await;
    assert_eq!(test.bobs_pushers().await[0]["data"]["activated"], true);
}

#[tokio::test]
async fn a_pusher_is_removed_when_its_subscription_has_ended() {
    for status in [
        StatusCode::GONE,
        StatusCode::NOT_FOUND,
        StatusCode::FORBIDDEN,
    ] {
        let mut test = WebPushTest::start().await;
        test.bob_subscribes(test.service.pusher()).await;
        test.service.answers_next(status);

        test.alice.says(&test.room, "hello").await;
        test.service.next().await;

        let mut pushers = test.bobs_pushers().await;
        while pushers != json!([]) {
            tokio::task::yield_now().await;
            pushers = test.bobs_pushers().await;
        }
    }
}

#[tokio::test]
async fn a_failing_push_service_gets_the_message_later() {
    let mut test = WebPushTest::start().await;
    test.bob_subscribes(test.service.pusher()).await;
    test.service.answers_next(StatusCode::TOO_MANY_REQUESTS);
    let event_id = test.alice.says(&test.room, "hello").await;

    let (first, second) = (test.service.next().await, test.service.next().await);

    assert_eq!(first["event_id"], event_id);
    assert_eq!(second["event_id"], event_id);
}

#[tokio::test]
async fn a_message_that_the_push_service_refuses_does_not_block_others() {
    let mut test = WebPushTest::start().await;
    test.bob_subscribes(test.service.pusher()).await;
    test.service.answers_next(StatusCode::PAYLOAD_TOO_LARGE);
    let one = test.alice.says(&test.room, "one").await;
    let two = test.alice.says(&test.room, "two").await;

    let (first, second) = (test.service.next().await, test.service.next().await);

    assert_eq!(first["event_id"], one);
    assert_eq!(second["event_id"], two);
}

#[tokio::test]
async fn malformed_subscriptions_are_refused() {
    let test = WebPushTest::start().await;
    for (path, value) in [
        ("/kind", "carrier-pigeon"),
        ("/pushkey", "AAAA"),
        ("/data/auth", "AAAA"),
        ("/data/url", "ftp://push.example.org/1"),
    ] {
        let mut pusher = test.service.pusher();
        *pusher.pointer_mut(path).expect("a field") = json!(value);

        let refused = test.bob_sets(pusher).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    assert_eq!(test.bobs_pushers().await, json!([]));
}
