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
    peer_user::{PeerArchive, PeerUser},
};
use crate::harness::{Server, User};

/// The device lists that a peer returns for its users.
#[derive(Clone)]
struct PeerDeviceLists {
    inner: Arc<Mutex<DeviceListState>>,
    /// The number of requests for the device list of a single user.
    fetch_counter: watch::Sender<usize>,
    /// Whether key queries about Bob are held back, and the number of such queries.
    is_held: watch::Sender<bool>,
    query_counter: watch::Sender<usize>,
}

#[derive(Default)]
struct DeviceListState {
    stream_id: u64,
    /// The keys by device.
    devices: BTreeMap<String, u32>,
    is_down: bool,
    query_count: usize,
}

impl PeerDeviceLists {
    fn new() -> Self {
        Self {
            inner: Arc::default(),
            fetch_counter: watch::Sender::new(0),
            is_held: watch::Sender::new(false),
            query_counter: watch::Sender::new(0),
        }
    }

    fn router(&self) -> Router {
        let path = |rest: &str| format!("/_matrix/federation/v1/user/{rest}");
        Router::new()
            .route(&path("devices/{user_id}"), get(user_devices))
            .route(&path("keys/query"), post(query_keys))
            .with_state(self.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, DeviceListState> {
        self.inner.lock().expect("no test panics here")
    }

    /// Sets the keys of a device, and returns the stream IDs of the list before and after.
    fn changes_device(&self, device_id: &str, keys: u32) -> (u64, u64) {
        let mut known = self.lock();
        known.devices.insert(device_id.to_owned(), keys);
        known.stream_id += 1;
        (known.stream_id - 1, known.stream_id)
    }

    fn sets_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    fn query_count(&self) -> usize {
        self.lock().query_count
    }

    /// Waits until lists were fetched a number of times.
    async fn waits_for_fetches(&self, times: usize) {
        let mut fetched = self.fetch_counter.subscribe();
        let reached = fetched.wait_for(|count| *count >= times).await;
        drop(reached.expect("the sender still exists"));
    }
}

fn device_keys(user_id: &str, device_id: &str, keys: u32) -> Value {
    json!({
        "user_id": user_id, "device_id": device_id, "algorithms": [], "signatures": {},
        "keys": { format!("ed25519:{device_id}"): format!("key{keys}") },
    })
}

fn unavailable_answer() -> Response {
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

async fn user_devices(
    State(lists): State<PeerDeviceLists>,
    Path(user_id): Path<String>,
) -> Response {
    let answer = {
        let known = lists.lock();
        if known.is_down {
            drop(known);
            lists.fetch_counter.send_modify(|count| *count += 1);
            return unavailable_answer();
        }
        let mut devices: Vec<Value> = known
            .devices
            .iter()
            .map(|(device_id, keys)| {
                json!({ "device_id": device_id, "keys": device_keys(&user_id, device_id, *keys) })
            })
            .collect();
        // Some servers list devices without keys.
        devices.push(json!({ "device_id": "SILENT", "device_display_name": "Silent" }));
        json!({ "user_id": user_id, "stream_id": known.stream_id, "devices": devices })
    };
    lists.fetch_counter.send_modify(|count| *count += 1);
    Json(answer).into_response()
}

async fn query_keys(State(lists): State<PeerDeviceLists>, Json(body): Json<Value>) -> Response {
    let asked = body["device_keys"].as_object().expect("an object");
    if asked.keys().any(|user_id| user_id.starts_with("@bob:")) {
        lists.query_counter.send_modify(|count| *count += 1);
        let mut is_held = lists.is_held.subscribe();
        drop(is_held.wait_for(|is_held| !is_held).await);
    }
    let mut known = lists.lock();
    known.query_count += 1;
    if known.is_down {
        return unavailable_answer();
    }
    let mut answer = serde_json::Map::new();
    for user_id in asked.keys() {
        let devices = known.devices.iter();
        let devices = devices.map(|(id, keys)| (id.clone(), device_keys(user_id, id, *keys)));
        answer.insert(user_id.clone(), Value::Object(devices.collect()));
    }
    Json(json!({ "device_keys": answer })).into_response()
}

/// A room of a server with a user of a peer. The user has a device.
struct DeviceListScene {
    server: Server,
    alice: User,
    room: String,
    peer: Peer,
    lists: PeerDeviceLists,
    archive: PeerArchive,
    bob: PeerUser,
    _network: Network,
}

impl DeviceListScene {
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
        let (lists, archive) = (PeerDeviceLists::new(), PeerArchive::default());
        lists.changes_device("PHONE", 1);
        let peer = network.peer(archive.router().merge(lists.router())).await;
        let bob = peer.joins(&server, &room, ("bob", &archive)).await;
        lists.waits_for_fetches(1).await;
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
    async fn queries_bobs_keys(&self) -> Vec<String> {
        let told = self.alice.queries_keys(&self.bob.id).await;
        let devices = told["device_keys"][&self.bob.id].as_object().cloned();
        let keys = devices.unwrap_or_default().into_values().map(|device| {
            let keys = device["keys"].as_object().expect("keys");
            let key = keys.values().next().expect("a key");
            key.as_str().expect("a text").to_owned()
        });
        keys.collect()
    }

    /// Sends a device list update for a device of Bob.
    async fn sends_device_update(
        &self,
        device_id: &str,
        keys: u32,
        (prev_id, stream_id): (u64, u64),
    ) {
        let content = json!({
            "user_id": self.bob.id, "device_id": device_id, "stream_id": stream_id,
            "prev_id": [prev_id], "keys": device_keys(&self.bob.id, device_id, keys),
        });
        let edus = [edu("m.device_list_update", &content)];
        self.peer.sends_edus(&self.server, &edus).await;
    }

    /// Syncs as Alice until Bob is in the list of changed devices.
    async fn waits_for_bobs_change(&self, since: &Value) -> Value {
        let mut sync = self.alice.syncs_after(since).await;
        while !device_list_users(&sync, "changed").contains(&self.bob.id) {
            sync = self.alice.long_polls_after(&sync).await;
        }
        sync
    }

    async fn changes_bobs_membership(&mut self, membership: &str) {
        let (key, content) = (self.bob.id.clone(), json!({ "membership": membership }));
        let made = self
            .bob
            .makes_event(&self.peer, "m.room.member", (Some(&key), &content));
        self.peer.sends(&self.server, &[&made]).await;
    }
}

fn device_list_users(sync: &Value, name: &str) -> Vec<String> {
    let list = sync["device_lists"][name].as_array().cloned();
    let texts = list.unwrap_or_default().into_iter();
    texts
        .map(|user| user.as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn stored_device_keys_are_returned_while_their_server_is_down() {
    let scene = DeviceListScene::new().await;
    assert_eq!(scene.queries_bobs_keys().await, ["key1"]);

    scene.lists.sets_down(true);
    let asked = scene.lists.query_count();
    assert_eq!(scene.queries_bobs_keys().await, ["key1"]);
    let server = scene.server.restart().await;
    let alice = scene.alice.on_server(&server);

    let told = alice.queries_keys(&scene.bob.id).await;
    let keys = &told["device_keys"][&scene.bob.id]["PHONE"]["keys"];
    assert_eq!(keys["ed25519:PHONE"], "key1");
    assert_eq!(told["failures"], json!({}));
    assert_eq!(scene.lists.query_count(), asked);
    let one = json!({ "device_keys": { &*scene.bob.id: ["OTHER"] } });
    let one = alice
        .client
        .post(crate::keys::QUERY_PATH, one)
        .await
        .expect_ok();
    assert_eq!(one["device_keys"], json!({ &*scene.bob.id: {} }));
}

#[tokio::test]
async fn a_device_change_is_announced_once_with_its_keys_ready() {
    let scene = DeviceListScene::new().await;
    scene.queries_bobs_keys().await;
    let since = scene.alice.syncs().await;

    let change = scene.lists.changes_device("DESK", 2);
    scene.sends_device_update("DESK", 2, change).await;
    let told = scene.waits_for_bobs_change(&since).await;

    assert_eq!(scene.queries_bobs_keys().await, ["key2", "key1"]);
    scene.sends_device_update("DESK", 2, change).await;
    let after = scene.alice.syncs_after(&told).await;
    assert!(device_list_users(&after, "changed").is_empty());
}

#[tokio::test]
async fn a_gap_in_device_updates_refetches_the_list() {
    let scene = DeviceListScene::new().await;
    scene.queries_bobs_keys().await;
    let since = scene.alice.syncs().await;

    scene.lists.changes_device("LOST", 2);
    let change = scene.lists.changes_device("DESK", 3);
    scene.sends_device_update("DESK", 3, change).await;
    scene.waits_for_bobs_change(&since).await;

    assert_eq!(scene.queries_bobs_keys().await, ["key3", "key2", "key1"]);
}

#[tokio::test]
async fn a_failed_list_fetch_is_retried_when_its_server_returns() {
    let scene = DeviceListScene::new().await;
    assert_eq!(scene.queries_bobs_keys().await, ["key1"]);
    let since = scene.alice.syncs().await;

    scene.lists.sets_down(true);
    scene.lists.changes_device("LOST", 2);
    let change = scene.lists.changes_device("DESK", 3);
    scene.sends_device_update("DESK", 3, change).await;
    scene.lists.waits_for_fetches(2).await;
    let told = scene.alice.queries_keys(&scene.bob.id).await;
    assert!(told["failures"][&scene.peer.name].is_object());
    let keys = &told["device_keys"][&scene.bob.id]["PHONE"]["keys"];
    assert_eq!(keys["ed25519:PHONE"], "key1", "the old keys remain");
    scene.lists.sets_down(false);
    let content = json!({ "push": [] });
    scene
        .peer
        .sends_edus(&scene.server, &[edu("m.presence", &content)])
        .await;

    scene.waits_for_bobs_change(&since).await;
    assert_eq!(scene.queries_bobs_keys().await, ["key3", "key2", "key1"]);
}

#[tokio::test]
async fn a_pending_list_fetch_continues_after_a_restart() {
    let scene = DeviceListScene::new().await;
    assert_eq!(scene.queries_bobs_keys().await, ["key1"]);
    let since = scene.alice.syncs().await;
    scene.lists.sets_down(true);
    scene.lists.changes_device("LOST", 2);
    let change = scene.lists.changes_device("DESK", 3);
    scene.sends_device_update("DESK", 3, change).await;
    scene.lists.waits_for_fetches(2).await;

    let server = scene
        .server
        .restart_after(async |_| scene.lists.sets_down(false))
        .await;
    let alice = scene.alice.on_server(&server);

    let mut sync = alice.syncs_after(&since).await;
    while device_list_users(&sync, "changed") != [&*scene.bob.id] {
        sync = alice.long_polls_after(&sync).await;
    }
}

#[tokio::test]
async fn devices_of_users_who_share_no_room_are_not_kept() {
    let mut scene = DeviceListScene::new().await;
    assert_eq!(scene.queries_bobs_keys().await, ["key1"]);
    let since = scene.alice.syncs().await;

    scene.changes_bobs_membership("leave").await;
    let left = scene.alice.syncs_after(&since).await;
    assert_eq!(device_list_users(&left, "left"), [&*scene.bob.id]);
    let change = scene.lists.changes_device("PHONE", 2);
    assert_eq!(scene.queries_bobs_keys().await, ["key2"]);
    scene.sends_device_update("PHONE", 2, change).await;
    let unheard = scene.alice.syncs_after(&left).await;
    assert!(device_list_users(&unheard, "changed").is_empty());
    scene.lists.changes_device("PHONE", 3);
    let (peer, archive) = (&scene.peer, &scene.archive);
    peer.joins(&scene.server, &scene.room, ("bob", archive))
        .await;

    let back = scene.alice.syncs_after(&unheard).await;
    assert_eq!(device_list_users(&back, "changed"), [&*scene.bob.id]);
    assert_eq!(scene.queries_bobs_keys().await, ["key3"]);
}

#[tokio::test]
async fn remote_devices_are_dropped_when_the_last_local_member_leaves() {
    let scene = DeviceListScene::new().await;
    assert_eq!(scene.queries_bobs_keys().await, ["key1"]);

    scene.alice.leaves(&scene.room).await;
    scene.lists.changes_device("PHONE", 2);

    assert_eq!(scene.queries_bobs_keys().await, ["key2"]);
    scene.lists.changes_device("PHONE", 3);
    assert_eq!(scene.queries_bobs_keys().await, ["key3"]);
}

#[tokio::test]
async fn a_joining_users_devices_are_announced_once() {
    let scene = DeviceListScene::new().await;
    let carol = scene.peer.user("carol");
    let since = scene.alice.syncs().await;

    let (peer, archive) = (&scene.peer, &scene.archive);
    peer.joins(&scene.server, &scene.room, ("carol", archive))
        .await;
    scene.lists.waits_for_fetches(2).await;
    let joined = scene.alice.syncs_after(&since).await;
    let content = json!({
        "user_id": carol, "device_id": "PHONE", "stream_id": 1, "prev_id": [],
        "keys": device_keys(&carol, "PHONE", 1),
    });
    let edus = [edu("m.device_list_update", &content)];
    peer.sends_edus(&scene.server, &edus).await;
    scene.alice.queries_keys(&carol).await;

    assert_eq!(device_list_users(&joined, "changed"), [&*carol]);
    let after = scene.alice.syncs_after(&joined).await;
    assert!(device_list_users(&after, "changed").is_empty());
}

#[tokio::test]
async fn keys_fetched_after_the_last_shared_room_are_not_stored() {
    let scene = DeviceListScene::new().await;
    let carol = scene.server.register("carol").await;
    // Device lists are not fetched for a room that is not encrypted.
    let room = carol.creates_open_room().await;
    let bob = scene.peer.user("bob");
    scene.alice.leaves(&scene.room).await;
    let (peer, archive) = (&scene.peer, &scene.archive);
    peer.joins(&scene.server, &room, ("bob", archive)).await;

    scene.lists.is_held.send_replace(true);
    let gone = async {
        let mut questions = scene.lists.query_counter.subscribe();
        drop(questions.wait_for(|count| *count > 0).await);
        carol.leaves(&room).await;
        // After this query, the server has processed that Carol left.
        carol.queries_keys(&peer.user("dora")).await;
        scene.lists.is_held.send_replace(false);
    };
    let (told, ()) = tokio::join!(carol.queries_keys(&bob), gone);
    assert!(told["device_keys"][&bob]["PHONE"].is_object());
    scene.lists.changes_device("PHONE", 2);
    let other = carol.creates_open_room().await;
    peer.joins(&scene.server, &other, ("bob", archive)).await;

    let told = carol.queries_keys(&bob).await;
    let keys = &told["device_keys"][&bob]["PHONE"]["keys"];
    assert_eq!(keys["ed25519:PHONE"], "key2");
}

#[tokio::test]
async fn device_changes_made_while_away_are_announced_on_rejoining() {
    let mut scene = DeviceListScene::new().await;
    let since = scene.alice.syncs().await;
    assert_eq!(scene.queries_bobs_keys().await, ["key1"]);

    scene.changes_bobs_membership("leave").await;
    scene.lists.changes_device("LAPTOP", 2);
    scene.changes_bobs_membership("join").await;

    let sync = scene.alice.syncs_after(&since).await;
    assert!(
        device_list_users(&sync, "changed").contains(&scene.bob.id),
        "{sync}"
    );
    let mut keys = scene.queries_bobs_keys().await;
    keys.sort_unstable();
    assert_eq!(keys, ["key1", "key2"]);
}
