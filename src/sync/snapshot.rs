//! A snapshot of a user's rooms, taken from memory at one position of the journal.
//!
//! The journal is held still while the snapshot is taken, so that no change between two tokens is missed or sent twice.
//! Rooms that are not in memory are loaded before.

use std::{collections::HashMap, sync::Arc};

use ruma::{OwnedUserId, events::room::member::MembershipState};

use super::{
    SyncEnvironment, SyncRequest, SyncToken,
    changed_rooms::{ChangedRoomReader, OlderChanges},
    token_reader::TokenReader,
};
use crate::{
    ephemeral::{EphemeralState, EphemeralTick},
    error::{Error, Result},
    matrix::{NotificationCounters, StateMap, TimelineEvent},
    numbers::{Position, RoomNum, UserNum},
    rooms::{Room, Rooms, UserRoom, UserRooms},
    storage::{Db, Receipt},
    users::Session,
};

/// The number of times that rooms are loaded again because memory has dropped them in the meantime.
pub(super) const MAX_SNAPSHOT_ATTEMPTS: usize = 16;

/// Takes snapshots. Cheap to clone.
#[derive(Clone)]
pub(super) struct SnapshotReader {
    db: Db,
    rooms: Rooms,
    ephemeral: EphemeralState,
    tokens: TokenReader,
    changed_rooms: ChangedRoomReader,
}

/// The state of a user's rooms at one position.
#[derive(Debug)]
pub(super) struct SyncSnapshot {
    /// The journal position at which it was taken.
    pub(super) now: Position,
    /// The tick of the in-memory state.
    pub(super) tick: EphemeralTick,
    /// The rooms of the user that changed.
    pub(super) rooms: Vec<RoomSnapshot>,
}

/// The state of one room.
#[derive(Debug)]
pub(super) struct RoomSnapshot {
    pub(super) num: RoomNum,
    /// The user's membership and unread state in the room.
    pub(super) user_room: UserRoom,
    /// `None` for a room that the user is only invited to or knocks on: this server may not know its state.
    pub(super) contents: Option<RoomContents>,
}

/// The state of a room for a user who is, or was, in it.
#[derive(Debug)]
pub(super) struct RoomContents {
    pub(super) room: Arc<Room>,
    pub(super) state: StateMap,
    /// The latest events after the client's token, the oldest first.
    pub(super) latest_events: Vec<Arc<TimelineEvent>>,
    /// Whether these are all events after the client's token.
    pub(super) is_complete: bool,
    /// The running counters of the room.
    pub(super) counters: NotificationCounters,
    pub(super) thread_counters: NotificationCounters,
    pub(super) joined_members: i64,
    pub(super) invited_members: i64,
    /// The receipts after the client's token.
    pub(super) receipts: Vec<Arc<Receipt>>,
    /// The users who are typing, if that changed.
    pub(super) typing: Option<Vec<OwnedUserId>>,
}

impl RoomSnapshot {
    /// Returns whether the user is joined, and that is newer than a position.
    pub(super) fn is_joined_after(&self, position: Position) -> bool {
        self.user_room.membership == MembershipState::Join && self.user_room.position > position
    }
}

