//! The rooms of a user: the memberships, and the read state of each room.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use ruma::{OwnedEventId, OwnedRoomId, events::room::member::MembershipState};

use super::{journal_cache::CachedValue, user_room::UserRoom};
use crate::{
    error::{Error, Result},
    matrix::CountException,
    numbers::{Position, RoomNum, UserNum},
    storage::{
        self, Db, JournalChange, ReadPosition, RoomRemoval,
        rooms::{memberships, room_deletion, threads, unread_counts},
    },
};

/// The rooms of a user, in memory.
#[derive(Debug)]
pub struct UserRooms {
    user: UserNum,
    rooms: RwLock<HashMap<RoomNum, UserRoom>>,
}

/// A deleted room in which a user had a membership.
#[derive(Clone, Debug)]
pub struct DeletedUserRoom {
    /// The position at which the user ceased to be a member.
    pub left_at: Position,
    /// The last update about the room.
    pub removal: Arc<RoomRemoval>,
}

impl UserRooms {
    pub(crate) async fn load(db: &Db, user: UserNum) -> Result<(Self, Position)> {
        let mut tx = db.snapshot().await?;
        let loaded_up_to = storage::last_position(&mut tx).await?;
        let mut rooms: HashMap<RoomNum, UserRoom> = HashMap::new();
        for row in memberships::of_user(&mut tx, user).await? {
            let room = rooms.entry(row.room).or_default();
            room.membership = MembershipState::from(row.membership);
            room.position = row.position;
            room.stripped_state = row.stripped_state.map(Arc::from);
            room.forgotten = row.forgotten;
        }
        for row in unread_counts::read_markers(&mut tx, user).await? {
            rooms.entry(row.room).or_default().marker = row.to_marker();
        }
        for row in threads::markers(&mut tx, user).await? {
            if let Some(marker) = row.to_marker() {
                let room = rooms.entry(row.room).or_default();
                room.apply_reading(&ReadPosition::Thread(marker));
            }
        }
        for row in unread_counts::exceptions(&mut tx, user).await? {
            let exception = CountException {
                user,
                timeline: row.timeline,
                thread: row
                    .thread
                    .and_then(|root| OwnedEventId::try_from(root).ok()),
                notify: row.notify,
                highlight: row.highlight,
            };
            rooms
                .entry(row.room)
                .or_default()
                .exceptions
                .push(exception);
        }
        for room in rooms.values_mut() {
            room.drop_read_exceptions();
        }
        for row in room_deletion::removed_rooms(&mut tx, user).await? {
            let room_id = OwnedRoomId::try_from(row.room_id)
                .map_err(|source| Error::internal("read the id of a room", source))?;
            let event = row.event;
            let removed = Arc::new(RoomRemoval { room_id, event });
            rooms.insert(row.room, UserRoom::from_removed(row.position, removed));
        }
        Ok((
            Self {
                user,
                rooms: RwLock::new(rooms),
            },
            loaded_up_to,
        ))
    }

    /// Returns the rooms. Hold the lock for moments only.
    pub fn all(&self) -> RwLockReadGuard<'_, HashMap<RoomNum, UserRoom>> {
        self.rooms.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the user's membership and read state in a room.
    pub fn get(&self, room: RoomNum) -> Option<UserRoom> {
        self.all().get(&room).cloned()
    }

    /// Returns the user's membership of a room.
    pub fn membership(&self, room: RoomNum) -> MembershipState {
        self.all()
            .get(&room)
            .map_or(MembershipState::Leave, |room| room.membership.clone())
    }

    /// Returns a deleted room, if the user had a membership in it.
    pub fn deleted_room(&self, room: RoomNum) -> Option<DeletedUserRoom> {
        let all = self.all();
        let room = all.get(&room)?;
        Some(DeletedUserRoom {
            left_at: room.position,
            removal: room.removed.clone()?,
        })
    }

    /// Returns the rooms that the user has joined.
    pub fn joined_rooms(&self) -> Vec<RoomNum> {
        let joined = |room: &UserRoom| room.membership == MembershipState::Join;
        self.all()
            .iter()
            .filter(|(_, room)| joined(room))
            .map(|(num, _)| *num)
            .collect()
    }
}

impl CachedValue for UserRooms {
    fn apply(&self, position: Position, change: &JournalChange) {
        let mut rooms = self.rooms.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            JournalChange::Membership {
                room,
                membership: Some(membership),
                stripped_state,
                ..
            } => {
                let room = rooms.entry(*room).or_default();
                room.membership = membership.clone();
                room.position = position;
                room.stripped_state.clone_from(stripped_state);
                room.forgotten = false;
            }
            JournalChange::Membership {
                room,
                membership: None,
                ..
            } => {
                rooms.entry(*room).or_default().forgotten = true;
            }
            JournalChange::MembershipRemoved {
                room,
                left_at,
                removed,
                ..
            } => {
                rooms.insert(*room, UserRoom::from_removed(*left_at, removed.clone()));
            }
            JournalChange::ReadPosition { room, reading, .. } => {
                rooms.entry(*room).or_default().apply_reading(reading);
            }
            JournalChange::Event {
                room,
                sender,
                event,
            } => {
                let room = rooms.entry(*room).or_default();
                if *sender == self.user && event.is_read_by_sender() {
                    room.apply_sent_event(event);
                }
                room.exceptions.extend(
                    event
                        .exceptions
                        .iter()
                        .filter(|exception| exception.user == self.user)
                        .cloned(),
                );
            }
            _ => {}
        }
    }
}
