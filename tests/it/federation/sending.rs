//! Sending events and EDUs to other servers: in order, once, and after an outage.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::put,
};
use parlour::clock::Clock;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};

use super::{
    Network, Peer,
    peer_user::{PeerArchive, PeerUser},
};
use crate::{
    chat::{new_transaction, percent_encoded, texts_at},
    cross_signing::CrossSigningKeySet,
    harness::{HttpAnswer, Server, User},
    keys::{UPLOAD_PATH, device_keys},
};

/// The time that a test waits for expected transactions.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The transactions that a peer receives, and the way it answers them.
#[derive(Clone, Default)]
pub(super) struct TransactionReceiver {
    transactions: Arc<Mutex<ReceivedTransactions>>,
    arrivals: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct ReceivedTransactions {
    /// The transactions that were accepted, each with its ID.
    accepted: Vec<(String, Value)>,
    /// The IDs of the transactions that were refused.
    refused: Vec<String>,
    answer_kind: TransactionAnswer,
}

/// The way in which a peer answers transactions.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum TransactionAnswer {
    #[default]
    Accepts,
    Refuses(u16),
    AnswersNonsense,
    NeverAnswers,
}

impl TransactionReceiver {
    pub(super) fn router(&self) -> Router {
        Router::new()
            .route("/_matrix/federation/v1/send/{id}", put(transaction))
            .with_state(self.clone())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ReceivedTransactions> {
        self.transactions.lock().expect("no test panics here")
    }

    pub(super) fn sets_answer(&self, manner: TransactionAnswer) {
        self.lock().answer_kind = manner;
    }

    /// Waits until a check of the received transactions returns a value.
    pub(super) async fn waits_until<T>(
        &self,
        enough: impl Fn(&ReceivedTransactions) -> Option<T>,
    ) -> T {
        let waiting = self.waits_without_timeout(enough);
        let found = timeout(RECEIVE_TIMEOUT, waiting).await.ok();
        assert!(found.is_some(), "missing; got {:#?}", self.lock().accepted);
        found.expect("it was received")
    }

    async fn waits_without_timeout<T>(
        &self,
        enough: impl Fn(&ReceivedTransactions) -> Option<T>,
    ) -> T {
        loop {
            let news = self.arrivals.notified();
            if let Some(found) = enough(&self.lock()) {
                return found;
            }
            news.await;
        }
    }

    /// Waits for a message, and returns the texts of all messages until then.
    pub(super) async fn waits_for_message(&self, text: &str) -> Vec<String> {
        self.waits_until(|heard| {
            let said = heard.message_texts();
            said.iter().any(|it| it == text).then_some(said)
        })
        .await
    }

    /// Waits for a number of EDUs of a type, and returns their contents.
    pub(super) async fn waits_for_edus(&self, kind: &str, count: usize) -> Vec<Value> {
        self.waits_until(|heard| Some(heard.edus(kind)).filter(|edus| edus.len() >= count))
            .await
    }

    /// Waits until the peer has refused a number of transactions.
    pub(super) async fn waits_for_refusals(&self, count: usize) {
        self.waits_until(|heard| (heard.refused.len() >= count).then_some(()))
            .await;
    }
}

impl ReceivedTransactions {
    pub(super) fn pdus(&self) -> Vec<&Value> {
        let taken = self.accepted.iter();
        taken
            .flat_map(|(_, body)| body["pdus"].as_array().expect("a list"))
            .collect()
    }

    /// Returns the number of accepted transactions.
    pub(super) fn transaction_count(&self) -> usize {
        self.accepted.len()
    }

    pub(super) fn message_texts(&self) -> Vec<String> {
        let bodies = self.pdus().into_iter();
        bodies
            .filter_map(|pdu| Some(pdu["content"]["body"].as_str()?.to_owned()))
            .collect()
    }

