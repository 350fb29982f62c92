//! Tests the notifications that push gateways receive.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use parlour::config::Config;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

use crate::harness::{Server, User};

pub(crate) const SET_PUSHER_PATH: &str = "/_matrix/client/v3/pushers/set";
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";
/// The time within which an expected notification arrives.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(30);

/// A push gateway in the test process.
pub(crate) struct TestGateway {
    url: String,
    answers: Arc<Mutex<VecDeque<GatewayAnswer>>>,
    received: mpsc::UnboundedReceiver<Value>,
}

type GatewayAnswer = (StatusCode, Value);

#[derive(Clone)]
struct GatewayState {
    /// The next answers; when there are none, everything is accepted.
    answers: Arc<Mutex<VecDeque<GatewayAnswer>>>,
    received: mpsc::UnboundedSender<Value>,
}

async fn notify(
    State(state): State<GatewayState>,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let next = state.answers.lock().expect("not poisoned").pop_front();
    let (status, answer) = next.unwrap_or((StatusCode::OK, json!({ "rejected": [] })));
    let _ = state.received.send(body["notification"].clone());
    (status, Json(answer))
}

impl TestGateway {
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    pub(crate) async fn start() -> Self {
        let answers = Arc::<Mutex<VecDeque<GatewayAnswer>>>::default();
        let (sender, received) = mpsc::unbounded_channel();
        let state = GatewayState {
            answers: answers.clone(),
            received: sender,
        };
        let router = Router::new()
            .route(GATEWAY_PATH, post(notify))
            .with_state(state);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("http://{address}{GATEWAY_PATH}"),
            answers,
            received,
        }
    }

    /// Returns the URL of this gateway.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Makes the next request get this answer.
    fn answers_next(&self, status: StatusCode, body: Value) {
        let mut answers = self.answers.lock().expect("not poisoned");
        answers.push_back((status, body));
    }

    /// Returns the next notification.
    async fn next(&mut self) -> Value {
        let next = timeout(NOTIFICATION_TIMEOUT, self.received.recv()).await;
        next.expect("a notification arrives")
            .expect("the gateway runs")
    }

    /// Returns the next notification about a message, and leaves out those that only have a count.
    pub(crate) async fn next_message(&mut self) -> Value {
        loop {
            let next = self.next().await;
            if next["event_id"].is_string() {
                return next;
            }
        }
    }
}

pub(crate) fn allow_test_gateways(config: &mut Config) {
    config.push.allow_private_addresses = true;
}

pub(crate) fn pusher(gateway: &TestGateway, pushkey: &str) -> Value {
    json!({
        "pushkey": pushkey, "app_id": "org.example", "kind": "http", "lang": "en",
        "app_display_name": "Example", "device_display_name": "Phone",
        "data": { "url": gateway.url, "default_payload": { "a": 1 } },
    })
}

impl User {
    async fn sends_encrypted(&self, room: &str) -> Value {
        let content = json!({
            "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": "s",
        });
        let sent = self.tries_to_send(room, "m.room.encrypted", content).await;
        sent.expect_ok()["event_id"].clone()
    }
}

/// A room of Alice and Bob, in which Bob has a pusher.
struct PushTest {
    server: Server,
    gateway: TestGateway,
    alice: User,
    bob: User,
    room: String,
}

impl PushTest {
    async fn start() -> Self {
        let server = Server::with_config(allow_test_gateways).await;
        let gateway = TestGateway::start().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.creates_open_room().await;
        bob.joins(&room).await;
        let test = Self {
            server,
            gateway,
            alice,
            bob,
            room,
        };
        test.bob_sets(pusher(&test.gateway, "phone")).await;
        test
    }

    async fn bob_sets(&self, pusher: Value) {
        let client = &self.bob.client;
        client.post(SET_PUSHER_PATH, pusher).await.expect_ok();
    }

    async fn bobs_pushers(&self) -> Value {
        let pushers = self.bob.client.get("/_matrix/client/v3/pushers").await;
        pushers.expect_ok()["pushers"].clone()
    }

    async fn restart(self) -> Self {
        let server = self.server.restart().await;
        Self {
            alice: self.alice.on_server(&server),
            bob: self.bob.on_server(&server),
            server,
            ..self
        }
    }
}

#[tokio::test]
async fn a_message_is_pushed_with_its_content_and_the_unread_count() {
    let mut test = PushTest::start().await;
    let path = format!("/_matrix/client/v3/profile/{}/displayname", test.alice.id);
    let name = json!({ "displayname": "Alice" });
    test.alice.client.put(&path, name).await.expect_ok();
    let event_id = test.alice.says(&test.room, "hello").await;

    let notification = test.gateway.next_message().await;

    assert_eq!(
        notification,
        json!({
            "event_id": event_id, "room_id": test.room, "type": "m.room.message",
            "sender": test.alice.id, "sender_display_name": "Alice", "user_is_target": false,
            "content": { "msgtype": "m.text", "body": "hello" },
            "prio": "high", "counts": { "unread": 1 },
            "devices": [{
                "app_id": "org.example", "pushkey": "phone",
                "data": { "default_payload": { "a": 1 } }, "tweaks": { "sound": "default" },
            }],
        })
    );
}

