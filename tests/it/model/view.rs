//! A client's data, and the differences between the data of two clients.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The largest number of events of a room in an answer.
pub(super) const TIMELINE_LIMIT: u64 = 10;

/// A client's data.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct View {
    pub(super) rooms: BTreeMap<String, RoomView>,
    pub(super) account_data: BTreeMap<String, Value>,
    /// The account data of rooms, which a client keeps when the user leaves the room.
    room_account_data: BTreeMap<String, BTreeMap<String, Value>>,
    /// The messages to the device, in their order.
    pub(super) to_device: Vec<Value>,
}

/// A client's data of a room in which the user is joined or invited.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RoomView {
    pub(super) membership: String,
    /// The ids of the latest events, without a gap.
    pub(super) timeline: Vec<String>,
    /// The ids of the state events.
    pub(super) state: BTreeMap<(String, String), String>,
    pub(super) notifications: u64,
    pub(super) highlights: u64,
    /// The events up to which users have read, by user and kind of receipt.
    pub(super) receipts: BTreeMap<(String, String), String>,
    pub(super) typing: BTreeSet<String>,
}

impl View {
    /// Adds the changes of a response of `/sync` or an update of the channel.
    pub(super) fn apply_sync(&mut self, sync: &Value) {
        for (room_id, room) in fields(&sync["rooms"]["join"]) {
            let known = self.rooms.entry(room_id.clone()).or_default();
            known.set_membership("join");
            known.apply_joined_room(room);
            self.add_room_account_data(room_id, items(&room["account_data"]["events"]));
        }
        for (room_id, _) in fields(&sync["rooms"]["invite"]) {
            let known = self.rooms.entry(room_id.clone()).or_default();
            known.set_membership("invite");
        }
        for (room_id, _) in fields(&sync["rooms"]["leave"]) {
            self.rooms.remove(room_id);
        }
        self.add_account_data(items(&sync["account_data"]["events"]));
        self.to_device
            .extend(items(&sync["to_device"]["events"]).iter().cloned());
    }

    pub(super) fn add_account_data(&mut self, events: &[Value]) {
        add_account_data(&mut self.account_data, events);
    }

    pub(super) fn forget_typing(&mut self) {
        for room in self.rooms.values_mut() {
            room.typing.clear();
        }
    }

    pub(super) fn add_room_account_data(&mut self, room_id: &str, events: &[Value]) {
        let known = self.room_account_data.entry(room_id.to_owned());
        add_account_data(known.or_default(), events);
    }

    /// Returns the account data of a joined room.
    fn account_data_of(&self, room_id: &str) -> BTreeMap<String, Value> {
        let is_joined = self.rooms[room_id].membership == "join";
        let known = self.room_account_data.get(room_id);
        known.filter(|_| is_joined).cloned().unwrap_or_default()
    }
}

impl RoomView {
    /// Changes the membership. The data from before is dropped.
    pub(super) fn set_membership(&mut self, membership: &str) {
        if self.membership != membership {
            *self = Self {
                membership: membership.to_owned(),
                ..Self::default()
            };
        }
    }

    fn apply_joined_room(&mut self, room: &Value) {
        if room["timeline"]["limited"] == true {
            self.timeline.clear();
        }
        self.add_state(items(&room["state"]["events"]));
        self.add_timeline(items(&room["timeline"]["events"]));
        let counts = &room["unread_notifications"];
        if let Some(count) = counts["notification_count"].as_u64() {
            self.notifications = count;
        }
        if let Some(count) = counts["highlight_count"].as_u64() {
            self.highlights = count;
        }
        for event in items(&room["ephemeral"]["events"]) {
            match event["type"].as_str() {
                Some("m.receipt") => self.add_receipts(&event["content"]),
                Some("m.typing") => self.set_typing(&event["content"]),
                _ => {}
            }
        }
    }

    pub(super) fn add_state(&mut self, events: &[Value]) {
        for event in events {
            let key = (text(&event["type"]), text(&event["state_key"]));
            self.state.insert(key, text(&event["event_id"]));
        }
    }

    pub(super) fn add_timeline(&mut self, events: &[Value]) {
        for event in events {
            self.timeline.push(text(&event["event_id"]));
            if event["state_key"].is_string() {
                self.add_state(std::slice::from_ref(event));
            }
        }
    }

    /// Adds the content of `m.receipt`.
    pub(super) fn add_receipts(&mut self, content: &Value) {
        let kinds = fields(content).flat_map(|(event_id, kinds)| {
            fields(kinds).map(move |(kind, users)| (event_id, kind, users))
        });
        for (event_id, kind, users) in kinds {
            for (user, _) in fields(users) {
                let key = (user.clone(), kind.clone());
                self.receipts.insert(key, event_id.clone());
            }
        }
    }

    /// Replaces the typing users by those of the content of `m.typing`.
    pub(super) fn set_typing(&mut self, content: &Value) {
        self.typing = items(&content["user_ids"]).iter().map(text).collect();
    }

    /// Returns the data that can be compared with those of another client.
    ///
    /// Clients have timelines of different lengths, and only receipts at events that they show. An invited user has only
    /// the invitation.
    fn comparable(&self, other: &Self) -> Self {
        if self.membership != "join" {
            return Self {
                membership: self.membership.clone(),
                ..Self::default()
            };
        }
        let shared = self.timeline.len().min(other.timeline.len());
        let mut view = self.clone();
        view.timeline.drain(..view.timeline.len() - shared);
        let shown: BTreeSet<&String> = view.timeline.iter().collect();
        view.receipts.retain(|_, event_id| shown.contains(event_id));
        view
    }
}

/// Returns the first difference between the data of two clients.
pub(super) fn difference(one: &View, other: &View) -> Option<String> {
    let ids = |view: &View| view.rooms.keys().cloned().collect::<Vec<_>>();
    if ids(one) != ids(other) {
        return Some(format!("rooms {:?} and {:?}", ids(one), ids(other)));
    }
    for (room_id, room) in &one.rooms {
        let theirs = &other.rooms[room_id];
        let (room, theirs) = (room.comparable(theirs), theirs.comparable(room));
        if room != theirs {
            return Some(format!("room {room_id}: {room:#?} and {theirs:#?}"));
        }
        let (data, theirs) = (one.account_data_of(room_id), other.account_data_of(room_id));
        if data != theirs {
            return Some(format!(
                "account data of {room_id}: {data:?} and {theirs:?}"
            ));
        }
    }
    if one.account_data != other.account_data {
        let (one, other) = (&one.account_data, &other.account_data);
        return Some(format!("account data {one:?} and {other:?}"));
    }
    if one.to_device != other.to_device {
        let (one, other) = (&one.to_device, &other.to_device);
        return Some(format!("messages to devices {one:?} and {other:?}"));
    }
    None
}

fn add_account_data(known: &mut BTreeMap<String, Value>, events: &[Value]) {
    for event in events {
        known.insert(text(&event["type"]), event["content"].clone());
    }
}

pub(super) fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn fields(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
