//! Rooms of the other server, whose events form a single line.

use parlour::matrix::{self, SigningKey};
use ruma::{
    RoomVersionId, UserId,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    room_version_rules::RoomVersionRules,
    signatures::reference_hash,
};
use serde_json::{Value, json, value::RawValue};

/// The version of the rooms.
pub(crate) const ROOM_VERSION: RoomVersionId = RoomVersionId::V11;

/// An event with its id.
#[derive(Clone)]
pub(crate) struct BenchEvent {
    pub(crate) id: String,
    pub(crate) json: Box<RawValue>,
}

/// A room with many members.
pub(crate) struct BigRoom {
    pub(crate) id: String,
    rules: RoomVersionRules,
    creator: String,
    /// The state of the room; its first four events authorise all others.
    pub(crate) state: Vec<BenchEvent>,
    /// All messages since the measured server joined, oldest first.
    pub(crate) messages: Vec<BenchEvent>,
    newest_event_id: Option<String>,
    depth: u64,
}

impl BigRoom {
    /// Creates a room with a creator and this number of further members.
    pub(crate) fn create(key: &SigningKey, members: usize) -> Self {
        let server = key.server_name();
        let mut room = Self {
            id: format!("!{:016x}:{server}", rand::random::<u64>()),
            rules: matrix::room_version_rules(&ROOM_VERSION).expect("is known"),
            creator: format!("@creator:{server}"),
            state: Vec::new(),
            messages: Vec::new(),
            newest_event_id: None,
            depth: 0,
        };
        let creator = room.creator.clone();
        room.add_state(
            key,
            (&creator, "m.room.create", ""),
            &json!({ "room_version": ROOM_VERSION }),
        );
        room.add_state(
            key,
            (&creator, "m.room.member", &creator),
            &json!({ "membership": "join" }),
        );
        let levels = json!({ "users": { &*creator: 100 } });
        room.add_state(key, (&creator, "m.room.power_levels", ""), &levels);
        room.add_state(
            key,
            (&creator, "m.room.join_rules", ""),
            &json!({ "join_rule": "public" }),
        );
        for n in 0..members {
            let member = format!("@member{n}:{server}");
            let content = json!({ "membership": "join", "displayname": format!("Member {n}") });
            room.add_state(key, (&member, "m.room.member", &member), &content);
        }
        room
    }

    /// Returns the auth chain of the room's state.
    pub(crate) fn auth_chain(&self) -> &[BenchEvent] {
        &self.state[..4]
    }

    /// Returns the join event of a user, to be signed by the user's server.
    pub(crate) fn join_template(&self, user_id: &UserId) -> Value {
        let content = json!({ "membership": "join" });
        let mut event = self.unsigned_event((user_id.as_str(), "m.room.member"), &content);
        event["state_key"] = json!(user_id);
        event
    }

    /// Adds the join of a user of the measured server.
    pub(crate) fn add_join(&mut self, join: &CanonicalJsonObject) {
        let event = event_with_id(join, &self.rules);
        self.newest_event_id = Some(event.id.clone());
        self.depth += 1;
        self.state.push(event);
    }

    /// Adds a message and returns it.
    pub(crate) fn add_message(&mut self, key: &SigningKey) -> BenchEvent {
        let content = json!({ "msgtype": "m.text", "body": format!("I say this for the {}th time", self.depth) });
        let creator = self.creator.clone();
        let event = self.unsigned_event((&creator, "m.room.message"), &content);
        let event = self.sign_event(key, event);
        self.messages.push(event.clone());
        event
    }

    fn add_state(
        &mut self,
        key: &SigningKey,
        (sender, kind, state_key): (&str, &str, &str),
        content: &Value,
    ) {
        let mut event = self.unsigned_event((sender, kind), content);
        event["state_key"] = json!(state_key);
        let event = self.sign_event(key, event);
        self.state.push(event);
    }

    fn unsigned_event(&self, (sender, kind): (&str, &str), content: &Value) -> Value {
        let is_member = kind == "m.room.member";
        // Create event, power levels and join rules authorise memberships; other events need the sender's membership.
        let allowing = [0, 2, if is_member { 3 } else { 1 }];
        let auth_events: Vec<&String> = allowing
            .into_iter()
            .filter_map(|at| Some(&self.state.get(at)?.id))
            .collect();
        let first_join = is_member && self.state.len() == 1;
        let auth_events = if first_join {
            vec![&self.state[0].id]
        } else {
            auth_events
        };
        json!({
            "type": kind, "sender": sender, "room_id": self.id, "content": content, "depth": self.depth + 1,
            "origin_server_ts": 1_700_000_000_000_u64 + self.depth, "auth_events": auth_events,
            "prev_events": self.newest_event_id.iter().collect::<Vec<_>>(),
        })
    }

    fn sign_event(&mut self, key: &SigningKey, event: Value) -> BenchEvent {
        let mut object: CanonicalJsonObject =
            serde_json::from_value(event).expect("is canonical JSON");
        key.hash_and_sign(&mut object, &self.rules)
            .expect("is signed");
        let event = event_with_id(&object, &self.rules);
        self.newest_event_id = Some(event.id.clone());
        self.depth += 1;
        event
    }
}

fn event_with_id(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> BenchEvent {
    let hash = reference_hash(object, rules).expect("has a hash");
    let json = CanonicalJsonValue::Object(object.clone()).to_string();
    BenchEvent {
        id: format!("${hash}"),
        json: RawValue::from_string(json).expect("is JSON"),
    }
}
