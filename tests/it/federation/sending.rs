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
    guest::{Archive, Guest},
};
use crate::{
    chat::{each, encoded, new_transaction},
    cross_signing::Signer,
    harness::{Answer, Server, User},
    keys::{UPLOAD, device_keys},
};

/// The time that a test waits for expected transactions.
const PATIENCE: Duration = Duration::from_secs(30);

/// The transactions that a peer receives, and the way it answers them.
#[derive(Clone, Default)]
pub(super) struct Ear {
    heard: Arc<Mutex<Heard>>,
    news: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct Heard {
    /// The transactions that were accepted, each with its ID.
    taken: Vec<(String, Value)>,
    /// The IDs of the transactions that were refused.
    refused: Vec<String>,
    manner: Manner,
}

/// The way in which a peer answers transactions.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Manner {
    #[default]
    Takes,
    Refuses(u16),
    Babbles,
    Sleeps,
}

impl Ear {
    pub(super) fn router(&self) -> Router {
        Router::new()
            .route("/_matrix/federation/v1/send/{id}", put(transaction))
            .with_state(self.clone())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no test panics here")
    }

    pub(super) fn answers(&self, manner: Manner) {
        self.lock().manner = manner;
    }

    /// Waits until a check of the received transactions returns a value.
    pub(super) async fn waits<T>(&self, enough: impl Fn(&Heard) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let news = self.news.notified();
                if let Some(found) = enough(&self.lock()) {
                    return found;
                }
                news.await;
            }
        };
        let found = timeout(PATIENCE, waiting).await.ok();
        assert!(found.is_some(), "missing; got {:#?}", self.lock().taken);
        found.expect("it was received")
    }

    /// Waits for a message, and returns the texts of all messages until then.
    pub(super) async fn hears(&self, text: &str) -> Vec<String> {
        self.waits(|heard| {
            let said = heard.said();
            said.iter().any(|it| it == text).then_some(said)
        })
        .await
    }

    /// Waits for a number of EDUs of a type, and returns their contents.
    pub(super) async fn hears_edus(&self, kind: &str, count: usize) -> Vec<Value> {
        self.waits(|heard| Some(heard.edus(kind)).filter(|edus| edus.len() >= count))
            .await
    }

    /// Waits until the peer has refused a number of transactions.
    pub(super) async fn refuses(&self, count: usize) {
        self.waits(|heard| (heard.refused.len() >= count).then_some(()))
            .await;
    }
}

impl Heard {
    pub(super) fn pdus(&self) -> Vec<&Value> {
        let taken = self.taken.iter();
        taken
            .flat_map(|(_, body)| body["pdus"].as_array().expect("a list"))
            .collect()
    }

    /// Returns the number of accepted transactions.
    pub(super) fn transactions(&self) -> usize {
        self.taken.len()
    }

    pub(super) fn said(&self) -> Vec<String> {
        let bodies = self.pdus().into_iter();
        bodies
            .filter_map(|pdu| Some(pdu["content"]["body"].as_str()?.to_owned()))
            .collect()
    }

    pub(super) fn edus(&self, kind: &str) -> Vec<Value> {
        let edus = self.taken.iter().flat_map(|(_, body)| {
            let edus = body["edus"].as_array().map(Vec::as_slice);
            edus.unwrap_or_default()
        });
        edus.filter(|edu| edu["edu_type"] == kind)
            .map(|edu| edu["content"].clone())
            .collect()
    }
}

async fn transaction(
    State(ear): State<Ear>,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    let manner = ear.lock().manner;
    let answer = match manner {
        Manner::Takes => Json(json!({ "pdus": {} })).into_response(),
        Manner::Babbles => "<html>thank you</html>".into_response(),
        Manner::Refuses(status) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (
                status,
                Json(json!({ "errcode": "M_UNKNOWN", "error": "no" })),
            )
                .into_response()
        }
        Manner::Sleeps => std::future::pending().await,
    };
    {
        let mut heard = ear.lock();
        match manner {
            Manner::Refuses(_) => heard.refused.push(id),
            _ => heard.taken.push((id, body)),
        }
    }
    ear.news.notify_waiters();
    answer
}

/// A server with a room that a user of a peer is in, and the transactions that the peer receives.
pub(super) struct Scene {
    pub(super) network: Network,
    pub(super) server: Server,
    pub(super) alice: User,
    pub(super) room: String,
    pub(super) peer: Peer,
    pub(super) ear: Ear,
    pub(super) bob: Guest,
}

