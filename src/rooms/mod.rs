//! Rooms: the events of each, and the state that results from them.
//!
//! Each folder is a layer with its own services, and uses only the layers before it:
//! - `memory` keeps rooms and memberships in memory, and follows the journal;
//! - `read` reads timelines, state, relations and search results, as far as a user may see them;
//! - `unread` counts unread messages, and stores receipts and read markers;
//! - `log` is the only code that adds an event to a room, and resolves states;
//! - `write` changes rooms for the users of this server;
//! - `remote` takes the events of other servers, and answers their requests.

mod log;
mod memory;
mod read;
mod remote;
#[cfg(test)]
mod tests;
mod unread;
mod write;

use std::{ops::Deref, sync::Arc};

use ruma::RoomVersionId;

pub use self::{
    log::new_event::{NewEvent, Transaction},
    memory::{
        RoomMemory,
        room::{Room, Stay, View},
        user_rooms::{UserRoom, UserRooms},
    },
    read::{
        JoinRules, Relations, RoomAccess, RoomPreviews, Search, StateReader, Timeline,
        access::Access,
        aggregations::{Audience, Bundle, Bundles, ThreadSummary},
        federation_format::EventSources,
        hierarchy::{HierarchyPage, HierarchyRequest, HierarchyStart, ServerHierarchy, SpaceRoom},
        relations::{Related, RelatedRequest},
        search::{Hit, SearchKey, SearchPage, SearchQuery},
        summary::{MutualRooms, Summary},
        threads::{SubscriptionChange, ThreadCount, Threads},
        timeline::{Context, HiddenEvents, Page, PageRequest},
    },
    remote::{
        EventReceiver, FederationReader, JoinImport, RemoteMemberships, ResidentServer,
        backfill::{Backfilled, Gap},
        invite_remote_user::DraftInvitation,
        join_import::{Import, Imported},
        make_and_send_join::{Applicant, Handshake, Offer},
        outgoing::{Arrival, Outgoing, OutgoingPage, RoomPage},
        outliers::Outlier,
        receive::{Help, Received, Taken},
        remote_membership::FromOutside,
        serve_state::{StateAnswer, TurnToBeTold},
        stored_inbox::Arrived,
    },
    unread::{Unread, receipts::NewReceipt},
    write::{
        DelayedEvents, EventSender, Invitations, InviteLinks, Memberships, Reports, RoomCreation,
        RoomDeletion, RoomDirectory,
        create::{CreateRoom, check_visibility},
        delayed_events::{Delay, DelayAction, Delayed, MAX_DELAY, MAX_SCHEDULED},
        directory::{DirectoryPage, DirectorySearch},
        invite_links::{InviteLink, NewLink},
        membership::{Action, MemberChange, MemberProfile},
        policy_server::Recommends,
        reports::Reporter,
        upgrade::Upgrade,
    },
};
use self::{
    log::{EventLog, backfill_columns, invite_expiry},
    memory::timetable::Timetable,
    read::ignored_users::Shields,
    unread::push_counts::CustomRules,
    write::{delayed_events, invite_links},
};
use crate::{
    clock::Clock,
    error::Result,
    matrix::SigningKey,
    storage::{Change, Db, Follower, Position},
    tasks::Tasks,
};

/// The rooms of this server: one service for each kind of work. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    services: Arc<RoomServices>,
}

/// The services of [`Rooms`], each built on those above it.
pub struct RoomServices {
    /// Rooms and memberships in memory.
    pub memory: RoomMemory,
    /// Access of users to rooms.
    pub access: RoomAccess,
    /// Events by page, by id, and around one event.
    pub timeline: Timeline,
    /// The state of rooms, now and at any place of the timeline.
    pub state: StateReader,
    /// Relations, aggregations and threads.
    pub relations: Relations,
    /// Search for events.
    pub search: Search,
    /// Restricted rooms.
    pub join_rules: JoinRules,
    /// Summaries, and the hierarchy of spaces.
    pub previews: RoomPreviews,
    /// Unread counts, read markers and receipts.
    pub unread: Unread,
    /// Sending the events of users of this server.
    pub sender: EventSender,
    /// Events that are sent later.
    pub delayed_events: DelayedEvents,
    /// Invitations that expire.
    pub invitations: Invitations,
    /// Links that let users join rooms.
    pub invite_links: InviteLinks,
    /// Invitations, joins, leaves, kicks and bans.
    pub memberships: Memberships,
    /// Creation and upgrade of rooms.
    pub creation: RoomCreation,
    /// Deletion of rooms.
    pub deletion: RoomDeletion,
    /// Aliases and the public list of rooms.
    pub directory: RoomDirectory,
    /// Reports to the administrators.
    pub reports: Reports,
    /// Reading rooms for other servers.
    pub federation: FederationReader,
    /// Events that other servers send.
    pub receiver: EventReceiver,
    /// Memberships of this server's users in rooms of other servers.
    pub remote_memberships: RemoteMemberships,
    /// Rooms that users of this server join through other servers.
    pub join_import: JoinImport,
    /// Answers to servers whose users join, leave or knock.
    pub resident: ResidentServer,
}

