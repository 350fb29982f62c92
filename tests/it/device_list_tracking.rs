//! A client that tracks the keys of other users by its syncs tracks exactly the users with whom it shares a room, and
//! learns of each change of their keys. The intervals between its syncs do not matter.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    chat::next_batch,
    harness::{Server, User},
};

/// Number of random actions in one run.
const STEPS_PER_RUN: usize = 60;

/// The state of a client that tracks the keys of other users.
struct KeyTracker {
    token: Value,
    /// Key versions by user id.
    known: BTreeMap<String, u32>,
}

/// Users who join and leave rooms, and the version of each user's keys.
struct TrackingScenario {
    users: Vec<User>,
    rooms: Vec<String>,
    keys: Vec<u32>,
    random: StdRng,
}

impl TrackingScenario {
    async fn create(server: &Server, seed: u64) -> Self {
        let mut users = Vec::new();
        for name in ["alice", "bob", "carol", "dave"] {
            users.push(server.register(name).await);
        }
        let mut rooms = Vec::new();
        for _ in 0..3 {
            let levels = json!({ "users": { &*users[0].id: 100, &*users[1].id: 100 } });
            let request = json!({
                "preset": "public_chat", "power_level_content_override": levels,
                "room_version": "11",
            });
            rooms.push(users[0].creates(request).await);
        }
        Self {
            keys: vec![0; users.len()],
            users,
            rooms,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Makes a random user take a random action; actions that the rules forbid have no effect.
    async fn take_random_step(&mut self) {
        let room = self.rooms.choose(&mut self.random).expect("a room");
        let who = self.random.random_range(0..self.users.len());
        let user = &self.users[who];
        let other = self.users.choose(&mut self.random).expect("a user");
        let target = json!({ "user_id": other.id });
        match self.random.random_range(0..12) {
            0..=3 => drop(user.posts_in_room(room, "join", json!({})).await),
            4 | 5 => drop(user.posts_in_room(room, "leave", json!({})).await),
            6 => drop(user.posts_in_room(room, "invite", target).await),
            7 => drop(user.posts_in_room(room, "kick", target).await),
            8 => {
                let content = json!({ "msgtype": "m.text", "body": "hi" });
                drop(user.tries_to_send(room, "m.room.message", content).await);
            }
            9 => {
                let name = json!({ "displayname": self.keys[who].to_string() });
                let path = format!("/_matrix/client/v3/profile/{}/displayname", user.id);
                user.client.put(&path, name).await.expect_ok();
            }
            _ => {
                self.keys[who] += 1;
                user.uploads_device_keys(self.keys[who]).await;
            }
        }
    }

    /// Returns the users who share a room with a user, with the versions of their keys.
    async fn keys_of_room_mates(&self, user: &User) -> BTreeMap<String, u32> {
        let joined = user.client.get("/_matrix/client/v3/joined_rooms").await;
        let joined = joined.expect_ok();
        let mut found = BTreeSet::new();
        for room in joined["joined_rooms"].as_array().expect("a list") {
            let room = room.as_str().expect("an id");
            let members = user.gets_in_room(room, "joined_members").await.expect_ok();
            found.extend(
                members["joined"]
                    .as_object()
                    .expect("a map")
                    .keys()
                    .cloned(),
            );
        }
        found.remove(&user.id);
        let all = self.users.iter().zip(&self.keys);
        all.filter(|(other, _)| found.contains(&other.id))
            .map(|(other, version)| (other.id.clone(), *version))
            .collect()
    }

    fn key_version(&self, user_id: &str) -> u32 {
        let at = self.users.iter().position(|user| user.id == user_id);
        self.keys[at.expect("the user takes part")]
    }
}

impl KeyTracker {
    async fn sync_device_lists(&mut self, scene: &TrackingScenario, who: usize) {
        let user = &scene.users[who];
        let sync = user.syncs_after(&self.token).await;
        let list = |name: &str| -> Vec<String> {
            let list = sync["device_lists"][name].as_array();
            let ids = list.into_iter().flatten().filter_map(Value::as_str);
            ids.map(ToOwned::to_owned).collect()
        };
        for user_id in list("changed").into_iter().filter(|id| *id != user.id) {
            let version = scene.key_version(&user_id);
            self.known.insert(user_id, version);
        }
        for user_id in list("left") {
            self.known.remove(&user_id);
        }
        assert!(!next_batch(&sync).is_empty());
        self.token = sync;
    }
}

async fn check_tracking(seed: u64) {
    let server = Server::start().await;
    let mut scene = TrackingScenario::create(&server, seed).await;
    let mut trackers = Vec::new();
    for user in &scene.users {
        let token = user.syncs().await;
        let known = scene.keys_of_room_mates(user).await;
        trackers.push(KeyTracker { token, known });
    }
    for step in 1..=STEPS_PER_RUN {
        scene.take_random_step().await;
        for (who, tracker) in trackers.iter_mut().enumerate() {
            if step == STEPS_PER_RUN || scene.random.random_ratio(1, 4) {
                tracker.sync_device_lists(&scene, who).await;
                let neighbours = scene.keys_of_room_mates(&scene.users[who]).await;
                assert_eq!(
                    tracker.known, neighbours,
                    "seed {seed}, step {step}, user {who}"
                );
            }
        }
    }
}

#[tokio::test]
async fn syncs_at_any_interval_keep_key_tracking_exact() {
    for seed in 0..8 {
        check_tracking(seed).await;
    }
}