impl Scene {
    pub(super) async fn new() -> Self {
        Self::at(Clock::system()).await
    }

    /// Starts a scene that uses the clock of the test.
    pub(super) async fn at(clock: Clock) -> Self {
        let network = Network::new();
        let server = network.server_at(clock).await;
        let alice = server.register("alice").await;
        let room = alice.creates_open_room().await;
        let (peer, ear, bob) = joins(&network, &server, &room).await;
        Self {
            network,
            server,
            alice,
            room,
            peer,
            ear,
            bob,
        }
    }

    pub(super) async fn says(&self, texts: impl IntoIterator<Item = &str>) {
        for text in texts {
            self.alice.says(&self.room, text).await;
        }
    }

    /// Waits until the peer gets Bob's leave, and asserts that it got no messages.
    pub(super) async fn is_left_with_leave_of_bob(&self) {
        let leave = self
            .ear
            .waits(|heard| heard.pdus().last().map(|pdu| (*pdu).clone()))
            .await;
        assert_eq!(leave["state_key"], self.bob.id);
        assert_eq!(leave["content"]["membership"], "leave");
        assert!(self.ear.lock().said().is_empty());
    }

    /// Sends a request from the peer to the server, which shows that the peer is up.
    pub(super) async fn shows_life(&self) -> Answer {
        let user_id = encoded(&self.alice.id);
        let path = format!("/_matrix/federation/v1/query/profile?user_id={user_id}");
        self.peer.gets(&self.server, &path).await
    }

    pub(super) async fn restart(self) -> Self {
        self.restart_after(async |_| {}).await
    }

    pub(super) async fn restart_after(self, change: impl AsyncFnOnce(&Server)) -> Self {
        let server = self.server.restart_after(change).await;
        let alice = self.alice.at(&server);
        Self {
            server,
            alice,
            ..self
        }
    }

    pub(super) async fn uploads_keys(user: &User) -> Value {
        let keys = device_keys(user, 1);
        let body = json!({ "device_keys": keys });
        user.client.post(UPLOAD, body).await.expect_ok();
        keys
    }
}

async fn joins(network: &Network, server: &Server, room: &str) -> (Peer, Ear, Guest) {
    let (ear, archive) = (Ear::default(), Archive::default());
    let peer = network.peer(ear.router().merge(archive.router())).await;
    let bob = peer.joins(server, room, ("bob", &archive)).await;
    (peer, ear, bob)
}

#[tokio::test]
async fn what_is_said_reaches_the_other_server_once_and_in_order() {
    let scene = Scene::new().await;
    let texts: Vec<String> = (1..=120).map(|n| n.to_string()).collect();

    scene.says(texts.iter().map(String::as_str)).await;
    let said = scene.ear.hears("120").await;

    assert_eq!(said, texts);
    let heard = scene.ear.lock();
    let sizes = heard
        .taken
        .iter()
        .map(|(_, body)| body["pdus"].as_array().map_or(0, Vec::len));
    assert!(sizes.max() <= Some(50));
    assert_eq!(heard.taken[0].1["origin"], scene.server.name());
}

#[tokio::test]
async fn what_waits_when_the_server_stops_is_sent_when_it_is_back() {
    let scene = Scene::new().await;
    scene.ear.answers(Manner::Refuses(502));
    scene.says(["one", "two", "three"]).await;
    scene.ear.refuses(1).await;

    let scene = scene.restart().await;
    scene.ear.answers(Manner::Takes);
    scene.says(["four"]).await;
    scene.shows_life().await;

    assert_eq!(
        scene.ear.hears("four").await,
        ["one", "two", "three", "four"]
    );
}

#[tokio::test]
async fn after_a_short_outage_everything_comes_and_a_sign_of_life_ends_the_pause() {
    let scene = Scene::new().await;
    scene.ear.answers(Manner::Refuses(500));
    for text in ["one", "two", "three", "four"] {
        scene.says([text]).await;
    }
    // The pause grows with each refusal.
    scene.ear.refuses(3).await;
    scene.ear.answers(Manner::Takes);

    scene.shows_life().await;

    assert_eq!(
        scene.ear.hears("four").await,
        ["one", "two", "three", "four"]
    );
}

