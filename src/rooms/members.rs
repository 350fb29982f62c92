//! The rooms of a user: memberships, and how far each was read.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use ruma::events::room::member::MembershipState;

use super::followed::Follows;
use crate::{
    error::Result,
    matrix::Exception,
    storage::{self, Change, Db, Position, ReadMarker, RoomNum, UserNum, memberships, unread},
};

/// The rooms of a user, in memory.
#[derive(Debug)]
pub struct UserRooms {
    user: UserNum,
    rooms: RwLock<HashMap<RoomNum, UserRoom>>,
}

/// What a user is to a room.
#[derive(Clone, Debug)]
pub struct UserRoom {
    /// The membership.
    pub membership: MembershipState,
    /// The journal position since when.
    pub position: Position,
    /// JSON list of stripped state, with an invitation or a knock.
    pub stripped_state: Option<Arc<str>>,
    /// Whether the user asked to forget the room.
    pub forgotten: bool,
    /// How far the user has read.
    pub marker: ReadMarker,
    /// What counts otherwise than the room's counters say, after the marker.
    pub exceptions: Vec<Exception>,
}

impl Default for UserRoom {
    fn default() -> Self {
        Self {
            membership: MembershipState::Leave,
            position: 0,
            stripped_state: None,
            forgotten: false,
            marker: ReadMarker::default(),
            exceptions: Vec::new(),
        }
    }
}

impl UserRoom {
    /// Returns the numbers of notifications and of highlights, given the room's running counters.
    pub fn unread(&self, notified: i64, mentioned: i64) -> (u64, u64) {
        let (mut notify, mut highlight) = (
            notified - self.marker.notified,
            mentioned - self.marker.mentioned,
        );
        for exception in &self.exceptions {
            notify += exception.notify;
            highlight += exception.highlight;
        }
        (
            u64::try_from(notify).unwrap_or(0),
            u64::try_from(highlight).unwrap_or(0),
        )
    }
}

impl UserRooms {
    pub(super) async fn load(db: &Db, user: UserNum) -> Result<(Self, Position)> {
        let mut tx = db.snapshot().await?;
        let known = storage::position(&mut tx).await?;
        let mut rooms: HashMap<RoomNum, UserRoom> = HashMap::new();
        for row in memberships::of_user(&mut tx, user).await? {
            let room = rooms.entry(row.room).or_default();
            room.membership = MembershipState::from(row.membership);
            room.position = row.position;
            room.stripped_state = row.stripped_state.map(Arc::from);
            room.forgotten = row.forgotten;
        }
        for (room, timeline, notified, mentioned) in unread::markers(&mut tx, user).await? {
            rooms.entry(room).or_default().marker = ReadMarker {
                timeline,
                notified,
                mentioned,
            };
        }
        for (room, timeline, notify, highlight) in unread::exceptions(&mut tx, user).await? {
            let exception = Exception {
                user,
                timeline,
                notify,
                highlight,
            };
            rooms.entry(room).or_default().exceptions.push(exception);
        }
        Ok((
            Self {
                user,
                rooms: RwLock::new(rooms),
            },
            known,
        ))
    }

    /// Returns the rooms; held for moments only.
    pub fn all(&self) -> RwLockReadGuard<'_, HashMap<RoomNum, UserRoom>> {
        self.rooms.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the user is to a room.
    pub fn get(&self, room: RoomNum) -> Option<UserRoom> {
        self.all().get(&room).cloned()
    }

    /// Returns the user's membership of a room.
    pub fn membership(&self, room: RoomNum) -> MembershipState {
        self.all()
            .get(&room)
            .map_or(MembershipState::Leave, |room| room.membership.clone())
    }

    /// Returns the rooms that the user has joined.
    pub fn joined(&self) -> Vec<RoomNum> {
        let joined = |room: &UserRoom| room.membership == MembershipState::Join;
        self.all()
            .iter()
            .filter(|(_, room)| joined(room))
            .map(|(num, _)| *num)
            .collect()
    }
}

impl Follows for UserRooms {
    fn apply(&self, position: Position, change: &Change) {
        let mut rooms = self.rooms.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Membership {
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
            Change::Membership {
                room,
                membership: None,
                ..
            } => {
                rooms.entry(*room).or_default().forgotten = true;
            }
            Change::Read { room, marker, .. } => rooms.entry(*room).or_default().read(*marker),
            Change::Event {
                room,
                sender,
                event,
            } => {
                let room = rooms.entry(*room).or_default();
                if *sender == self.user {
                    room.read(ReadMarker {
                        timeline: event.timeline,
                        notified: event.notified,
                        mentioned: event.mentioned,
                    });
                }
                room.exceptions.extend(
                    event
                        .exceptions
                        .iter()
                        .filter(|exception| exception.user == self.user),
                );
            }
            _ => {}
        }
    }
}

impl UserRoom {
    fn read(&mut self, marker: ReadMarker) {
        if marker.timeline > self.marker.timeline {
            self.marker = marker;
            self.exceptions
                .retain(|exception| exception.timeline > marker.timeline);
        }
    }
}
