//! The event log: the only code that adds new events to rooms, and resolves states.

pub(crate) mod accepted_event;
pub(crate) mod append;
pub(crate) mod backfill_columns;
pub(crate) mod event_placement;
pub(crate) mod invite_expiry;
pub(crate) mod new_event;
pub(crate) mod new_events;
pub(crate) mod redactions;
pub(crate) mod relations;
pub(crate) mod resolution;
pub(crate) mod room_write;
pub(crate) mod snapshots;
pub(crate) mod sticky_events;
mod stored_memberships;

use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use super::{
    RoomEnvironment,
    memory::{room::Room, timetable::Timetable},
    read::ignored_users::IgnoreSettingsByUser,
    unread::UnreadCounts,
};
use crate::{
    clock::Clock,
    error::Result,
    matrix::{KnownEvents, SigningKey},
    numbers::Position,
    storage::{Db, PendingWrite, WriteTx},
};

/// The number of state resolutions that may run at the same time.
const MAX_CONCURRENT_RESOLUTIONS: usize = 2;

/// The event log: builds events, stores them and resolves states.
#[derive(Clone)]
pub(super) struct EventLog {
    db: Db,
    pub(super) clock: Clock,
    key: Arc<SigningKey>,
    unread: UnreadCounts,
    ignored_users: Arc<IgnoreSettingsByUser>,
    /// The delayed events. A state event cancels those for the same piece of state.
    delayed_events: Arc<Timetable>,
    /// Records whether any invitation expires.
    expiring_invitations: Arc<Timetable>,
    /// Limits the number of concurrent resolutions, which read many events, so that database
    /// connections remain for other work.
    resolution_permits: Arc<Semaphore>,
    /// Events of auth chains that recent resolutions have read.
    auth_events: Arc<Mutex<KnownEvents>>,
}

impl EventLog {
    pub(super) fn new(environment: &RoomEnvironment, unread: &UnreadCounts) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            key: environment.key.clone(),
            unread: unread.clone(),
            ignored_users: environment.ignored_users.clone(),
            delayed_events: environment.timetables.delayed_events.clone(),
            expiring_invitations: environment.timetables.expiring_invitations.clone(),
            resolution_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_RESOLUTIONS)),
            auth_events: Arc::default(),
        }
    }
}

/// Leaves a write to the journal's batch, and records in the room that the write is not on disk yet.
pub(super) fn release_write(tx: WriteTx, room: &Room, newest: Position) -> Result<PendingWrite> {
    let pending = tx.release()?;
    room.submitted_position.store(newest);
    Ok(pending)
}