#[tokio::test]
async fn a_pusher_may_ask_for_the_event_id_only() {
    let mut test = PushTest::start().await;
    let mut only_ids = pusher(&test.gateway, "phone");
    only_ids["data"]["format"] = json!("event_id_only");
    test.bob_sets(only_ids).await;
    let event_id = test.alice.says(&test.room, "hello").await;

    let notification = test.gateway.next_message().await;

    assert_eq!(
        notification,
        json!({
            "event_id": event_id, "room_id": test.room, "prio": "high", "counts": { "unread": 1 },
            "devices": [{
                "app_id": "org.example", "pushkey": "phone",
                "data": { "default_payload": { "a": 1 }, "format": "event_id_only" },
            }],
        })
    );
}

#[tokio::test]
async fn reading_a_room_lowers_the_unread_count() {
    let mut test = PushTest::start().await;
    test.alice.says(&test.room, "one").await;
    let last = test.alice.says(&test.room, "two").await;
    test.gateway.next_message().await;
    let second = test.gateway.next_message().await;
    assert_eq!(second["counts"]["unread"], 2);

    test.bob.sends_read_receipt(&test.room, &last).await;

    let read = test.gateway.next().await;
    assert_eq!(read["counts"]["unread"], 0);
    assert_eq!(read["event_id"], Value::Null);
    assert_eq!(read["devices"][0]["pushkey"], "phone");
}

#[tokio::test]
async fn a_rejected_pushkey_loses_its_pusher() {
    let mut test = PushTest::start().await;
    test.bob_sets(pusher(&test.gateway, "tablet")).await;
    test.gateway
        .answers_next(StatusCode::OK, json!({ "rejected": ["phone", "tablet"] }));
    test.alice.says(&test.room, "one").await;
    let first = test.gateway.next_message().await;
    let second = test.gateway.next_message().await;
    let (rejected, kept) = (
        &first["devices"][0]["pushkey"],
        &second["devices"][0]["pushkey"],
    );
    assert_ne!(rejected, kept);

    test.alice.says(&test.room, "two").await;
    let third = test.gateway.next_message().await;

    assert_eq!(&third["devices"][0]["pushkey"], kept);
    let pushers = test.bobs_pushers().await;
    assert_eq!(pushers.as_array().map(Vec::len), Some(1));
    assert_eq!(&pushers[0]["pushkey"], kept);
}

#[tokio::test]
async fn a_failing_gateway_gets_every_event_later_in_order() {
    let mut test = PushTest::start().await;
    test.gateway
        .answers_next(StatusCode::BAD_GATEWAY, json!({}));
    let one = test.alice.says(&test.room, "one").await;
    assert_eq!(test.gateway.next_message().await["event_id"], one);
    let two = test.alice.says(&test.room, "two").await;

    let (again, second) = (
        test.gateway.next_message().await,
        test.gateway.next_message().await,
    );

    assert_eq!(again["event_id"], one);
    assert_eq!(second["event_id"], two);
}

#[tokio::test]
async fn events_that_were_not_pushed_are_pushed_after_a_restart() {
    let mut test = PushTest::start().await;
    let sent = test.alice.says(&test.room, "sent").await;
    assert_eq!(test.gateway.next_message().await["event_id"], sent);
    for _ in 0..3 {
        test.gateway
            .answers_next(StatusCode::INTERNAL_SERVER_ERROR, json!({}));
    }
    let one = test.alice.says(&test.room, "one").await;
    let two = test.alice.says(&test.room, "two").await;
    assert_eq!(test.gateway.next_message().await["event_id"], one);
    test.gateway.answers.lock().expect("not poisoned").clear();

    let mut test = test.restart().await;

    let (first, second) = (
        test.gateway.next_message().await,
        test.gateway.next_message().await,
    );
    assert_eq!(first["event_id"], one);
    assert_eq!(second["event_id"], two);
}

#[tokio::test]
async fn an_invitation_is_pushed_to_the_invited_user() {
    let mut test = PushTest::start().await;
    let room = test
        .alice
        .creates(json!({ "preset": "private_chat", "name": "Plans" }))
        .await;

    test.alice.invites(&room, &test.bob).await;

    let notification = test.gateway.next_message().await;
    assert_eq!(notification["type"], "m.room.member");
    assert_eq!(notification["user_is_target"], true);
    assert_eq!(notification["room_name"], "Plans");
    assert_eq!(notification["content"]["membership"], "invite");
}