    pub(super) fn edus(&self, kind: &str) -> Vec<Value> {
        let edus = self.accepted.iter().flat_map(|(_, body)| {
            let edus = body["edus"].as_array().map(Vec::as_slice);
            edus.unwrap_or_default()
        });
        edus.filter(|edu| edu["edu_type"] == kind)
            .map(|edu| edu["content"].clone())
            .collect()
    }
}

async fn transaction(
    State(ear): State<TransactionReceiver>,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    let manner = ear.lock().answer_kind;
    let answer = match manner {
        TransactionAnswer::Accepts => Json(json!({ "pdus": {} })).into_response(),
        TransactionAnswer::AnswersNonsense => "<html>thank you</html>".into_response(),
        TransactionAnswer::Refuses(status) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (
                status,
                Json(json!({ "errcode": "M_UNKNOWN", "error": "no" })),
            )
                .into_response()
        }
        TransactionAnswer::NeverAnswers => std::future::pending().await,
    };
    {
        let mut heard = ear.lock();
        match manner {
            TransactionAnswer::Refuses(_) => heard.refused.push(id),
            _ => heard.accepted.push((id, body)),
        }
    }
    ear.arrivals.notify_waiters();
    answer
}

/// A server with a room that a user of a peer is in, and the transactions that the peer receives.
pub(super) struct SendingScene {
    pub(super) network: Network,
    pub(super) server: Server,
    pub(super) alice: User,
    pub(super) room: String,
    pub(super) peer: Peer,
    pub(super) receiver: TransactionReceiver,
    pub(super) bob: PeerUser,
}

impl SendingScene {
    pub(super) async fn new() -> Self {
        Self::with_clock(Clock::system()).await
    }

    /// Starts a scene that uses the clock of the test.
    pub(super) async fn with_clock(clock: Clock) -> Self {
        let network = Network::new();
        let server = network.server_with_clock(clock).await;
        let alice = server.register("alice").await;
        let room = alice.creates_open_room().await;
        let (peer, ear, bob) = join_receiving_peer(&network, &server, &room).await;
        Self {
            network,
            server,
            alice,
            room,
            peer,
            receiver: ear,
            bob,
        }
    }

    pub(super) async fn says(&self, texts: impl IntoIterator<Item = &str>) {
        for text in texts {
            self.alice.says(&self.room, text).await;
        }
    }

    /// Waits until the peer gets Bob's leave, and asserts that it got no messages.
    pub(super) async fn asserts_bobs_leave_came_last(&self) {
        let leave = self
            .receiver
            .waits_until(|heard| heard.pdus().last().map(|pdu| (*pdu).clone()))
            .await;
        assert_eq!(leave["state_key"], self.bob.id);
        assert_eq!(leave["content"]["membership"], "leave");
        assert!(self.receiver.lock().message_texts().is_empty());
    }

    /// Sends a request from the peer to the server, which shows that the peer is up.
    pub(super) async fn peer_sends_request(&self) -> HttpAnswer {
        let user_id = percent_encoded(&self.alice.id);
        let path = format!("/_matrix/federation/v1/query/profile?user_id={user_id}");
        self.peer.gets(&self.server, &path).await
    }

    pub(super) async fn restart(self) -> Self {
        self.restart_after(async |_| {}).await
    }

    pub(super) async fn restart_after(self, change: impl AsyncFnOnce(&Server)) -> Self {
        let server = Box::pin(self.server.restart_after(change)).await;
        let alice = self.alice.on_server(&server);
        Self {
            server,
            alice,
            ..self
        }
    }

    pub(super) async fn uploads_keys(user: &User) -> Value {
        let keys = device_keys(user, 1);
        let body = json!({ "device_keys": keys });
        user.client.post(UPLOAD_PATH, body).await.expect_ok();
        keys
    }
}

async fn join_receiving_peer(
    network: &Network,
    server: &Server,
    room: &str,
) -> (Peer, TransactionReceiver, PeerUser) {
    let (ear, archive) = (TransactionReceiver::default(), PeerArchive::default());
    let peer = network.peer(ear.router().merge(archive.router())).await;
    let bob = peer.joins(server, room, ("bob", &archive)).await;
    (peer, ear, bob)
}

