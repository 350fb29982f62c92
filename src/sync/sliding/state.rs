//! What a client has been told on a connection.

use std::{collections::BTreeMap, sync::Arc};

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
    /// Returns roughly how much memory it takes, in rooms.
    pub(super) fn weight(&self) -> usize {
        self.rooms.size() + 1
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