impl Deref for Rooms {
    type Target = RoomServices;

    fn deref(&self) -> &RoomServices {
        &self.services
    }
}

/// The resources that all services of rooms share.
pub(crate) struct Environment {
    db: Db,
    clock: Clock,
    key: Arc<SigningKey>,
    tasks: Tasks,
    memory: RoomMemory,
    ignored_users: Arc<Shields>,
    push_rules: Arc<CustomRules>,
    timetables: Timetables,
}

/// Work that is done at a certain time.
struct Timetables {
    delayed_events: Arc<Timetable>,
    expiring_invitations: Arc<Timetable>,
    invite_links: Arc<Timetable>,
}

/// Keeps what rooms hold in memory up to date with the journal.
struct RoomsFollower {
    memory: RoomMemory,
    ignored_users: Arc<Shields>,
    push_rules: Arc<CustomRules>,
    expiring_invitations: Arc<Timetable>,
}

impl Rooms {
    /// Opens the rooms of a database and begins to follow its journal.
    pub async fn open(
        db: Db,
        clock: Clock,
        key: Arc<SigningKey>,
        tasks: Tasks,
        default_version: RoomVersionId,
    ) -> Result<Self> {
        backfill_columns::fill_relations(&db).await?;
        let environment = Environment {
            push_rules: Arc::new(CustomRules::load(&db).await?),
            ignored_users: Arc::new(Shields::load(&db).await?),
            memory: RoomMemory::load(db.clone(), key.clone()).await?,
            timetables: Timetables::load(&db).await?,
            db,
            clock,
            key,
            tasks,
        };
        let journal = environment.db.journal();
        journal.follow(Arc::new(RoomsFollower::new(&environment)));
        let services = RoomServices::new(environment, default_version);
        services.search.keep_indexing();
        Ok(Self {
            services: Arc::new(services),
        })
    }
}

impl Timetables {
    async fn load(db: &Db) -> Result<Self> {
        Ok(Self {
            delayed_events: Arc::new(delayed_events::timetable(db).await?),
            expiring_invitations: Arc::new(invite_expiry::timetable(db).await?),
            invite_links: Arc::new(invite_links::timetable(db).await?),
        })
    }
}

impl RoomServices {
    /// Builds the services, each from those above it.
    fn new(environment: Environment, default_version: RoomVersionId) -> Self {
        let access = RoomAccess::new(&environment);
        let timeline = Timeline::new(&environment);
        let state = StateReader::new(&environment, &access);
        let join_rules = JoinRules::new(&environment);
        let unread = Unread::new(&environment, &timeline);
        let log = EventLog::new(&environment, &unread);
        let sender = EventSender::new(&environment, &join_rules, &log);
        let invitations = Invitations::new(&environment, &sender);
        let federation = FederationReader::new(&environment, &state, &log);
        let remote_memberships = RemoteMemberships::new(&environment, &access, &log);
        let receiver = EventReceiver::new(&environment, &unread, &log, &remote_memberships);
        Self {
            relations: Relations::new(&environment, &access, &timeline),
            search: Search::new(&environment, &access, &timeline),
            previews: RoomPreviews::new(&environment, &access, &join_rules),
            delayed_events: DelayedEvents::new(&environment, &sender),
            invite_links: InviteLinks::new(&environment, &invitations),
            memberships: Memberships::new(&environment, &sender, &invitations),
            creation: RoomCreation::new(&environment, default_version, &log, &sender),
            deletion: RoomDeletion::new(&environment, &sender),
            directory: RoomDirectory::new(&environment, &sender),
            reports: Reports::new(&environment, &access, &timeline),
            join_import: JoinImport::new(&environment, &log, &remote_memberships, &receiver),
            resident: ResidentServer::new(&environment, &join_rules, &log, &receiver, &federation),
            memory: environment.memory,
            access,
            timeline,
            state,
            join_rules,
            unread,
            sender,
            invitations,
            federation,
            remote_memberships,
            receiver,
        }
    }
}

impl RoomsFollower {
    fn new(environment: &Environment) -> Self {
        Self {
            memory: environment.memory.clone(),
            ignored_users: environment.ignored_users.clone(),
            push_rules: environment.push_rules.clone(),
            expiring_invitations: environment.timetables.expiring_invitations.clone(),
        }
    }
}

impl Follower for RoomsFollower {
    fn committed(&self, changes: &[(Position, Change)]) {
        for (position, change) in changes {
            self.push_rules.committed(change);
            self.ignored_users.committed(change);
            if let Change::Event { event, .. } = change
                && invite_expiry::expiry(&event.pdu).is_some()
            {
                self.expiring_invitations.changed();
            }
            self.memory.committed(*position, change);
        }
    }

    fn failed(&self) {
        self.memory.failed();
    }
}