#[tokio::test]
async fn messages_reach_the_other_server_once_and_in_order() {
    let scene = SendingScene::new().await;
    let texts: Vec<String> = (1..=120).map(|n| n.to_string()).collect();

    scene.says(texts.iter().map(String::as_str)).await;
    let said = scene.receiver.waits_for_message("120").await;

    assert_eq!(said, texts);
    let heard = scene.receiver.lock();
    let sizes = heard
        .accepted
        .iter()
        .map(|(_, body)| body["pdus"].as_array().map_or(0, Vec::len));
    assert!(sizes.max() <= Some(50));
    assert_eq!(heard.accepted[0].1["origin"], scene.server.name());
}

#[tokio::test]
async fn unsent_events_are_sent_after_a_restart() {
    let scene = SendingScene::new().await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(502));
    scene.says(["one", "two", "three"]).await;
    scene.receiver.waits_for_refusals(1).await;

    let scene = scene.restart().await;
    scene.receiver.sets_answer(TransactionAnswer::Accepts);
    scene.says(["four"]).await;
    scene.peer_sends_request().await;

    assert_eq!(
        scene.receiver.waits_for_message("four").await,
        ["one", "two", "three", "four"]
    );
}

#[tokio::test]
async fn a_request_from_a_server_ends_its_retry_pause() {
    let scene = SendingScene::new().await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(500));
    for text in ["one", "two", "three", "four"] {
        scene.says([text]).await;
    }
    // The pause grows with each refusal.
    scene.receiver.waits_for_refusals(3).await;
    scene.receiver.sets_answer(TransactionAnswer::Accepts);

    scene.peer_sends_request().await;

    assert_eq!(
        scene.receiver.waits_for_message("four").await,
        ["one", "two", "three", "four"]
    );
}

#[tokio::test]
async fn only_the_newest_event_per_room_follows_a_long_outage() {
    let scene = SendingScene::new().await;
    let quiet = scene.alice.creates_open_room().await;
    let archive = PeerArchive::default();
    scene
        .peer
        .joins(&scene.server, &quiet, ("bob", &archive))
        .await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(500));
    scene.says(["first"]).await;
    scene.receiver.waits_for_refusals(1).await;
    let texts: Vec<String> = (1..=60).map(|n| n.to_string()).collect();
    scene.says(texts.iter().map(String::as_str)).await;
    scene.alice.says(&quiet, "a").await;
    scene.alice.says(&quiet, "b").await;
    scene.receiver.sets_answer(TransactionAnswer::Accepts);

    scene.peer_sends_request().await;
    scene.receiver.waits_for_message("60").await;
    scene.receiver.waits_for_message("b").await;
    scene.says(["later"]).await;

    let said = scene.receiver.waits_for_message("later").await;
    assert_eq!(said, ["60", "a", "b", "later"]);
}

#[tokio::test]
async fn a_refused_transaction_is_retried_later_with_the_same_id() {
    let scene = SendingScene::new().await;
    // Wait for the initial device list update, which this test does not check.
    scene
        .receiver
        .waits_for_edus("m.device_list_update", 1)
        .await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(400));

    scene.says(["one"]).await;
    scene.receiver.waits_for_refusals(2).await;
    scene.receiver.sets_answer(TransactionAnswer::Accepts);
    scene.receiver.waits_for_message("one").await;

    let heard = scene.receiver.lock();
    assert!(heard.refused.len() < 5, "{:?}", heard.refused);
    let id = &heard.refused[0];
    let taken = heard.accepted.iter().find(|(it, _)| it == id);
    assert!(
        taken.is_some(),
        "{:?} and {:?}",
        heard.refused,
        heard.accepted
    );
}

#[tokio::test]
async fn any_success_answer_counts_as_accepted() {
    let scene = SendingScene::new().await;
    scene
        .receiver
        .sets_answer(TransactionAnswer::AnswersNonsense);

    scene.says(["one"]).await;
    scene.receiver.waits_for_message("one").await;
    scene.says(["two"]).await;

    assert_eq!(
        scene.receiver.waits_for_message("two").await,
        ["one", "two"]
    );
}

#[tokio::test]
async fn a_silent_server_does_not_delay_sending_to_others() {
    let scene = SendingScene::new().await;
    let (_other, ear, _) = join_receiving_peer(&scene.network, &scene.server, &scene.room).await;
    scene.receiver.sets_answer(TransactionAnswer::NeverAnswers);

    scene.says(["one", "two"]).await;

    assert_eq!(ear.waits_for_message("two").await, ["one", "two"]);
    assert!(scene.receiver.lock().message_texts().is_empty());
}

