//! The rooms of a user, sorted by their latest activity, with the properties by which lists are filtered.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ruma::{
    OwnedRoomId, RoomId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    matrix::StateMap,
    numbers::{Position, RoomNum},
    rooms::UserRoom,
    storage::{sync::room_list::RoomListRow, users::account_data::AccountData},
    users::Session,
};

/// The number of a room's tags by which lists can be filtered.
const MAX_TAGS_PER_ROOM: usize = 100;

/// The rooms of one user.
#[derive(Debug, Default)]
pub(super) struct RoomIndex {
    /// The position up to which it is up to date; `None` before it is loaded.
    pub(super) up_to: Option<Position>,
    rooms: HashMap<RoomNum, IndexedRoom>,
    by_id: HashMap<OwnedRoomId, RoomNum>,
    /// The rooms, the most recently active first.
    order: BTreeSet<(Reverse<Position>, RoomNum)>,
    /// The rooms that the user's account data lists as direct chats.
    direct: HashSet<OwnedRoomId>,
    /// The tags of each room.
    tags: HashMap<RoomNum, Vec<String>>,
    /// The number of entries at the latest use, which limits the memory of all indexes together.
    size: Arc<AtomicUsize>,
}

/// A room of the user.
#[derive(Clone, Debug)]
pub(super) struct IndexedRoom {
    pub(super) room_id: OwnedRoomId,
    pub(super) membership: MembershipState,
    /// The position of the user's latest membership event in the room.
    pub(super) member_since: Position,
    pub(super) relation: RoomRelation,
    /// The position of the latest activity.
    pub(super) activity: Position,
    pub(super) room_type: Option<String>,
    /// `None` until a filter needs it.
    pub(super) encrypted: Option<bool>,
}

/// The relation of the user to a room, which decides whether it belongs in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoomRelation {
    /// The user is in the room, is invited, or knocks.
    In,
    /// The user was in the room until someone else removed them, which they may not have seen.
    Expelled,
    /// The user left, or was never in the room. Only clients that already have the room learn of it.
    Gone,
}

#[derive(Deserialize)]
struct RoomTypeContent {
    #[serde(rename = "type")]
    room_type: Option<String>,
}

#[derive(Deserialize)]
struct StrippedEvent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize)]
struct TagContent {
    tags: Map<String, Value>,
}

impl RoomIndex {
    /// Removes all rooms.
    pub(super) fn clear_rooms(&mut self) {
        self.rooms.clear();
        self.by_id.clear();
        self.order.clear();
    }

    /// Makes an empty index that records its size in a counter.
    pub(super) fn with_size_counter(size: Arc<AtomicUsize>) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    /// Records that the index is up to date at a position.
    pub(super) fn finish_update(&mut self, now: Position) {
        self.up_to = Some(now);
        let size = self.rooms.len() + self.direct.len() + self.tags.len();
        self.size.store(size, Ordering::Relaxed);
    }

    /// Returns the rooms of which it is not known whether they are encrypted.
    pub(super) fn rooms_of_unknown_encryption(&self) -> Vec<RoomNum> {
        let rooms = self.rooms.iter();
        rooms
            .filter(|(_, entry)| entry.encrypted.is_none())
            .map(|(room, _)| *room)
            .collect()
    }

    /// Sets whether a room is encrypted, unless this is known.
    pub(super) fn set_encrypted(&mut self, room: RoomNum, is_encrypted: bool) {
        if let Some(entry) = self.rooms.get_mut(&room) {
            entry.encrypted.get_or_insert(is_encrypted);
        }
    }

    /// Returns the position up to which the index is up to date.
    pub(super) fn now(&self) -> Position {
        self.up_to.unwrap_or(Position::ZERO)
    }