#[tokio::test]
async fn muted_rooms_and_ones_own_messages_are_not_pushed() {
    let mut test = PushTest::start().await;
    let muted = test.alice.creates_open_room().await;
    test.bob.joins(&muted).await;
    let path = format!("/_matrix/client/v3/pushrules/global/override/{muted}");
    let rule = json!({
        "actions": [],
        "conditions": [{ "kind": "event_match", "key": "room_id", "pattern": muted }],
    });
    test.bob.client.put(&path, rule).await.expect_ok();

    test.alice.says(&muted, "quiet").await;
    test.alice.sends_encrypted(&muted).await;
    test.bob.says(&test.room, "mine").await;
    let loud = test.alice.says(&test.room, "loud").await;

    assert_eq!(test.gateway.next_message().await["event_id"], loud);
}

#[tokio::test]
async fn logging_out_ends_the_notifications_of_a_device() {
    let mut test = PushTest::start().await;
    let tablet = test.server.log_in("bob").await;
    let client = &tablet.client;
    client
        .post(SET_PUSHER_PATH, pusher(&test.gateway, "tablet"))
        .await
        .expect_ok();
    let logout = "/_matrix/client/v3/logout";
    test.bob.client.post(logout, json!({})).await.expect_ok();

    test.alice.says(&test.room, "one").await;
    test.alice.says(&test.room, "two").await;

    for _ in 0..2 {
        let notification = test.gateway.next_message().await;
        assert_eq!(notification["devices"][0]["pushkey"], "tablet");
    }
}

#[tokio::test]
async fn gateways_with_private_addresses_are_not_contacted() {
    let mut gateway = TestGateway::start().await;
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let refused = bob.client.post(SET_PUSHER_PATH, pusher(&gateway, "phone"));
    refused.await.expect_error(400, "M_INVALID_PARAM");
    let mut secure = pusher(&gateway, "phone");
    secure["data"]["url"] = json!(gateway.url.replace("http:", "https:"));
    let set = bob.client.post(SET_PUSHER_PATH, secure).await;
    set.expect_ok();

    let server = server.restart_with(allow_test_gateways).await;
    let (alice, bob) = (alice.on_server(&server), bob.on_server(&server));
    let set = bob.client.post(SET_PUSHER_PATH, pusher(&gateway, "tablet"));
    set.await.expect_ok();
    let event_id = alice.says(&room, "hello").await;

    let first = gateway.next_message().await;
    assert_eq!(first["event_id"], event_id);
    assert_eq!(first["devices"][0]["pushkey"], "tablet");
}

#[tokio::test]
async fn a_pusher_can_be_switched_off_and_on_from_another_device() {
    let mut test = PushTest::start().await;
    let desktop = test.server.log_in("bob").await;
    let mut switched = pusher(&test.gateway, "phone");
    switched["org.matrix.msc3881.enabled"] = json!(false);
    test.bob_sets(switched.clone()).await;
    let shown = desktop.client.get("/_matrix/client/v3/pushers").await;
    let shown = shown.expect_ok()["pushers"][0].clone();
    assert_eq!(shown["org.matrix.msc3881.enabled"], false);
    assert_eq!(shown["org.matrix.msc3881.device_id"], test.bob.device_id);
    test.alice.says(&test.room, "unheard").await;

    switched["org.matrix.msc3881.enabled"] = json!(true);
    let set = desktop.client.post(SET_PUSHER_PATH, switched).await;
    set.expect_ok();
    let heard = test.alice.says(&test.room, "heard").await;

    assert_eq!(test.gateway.next_message().await["event_id"], heard);
}

#[tokio::test]
async fn a_client_that_counts_itself_is_sent_no_counts() {
    let mut test = PushTest::start().await;
    let mut counting = pusher(&test.gateway, "phone");
    counting["data"]["org.matrix.msc4076.disable_badge_count"] = json!(true);
    test.bob_sets(counting).await;
    let one = test.alice.says(&test.room, "one").await;
    let first = test.gateway.next().await;
    assert_eq!(first["event_id"], one);
    assert_eq!(first["counts"], Value::Null);

    test.bob.sends_read_receipt(&test.room, &one).await;
    let two = test.alice.says(&test.room, "two").await;

    assert_eq!(test.gateway.next().await["event_id"], two);
}

#[tokio::test]
async fn encrypted_events_are_pushed_but_not_counted_where_only_mentions_notify() {
    let mut test = PushTest::start().await;
    let path = format!("/_matrix/client/v3/pushrules/global/room/{}", test.room);
    let mentions_only = json!({ "actions": [] });
    let answer = test.bob.client.put(&path, mentions_only).await;
    answer.expect_ok();

    let event_id = test.alice.sends_encrypted(&test.room).await;

    let notification = test.gateway.next_message().await;
    assert_eq!(notification["event_id"], event_id);
    assert_eq!(notification["counts"]["unread"], 0);
}
