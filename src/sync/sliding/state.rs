//! What a client has been told on a connection.

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

/// Members of a room of which it is remembered that the client has them; with more it is told of them again.
const MEMBERS: usize = 200;
/// Different states asked for of rooms, beyond which those are forgotten that no room has any more.
const REQUIRED: usize = 64;
/// How much memory a room of a connection takes, and each member of it that is remembered.
const ROOM_BYTES: usize = 400;
const MEMBER_BYTES: usize = 64;

/// What a client has been told, up to a place. A clone costs nothing much.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Up to where; `None` before the first answer.
    pub(super) since: Option<Since>,
    /// Of which rooms.
    pub(super) rooms: HashTrieMapSync<RoomNum, Told>,
    /// What was asked for last.
    pub(super) asked: Arc<Asked>,
    /// Counts how often the lists changed: what is told by a list of other times says nothing.
    pub(super) generation: u32,
    /// The numbers of rooms in the lists.
    pub(super) counts: Arc<BTreeMap<String, u64>>,
    /// The different states that were asked for of rooms: few, since rooms are asked for by lists.
    pub(super) required: Arc<Vec<Arc<Combined>>>,
    /// How many members are remembered in all rooms.
    members: usize,
}

/// A place in the journal, and in what lives in memory alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) position: Position,
    pub(super) tick: Tick,
}

/// What a client asked for, without the ranges of lists and the tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    lists: BTreeMap<String, List>,
    pub(super) extensions: Extensions,
    bytes: usize,
}

/// What a client has been told of a room.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Since when the room is not looked at for the client; `None` while it is.
    pub(super) out_of_sight: Option<Since>,
    /// By which lists, as bits; those of another generation do not count.
    pub(super) lists: u128,
    pub(super) generation: u32,
    /// How many events the client asked for.
    pub(super) limit: u32,
    /// How many of the newest events it has without a gap.
    pub(super) count: u32,
    /// The state that it asked for.
    pub(super) required: Arc<Combined>,
    /// Whose member events it has.
    pub(super) members: Arc<Vec<OwnedUserId>>,
    /// Which extensions told of the room, as bits.
    pub(super) extensions: u8,
    /// What it was told of the room itself.
    pub(super) digest: Digest,
}

/// What a client was told of a room itself, of texts their hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) membership: Option<MembershipState>,
    /// Since when the user was that to the room.
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
        // These differ in each request, and say nothing of what is wanted.
        extensions.to_device.since = None;
        Self {
            lists: request.lists.clone(),
            extensions,
            bytes: request.bytes,
        }
    }

    /// Returns whether both have the same lists, whatever part of them.
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
    /// Notes what the client has been told of a room.
    pub(super) fn put(&mut self, room: RoomNum, told: Told) {
        let before = self.rooms.get(&room);
        self.members -= before.map_or(0, |before| before.members.len());
        self.members += told.members.len();
        self.rooms.insert_mut(room, told);
    }

    /// Notes which state was asked for of rooms.
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

    /// Returns roughly how much memory it takes, in rooms.
    pub(super) fn weight(&self) -> usize {
        let required: usize = self.required.iter().map(|required| required.bytes()).sum();
        let bytes = self.asked.bytes + required + self.members * MEMBER_BYTES;
        1 + self.rooms.size() + bytes / ROOM_BYTES
    }
}

impl Told {
    /// Returns the lists by which the room was told, of this generation.
    pub(super) fn lists(&self, generation: u32) -> u128 {
        if self.generation == generation {
            self.lists
        } else {
            0
        }
    }

    /// Returns whether the client lacks older events that it now asks for.
    pub(super) fn lacks_history(&self, limit: u32) -> bool {
        limit > self.limit && limit > self.count
    }

    pub(super) fn has_member(&self, user_id: &UserId) -> bool {
        self.members.iter().any(|member| member == user_id)
    }

    /// Notes whose member events the client has now.
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
