//! Tests sliding sync as an app uses it: with the list of rooms and encryption on two parallel connections;
//! and that a client which polls at intervals has the same data as one which polls for the first time.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    chat::{message_bodies, new_transaction},
    harness::{Server, User},
    sliding::{SlidingTestConnection, member_ids, room_ids},
};

/// The number of actions of users in each run.
const ACTION_COUNT: usize = 80;

/// Returns the state that Element X requests.
fn element_required_state() -> Value {
    json!([
        ["m.room.name", ""],
        ["m.room.encryption", ""],
        ["m.room.member", "$LAZY"],
        ["m.room.member", "$ME"],
        ["m.room.topic", ""],
        ["m.room.avatar", ""],
        ["m.room.canonical_alias", ""],
        ["m.room.power_levels", ""],
        ["org.matrix.msc3401.call.member", "*"],
        ["m.room.join_rules", ""],
        ["m.room.tombstone", ""],
        ["m.room.create", ""],
        ["m.room.history_visibility", ""],
        ["io.element.functional_members", ""],
        ["m.space.parent", "*"],
        ["m.space.child", "*"],
        ["org.matrix.msc3672.beacon_info", "*"],
    ])
}

fn room_list_connection(user: &User) -> SlidingTestConnection<'_> {
    user.opens_connection(json!({
        "conn_id": "room-list",
        "lists": { "all_rooms": {
            "ranges": [[0, 1]], "timeline_limit": 1, "required_state": element_required_state(),
            "filters": {},
        } },
        "extensions": {
            "account_data": { "enabled": true }, "receipts": { "enabled": true, "rooms": ["*"] },
            "typing": { "enabled": true },
        },
    }))
}

fn encryption_connection(user: &User) -> SlidingTestConnection<'_> {
    user.opens_connection(json!({
        "conn_id": "encryption",
        "extensions": { "to_device": { "enabled": true }, "e2ee": { "enabled": true } },
    }))
}

#[tokio::test]
async fn an_app_receives_rooms_keys_and_messages_on_two_connections() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let mut all = Vec::new();
    for n in 0..4 {
        let room = alice.creates(json!({ "preset": "public_chat", "name": n.to_string() }));
        let room = room.await;
        bob.joins(&room).await;
        bob.says(&room, "hello").await;
        all.push(room);
    }
    let (mut list, mut keys) = (room_list_connection(&alice), encryption_connection(&alice));

    // The first answer has the first rooms, the next one has the others.
    let (first, first_keys) = tokio::join!(list.poll(), keys.poll());
    assert_eq!(room_ids(&first).len(), 2);
    assert_eq!(first["lists"]["all_rooms"]["count"], 4);
    let newest = &first["rooms"][&all[3]];
    assert_eq!(newest["name"], "3");
    assert_eq!(newest["notification_count"], 1);
    assert_eq!(
        member_ids(&first, &all[3]),
        [alice.id.as_str(), bob.id.as_str()]
    );
    assert!(first_keys["extensions"]["e2ee"]["device_one_time_keys_count"].is_object());
    list.body["lists"]["all_rooms"]["ranges"] = json!([[0, 3]]);
    assert_eq!(room_ids(&list.poll().await).len(), 2);

    // Alice opens a room and receives its history.
    let opened = all[0].clone();
    list.body["room_subscriptions"] = json!({ &opened: {
        "timeline_limit": 20, "required_state": element_required_state(),
    } });
    let told = list.poll().await;
    assert_eq!(room_ids(&told), [opened.as_str()]);
    assert_eq!(
        message_bodies(&told["rooms"][&opened]["timeline"]),
        ["hello"]
    );
    assert_eq!(told["rooms"][&opened]["expanded_timeline"], true);

    // Bob sends a message, and a key to Alice's device: each connection receives its own part.
    let next = first_keys["extensions"]["to_device"]["next_batch"].clone();
    keys.body["extensions"]["to_device"]["since"] = next;
    let sends = async {
        let path = format!(
            "/_matrix/client/v3/sendToDevice/m.room.encrypted/{}",
            new_transaction()
        );
        let messages = json!({ &alice.id: { &alice.device_id: { "key": 1 } } });
        let sent = bob.client.put(&path, json!({ "messages": messages })).await;
        sent.expect_ok();
        bob.says(&opened, "and again").await;
    };
    let (told, told_keys, ()) = tokio::join!(list.poll_until_news(), keys.poll_until_news(), sends);
    assert_eq!(
        message_bodies(&told["rooms"][&opened]["timeline"]),
        ["and again"]
    );
    let events = &told_keys["extensions"]["to_device"]["events"];
    assert_eq!(events[0]["content"]["key"], 1);

    // Bob types, and the list connection continues from its position.
    bob.starts_typing(&opened).await;
    let told = list.poll().await;
    assert!(told["extensions"]["typing"]["rooms"][&opened].is_object());
    assert!(room_ids(&told).is_empty());
}

