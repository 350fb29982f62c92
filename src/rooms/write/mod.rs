//! Changes rooms on behalf of users of this server.

pub(crate) mod create;
pub(crate) mod delayed_events;
pub(crate) mod deletion;
pub(crate) mod directory;
pub(crate) mod expiring_invites;
pub(crate) mod invite_links;
pub(crate) mod member_change;
pub(crate) mod membership;
pub(crate) mod policy_server;
pub(crate) mod related_redactions;
pub(crate) mod removal;
pub(crate) mod reports;
pub(crate) mod send;
pub(crate) mod send_occasion;
pub(crate) mod upgrade;

use std::sync::{Arc, OnceLock};

use ruma::RoomVersionId;

use self::{
    deletion::DeliveryCheck, policy_server::PolicyServerClient, related_redactions::RedactionQueue,
};
use super::{
    RoomEnvironment,
    log::EventLog,
    memory::{RoomMemory, timetable::Timetable},
    read::{JoinRules, RoomAccess, Timeline},
};
use crate::{clock::Clock, storage::Db, tasks::Tasks};

/// Sends the events of users of this server.
#[derive(Clone)]
pub struct EventSender {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    memory: RoomMemory,
    join_rules: JoinRules,
    log: EventLog,
    /// The client that asks policy servers to sign events.
    policy_servers: Arc<OnceLock<Arc<dyn PolicyServerClient>>>,
}

/// Schedules events and sends them later.
#[derive(Clone)]
pub struct DelayedEvents {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    memory: RoomMemory,
    sender: EventSender,
    timetable: Arc<Timetable>,
}

/// Sends invitations that expire, and withdraws them when they have expired.
#[derive(Clone)]
pub struct ExpiringInvitations {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    memory: RoomMemory,
    sender: EventSender,
    timetable: Arc<Timetable>,
}

/// Manages links with which users get into rooms.
#[derive(Clone)]
pub struct InviteLinks {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    memory: RoomMemory,
    invitations: ExpiringInvitations,
    timetable: Arc<Timetable>,
}

/// Changes memberships: invitations, joins, leaves, kicks and bans.
#[derive(Clone)]
pub struct Memberships {
    db: Db,
    memory: RoomMemory,
    sender: EventSender,
    invitations: ExpiringInvitations,
}

/// Creates rooms and upgrades them to another version.
#[derive(Clone)]
pub struct RoomCreation {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    default_version: RoomVersionId,
    memory: RoomMemory,
    log: EventLog,
    sender: EventSender,
}

/// Deletes rooms.
#[derive(Clone)]
pub struct RoomDeletion {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    memory: RoomMemory,
    sender: EventSender,
    timetable: Arc<Timetable>,
    is_sent: Arc<OnceLock<DeliveryCheck>>,
}

/// Manages aliases and the public room directory.
#[derive(Clone)]
pub struct RoomDirectory {
    db: Db,
    memory: RoomMemory,
    sender: EventSender,
}

/// Redacts the events that relate to redacted events.
#[derive(Clone)]
pub struct RelatedRedactions {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    memory: RoomMemory,
    sender: EventSender,
    queue: Arc<RedactionQueue>,
}

/// Stores reports of events, rooms and users for the administrators.
#[derive(Clone)]
pub struct Reports {
    db: Db,
    clock: Clock,
    memory: RoomMemory,
    access: RoomAccess,
    timeline: Timeline,
}

impl EventSender {
    pub(super) fn new(
        environment: &RoomEnvironment,
        join_rules: &JoinRules,
        log: &EventLog,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            join_rules: join_rules.clone(),
            log: log.clone(),
            policy_servers: Arc::default(),
        }
    }
}

impl DelayedEvents {
    pub(super) fn new(environment: &RoomEnvironment, sender: &EventSender) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            sender: sender.clone(),
            timetable: environment.timetables.delayed_events.clone(),
        }
    }
}

impl ExpiringInvitations {
    pub(super) fn new(environment: &RoomEnvironment, sender: &EventSender) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            sender: sender.clone(),
            timetable: environment.timetables.expiring_invitations.clone(),
        }
    }
}

impl InviteLinks {
    pub(super) fn new(environment: &RoomEnvironment, invitations: &ExpiringInvitations) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            invitations: invitations.clone(),
            timetable: environment.timetables.invite_links.clone(),
        }
    }
}

impl Memberships {
    pub(super) fn new(
        environment: &RoomEnvironment,
        sender: &EventSender,
        invitations: &ExpiringInvitations,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            memory: environment.memory.clone(),
            sender: sender.clone(),
            invitations: invitations.clone(),
        }
    }
}

impl RoomCreation {
    pub(super) fn new(
        environment: &RoomEnvironment,
        default_version: RoomVersionId,
        log: &EventLog,
        sender: &EventSender,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tasks: environment.tasks.clone(),
            default_version,
            memory: environment.memory.clone(),
            log: log.clone(),
            sender: sender.clone(),
        }
    }
}

impl RoomDeletion {
    pub(super) fn new(environment: &RoomEnvironment, sender: &EventSender) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            sender: sender.clone(),
            timetable: Arc::new(Timetable::new(true)),
            is_sent: Arc::default(),
        }
    }
}

impl RoomDirectory {
    pub(super) fn new(environment: &RoomEnvironment, sender: &EventSender) -> Self {
        Self {
            db: environment.db.clone(),
            memory: environment.memory.clone(),
            sender: sender.clone(),
        }
    }
}

impl RelatedRedactions {
    /// Creates the service, which follows the journal.
    pub(super) fn new(environment: &RoomEnvironment, sender: &EventSender) -> Self {
        let queue = RedactionQueue::new(environment.key.server_name().to_owned());
        let queue = Arc::new(queue);
        environment.db.journal().add_follower(queue.clone());
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tasks: environment.tasks.clone(),
            memory: environment.memory.clone(),
            sender: sender.clone(),
            queue,
        }
    }
}

impl Reports {
    pub(super) fn new(
        environment: &RoomEnvironment,
        access: &RoomAccess,
        timeline: &Timeline,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            memory: environment.memory.clone(),
            access: access.clone(),
            timeline: timeline.clone(),
        }
    }
}
