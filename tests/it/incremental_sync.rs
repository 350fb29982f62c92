//! Tests that incremental syncs add up to the same data as an initial sync.

use std::collections::{BTreeMap, HashMap};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    chat::{filter_query, next_batch},
    harness::{Server, User},
};

/// The number of actions of users in each run.
const ACTION_COUNT: usize = 60;

/// A client's data of a room.
#[derive(Debug, Default, PartialEq)]
struct KnownSyncRoom {
    section: String,
    /// The latest events of the timeline, without a gap.
    timeline: Vec<String>,
    /// The event IDs of the state.
    state: BTreeMap<(String, String), String>,
    counts: Value,
    summary: BTreeMap<String, Value>,
}

/// A client's data of all rooms.
#[derive(Debug, Default, PartialEq)]
struct KnownSyncRooms {
    rooms: BTreeMap<String, KnownSyncRoom>,
}

impl KnownSyncRooms {
    fn apply_sync(&mut self, sync: &Value) {
        for section in ["join", "leave", "invite"] {
            let rooms = sync["rooms"][section].as_object().into_iter().flatten();
            for (room_id, room) in rooms {
                let known = self.rooms.entry(room_id.clone()).or_default();
                section.clone_into(&mut known.section);
                known.apply_room(room);
            }
        }
    }

    /// Removes the data that an initial sync does not contain: left rooms, all but the section of invitations,
    /// and the heroes of a room that has a name.
    fn reduced_to_first_sync(mut self) -> Self {
        self.rooms.retain(|_, room| room.section != "leave");
        for room in self
            .rooms
            .values_mut()
            .filter(|room| room.section == "invite")
        {
            *room = KnownSyncRoom {
                section: "invite".to_owned(),
                ..KnownSyncRoom::default()
            };
        }
        let name = ("m.room.name".to_owned(), String::new());
        for room in self.rooms.values_mut() {
            if room.state.contains_key(&name) {
                room.summary.remove("m.heroes");
            }
        }
        self
    }
}

impl KnownSyncRoom {
    fn apply_room(&mut self, room: &Value) {
        let timeline = &room["timeline"];
        if timeline["limited"] == true {
            self.timeline.clear();
        }
        for event in list_items(&room["state"]["events"]) {
            self.apply_state_event(event);
        }
        for event in list_items(&timeline["events"]) {
            self.timeline.push(text(&event["event_id"]));
            self.apply_state_event(event);
        }
        if room["unread_notifications"].is_object() {
            self.counts = room["unread_notifications"].clone();
        }
        for (key, value) in room["summary"].as_object().into_iter().flatten() {
            self.summary.insert(key.clone(), value.clone());
        }
    }

    fn apply_state_event(&mut self, event: &Value) {
        if let Some(state_key) = event["state_key"].as_str() {
            let key = (text(&event["type"]), state_key.to_owned());
            self.state.insert(key, text(&event["event_id"]));
        }
    }
}

fn list_items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The users, their rooms, and the source of their random actions.
struct SyncScenario {
    users: Vec<User>,
    rooms: Vec<String>,
    last: HashMap<String, String>,
    random: StdRng,
}

impl SyncScenario {
    /// Performs a random action of a random user; the server may refuse it.
    async fn run_random_action(&mut self) {
        let room = self.rooms.choose(&mut self.random).expect("a room").clone();
        let user = self.users.choose(&mut self.random).expect("a user");
        let other = self.users.choose(&mut self.random).expect("a user");
        let target = json!({ "user_id": other.id });
        let last = self.last.get(&room).cloned().unwrap_or_default();
        let n: u32 = self.random.random();
        let mention = json!({
            "msgtype": "m.text", "body": "you", "m.mentions": { "user_ids": [other.id] },
        });
        let done = match self.random.random_range(0..16) {
            0..=3 => {
                user.tries_to_send(
                    &room,
                    "m.room.message",
                    json!({ "msgtype": "m.text", "body": "hi" }),
                )
                .await
            }
            4 => user.tries_to_send(&room, "m.room.message", mention).await,
            5 => {
                user.tries_to_set_state(&room, "m.room.name", json!({ "name": n.to_string() }))
                    .await
            }
            6 => {
                user.tries_to_set_state(&room, "org.example/key", json!({ "n": n }))
                    .await
            }
            7 | 8 => user.posts_in_room(&room, "join", json!({})).await,
            9 => user.posts_in_room(&room, "leave", json!({})).await,
            10 => user.posts_in_room(&room, "invite", target).await,
            11 => user.posts_in_room(&room, "kick", target).await,
            12 => user.tries_to_redact(&room, &last).await,
            13 => {
                user.posts_in_room(&room, &format!("receipt/m.read/{last}"), json!({}))
                    .await
            }
            14 => {
                user.posts_in_room(&room, &format!("receipt/m.read.private/{last}"), json!({}))
                    .await
            }
            _ => {
                let visibility = ["shared", "joined", "invited", "world_readable"];
                let visibility = visibility.choose(&mut self.random).expect("a visibility");
                let content = json!({ "history_visibility": visibility });
                user.tries_to_set_state(&room, "m.room.history_visibility", content)
                    .await
            }
        };
        if let Some(event_id) = done.body["event_id"].as_str() {
            self.last.insert(room, event_id.to_owned());
        }
    }
}

