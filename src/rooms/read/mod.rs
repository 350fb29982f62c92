//! Reading rooms: timelines, state, relations and search, limited to the events a user may see.

pub(crate) mod access;
pub(crate) mod aggregations;
pub(crate) mod event_context;
pub(crate) mod federation_format;
pub(crate) mod hierarchy;
pub(crate) mod ignored_users;
pub(crate) mod join_rules;
pub(crate) mod listing;
pub(crate) mod new_events;
pub(crate) mod relation_filter;
pub(crate) mod relations;
pub(crate) mod search;
pub(crate) mod server_acl;
pub(crate) mod state;
pub(crate) mod sticky_events;
pub(crate) mod summary;
pub(crate) mod threads;
pub(crate) mod timeline;
pub(crate) mod timestamp_to_event;
pub(crate) mod unchecked_events;

use std::sync::Arc;

use tokio::sync::Semaphore;

use self::ignored_users::IgnoreSettingsByUser;
use super::{
    RoomEnvironment,
    memory::{RoomMemory, sticky_index::StickyIndex, timetable::Timetable},
};
use crate::{
    clock::Clock, keyed_semaphore::KeyedSemaphore, numbers::UserNum, storage::Db, tasks::Tasks,
};

/// The number of searches that may read the database at the same time.
const MAX_CONCURRENT_SEARCHES: usize = 2;
/// The number of searches of one user that may wait for another search of the same user.
const MAX_WAITING_SEARCHES: usize = 4;

/// Access of users to rooms: memberships, history visibility and ignored users.
#[derive(Clone)]
pub struct RoomAccess {
    db: Db,
    memory: RoomMemory,
    ignored_users: Arc<IgnoreSettingsByUser>,
}

/// Timelines: events by page, by id, and around one event.
#[derive(Clone)]
pub struct Timeline {
    db: Db,
    memory: RoomMemory,
}

/// The state of rooms, now and at any place in the timeline.
#[derive(Clone)]
pub struct StateReader {
    db: Db,
    memory: RoomMemory,
    access: RoomAccess,
}

/// Events that relate to other events: relations, aggregations and threads.
#[derive(Clone)]
pub struct Relations {
    db: Db,
    memory: RoomMemory,
    access: RoomAccess,
    timeline: Timeline,
}

/// The search for events by their text.
#[derive(Clone)]
pub struct EventSearch {
    db: Db,
    tasks: Tasks,
    memory: RoomMemory,
    access: RoomAccess,
    timeline: Timeline,
    /// Limits the number of concurrent searches, which may read every text, so that database
    /// connections remain for other work.
    search_permits: Arc<Semaphore>,
    permits_by_user: Arc<KeyedSemaphore<UserNum>>,
}

/// Join rules: the conditions on which users may join a restricted room.
#[derive(Clone)]
pub struct JoinRules {
    memory: RoomMemory,
}

/// Rooms as users outside them see them: summaries and the hierarchy of spaces.
#[derive(Clone)]
pub struct RoomPreviews {
    memory: RoomMemory,
    access: RoomAccess,
    join_rules: JoinRules,
}

/// Sticky events, and their removal when they are no longer sticky.
#[derive(Clone)]
pub struct StickyEventReader {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    memory: RoomMemory,
    index: Arc<StickyIndex>,
    timetable: Arc<Timetable>,
}

impl StickyEventReader {
    pub(super) fn new(environment: &RoomEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            index: environment.sticky_events.clone(),
            timetable: environment.timetables.sticky_events.clone(),
        }
    }
}

impl RoomAccess {
    pub(super) fn new(environment: &RoomEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            memory: environment.memory.clone(),
            ignored_users: environment.ignored_users.clone(),
        }
    }
}

impl Timeline {
    pub(super) fn new(environment: &RoomEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            memory: environment.memory.clone(),
        }
    }
}

impl StateReader {
    pub(super) fn new(environment: &RoomEnvironment, access: &RoomAccess) -> Self {
        Self {
            db: environment.db.clone(),
            memory: environment.memory.clone(),
            access: access.clone(),
        }
    }
}

impl Relations {
    pub(super) fn new(
        environment: &RoomEnvironment,
        access: &RoomAccess,
        timeline: &Timeline,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            memory: environment.memory.clone(),
            access: access.clone(),
            timeline: timeline.clone(),
        }
    }
}

impl EventSearch {
    pub(super) fn new(
        environment: &RoomEnvironment,
        access: &RoomAccess,
        timeline: &Timeline,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            access: access.clone(),
            timeline: timeline.clone(),
            search_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_SEARCHES)),
            permits_by_user: Arc::new(KeyedSemaphore::new(1, MAX_WAITING_SEARCHES)),
        }
    }
}

impl JoinRules {
    pub(super) fn new(environment: &RoomEnvironment) -> Self {
        Self {
            memory: environment.memory.clone(),
        }
    }
}

impl RoomPreviews {
    pub(super) fn new(
        environment: &RoomEnvironment,
        access: &RoomAccess,
        join_rules: &JoinRules,
    ) -> Self {
        Self {
            memory: environment.memory.clone(),
            access: access.clone(),
            join_rules: join_rules.clone(),
        }
    }
}
