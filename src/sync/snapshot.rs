//! A snapshot of a user's rooms, taken from memory at one position of the journal.
//!
//! The journal is held still while the snapshot is taken, so that no change between two tokens is missed or sent twice.
//! Rooms that are not in memory are loaded before.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedUserId, events::room::member::MembershipState};

use super::{SyncInner, SyncRequest, SyncToken};
use crate::{
    ephemeral::EphemeralTick,
    error::{Error, Result},
    matrix::{NotificationCounters, StateMap, TimelineEvent},
    rooms::{Room, UserRoom, UserRooms},
    storage::{Position, Receipt, RoomNum, UserNum},
    users::Session,
};

/// The number of times that rooms are loaded again because memory has dropped them in the meantime.
pub(super) const MAX_SNAPSHOT_ATTEMPTS: usize = 16;

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
    pub(super) mine: UserRoom,
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

impl SyncInner {
    /// Takes the snapshot for a user: of every room, or of those that changed since a token.
    ///
    /// It includes rooms that the user has left only if they left after the token, or with `include_leave`.
    pub(super) async fn take_snapshot(
        &self,
        session: &Session,
        request: &SyncRequest,
    ) -> Result<SyncSnapshot> {
        let since = request.since.as_ref();
        let older = self.changed_long_ago(session, since).await?;
        for _ in 0..MAX_SNAPSHOT_ATTEMPTS {
            let mine = self.rooms.memory.rooms_of_user(session.user).await?;
            // Loads the rooms that are not in memory, and keeps them there until the snapshot is taken.
            let asked = SnapshotRequest {
                since,
                older: &older,
                all_rooms: since.is_none() || request.full_state,
                with_left: request.filter.room.include_leave,
            };
            let held = self.load_rooms(&mine, &asked).await?;
            if let Some(moment) = self.try_snapshot(session.user, &mine, &asked) {
                return Ok(moment);
            }
            drop(held);
        }
        Err(Error::Unavailable(
            "the rooms could not be kept in memory, try again".to_owned(),
        ))
    }

    /// Loads the rooms of the snapshot. A room that was deleted in the meantime is skipped.
    async fn load_rooms(
        &self,
        mine: &UserRooms,
        asked: &SnapshotRequest<'_>,
    ) -> Result<Vec<Arc<Room>>> {
        let mut held = Vec::new();
        for (num, room) in self.wanted_rooms(mine, asked) {
            if !has_room_access(&room) {
                continue;
            }
            match self.rooms.memory.room_by_number(num).await {
                Err(Error::NotFound(_)) => {}
                room => held.push(room?),
            }
        }
        Ok(held)
    }

    /// Returns the rooms that changed before the period that memory covers.
    pub(super) async fn changed_long_ago(
        &self,
        session: &Session,
        since: Option<&SyncToken>,
    ) -> Result<OlderChanges> {
        let Some(since) = since else {
            return Ok(OlderChanges::default());
        };
        let user = session.user;
        let up_to = self.db.journal().published_position();
        if self
            .recent_changes
            .rooms_changed_after(since.position)
            .is_some()
        {
            return Ok(OlderChanges {
                up_to: since.position,
                rooms: Vec::new(),
            });
        }
        let rooms = self
            .rooms
            .memory
            .rooms_changed_since(user, since.position)
            .await?;
        let with_account_data = self
            .users
            .account_data_changed(user, since.position, up_to)
            .await?;
        let rooms = rooms
            .into_iter()
            .chain(with_account_data.into_iter().filter_map(|data| data.room()));
        Ok(OlderChanges {
            up_to,
            rooms: rooms.collect(),
        })
    }

    /// Returns all rooms that changed since a token, including those that the user is not in.
    pub(super) fn changed_rooms(
        &self,
        since: &SyncToken,
        older: &OlderChanges,
    ) -> HashSet<RoomNum> {
        let mut changed: HashSet<RoomNum> = older.rooms.iter().copied().collect();
        changed.extend(
            self.recent_changes
                .rooms_changed_after(older.up_to)
                .unwrap_or_default(),
        );
        changed.extend(self.ephemeral.typing.changed_rooms(self.tick_of(since)));
        changed
    }

    /// Returns the tick of a token. A token of an earlier run of the server has seen no tick of this run.
    pub(super) fn tick_of(&self, since: &SyncToken) -> EphemeralTick {
        if since.boot == self.ephemeral.run_id() {
            since.tick
        } else {
            EphemeralTick::ZERO
        }
    }

    /// Returns the user's rooms that belong to the snapshot.
    fn wanted_rooms(
        &self,
        mine: &UserRooms,
        asked: &SnapshotRequest<'_>,
    ) -> HashMap<RoomNum, UserRoom> {
        let all = mine.all();
        let is_wanted = |room: &UserRoom| {
            let has_left = matches!(
                room.membership,
                MembershipState::Leave | MembershipState::Ban
            );
            let is_news = asked
                .since
                .is_some_and(|since| room.position > since.position);
            // Each device must learn that the user left a room, even if the user has forgotten it in the meantime.
            !has_left || is_news || (asked.all_rooms && asked.with_left && !room.forgotten)
        };
        let found: HashMap<RoomNum, UserRoom> = match asked.since.filter(|_| !asked.all_rooms) {
            None => all.iter().map(|(num, room)| (*num, room.clone())).collect(),
            Some(since) => {
                let changed = self.changed_rooms(since, asked.older);
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
        mine: &Arc<UserRooms>,
        asked: &SnapshotRequest<'_>,
    ) -> Option<SyncSnapshot> {
        let _still = self.db.journal().hold_announcements();
        let is_current = self
            .rooms
            .memory
            .peek_user(user)
            .is_some_and(|current| Arc::ptr_eq(&current, mine));
        if !is_current {
            return None;
        }
        let (now, tick) = (
            self.db.journal().published_position(),
            self.ephemeral.newest_tick(),
        );
        let mut rooms = Vec::new();
        for (num, mine) in self.wanted_rooms(mine, asked) {
            let inside = if has_room_access(&mine) {
                Some(self.take_room_contents(num, asked.since, tick)?)
            } else {
                None
            };
            rooms.push(RoomSnapshot {
                num,
                mine,
                contents: inside,
            });
        }
        Some(SyncSnapshot { now, tick, rooms })
    }

    pub(super) fn take_room_contents(
        &self,
        num: RoomNum,
        since: Option<&SyncToken>,
        tick: EphemeralTick,
    ) -> Option<RoomContents> {
        let room = self.rooms.memory.peek_room(num)?;
        let after = since.map_or(0, |since| since.position);
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
                .range(after + 1..)
                .map(|(_, receipt)| receipt.clone())
                .collect(),
            typing: self.ephemeral.typing.changed_users(
                num,
                since.map_or(EphemeralTick::ZERO, |since| self.tick_of(since)),
                tick,
            ),
            room: room.clone(),
        })
    }
}

/// The rooms that changed before the period that memory covers, and the position up to which the database was read.
#[derive(Debug, Default)]
pub(super) struct OlderChanges {
    up_to: Position,
    rooms: Vec<RoomNum>,
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
