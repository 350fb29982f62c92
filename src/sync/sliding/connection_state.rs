//! The state of a connection: what the client has received on it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use rpds::HashTrieMapSync;
use ruma::{
    OwnedUserId, UserId, api::client::sync::sync_events::v5::request::Extensions,
    events::room::member::MembershipState,
};

use super::{
    request::{List, Request},
    required_state::Combined,
};
use crate::{
    ephemeral::Tick,
    storage::{Position, RoomNum},
};

/// The number of members of a room of which it is remembered that the client has them. Beyond it, they are sent again.
const MEMBERS: usize = 200;
/// The number of different required states that are remembered. Beyond it, those that no room uses are forgotten.
const REQUIRED: usize = 64;
/// The memory that a room of a connection takes, and each member of it that is remembered.
const ROOM_BYTES: usize = 400;
const MEMBER_BYTES: usize = 64;

/// The data that a client has received, up to a position. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// The position; `None` before the first response.
    pub(super) since: Option<Since>,
    /// The rooms that were sent.
    pub(super) rooms: HashTrieMapSync<RoomNum, Told>,
    /// The parameters of the last request.
    pub(super) asked: Arc<Asked>,
    /// The number of times that the lists changed. The list bits of a room count only in the generation in which they
    /// were set.
    pub(super) generation: u32,
    /// The number of rooms in each list.
    pub(super) counts: Arc<BTreeMap<String, u64>>,
    /// The different required states that were requested. They are few, since lists set them for many rooms.
    pub(super) required: Arc<Vec<Arc<Combined>>>,
    /// The number of members that are remembered in all rooms.
    members: usize,
}

/// A position in the journal and the tick of the in-memory state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) position: Position,
    pub(super) tick: Tick,
}

/// The parameters of a request, without the ranges of lists and the tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    lists: BTreeMap<String, List>,
    pub(super) extensions: Extensions,
    bytes: usize,
}

/// The record of what a client has received of a room.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The position at which the room left the client's view; `None` while it is in view.
    pub(super) out_of_sight: Option<Since>,
    /// The lists by which it was sent, as bits. They count only in the same generation.
    pub(super) lists: u128,
    pub(super) generation: u32,
    /// The timeline limit of the request.
    pub(super) limit: u32,
    /// The number of the newest events that the client has without a gap.
    pub(super) count: u32,
    /// The required state of the request.
    pub(super) required: Arc<Combined>,
    /// The members whose events the client has.
    pub(super) members: Arc<Vec<OwnedUserId>>,
    /// The extensions that were sent for the room, as bits.
    pub(super) extensions: u8,
    /// The description of the room that was sent.
    pub(super) digest: Digest,
}

/// The description of a room that a client has received. Texts are stored as hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) membership: Option<MembershipState>,
    /// The position of the user's latest membership event in the room.
    pub(super) member_since: Position,
    pub(super) name: u64,
    pub(super) avatar: u64,
    pub(super) heroes: u64,
    pub(super) is_dm: bool,
    pub(super) joined: i64,
    pub(super) invited: i64,
    pub(super) bump_stamp: Position,
    pub(super) unread: (u64, u64),
}

impl Asked {
    pub(super) fn of(request: &Request) -> Self {
        let mut extensions = request.extensions.clone();
        // The token differs in each request, and does not change what is wanted.
        extensions.to_device.since = None;
        Self {
            lists: request.lists.clone(),
            extensions,
            bytes: request.bytes,
        }
    }

    /// Returns whether both requests have the same lists, with any ranges.
    pub(super) fn has_lists_of(&self, other: &Self) -> bool {
        self.lists.len() == other.lists.len()
            && self
                .lists
                .iter()
                .zip(&other.lists)
                .all(|((name, list), (other_name, other))| {
                    name == other_name && list.is_like(other)
                })
    }
}

impl State {
    /// Records what the client has received of a room.
    pub(super) fn put(&mut self, room: RoomNum, told: Told) {
        let before = self.rooms.get(&room);
        self.members -= before.map_or(0, |before| before.members.len());
        self.members += told.members.len();
        self.rooms.insert_mut(room, told);
    }