/// A client's data of a room.
#[derive(Clone, Debug, Default, PartialEq)]
struct KnownSlidingRoom {
    membership: String,
    /// The latest events of the timeline, without a gap.
    timeline: Vec<String>,
    state: BTreeMap<(String, String), String>,
    account_data: BTreeMap<String, Value>,
    fields: BTreeMap<String, Value>,
}

/// A client's data of all rooms.
#[derive(Debug, Default, PartialEq)]
struct KnownSlidingRooms {
    rooms: BTreeMap<String, KnownSlidingRoom>,
}

impl KnownSlidingRooms {
    fn apply_answer(&mut self, answer: &Value) {
        for (room_id, room) in answer["rooms"].as_object().into_iter().flatten() {
            self.rooms
                .entry(room_id.clone())
                .or_default()
                .apply_room(room);
        }
        let data = &answer["extensions"]["account_data"]["rooms"];
        for (room_id, events) in data.as_object().into_iter().flatten() {
            let known = self.rooms.entry(room_id.clone()).or_default();
            for event in list_items(events) {
                let kind = text(&event["type"]);
                known.account_data.insert(kind, event["content"].clone());
            }
        }
    }

    /// Removes the data that a first answer does not contain.
    fn reduced_to_first_answer(mut self) -> Self {
        self.rooms.retain(|_, room| room.membership != "leave");
        for room in self.rooms.values_mut() {
            if room.membership != "join" {
                room.state.clear();
                room.timeline.clear();
                room.fields.retain(|name, _| name == "bump_stamp");
            }
            // A room with a name needs no heroes.
            if room.fields.contains_key("name") {
                room.fields.remove("heroes");
            }
        }
        self
    }
}

impl KnownSlidingRoom {
    fn apply_room(&mut self, room: &Value) {
        if room["initial"] == true {
            self.timeline.clear();
            self.state.clear();
            self.fields.clear();
        }
        if room["limited"] == true || room["expanded_timeline"] == true {
            self.timeline.clear();
        }
        self.membership = text(&room["membership"]);
        for event in list_items(&room["required_state"]) {
            let key = (text(&event["type"]), text(&event["state_key"]));
            self.state.insert(key, text(&event["event_id"]));
        }
        for event in list_items(&room["timeline"]) {
            self.timeline.push(text(&event["event_id"]));
        }
        for name in [
            "name",
            "heroes",
            "joined_count",
            "invited_count",
            "notification_count",
            "highlight_count",
            "bump_stamp",
        ] {
            match room.get(name) {
                Some(Value::Null) => drop(self.fields.remove(name)),
                Some(value) => drop(self.fields.insert(name.to_owned(), value.clone())),
                None => {}
            }
        }
    }
}