#[tokio::test]
async fn an_empty_transaction_announces_a_restart() {
    let scene = SendingScene::new().await;
    scene.says(["one"]).await;
    scene.receiver.waits_for_message("one").await;
    let before = scene.receiver.lock().accepted.len();

    // Pending transactions were sent, because the stop waits for them.
    let scene = scene.restart().await;

    let greeting = scene
        .receiver
        .waits_until(|heard| heard.accepted.get(before..)?.last().cloned())
        .await;
    assert_eq!(greeting.1["pdus"], json!([]));
    assert!(scene.receiver.lock().message_texts().len() == 1);
}

#[tokio::test]
async fn a_removed_server_gets_the_leave_and_nothing_later() {
    let scene = SendingScene::new().await;
    let bob = json!({ "user_id": scene.bob.id });
    scene
        .alice
        .posts_in_room(&scene.room, "kick", bob)
        .await
        .expect_ok();
    scene.says(["behind their back"]).await;
    let (_, ear, _) = join_receiving_peer(&scene.network, &scene.server, &scene.room).await;
    scene.says(["hello"]).await;
    ear.waits_for_message("hello").await;

    scene.asserts_bobs_leave_came_last().await;
}

#[tokio::test]
async fn typing_and_public_receipts_are_sent_to_other_servers() {
    let scene = SendingScene::new().await;
    let event_id = scene.alice.says(&scene.room, "hi").await;

    scene.alice.starts_typing(&scene.room).await;
    let typing = scene.receiver.waits_for_edus("m.typing", 1).await;
    scene.alice.sends_read_receipt(&scene.room, &event_id).await;
    let private = format!("receipt/m.read.private/{event_id}");
    scene
        .alice
        .posts_in_room(&scene.room, &private, json!({}))
        .await
        .expect_ok();
    let receipts = scene.receiver.waits_for_edus("m.receipt", 1).await;

    let (room, alice) = (&scene.room, &scene.alice.id);
    assert_eq!(
        typing,
        [json!({ "room_id": room, "user_id": alice, "typing": true })]
    );
    let receipt = &receipts[0][room]["m.read"][alice];
    assert_eq!(receipt["event_ids"], json!([event_id]));
    assert!(receipt["data"]["ts"].is_u64());
    assert!(!receipts[0].to_string().contains("private"));
}

#[tokio::test]
async fn presence_is_sent_to_other_servers() {
    let scene = SendingScene::new().await;
    let path = format!("/_matrix/client/v3/presence/{}/status", scene.alice.id);
    let status = json!({ "presence": "online", "status_msg": "hello" });

    scene.alice.client.put(&path, status).await.expect_ok();
    let told = scene
        .receiver
        .waits_until(|heard| {
            let all = heard.edus("m.presence").into_iter();
            let mut all = all.flat_map(|edu| edu["push"].as_array().expect("a list").clone());
            all.find(|update| update["status_msg"] == "hello")
        })
        .await;

    assert_eq!(told["user_id"], scene.alice.id);
    assert_eq!(told["presence"], "online");
    let (_, ear, _) = join_receiving_peer(&scene.network, &scene.server, &scene.room).await;
    let told = &ear.waits_for_edus("m.presence", 1).await[0]["push"];
    assert_eq!(texts_at(told, "/user_id"), [&*scene.alice.id]);
}

