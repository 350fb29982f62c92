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
    request::{RequestedList, SlidingSyncRequest},
    required_state::CombinedRequiredState,
};
use crate::{
    ephemeral::EphemeralTick,
    numbers::{Position, RoomNum},
    rooms::UnreadNotifications,
};

/// The number of members of a room that are remembered as sent to the client. Further members are sent again.
const MAX_MEMBERS_PER_ROOM: usize = 200;
/// The number of different required states that are remembered. Beyond it, those that no room uses are forgotten.
const MAX_REQUIRED_STATES: usize = 64;
/// The memory that a room of a connection takes, and that each of its remembered members takes.
const BYTES_PER_ROOM: usize = 400;
const BYTES_PER_MEMBER: usize = 64;

/// The data that a client has received, up to a position. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionState {
    /// The position; `None` before the first response.
    pub(super) since: Option<SyncPosition>,
    /// The rooms that were sent.
    pub(super) rooms: HashTrieMapSync<RoomNum, SentRoom>,
    /// The parameters of the last request.
    pub(super) request_parameters: Arc<RequestParameters>,
    /// The number of times that the lists changed. The list bits of a room count only in the generation in which they
    /// were set.
    pub(super) generation: u32,
    /// The number of rooms in each list.
    pub(super) counts: Arc<BTreeMap<String, u64>>,
    /// The different required states that were requested. They are few, since lists set them for many rooms.
    pub(super) required_states: Arc<Vec<Arc<CombinedRequiredState>>>,
    /// The number of members that are remembered in all rooms.
    member_count: usize,
}

/// A position in the journal and the tick of the in-memory state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SyncPosition {
    pub(super) position: Position,
    pub(super) tick: EphemeralTick,
}

/// The parameters of a request, without the ranges of lists and the tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestParameters {
    lists: BTreeMap<String, RequestedList>,
    pub(super) extensions: Extensions,
    bytes: usize,
}

/// The record of what a client has received of a room.
#[derive(Clone, Debug, Default)]
pub(super) struct SentRoom {
    /// The position at which the room left the client's view; `None` while it is in view.
    pub(super) out_of_view_since: Option<SyncPosition>,
    /// The lists by which it was sent, as bits. They count only in the same generation.
    pub(super) lists: u128,
    pub(super) generation: u32,
    /// The timeline limit of the request.
    pub(super) timeline_limit: u32,
    /// The number of the newest events that the client has without a gap.
    pub(super) event_count: u32,
    /// The required state of the request.
    pub(super) required_state: Arc<CombinedRequiredState>,
    /// The members whose events the client has.
    pub(super) members: Arc<Vec<OwnedUserId>>,
    /// The extensions that were sent for the room, as bits.
    pub(super) extensions: u8,
    /// The description of the room that was sent.
    pub(super) description: SentDescription,
}

/// The description of a room that a client has received. Texts are stored as hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SentDescription {
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
    pub(super) unread: UnreadNotifications,
}

impl RequestParameters {
    pub(super) fn from_request(request: &SlidingSyncRequest) -> Self {
        let mut extensions = request.extensions.clone();
        // The tokens differ in each request, and do not change what is wanted.
        extensions.to_device.since = None;
        extensions.sticky_events.since = None;
        Self {
            lists: request.lists.clone(),
            extensions,
            bytes: request.bytes,
        }
    }

    /// Returns whether both requests have the same lists, with any ranges.
    pub(super) fn has_same_lists(&self, other: &Self) -> bool {
        self.lists.len() == other.lists.len()
            && self
                .lists
                .iter()
                .zip(&other.lists)
                .all(|((name, list), (other_name, other))| {
                    name == other_name && list.has_same_parameters(other)
                })
    }
}

impl ConnectionState {
    /// Records what the client has received of a room.
    pub(super) fn record_room(&mut self, room: RoomNum, sent: SentRoom) {
        let before = self.rooms.get(&room);
        self.member_count -= before.map_or(0, |before| before.members.len());
        self.member_count += sent.members.len();
        self.rooms.insert_mut(room, sent);
    }

