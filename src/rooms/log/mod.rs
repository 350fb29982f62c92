//! The log of events: the only code that adds an event to a room.

pub(crate) mod append;
pub(crate) mod backfill_columns;
pub(crate) mod invite_expiry;
pub(crate) mod new_event;
pub(crate) mod new_events;
pub(crate) mod redactions;
pub(crate) mod relations;
pub(crate) mod resolution;
pub(crate) mod snapshots;

use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use super::{
    Environment, memory::timetable::Timetable, read::ignored_users::Shields, unread::Unread,
};
use crate::{
    clock::Clock,
    matrix::{KnownEvents, SigningKey},
    storage::Db,
};

/// State resolutions that run at the same time.
const RESOLUTIONS: usize = 2;

/// The log of events: builds them, stores them, and resolves the states between which they decide.
#[derive(Clone)]
pub(super) struct EventLog {
    db: Db,
    clock: Clock,
    key: Arc<SigningKey>,
    unread: Unread,
    ignored_users: Arc<Shields>,
    /// Of delayed events.
    delayed_events: Arc<Timetable>,
    /// Of invitations that expire.
    expiring_invitations: Arc<Timetable>,
    /// A resolution reads much: it leaves connections for other work.
    resolutions: Arc<Semaphore>,
    /// Events of auth chains that resolutions have looked at.
    auth_events: Arc<Mutex<KnownEvents>>,
}

impl EventLog {
    pub(super) fn new(environment: &Environment, unread: &Unread) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            key: environment.key.clone(),
            unread: unread.clone(),
            ignored_users: environment.ignored_users.clone(),
            delayed_events: environment.timetables.delayed_events.clone(),
            expiring_invitations: environment.timetables.expiring_invitations.clone(),
            resolutions: Arc::new(Semaphore::new(RESOLUTIONS)),
            auth_events: Arc::default(),
        }
    }
}