fn list_items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// Performs a random action of a random user; the server may refuse it.
async fn run_random_action(users: &[User], all: &[String], random: &mut StdRng) {
    let room = all.choose(random).expect("a room");
    let user = users.choose(random).expect("a user");
    let other = users.choose(random).expect("a user");
    let n: u32 = random.random();
    let member = json!({ "user_id": other.id });
    match random.random_range(0..14) {
        0..=4 => {
            let content = json!({ "msgtype": "m.text", "body": n.to_string() });
            user.tries_to_send(room, "m.room.message", content).await;
        }
        5 => {
            let content =
                json!({ "name": if n.is_multiple_of(3) { String::new() } else { n.to_string() } });
            user.tries_to_set_state(room, "m.room.name", content).await;
        }
        6 => {
            user.tries_to_set_state(room, "m.room.topic", json!({ "topic": n.to_string() }))
                .await;
        }
        7 | 8 => {
            user.posts_in_room(room, "join", json!({})).await;
        }
        9 => {
            user.posts_in_room(room, "leave", json!({})).await;
        }
        10 => {
            user.posts_in_room(room, "invite", member).await;
        }
        11 => {
            user.posts_in_room(room, "kick", member).await;
        }
        12 => {
            let path = format!(
                "/_matrix/client/v3/user/{}/rooms/{room}/tags/m.favourite",
                user.id
            );
            user.client
                .put(&path, json!({ "order": f64::from(n) }))
                .await;
        }
        _ => {
            let newest = user.gets_in_room(room, "messages?dir=b&limit=1").await;
            if let Some(event_id) = newest.body["chunk"][0]["event_id"].as_str() {
                let path = format!("receipt/m.read/{event_id}");
                user.posts_in_room(room, &path, json!({})).await;
            }
        }
    }
}

/// Opens a connection with all state of the rooms and a timeline limit.
fn watch_all_state(user: &User, (range, limit): (u64, u64)) -> SlidingTestConnection<'_> {
    user.opens_connection(json!({
        "lists": { "all": {
            "ranges": [[0, range]], "timeline_limit": limit,
            "required_state": [["*", "*"]],
        } },
        "extensions": { "account_data": { "enabled": true } },
    }))
}

async fn check_incremental_answers(seed: u64, limit: u64) {
    let server = Server::start().await;
    let mut users = Vec::new();
    for name in ["alice", "bob", "carol"] {
        users.push(server.register(name).await);
    }
    let mut all = Vec::new();
    for user in &users {
        all.push(user.creates_open_room().await);
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut known = KnownSlidingRooms::default();
    let mut connection = watch_all_state(&users[0], (0, limit));
    for step in 0..ACTION_COUNT {
        run_random_action(&users, &all, &mut random).await;
        match random.random_range(0..6) {
            // The client does not receive this answer.
            0 if step > 0 => drop(connection.poll_without_advancing().await),
            1 | 2 => known.apply_answer(&connection.poll().await),
            3 => {
                let range: u64 = random.random_range(0..3);
                connection.body["lists"]["all"]["ranges"] = json!([[0, range]]);
            }
            _ => {}
        }
    }

    connection.body["lists"]["all"]["ranges"] = json!([[0, 9]]);
    known.apply_answer(&connection.poll().await);
    let mut anew = KnownSlidingRooms::default();
    let mut first = watch_all_state(&users[0], (9, limit));
    first.body["conn_id"] = json!("first");
    anew.apply_answer(&first.poll().await);

    let (mut known, mut anew) = (
        known.reduced_to_first_answer(),
        anew.reduced_to_first_answer(),
    );
    for (room_id, room) in &mut anew.rooms {
        // After a rejoin, the timeline of the older connection begins at the rejoin, but a new connection
        // also sees earlier events.
        let older = known
            .rooms
            .get_mut(room_id)
            .map(|known| &mut known.timeline);
        if let Some(older) = older {
            let common = older.len().min(room.timeline.len());
            *older = older.split_off(older.len() - common);
            room.timeline = room.timeline.split_off(room.timeline.len() - common);
        }
    }
    assert_eq!(known, anew, "seed {seed}");
}

#[tokio::test]
async fn incremental_answers_add_up_to_a_first_answer() {
    for seed in 0..4 {
        check_incremental_answers(seed, 100).await;
        check_incremental_answers(seed, 3).await;
    }
}