    /// Records which required states were requested.
    pub(super) fn note_required<'a>(&mut self, asked: impl Iterator<Item = &'a Arc<Combined>>) {
        let mut added: Vec<Arc<Combined>> = Vec::new();
        for required in asked {
            let is_it = |known: &Arc<Combined>| Arc::ptr_eq(known, required);
            if !self.required.iter().any(is_it) && !added.iter().any(is_it) {
                added.push(required.clone());
            }
        }
        if added.is_empty() {
            return;
        }
        let known = Arc::make_mut(&mut self.required);
        known.extend(added);
        if known.len() > REQUIRED {
            let used = self.rooms.values().map(|told| Arc::as_ptr(&told.required));
            let used: HashSet<*const Combined> = used.collect();
            known.retain(|required| used.contains(&Arc::as_ptr(required)));
        }
    }

    /// Returns the approximate memory that it takes, counted in rooms.
    pub(super) fn weight(&self) -> usize {
        let required: usize = self.required.iter().map(|required| required.bytes()).sum();
        let bytes = self.asked.bytes + required + self.members * MEMBER_BYTES;
        1 + self.rooms.size() + bytes / ROOM_BYTES
    }
}

impl Told {
    /// Returns the lists by which the room was sent, in this generation.
    pub(super) fn lists(&self, generation: u32) -> u128 {
        if self.generation == generation {
            self.lists
        } else {
            0
        }
    }

    /// Returns whether the client asks for older events that it does not have.
    pub(super) fn lacks_history(&self, limit: u32) -> bool {
        limit > self.limit && limit > self.count
    }

    pub(super) fn has_member(&self, user_id: &UserId) -> bool {
        self.members.iter().any(|member| member == user_id)
    }

    /// Records the members whose events the client now has.
    pub(super) fn add_members(&mut self, added: impl Iterator<Item = OwnedUserId>) {
        let mut members = Vec::new();
        for member in added {
            if !self.has_member(&member) && !members.contains(&member) {
                members.push(member);
            }
        }
        if members.is_empty() {
            return;
        }
        let known = Arc::make_mut(&mut self.members);
        if known.len() + members.len() > MEMBERS {
            known.clear();
        }
        known.extend(members);
        known.truncate(MEMBERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_members_are_remembered_than_there_is_room_for() {
        let member = |n: usize| OwnedUserId::try_from(format!("@u{n}:a")).unwrap();
        let mut told = Told::default();

        told.add_members((0..MEMBERS).map(member));
        assert!(told.has_member(&member(0)));
        told.add_members((0..3).map(member));
        assert_eq!(told.members.len(), MEMBERS);
        told.add_members([member(MEMBERS)].into_iter());

        assert!(told.has_member(&member(MEMBERS)) && !told.has_member(&member(0)));
    }

    #[test]
    fn a_state_weighs_what_it_remembers() {
        let mut state = State::default();
        let told = |members: usize| Told {
            members: Arc::new(vec![ruma::user_id!("@u:a").to_owned(); members]),
            ..Told::default()
        };

        state.put(1, told(70));
        state.put(2, told(0));
        assert_eq!(state.weight(), 3 + 70 * MEMBER_BYTES / ROOM_BYTES);
        state.put(1, told(0));
        assert_eq!(state.weight(), 3);
    }

    #[test]
    fn what_no_room_asks_for_any_more_is_forgotten() {
        let mut state = State::default();
        let required: Vec<_> = (0..=REQUIRED).map(|_| Arc::<Combined>::default()).collect();
        let kept = Told {
            required: required[0].clone(),
            ..Told::default()
        };
        state.put(1, kept);

        state.note_required(required.iter());

        assert_eq!(state.required.len(), 1);
    }

    #[test]
    fn history_is_lacking_only_where_more_is_asked_for_than_the_client_has() {
        let told = Told {
            limit: 1,
            count: 3,
            ..Told::default()
        };

        assert!(told.lacks_history(4));
        assert!(!told.lacks_history(3));
        assert!(!told.lacks_history(1));
    }
}
