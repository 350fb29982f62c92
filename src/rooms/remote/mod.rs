//! Rooms shared with other servers: receives the events that they send, and answers their requests.

pub(crate) mod backfill;
pub(crate) mod erased_users;
pub(crate) mod invite_remote_user;
pub(crate) mod join_import;
pub(crate) mod make_and_send_join;
pub(crate) mod missing_events;
pub(crate) mod outgoing;
pub(crate) mod outgoing_sticky;
pub(crate) mod outliers;
pub(crate) mod receive;
pub(crate) mod remote_membership;
pub(crate) mod serve_events;
pub(crate) mod serve_state;
pub(crate) mod shared_room;
pub(crate) mod sticky_rechecks;
pub(crate) mod stored_inbox;
pub(crate) mod unplaced_event;

use std::sync::Arc;

use self::serve_state::StateAnswerLimits;
use super::{
    RoomEnvironment,
    log::EventLog,
    memory::{RoomMemory, sticky_index::StickyIndex},
    read::{JoinRules, RoomAccess, StateReader},
    unread::UnreadCounts,
};
use crate::{clock::Clock, matrix::SigningKey, storage::Db, tasks::Tasks};

/// Memberships of this server's users in rooms that no user of this server is in.
#[derive(Clone)]
pub struct RemoteMemberships {
    db: Db,
    clock: Clock,
    key: Arc<SigningKey>,
    tasks: Tasks,
    memory: RoomMemory,
    access: RoomAccess,
    log: EventLog,
}

/// Receives the events that other servers send.
#[derive(Clone)]
pub struct EventReceiver {
    db: Db,
    tasks: Tasks,
    memory: RoomMemory,
    unread: UnreadCounts,
    log: EventLog,
    remote_memberships: RemoteMemberships,
    sticky_events: Arc<StickyIndex>,
}

/// Imports the state of rooms that users of this server join through other servers.
#[derive(Clone)]
pub struct RoomImporter {
    db: Db,
    tasks: Tasks,
    memory: RoomMemory,
    log: EventLog,
    remote_memberships: RemoteMemberships,
    receiver: EventReceiver,
}

/// Answers servers whose users join, leave or knock, or are invited.
#[derive(Clone)]
pub struct ResidentServer {
    clock: Clock,
    key: Arc<SigningKey>,
    tasks: Tasks,
    memory: RoomMemory,
    join_rules: JoinRules,
    log: EventLog,
    receiver: EventReceiver,
    federation: FederationReader,
}

/// Reads rooms for other servers.
#[derive(Clone)]
pub struct FederationReader {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    memory: RoomMemory,
    state: StateReader,
    log: EventLog,
    answer_limits: Arc<StateAnswerLimits>,
    sticky_events: Arc<StickyIndex>,
}

impl RemoteMemberships {
    pub(super) fn new(environment: &RoomEnvironment, access: &RoomAccess, log: &EventLog) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            key: environment.key.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            access: access.clone(),
            log: log.clone(),
        }
    }
}

impl EventReceiver {
    pub(super) fn new(
        environment: &RoomEnvironment,
        unread: &UnreadCounts,
        log: &EventLog,
        remote_memberships: &RemoteMemberships,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            unread: unread.clone(),
            log: log.clone(),
            remote_memberships: remote_memberships.clone(),
            sticky_events: environment.sticky_events.clone(),
        }
    }
}

impl RoomImporter {
    pub(super) fn new(
        environment: &RoomEnvironment,
        log: &EventLog,
        remote_memberships: &RemoteMemberships,
        receiver: &EventReceiver,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            log: log.clone(),
            remote_memberships: remote_memberships.clone(),
            receiver: receiver.clone(),
        }
    }
}

impl ResidentServer {
    pub(super) fn new(
        environment: &RoomEnvironment,
        join_rules: &JoinRules,
        log: &EventLog,
        receiver: &EventReceiver,
        federation: &FederationReader,
    ) -> Self {
        Self {
            clock: environment.clock.clone(),
            key: environment.key.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            join_rules: join_rules.clone(),
            log: log.clone(),
            receiver: receiver.clone(),
            federation: federation.clone(),
        }
    }
}

impl FederationReader {
    pub(super) fn new(environment: &RoomEnvironment, state: &StateReader, log: &EventLog) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            state: state.clone(),
            log: log.clone(),
            answer_limits: Arc::default(),
            sticky_events: environment.sticky_events.clone(),
        }
    }
}