impl SnapshotReader {
    pub(super) fn new(
        environment: &SyncEnvironment,
        tokens: &TokenReader,
        changed_rooms: &ChangedRoomReader,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            rooms: environment.rooms.clone(),
            ephemeral: environment.ephemeral.clone(),
            tokens: tokens.clone(),
            changed_rooms: changed_rooms.clone(),
        }
    }

    /// Takes the snapshot for a user: of every room, or of those that changed since a token.
    ///
    /// It includes rooms that the user has left only if they left after the token, or with `include_leave`.
    pub(super) async fn take_snapshot(
        &self,
        session: &Session,
        request: &SyncRequest,
    ) -> Result<SyncSnapshot> {
        let since = request.since.as_ref();
        let older = self.changed_rooms.changed_long_ago(session, since).await?;
        for _ in 0..MAX_SNAPSHOT_ATTEMPTS {
            let user_rooms = self.rooms.memory.rooms_of_user(session.user).await?;
            // Loads the rooms that are not in memory, and keeps them there until the snapshot is taken.
            let wanted = SnapshotRequest {
                since,
                older: &older,
                all_rooms: since.is_none() || request.full_state,
                with_left: request.filter.room.include_leave,
            };
            let loaded_rooms = self.load_rooms(&user_rooms, &wanted).await?;
            if let Some(snapshot) = self.try_snapshot(session.user, &user_rooms, &wanted) {
                return Ok(snapshot);
            }
            drop(loaded_rooms);
        }
        Err(Error::Unavailable(
            "the rooms could not be kept in memory, try again".to_owned(),
        ))
    }

    /// Loads the rooms of the snapshot. A room that was deleted in the meantime is skipped.
    async fn load_rooms(
        &self,
        user_rooms: &UserRooms,
        wanted: &SnapshotRequest<'_>,
    ) -> Result<Vec<Arc<Room>>> {
        let mut loaded_rooms = Vec::new();
        for (num, room) in self.wanted_rooms(user_rooms, wanted) {
            if !has_room_access(&room) {
                continue;
            }
            match self.rooms.memory.room_by_number(num).await {
                Err(Error::NotFound(_)) => {}
                room => loaded_rooms.push(room?),
            }
        }
        Ok(loaded_rooms)
    }

    /// Returns the user's rooms that belong to the snapshot.
    fn wanted_rooms(
        &self,
        user_rooms: &UserRooms,
        wanted: &SnapshotRequest<'_>,
    ) -> HashMap<RoomNum, UserRoom> {
        let all = user_rooms.all();
        let is_wanted = |room: &UserRoom| {
            let has_left = matches!(
                room.membership,
                MembershipState::Leave | MembershipState::Ban
            );
            let is_news = wanted
                .since
                .is_some_and(|since| room.position > since.position);
            // Each device must learn that the user left a room, even if the user has forgotten it in the meantime.
            !has_left || is_news || (wanted.all_rooms && wanted.with_left && !room.forgotten)
        };
        let found: HashMap<RoomNum, UserRoom> = match wanted.since.filter(|_| !wanted.all_rooms) {
            None => all.iter().map(|(num, room)| (*num, room.clone())).collect(),
            Some(since) => {
                let changed = self.changed_rooms.changed_rooms(since, wanted.older);
                changed
                    .into_iter()
                    .filter_map(|num| Some((num, all.get(&num)?.clone())))
                    .collect()
            }
        };
        found
            .into_iter()
            .filter(|(_, room)| is_wanted(room))
            .collect()
    }

    /// Takes the snapshot; returns `None` when a room is not in memory.
    fn try_snapshot(
        &self,
        user: UserNum,
        user_rooms: &Arc<UserRooms>,
        wanted: &SnapshotRequest<'_>,
    ) -> Option<SyncSnapshot> {
        let _held = self.db.journal().hold_announcements();
        let is_current = self
            .rooms
            .memory
            .peek_user(user)
            .is_some_and(|current| Arc::ptr_eq(&current, user_rooms));
        if !is_current {
            return None;
        }
        let (now, tick) = (
            self.db.journal().published_position(),
            self.ephemeral.newest_tick(),
        );
        let mut rooms = Vec::new();
        for (num, user_room) in self.wanted_rooms(user_rooms, wanted) {
            let contents = if has_room_access(&user_room) {
                Some(self.take_room_contents(num, wanted.since, tick)?)
            } else {
                None
            };
            let mut room = RoomSnapshot {
                num,
                user_room,
                contents,
            };
            if let Some(since) = wanted.since
                && room.is_joined_after(since.position)
                && let Some(contents) = &mut room.contents
            {
                self.add_older_ephemeral_state(num, tick, contents);
            }
            rooms.push(room);
        }
        Some(SyncSnapshot { now, tick, rooms })
    }

    /// Adds the receipts and the typing users from before the client's token, for a user who has joined since: what
    /// changed while the user was not in the room has not been sent.
    fn add_older_ephemeral_state(
        &self,
        num: RoomNum,
        tick: EphemeralTick,
        contents: &mut RoomContents,
    ) {
        contents.receipts = contents.room.view().receipts.values().cloned().collect();
        let typing = &self.ephemeral.typing;
        contents.typing = typing.changed_users(num, EphemeralTick::ZERO, tick);
    }

    pub(super) fn take_room_contents(
        &self,
        num: RoomNum,
        since: Option<&SyncToken>,
        tick: EphemeralTick,
    ) -> Option<RoomContents> {
        let room = self.rooms.memory.peek_room(num)?;
        let after = since.map_or(Position::ZERO, |since| since.position);
        let view = room.view();
        Some(RoomContents {
            state: view.state.clone(),
            latest_events: view
                .ring
                .iter()
                .filter(|event| event.position > after)
                .cloned()
                .collect(),
            is_complete: view.ring_after <= after,
            counters: NotificationCounters {
                notified: view.notified,
                mentioned: view.mentioned,
            },
            thread_counters: view.threaded,
            joined_members: view.joined_members,
            invited_members: view.invited_members,
            receipts: view
                .receipts
                .range(after.next()..)
                .map(|(_, receipt)| receipt.clone())
                .collect(),
            typing: self.ephemeral.typing.changed_users(
                num,
                since.map_or(EphemeralTick::ZERO, |since| self.tokens.tick_of(since)),
                tick,
            ),
            room: room.clone(),
        })
    }
}

/// The parameters of a snapshot.
struct SnapshotRequest<'a> {
    since: Option<&'a SyncToken>,
    older: &'a OlderChanges,
    /// Whether rooms are wanted in which nothing changed.
    all_rooms: bool,
    with_left: bool,
}

/// Returns whether a user has access to a room's state: not if they are only invited or knock, or if the room was
/// deleted.
pub(super) fn has_room_access(room: &UserRoom) -> bool {
    room.removed.is_none()
        && !matches!(
            room.membership,
            MembershipState::Invite | MembershipState::Knock
        )
}