    /// Records which required states were requested.
    pub(super) fn record_required_states<'a>(
        &mut self,
        requested: impl Iterator<Item = &'a Arc<CombinedRequiredState>>,
    ) {
        let mut added: Vec<Arc<CombinedRequiredState>> = Vec::new();
        for required in requested {
            let is_same = |known: &Arc<CombinedRequiredState>| Arc::ptr_eq(known, required);
            if !self.required_states.iter().any(is_same) && !added.iter().any(is_same) {
                added.push(required.clone());
            }
        }
        if added.is_empty() {
            return;
        }
        let known = Arc::make_mut(&mut self.required_states);
        known.extend(added);
        if known.len() > MAX_REQUIRED_STATES {
            let used = self
                .rooms
                .values()
                .map(|sent| Arc::as_ptr(&sent.required_state));
            let used: HashSet<*const CombinedRequiredState> = used.collect();
            known.retain(|required| used.contains(&Arc::as_ptr(required)));
        }
    }

    /// Returns the approximate memory that it takes, counted in rooms.
    pub(super) fn weight(&self) -> usize {
        let required: usize = self
            .required_states
            .iter()
            .map(|required| required.byte_size())
            .sum();
        let bytes = self.request_parameters.bytes + required + self.member_count * BYTES_PER_MEMBER;
        1 + self.rooms.size() + bytes / BYTES_PER_ROOM
    }
}

impl SentRoom {
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
        limit > self.timeline_limit && limit > self.event_count
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
        if known.len() + members.len() > MAX_MEMBERS_PER_ROOM {
            known.clear();
        }
        known.extend(members);
        known.truncate(MAX_MEMBERS_PER_ROOM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_members_are_bounded() {
        let member = |n: usize| OwnedUserId::try_from(format!("@u{n}:a")).unwrap();
        let mut sent = SentRoom::default();

        sent.add_members((0..MAX_MEMBERS_PER_ROOM).map(member));
        assert!(sent.has_member(&member(0)));
        sent.add_members((0..3).map(member));
        assert_eq!(sent.members.len(), MAX_MEMBERS_PER_ROOM);
        sent.add_members([member(MAX_MEMBERS_PER_ROOM)].into_iter());

        assert!(sent.has_member(&member(MAX_MEMBERS_PER_ROOM)) && !sent.has_member(&member(0)));
    }

    #[test]
    fn the_weight_counts_rooms_with_their_members() {
        let mut state = ConnectionState::default();
        let sent = |members: usize| SentRoom {
            members: Arc::new(vec![ruma::user_id!("@u:a").to_owned(); members]),
            ..SentRoom::default()
        };

        state.record_room(RoomNum::new(1), sent(70));
        state.record_room(RoomNum::new(2), sent(0));
        assert_eq!(state.weight(), 3 + 70 * BYTES_PER_MEMBER / BYTES_PER_ROOM);
        state.record_room(RoomNum::new(1), sent(0));
        assert_eq!(state.weight(), 3);
    }

    #[test]
    fn unused_required_states_are_forgotten() {
        let mut state = ConnectionState::default();
        let required: Vec<_> = (0..=MAX_REQUIRED_STATES)
            .map(|_| Arc::<CombinedRequiredState>::default())
            .collect();
        let sent = SentRoom {
            required_state: required[0].clone(),
            ..SentRoom::default()
        };
        state.record_room(RoomNum::new(1), sent);

        state.record_required_states(required.iter());

        assert_eq!(state.required_states.len(), 1);
    }

    #[test]
    fn a_client_lacks_only_history_beyond_its_events() {
        let sent = SentRoom {
            timeline_limit: 1,
            event_count: 3,
            ..SentRoom::default()
        };

        assert!(sent.lacks_history(4));
        assert!(!sent.lacks_history(3));
        assert!(!sent.lacks_history(1));
    }
}