async fn create_scenario(server: &Server, seed: u64) -> SyncScenario {
    let mut users = Vec::new();
    for name in ["alice", "bob", "carol"] {
        users.push(server.register(name).await);
    }
    let levels = json!({
        "users": { &*users[1].id: 100 }, "events": { "org.example": 0, "m.room.name": 0 },
    });
    let request = json!({ "preset": "public_chat", "power_level_content_override": levels });
    let mut rooms = Vec::new();
    for _ in 0..2 {
        rooms.push(users[0].creates(request.clone()).await);
    }
    SyncScenario {
        users,
        rooms,
        last: HashMap::new(),
        random: StdRng::seed_from_u64(seed),
    }
}

/// Checks the data of incremental syncs against that of an initial sync.
///
/// A redaction changes an event, but not its ID. Timelines are compared as far back as both reach.
fn assert_same_knowledge(folded: KnownSyncRooms, first: KnownSyncRooms, seed: u64) {
    let (mut folded, mut first) = (
        folded.reduced_to_first_sync(),
        first.reduced_to_first_sync(),
    );
    for (room_id, room) in &mut folded.rooms {
        let fresh = first.rooms.get_mut(room_id).expect("a room of both syncs");
        let both = room.timeline.len().min(fresh.timeline.len());
        room.timeline.drain(..room.timeline.len() - both);
        fresh.timeline.drain(..fresh.timeline.len() - both);
    }
    assert_eq!(folded, first, "seed {seed}");
}

/// A user who syncs at intervals, with the data of these syncs.
struct SyncWatcher {
    client: KnownSyncRooms,
    token: String,
}

impl SyncWatcher {
    async fn start_watching(user: &User, filter: &str) -> Self {
        let sync = user.syncs_with(filter).await;
        let mut client = KnownSyncRooms::default();
        client.apply_sync(&sync);
        let token = next_batch(&sync).to_owned();
        Self { client, token }
    }

    async fn sync_again(&mut self, user: &User, filter: &str) {
        let query = format!("since={}&{filter}", self.token);
        let sync = user.syncs_with(&query).await;
        self.client.apply_sync(&sync);
        next_batch(&sync).clone_into(&mut self.token);
    }
}

async fn check_incremental_syncs(seed: u64, limit: u64) {
    let server = Server::start().await;
    let mut scene = create_scenario(&server, seed).await;
    let filter = filter_query(&json!({ "room": { "timeline": { "limit": limit } } }));
    let mut watchers = Vec::new();
    for user in &scene.users {
        watchers.push(SyncWatcher::start_watching(user, &filter).await);
    }
    for step in 1..=ACTION_COUNT {
        scene.run_random_action().await;
        for (user, watcher) in scene.users.iter().zip(&mut watchers) {
            if step == ACTION_COUNT || scene.random.random_ratio(1, 4) {
                watcher.sync_again(user, &filter).await;
            }
        }
    }
    for (user, watcher) in scene.users.iter().zip(watchers) {
        let first = SyncWatcher::start_watching(user, &filter).await;
        assert_same_knowledge(watcher.client, first.client, seed);
    }
}

#[tokio::test]
async fn incremental_syncs_add_up_to_an_initial_sync() {
    for seed in 0..6 {
        for limit in [1, 3, 10] {
            check_incremental_syncs(seed, limit).await;
        }
    }
}