#[tokio::test]
async fn a_to_device_message_waits_and_arrives_once() {
    let scene = SendingScene::new().await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(500));
    let path = format!(
        "/_matrix/client/v3/sendToDevice/m.test/{}",
        new_transaction()
    );
    let messages =
        json!({ "messages": { &scene.bob.id: { "PHONE": { "n": 1 }, "*": { "n": 2 } } } });
    for _ in 0..2 {
        let sent = scene.alice.client.put(&path, messages.clone()).await;
        sent.expect_ok();
    }
    scene.receiver.waits_for_refusals(1).await;

    let scene = scene.restart().await;
    scene.receiver.sets_answer(TransactionAnswer::Accepts);
    scene.peer_sends_request().await;
    scene.receiver.waits_for_edus("m.direct_to_device", 1).await;
    scene.says(["after"]).await;
    scene.receiver.waits_for_message("after").await;

    let letters = scene.receiver.lock().edus("m.direct_to_device");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["sender"], scene.alice.id);
    assert_eq!(letters[0]["type"], "m.test");
    assert_eq!(letters[0]["messages"], messages["messages"]);
    assert_eq!(letters[0]["message_id"].as_str().map(str::len), Some(32));
}

#[tokio::test]
async fn a_joining_server_gets_the_devices_of_local_members() {
    let scene = SendingScene::new().await;

    let told = scene
        .receiver
        .waits_for_edus("m.device_list_update", 1)
        .await;

    assert_eq!(told[0]["user_id"], scene.alice.id);
    assert_eq!(told[0]["device_id"], scene.alice.device_id);
    assert!(told[0].get("prev_id").is_none(), "no earlier update");
}

#[tokio::test]
async fn device_changes_and_deletions_are_sent_to_other_servers() {
    let scene = SendingScene::new().await;
    scene
        .receiver
        .waits_for_edus("m.device_list_update", 1)
        .await;

    let keys = SendingScene::uploads_keys(&scene.alice).await;
    let first = scene
        .receiver
        .waits_for_edus("m.device_list_update", 2)
        .await;
    let phone = scene.server.log_in("alice").await;
    SendingScene::uploads_keys(&phone).await;
    let second = scene
        .receiver
        .waits_for_edus("m.device_list_update", 3)
        .await;
    phone
        .client
        .post("/_matrix/client/v3/logout", json!({}))
        .await
        .expect_ok();
    let third = scene
        .receiver
        .waits_for_edus("m.device_list_update", 4)
        .await;

    assert_eq!(first[1]["keys"]["keys"], keys["keys"]);
    assert_eq!(first[1]["prev_id"], json!([first[0]["stream_id"]]));
    assert_eq!(second[2]["device_id"], phone.device_id);
    assert_eq!(second[2]["prev_id"], json!([first[1]["stream_id"]]));
    assert_eq!(third[3]["device_id"], phone.device_id);
    assert_eq!(third[3]["deleted"], true);
    assert_eq!(third[3]["prev_id"], json!([second[2]["stream_id"]]));
    let path = format!(
        "/_matrix/federation/v1/user/devices/{}",
        percent_encoded(&scene.alice.id)
    );
    let list = scene.peer.gets(&scene.server, &path).await.expect_ok();
    assert_eq!(list["stream_id"], third[3]["stream_id"]);
}

#[tokio::test]
async fn device_changes_during_an_outage_are_sent_afterwards() {
    let scene = SendingScene::new().await;
    scene
        .receiver
        .waits_for_edus("m.device_list_update", 1)
        .await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(500));
    SendingScene::uploads_keys(&scene.alice).await;
    scene.receiver.waits_for_refusals(1).await;

    let scene = scene.restart().await;
    scene.receiver.sets_answer(TransactionAnswer::Accepts);
    scene.peer_sends_request().await;
    let told = scene
        .receiver
        .waits_for_edus("m.device_list_update", 2)
        .await;

    assert!(told[1]["keys"].is_object());
    assert_eq!(told[1]["prev_id"], json!([told[0]["stream_id"]]));
}

#[tokio::test]
async fn cross_signing_keys_are_sent_to_other_servers() {
    let scene = SendingScene::new().await;

    CrossSigningKeySet::upload_for(&scene.alice).await;
    let told = scene
        .receiver
        .waits_for_edus("m.signing_key_update", 1)
        .await;

    assert_eq!(told[0]["user_id"], scene.alice.id);
    assert_eq!(told[0]["master_key"]["usage"], json!(["master"]));
    assert_eq!(
        told[0]["self_signing_key"]["usage"],
        json!(["self_signing"])
    );
    assert_eq!(
        scene.receiver.lock().edus("org.matrix.signing_key_update"),
        told
    );
}