#[tokio::test]
async fn after_a_long_outage_the_newest_event_of_a_room_comes() {
    let scene = Scene::new().await;
    let quiet = scene.alice.creates_open_room().await;
    let archive = Archive::default();
    scene
        .peer
        .joins(&scene.server, &quiet, ("bob", &archive))
        .await;
    scene.ear.answers(Manner::Refuses(500));
    scene.says(["first"]).await;
    scene.ear.refuses(1).await;
    let texts: Vec<String> = (1..=60).map(|n| n.to_string()).collect();
    scene.says(texts.iter().map(String::as_str)).await;
    scene.alice.says(&quiet, "a").await;
    scene.alice.says(&quiet, "b").await;
    scene.ear.answers(Manner::Takes);

    scene.shows_life().await;
    scene.ear.hears("60").await;
    scene.ear.hears("b").await;
    scene.says(["later"]).await;

    let said = scene.ear.hears("later").await;
    assert_eq!(said, ["60", "a", "b", "later"]);
}

#[tokio::test]
async fn a_refusal_of_a_whole_transaction_is_tried_again_with_the_same_id_and_not_at_once() {
    let scene = Scene::new().await;
    // Wait for the initial device list update, which this test does not check.
    scene.ear.hears_edus("m.device_list_update", 1).await;
    scene.ear.answers(Manner::Refuses(400));

    scene.says(["one"]).await;
    scene.ear.refuses(2).await;
    scene.ear.answers(Manner::Takes);
    scene.ear.hears("one").await;

    let heard = scene.ear.lock();
    assert!(heard.refused.len() < 5, "{:?}", heard.refused);
    let id = &heard.refused[0];
    let taken = heard.taken.iter().find(|(it, _)| it == id);
    assert!(taken.is_some(), "{:?} and {:?}", heard.refused, heard.taken);
}