    /// Returns the rooms, the most recently active first.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (RoomNum, &IndexedRoom)> {
        self.order
            .iter()
            .filter_map(|(_, room)| Some((*room, self.rooms.get(room)?)))
    }

    pub(super) fn get(&self, room: RoomNum) -> Option<&IndexedRoom> {
        self.rooms.get(&room)
    }

    pub(super) fn room_number(&self, room_id: &RoomId) -> Option<RoomNum> {
        self.by_id.get(room_id).copied()
    }

    pub(super) fn is_direct(&self, entry: &IndexedRoom) -> bool {
        self.direct.contains(&entry.room_id)
    }

    pub(super) fn tags(&self, room: RoomNum) -> &[String] {
        self.tags.get(&room).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn insert_room(&mut self, room: RoomNum, entry: IndexedRoom) {
        self.remove_room(room);
        self.order.insert((Reverse(entry.activity), room));
        self.by_id.insert(entry.room_id.clone(), room);
        self.rooms.insert(room, entry);
    }

    pub(super) fn remove_room(&mut self, room: RoomNum) {
        if let Some(before) = self.rooms.remove(&room) {
            self.order.remove(&(Reverse(before.activity), room));
            self.by_id.remove(&before.room_id);
        }
    }

    /// Applies account data of the user that concerns rooms.
    pub(super) fn apply_account_data(&mut self, data: &AccountData) {
        match (data.room(), data.kind.as_str()) {
            (None, "m.direct") => {
                let rooms: Option<HashMap<String, Vec<String>>> =
                    serde_json::from_str(&data.content).ok();
                let rooms = rooms.unwrap_or_default().into_values().flatten();
                self.direct = rooms
                    .filter_map(|room| OwnedRoomId::try_from(room).ok())
                    .collect();
            }
            (Some(room), "m.tag") => {
                let tags: Option<TagContent> = serde_json::from_str(&data.content).ok();
                let tags = tags.map(|tags| tags.tags).unwrap_or_default();
                let tags: Vec<String> = tags
                    .into_iter()
                    .map(|(tag, _)| tag)
                    .take(MAX_TAGS_PER_ROOM)
                    .collect();
                if tags.is_empty() {
                    self.tags.remove(&room);
                } else {
                    self.tags.insert(room, tags);
                }
            }
            _ => {}
        }
    }
}

impl IndexedRoom {
    /// Sets the properties of a room that the user is joined to.
    pub(super) fn apply_state(&mut self, state: &StateMap) {
        let created: Option<RoomTypeContent> = state.content(&StateEventType::RoomCreate);
        self.room_type = created.and_then(|created| created.room_type);
        let encryption = state.get(&StateEventType::RoomEncryption, "");
        self.encrypted = Some(encryption.is_some());
    }

    /// Sets the properties that the stripped state has for a user who is invited or knocks.
    pub(super) fn apply_stripped_state(&mut self, user_room: &UserRoom) {
        let json = user_room.stripped_state.as_deref().unwrap_or("[]");
        let state: Vec<StrippedEvent<'_>> = serde_json::from_str(json).unwrap_or_default();
        let of = |kind: &str| state.iter().find(|event| event.kind == kind);
        let created = of("m.room.create")
            .and_then(|event| serde_json::from_str::<RoomTypeContent>(event.content.get()).ok());
        self.room_type = created.and_then(|created| created.room_type);
        self.encrypted = Some(of("m.room.encryption").is_some());
    }
}

/// Returns the entry of a stored room, or `None` if the stored row is not enough.
pub(super) fn indexed_room_from_row(
    session: &Session,
    row: RoomListRow,
    user_room: &UserRoom,
) -> Option<IndexedRoom> {
    let mut entry = IndexedRoom {
        room_id: OwnedRoomId::try_from(row.room_id).ok()?,
        membership: user_room.membership.clone(),
        member_since: user_room.position,
        relation: RoomRelation::In,
        activity: user_room.position,
        room_type: row.room_type,
        encrypted: None,
    };
    match user_room.membership {
        MembershipState::Join => entry.activity = row.last_position.max(user_room.position),
        MembershipState::Invite | MembershipState::Knock => entry.apply_stripped_state(user_room),
        // Whether a removed user was ever in the room is known only from the room's history.
        _ if row.sender != Some(session.user) && !user_room.forgotten => return None,
        _ => entry.relation = RoomRelation::Gone,
    }
    Some(entry)
}
