//! Tests sliding sync as an app uses it: with the list of rooms and encryption on two parallel connections;
//! and that a client which polls at intervals has the same data as one which polls for the first time.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    chat::{new_transaction, said},
    harness::{Server, User},
    sliding::{Connection, members, rooms},
};

/// The number of actions of users in each run.
const STEPS: usize = 80;

/// Returns the state that Element X requests.
fn required_state() -> Value {
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

fn room_list(user: &User) -> Connection<'_> {
    user.asks_for(json!({
        "conn_id": "room-list",
        "lists": { "all_rooms": {
            "ranges": [[0, 1]], "timeline_limit": 1, "required_state": required_state(),
            "filters": {},
        } },
        "extensions": {
            "account_data": { "enabled": true }, "receipts": { "enabled": true, "rooms": ["*"] },
            "typing": { "enabled": true },
        },
    }))
}

fn encryption(user: &User) -> Connection<'_> {
    user.asks_for(json!({
        "conn_id": "encryption",
        "extensions": { "to_device": { "enabled": true }, "e2ee": { "enabled": true } },
    }))
}

#[tokio::test]
async fn an_app_starts_grows_its_list_opens_a_room_and_hears_keys_and_messages() {
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
    let (mut list, mut keys) = (room_list(&alice), encryption(&alice));

    // The first answer has the first rooms, the next one has the others.
    let (first, first_keys) = tokio::join!(list.next(), keys.next());
    assert_eq!(rooms(&first).len(), 2);
    assert_eq!(first["lists"]["all_rooms"]["count"], 4);
    let newest = &first["rooms"][&all[3]];
    assert_eq!(newest["name"], "3");
    assert_eq!(newest["notification_count"], 1);
    assert_eq!(
        members(&first, &all[3]),
        [alice.id.as_str(), bob.id.as_str()]
    );
    assert!(first_keys["extensions"]["e2ee"]["device_one_time_keys_count"].is_object());
    list.body["lists"]["all_rooms"]["ranges"] = json!([[0, 3]]);
    assert_eq!(rooms(&list.next().await).len(), 2);

    // Alice opens a room and receives its history.
    let opened = all[0].clone();
    list.body["room_subscriptions"] = json!({ &opened: {
        "timeline_limit": 20, "required_state": required_state(),
    } });
    let told = list.next().await;
    assert_eq!(rooms(&told), [opened.as_str()]);
    assert_eq!(said(&told["rooms"][&opened]["timeline"]), ["hello"]);
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
    let (told, told_keys, ()) = tokio::join!(list.waits(), keys.waits(), sends);
    assert_eq!(said(&told["rooms"][&opened]["timeline"]), ["and again"]);
    let events = &told_keys["extensions"]["to_device"]["events"];
    assert_eq!(events[0]["content"]["key"], 1);

    // Bob types, and the list connection continues from its position.
    bob.types(&opened).await;
    let told = list.next().await;
    assert!(told["extensions"]["typing"]["rooms"][&opened].is_object());
    assert!(rooms(&told).is_empty());
}

/// A client's data of a room.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    membership: String,
    /// The latest events of the timeline, without a gap.
    timeline: Vec<String>,
    state: BTreeMap<(String, String), String>,
    account_data: BTreeMap<String, Value>,
    fields: BTreeMap<String, Value>,
}

/// A client's data of all rooms.
#[derive(Debug, Default, PartialEq)]
struct Client {
    rooms: BTreeMap<String, Known>,
}

impl Client {
    fn take(&mut self, answer: &Value) {
        for (room_id, room) in answer["rooms"].as_object().into_iter().flatten() {
            self.rooms.entry(room_id.clone()).or_default().take(room);
        }
        let data = &answer["extensions"]["account_data"]["rooms"];
        for (room_id, events) in data.as_object().into_iter().flatten() {
            let known = self.rooms.entry(room_id.clone()).or_default();
            for event in list_of(events) {
                let kind = text(&event["type"]);
                known.account_data.insert(kind, event["content"].clone());
            }
        }
    }

    /// Removes the data that a first answer does not contain.
    fn in_brief(mut self) -> Self {
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

impl Known {
    fn take(&mut self, room: &Value) {
        if room["initial"] == true {
            self.timeline.clear();
            self.state.clear();
            self.fields.clear();
        }
        if room["limited"] == true || room["expanded_timeline"] == true {
            self.timeline.clear();
        }
        self.membership = text(&room["membership"]);
        for event in list_of(&room["required_state"]) {
            let key = (text(&event["type"]), text(&event["state_key"]));
            self.state.insert(key, text(&event["event_id"]));
        }
        for event in list_of(&room["timeline"]) {
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

fn list_of(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// Performs a random action of a random user; the server may refuse it.
async fn goes_on(users: &[User], all: &[String], random: &mut StdRng) {
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
            user.tries_to_set(room, "m.room.name", content).await;
        }
        6 => {
            user.tries_to_set(room, "m.room.topic", json!({ "topic": n.to_string() }))
                .await;
        }
        7 | 8 => {
            user.tries(room, "join", json!({})).await;
        }
        9 => {
            user.tries(room, "leave", json!({})).await;
        }
        10 => {
            user.tries(room, "invite", member).await;
        }
        11 => {
            user.tries(room, "kick", member).await;
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
            let newest = user.asks(room, "messages?dir=b&limit=1").await;
            if let Some(event_id) = newest.body["chunk"][0]["event_id"].as_str() {
                let path = format!("receipt/m.read/{event_id}");
                user.tries(room, &path, json!({})).await;
            }
        }
    }
}

/// Opens a connection with all state of the rooms and a timeline limit.
fn watch(user: &User, (range, limit): (u64, u64)) -> Connection<'_> {
    user.asks_for(json!({
        "lists": { "all": {
            "ranges": [[0, range]], "timeline_limit": limit,
            "required_state": [["*", "*"]],
        } },
        "extensions": { "account_data": { "enabled": true } },
    }))
}

async fn folds(seed: u64, limit: u64) {
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
    let mut known = Client::default();
    let mut connection = watch(&users[0], (0, limit));
    for step in 0..STEPS {
        goes_on(&users, &all, &mut random).await;
        match random.random_range(0..6) {
            // The client does not receive this answer.
            0 if step > 0 => drop(connection.peeks().await),
            1 | 2 => known.take(&connection.next().await),
            3 => {
                let range: u64 = random.random_range(0..3);
                connection.body["lists"]["all"]["ranges"] = json!([[0, range]]);
            }
            _ => {}
        }
    }

    connection.body["lists"]["all"]["ranges"] = json!([[0, 9]]);
    known.take(&connection.next().await);
    let mut anew = Client::default();
    let mut first = watch(&users[0], (9, limit));
    first.body["conn_id"] = json!("first");
    anew.take(&first.next().await);

    let (mut known, mut anew) = (known.in_brief(), anew.in_brief());
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
async fn a_client_that_comes_now_and_then_knows_what_a_new_one_knows() {
    for seed in 0..4 {
        folds(seed, 100).await;
        folds(seed, 3).await;
    }
}
