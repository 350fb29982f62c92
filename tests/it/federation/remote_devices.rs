//! The devices of users of other servers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    Network, Peer,
    edus::edu,
    guest::{Archive, Guest},
};
use crate::harness::{Server, User};

/// The device lists that a peer returns for its users.
#[derive(Clone)]
struct Lists {
    inner: Arc<Mutex<Known>>,
    /// The number of requests for the device list of a single user.
    fetched: watch::Sender<usize>,
    /// Whether key queries about Bob are held back, and the number of such queries.
    is_held: watch::Sender<bool>,
    questions: watch::Sender<usize>,
}

#[derive(Default)]
struct Known {
    stream_id: u64,
    /// The keys by device.
    devices: BTreeMap<String, u32>,
    is_down: bool,
    queried: usize,
}

impl Lists {
    fn new() -> Self {
        Self {
            inner: Arc::default(),
            fetched: watch::Sender::new(0),
            is_held: watch::Sender::new(false),
            questions: watch::Sender::new(0),
        }
    }

    fn router(&self) -> Router {
        let path = |rest: &str| format!("/_matrix/federation/v1/user/{rest}");
        Router::new()
            .route(&path("devices/{user_id}"), get(devices))
            .route(&path("keys/query"), post(query))
            .with_state(self.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.inner.lock().expect("no test panics here")
    }

    /// Sets the keys of a device, and returns the stream IDs of the list before and after.
    fn changes(&self, device_id: &str, keys: u32) -> (u64, u64) {
        let mut known = self.lock();
        known.devices.insert(device_id.to_owned(), keys);
        known.stream_id += 1;
        (known.stream_id - 1, known.stream_id)
    }

    fn goes_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    fn queried(&self) -> usize {
        self.lock().queried
    }

    /// Waits until lists were fetched a number of times.
    async fn fetched(&self, times: usize) {
        let mut fetched = self.fetched.subscribe();
        let reached = fetched.wait_for(|count| *count >= times).await;
        drop(reached.expect("the sender still exists"));
    }
}

fn keys_of(user_id: &str, device_id: &str, keys: u32) -> Value {
    json!({
        "user_id": user_id, "device_id": device_id, "algorithms": [], "signatures": {},
        "keys": { format!("ed25519:{device_id}"): format!("key{keys}") },
    })
}

fn down() -> Response {
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

async fn devices(State(lists): State<Lists>, Path(user_id): Path<String>) -> Response {
    let answer = {
        let known = lists.lock();
        if known.is_down {
            drop(known);
            lists.fetched.send_modify(|count| *count += 1);
            return down();
        }
        let mut devices: Vec<Value> = known
            .devices
            .iter()
            .map(|(device_id, keys)| {
                json!({ "device_id": device_id, "keys": keys_of(&user_id, device_id, *keys) })
            })
            .collect();
        // Some servers list devices without keys.
        devices.push(json!({ "device_id": "SILENT", "device_display_name": "Silent" }));
        json!({ "user_id": user_id, "stream_id": known.stream_id, "devices": devices })
    };
    lists.fetched.send_modify(|count| *count += 1);
    Json(answer).into_response()
}

async fn query(State(lists): State<Lists>, Json(body): Json<Value>) -> Response {
    let asked = body["device_keys"].as_object().expect("an object");
    if asked.keys().any(|user_id| user_id.starts_with("@bob:")) {
        lists.questions.send_modify(|count| *count += 1);
        let mut is_held = lists.is_held.subscribe();
        drop(is_held.wait_for(|is_held| !is_held).await);
    }
    let mut known = lists.lock();
    known.queried += 1;
    if known.is_down {
        return down();
    }
    let mut answer = serde_json::Map::new();
    for user_id in asked.keys() {
        let devices = known.devices.iter();
        let devices = devices.map(|(id, keys)| (id.clone(), keys_of(user_id, id, *keys)));
        answer.insert(user_id.clone(), Value::Object(devices.collect()));
    }
    Json(json!({ "device_keys": answer })).into_response()
}

/// A room of a server with a user of a peer. The user has a device.
struct Scene {
    server: Server,
    alice: User,
    room: String,
    peer: Peer,
    lists: Lists,
    archive: Archive,
    bob: Guest,
    _network: Network,
}

impl Scene {
    async fn new() -> Self {
        let network = Network::new();
        let server = network.server().await;
        let alice = server.register("alice").await;
        let encryption = json!({
            "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
        });
        let room = alice
            .creates(json!({ "preset": "public_chat", "initial_state": [encryption] }))
            .await;
        let (lists, archive) = (Lists::new(), Archive::default());
        lists.changes("PHONE", 1);
        let peer = network.peer(archive.router().merge(lists.router())).await;
        let bob = peer.joins(&server, &room, ("bob", &archive)).await;
        lists.fetched(1).await;
        Self {
            server,
            alice,
            room,
            peer,
            lists,
            archive,
            bob,
            _network: network,
        }
    }

    /// Returns Bob's device keys from a key query by Alice.
    async fn queries(&self) -> Vec<String> {
        let told = self.alice.queries(&self.bob.id).await;
        let devices = told["device_keys"][&self.bob.id].as_object().cloned();
        let keys = devices.unwrap_or_default().into_values().map(|device| {
            let keys = device["keys"].as_object().expect("keys");
            let key = keys.values().next().expect("a key");
            key.as_str().expect("a text").to_owned()
        });
        keys.collect()
    }

    /// Sends a device list update for a device of Bob.
    async fn tells(&self, device_id: &str, keys: u32, (prev_id, stream_id): (u64, u64)) {
        let content = json!({
            "user_id": self.bob.id, "device_id": device_id, "stream_id": stream_id,
            "prev_id": [prev_id], "keys": keys_of(&self.bob.id, device_id, keys),
        });
        let edus = [edu("m.device_list_update", &content)];
        self.peer.tells(&self.server, &edus).await;
    }

    /// Syncs as Alice until Bob is in the list of changed devices.
    async fn is_told(&self, since: &Value) -> Value {
        let mut sync = self.alice.syncs_after(since).await;
        while !lists(&sync, "changed").contains(&self.bob.id) {
            sync = self.alice.waits_after(&sync).await;
        }
        sync
    }

    async fn moves(&mut self, membership: &str) {
        let (key, content) = (self.bob.id.clone(), json!({ "membership": membership }));
        let made = self
            .bob
            .makes(&self.peer, "m.room.member", (Some(&key), &content));
        self.peer.sends(&self.server, &[&made]).await;
    }
}

fn lists(sync: &Value, name: &str) -> Vec<String> {
    let list = sync["device_lists"][name].as_array().cloned();
    let texts = list.unwrap_or_default().into_iter();
    texts
        .map(|user| user.as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn what_is_known_of_devices_is_told_though_their_server_is_gone() {
    let scene = Scene::new().await;
    assert_eq!(scene.queries().await, ["key1"]);

    scene.lists.goes_down(true);
    let asked = scene.lists.queried();
    assert_eq!(scene.queries().await, ["key1"]);
    let server = scene.server.restart().await;
    let alice = scene.alice.at(&server);

    let told = alice.queries(&scene.bob.id).await;
    let keys = &told["device_keys"][&scene.bob.id]["PHONE"]["keys"];
    assert_eq!(keys["ed25519:PHONE"], "key1");
    assert_eq!(told["failures"], json!({}));
    assert_eq!(scene.lists.queried(), asked);
    let one = json!({ "device_keys": { &*scene.bob.id: ["OTHER"] } });
    let one = alice.client.post(crate::keys::QUERY, one).await.expect_ok();
    assert_eq!(one["device_keys"], json!({ &*scene.bob.id: {} }));
}

#[tokio::test]
async fn a_change_is_told_once_and_is_there_when_it_is() {
    let scene = Scene::new().await;
    scene.queries().await;
    let since = scene.alice.syncs().await;

    let change = scene.lists.changes("DESK", 2);
    scene.tells("DESK", 2, change).await;
    let told = scene.is_told(&since).await;

    assert_eq!(scene.queries().await, ["key2", "key1"]);
    scene.tells("DESK", 2, change).await;
    let after = scene.alice.syncs_after(&told).await;
    assert!(lists(&after, "changed").is_empty());
}

#[tokio::test]
async fn after_a_gap_the_list_is_asked_for() {
    let scene = Scene::new().await;
    scene.queries().await;
    let since = scene.alice.syncs().await;

    scene.lists.changes("LOST", 2);
    let change = scene.lists.changes("DESK", 3);
    scene.tells("DESK", 3, change).await;
    scene.is_told(&since).await;

    assert_eq!(scene.queries().await, ["key3", "key2", "key1"]);
}

#[tokio::test]
async fn a_list_that_could_not_be_asked_for_is_asked_for_when_its_server_shows_life() {
    let scene = Scene::new().await;
    assert_eq!(scene.queries().await, ["key1"]);
    let since = scene.alice.syncs().await;

    scene.lists.goes_down(true);
    scene.lists.changes("LOST", 2);
    let change = scene.lists.changes("DESK", 3);
    scene.tells("DESK", 3, change).await;
    scene.lists.fetched(2).await;
    let told = scene.alice.queries(&scene.bob.id).await;
    assert!(told["failures"][&scene.peer.name].is_object());
    let keys = &told["device_keys"][&scene.bob.id]["PHONE"]["keys"];
    assert_eq!(keys["ed25519:PHONE"], "key1", "the old keys remain");
    scene.lists.goes_down(false);
    let content = json!({ "push": [] });
    scene
        .peer
        .tells(&scene.server, &[edu("m.presence", &content)])
        .await;

    scene.is_told(&since).await;
    assert_eq!(scene.queries().await, ["key3", "key2", "key1"]);
}

#[tokio::test]
async fn a_list_that_is_wanted_is_asked_for_after_a_restart() {
    let scene = Scene::new().await;
    assert_eq!(scene.queries().await, ["key1"]);
    let since = scene.alice.syncs().await;
    scene.lists.goes_down(true);
    scene.lists.changes("LOST", 2);
    let change = scene.lists.changes("DESK", 3);
    scene.tells("DESK", 3, change).await;
    scene.lists.fetched(2).await;

    let server = scene
        .server
        .restart_after(async |_| scene.lists.goes_down(false))
        .await;
    let alice = scene.alice.at(&server);

    let mut sync = alice.syncs_after(&since).await;
    while lists(&sync, "changed") != [&*scene.bob.id] {
        sync = alice.waits_after(&sync).await;
    }
}

#[tokio::test]
async fn nothing_is_kept_of_who_shares_no_room() {
    let mut scene = Scene::new().await;
    assert_eq!(scene.queries().await, ["key1"]);
    let since = scene.alice.syncs().await;

    scene.moves("leave").await;
    let left = scene.alice.syncs_after(&since).await;
    assert_eq!(lists(&left, "left"), [&*scene.bob.id]);
    let change = scene.lists.changes("PHONE", 2);
    assert_eq!(scene.queries().await, ["key2"]);
    scene.tells("PHONE", 2, change).await;
    let unheard = scene.alice.syncs_after(&left).await;
    assert!(lists(&unheard, "changed").is_empty());
    scene.lists.changes("PHONE", 3);
    let (peer, archive) = (&scene.peer, &scene.archive);
    peer.joins(&scene.server, &scene.room, ("bob", archive))
        .await;

    let back = scene.alice.syncs_after(&unheard).await;
    assert_eq!(lists(&back, "changed"), [&*scene.bob.id]);
    assert_eq!(scene.queries().await, ["key3"]);
}

#[tokio::test]
async fn nothing_is_kept_when_the_last_user_of_this_server_leaves() {
    let scene = Scene::new().await;
    assert_eq!(scene.queries().await, ["key1"]);

    scene.alice.leaves(&scene.room).await;
    scene.lists.changes("PHONE", 2);

    assert_eq!(scene.queries().await, ["key2"]);
    scene.lists.changes("PHONE", 3);
    assert_eq!(scene.queries().await, ["key3"]);
}

#[tokio::test]
async fn who_is_told_of_on_joining_is_told_once() {
    let scene = Scene::new().await;
    let carol = scene.peer.user("carol");
    let since = scene.alice.syncs().await;

    let (peer, archive) = (&scene.peer, &scene.archive);
    peer.joins(&scene.server, &scene.room, ("carol", archive))
        .await;
    scene.lists.fetched(2).await;
    let joined = scene.alice.syncs_after(&since).await;
    let content = json!({
        "user_id": carol, "device_id": "PHONE", "stream_id": 1, "prev_id": [],
        "keys": keys_of(&carol, "PHONE", 1),
    });
    let edus = [edu("m.device_list_update", &content)];
    peer.tells(&scene.server, &edus).await;
    scene.alice.queries(&carol).await;

    assert_eq!(lists(&joined, "changed"), [&*carol]);
    let after = scene.alice.syncs_after(&joined).await;
    assert!(lists(&after, "changed").is_empty());
}

#[tokio::test]
async fn an_answer_that_comes_when_no_room_is_shared_any_more_is_not_believed_later() {
    let scene = Scene::new().await;
    let carol = scene.server.register("carol").await;
    // Device lists are not fetched for a room that is not encrypted.
    let room = carol.creates_open_room().await;
    let bob = scene.peer.user("bob");
    scene.alice.leaves(&scene.room).await;
    let (peer, archive) = (&scene.peer, &scene.archive);
    peer.joins(&scene.server, &room, ("bob", archive)).await;

    scene.lists.is_held.send_replace(true);
    let gone = async {
        let mut questions = scene.lists.questions.subscribe();
        drop(questions.wait_for(|count| *count > 0).await);
        carol.leaves(&room).await;
        // After this query, the server has processed that Carol left.
        carol.queries(&peer.user("dora")).await;
        scene.lists.is_held.send_replace(false);
    };
    let (told, ()) = tokio::join!(carol.queries(&bob), gone);
    assert!(told["device_keys"][&bob]["PHONE"].is_object());
    scene.lists.changes("PHONE", 2);
    let other = carol.creates_open_room().await;
    peer.joins(&scene.server, &other, ("bob", archive)).await;

    let told = carol.queries(&bob).await;
    let keys = &told["device_keys"][&bob]["PHONE"]["keys"];
    assert_eq!(keys["ed25519:PHONE"], "key2");
}

#[tokio::test]
async fn one_who_changes_devices_while_no_room_is_shared_is_told_when_they_are_back() {
    let mut scene = Scene::new().await;
    let since = scene.alice.syncs().await;
    assert_eq!(scene.queries().await, ["key1"]);

    scene.moves("leave").await;
    scene.lists.changes("LAPTOP", 2);
    scene.moves("join").await;

    let sync = scene.alice.syncs_after(&since).await;
    assert!(lists(&sync, "changed").contains(&scene.bob.id), "{sync}");
    let mut keys = scene.queries().await;
    keys.sort_unstable();
    assert_eq!(keys, ["key1", "key2"]);
}