#[tokio::test]
async fn whatever_a_server_says_that_takes_it_is_taken() {
    let scene = Scene::new().await;
    scene.ear.answers(Manner::Babbles);

    scene.says(["one"]).await;
    scene.ear.hears("one").await;
    scene.says(["two"]).await;

    assert_eq!(scene.ear.hears("two").await, ["one", "two"]);
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_up_no_other() {
    let scene = Scene::new().await;
    let (_other, ear, _) = joins(&scene.network, &scene.server, &scene.room).await;
    scene.ear.answers(Manner::Sleeps);

    scene.says(["one", "two"]).await;

    assert_eq!(ear.hears("two").await, ["one", "two"]);
    assert!(scene.ear.lock().said().is_empty());
}

#[tokio::test]
async fn others_are_told_when_the_server_is_back() {
    let scene = Scene::new().await;
    scene.says(["one"]).await;
    scene.ear.hears("one").await;
    let before = scene.ear.lock().taken.len();

    // Pending transactions were sent, because the stop waits for them.
    let scene = scene.restart().await;

    let greeting = scene
        .ear
        .waits(|heard| heard.taken.get(before..)?.last().cloned())
        .await;
    assert_eq!(greeting.1["pdus"], json!([]));
    assert!(scene.ear.lock().said().len() == 1);
}

#[tokio::test]
async fn who_leaves_is_told_so_and_hears_no_more() {
    let scene = Scene::new().await;
    let bob = json!({ "user_id": scene.bob.id });
    scene
        .alice
        .tries(&scene.room, "kick", bob)
        .await
        .expect_ok();
    scene.says(["behind their back"]).await;
    let (_, ear, _) = joins(&scene.network, &scene.server, &scene.room).await;
    scene.says(["hello"]).await;
    ear.hears("hello").await;

    scene.is_left_with_leave_of_bob().await;
}

#[tokio::test]
async fn others_are_told_who_types_and_who_has_read_what() {
    let scene = Scene::new().await;
    let event_id = scene.alice.says(&scene.room, "hi").await;

    scene.alice.types(&scene.room).await;
    let typing = scene.ear.hears_edus("m.typing", 1).await;
    scene.alice.has_read(&scene.room, &event_id).await;
    let private = format!("receipt/m.read.private/{event_id}");
    scene
        .alice
        .tries(&scene.room, &private, json!({}))
        .await
        .expect_ok();
    let receipts = scene.ear.hears_edus("m.receipt", 1).await;

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
async fn others_are_told_who_is_there() {
    let scene = Scene::new().await;
    let path = format!("/_matrix/client/v3/presence/{}/status", scene.alice.id);
    let status = json!({ "presence": "online", "status_msg": "hello" });

    scene.alice.client.put(&path, status).await.expect_ok();
    let told = scene
        .ear
        .waits(|heard| {
            let all = heard.edus("m.presence").into_iter();
            let mut all = all.flat_map(|edu| edu["push"].as_array().expect("a list").clone());
            all.find(|update| update["status_msg"] == "hello")
        })
        .await;

    assert_eq!(told["user_id"], scene.alice.id);
    assert_eq!(told["presence"], "online");
    let (_, ear, _) = joins(&scene.network, &scene.server, &scene.room).await;
    let told = &ear.hears_edus("m.presence", 1).await[0]["push"];
    assert_eq!(each(told, "/user_id"), [&*scene.alice.id]);
}

#[tokio::test]
async fn a_message_to_a_device_waits_for_its_server_and_comes_once() {
    let scene = Scene::new().await;
    scene.ear.answers(Manner::Refuses(500));
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
    scene.ear.refuses(1).await;

    let scene = scene.restart().await;
    scene.ear.answers(Manner::Takes);
    scene.shows_life().await;
    scene.ear.hears_edus("m.direct_to_device", 1).await;
    scene.says(["after"]).await;
    scene.ear.hears("after").await;

    let letters = scene.ear.lock().edus("m.direct_to_device");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["sender"], scene.alice.id);
    assert_eq!(letters[0]["type"], "m.test");
    assert_eq!(letters[0]["messages"], messages["messages"]);
    assert_eq!(letters[0]["message_id"].as_str().map(str::len), Some(32));
}

#[tokio::test]
async fn a_server_that_comes_into_a_room_is_told_of_the_devices_of_those_who_are_there() {
    let scene = Scene::new().await;

    let told = scene.ear.hears_edus("m.device_list_update", 1).await;

    assert_eq!(told[0]["user_id"], scene.alice.id);
    assert_eq!(told[0]["device_id"], scene.alice.device_id);
    assert!(told[0].get("prev_id").is_none(), "no earlier update");
}

#[tokio::test]
async fn others_are_told_of_devices_that_change_and_go() {
    let scene = Scene::new().await;
    scene.ear.hears_edus("m.device_list_update", 1).await;

    let keys = Scene::uploads_keys(&scene.alice).await;
    let first = scene.ear.hears_edus("m.device_list_update", 2).await;
    let phone = scene.server.log_in("alice").await;
    Scene::uploads_keys(&phone).await;
    let second = scene.ear.hears_edus("m.device_list_update", 3).await;
    phone
        .client
        .post("/_matrix/client/v3/logout", json!({}))
        .await
        .expect_ok();
    let third = scene.ear.hears_edus("m.device_list_update", 4).await;

    assert_eq!(first[1]["keys"]["keys"], keys["keys"]);
    assert_eq!(first[1]["prev_id"], json!([first[0]["stream_id"]]));
    assert_eq!(second[2]["device_id"], phone.device_id);
    assert_eq!(second[2]["prev_id"], json!([first[1]["stream_id"]]));
    assert_eq!(third[3]["device_id"], phone.device_id);
    assert_eq!(third[3]["deleted"], true);
    assert_eq!(third[3]["prev_id"], json!([second[2]["stream_id"]]));
    let path = format!(
        "/_matrix/federation/v1/user/devices/{}",
        encoded(&scene.alice.id)
    );
    let list = scene.peer.gets(&scene.server, &path).await.expect_ok();
    assert_eq!(list["stream_id"], third[3]["stream_id"]);
}

#[tokio::test]
async fn what_changed_while_a_server_was_away_it_is_told_when_it_is_back() {
    let scene = Scene::new().await;
    scene.ear.hears_edus("m.device_list_update", 1).await;
    scene.ear.answers(Manner::Refuses(500));
    Scene::uploads_keys(&scene.alice).await;
    scene.ear.refuses(1).await;

    let scene = scene.restart().await;
    scene.ear.answers(Manner::Takes);
    scene.shows_life().await;
    let told = scene.ear.hears_edus("m.device_list_update", 2).await;

    assert!(told[1]["keys"].is_object());
    assert_eq!(told[1]["prev_id"], json!([told[0]["stream_id"]]));
}

#[tokio::test]
async fn others_are_told_of_the_keys_with_which_a_user_signs() {
    let scene = Scene::new().await;

    Signer::of(&scene.alice).await;
    let told = scene.ear.hears_edus("m.signing_key_update", 1).await;

    assert_eq!(told[0]["user_id"], scene.alice.id);
    assert_eq!(told[0]["master_key"]["usage"], json!(["master"]));
    assert_eq!(
        told[0]["self_signing_key"]["usage"],
        json!(["self_signing"])
    );
    assert_eq!(scene.ear.lock().edus("org.matrix.signing_key_update"), told);
}
