//! Rooms: the events of each, and the state that results from them.
//!
//! Each folder is a layer with its own services, and uses only the layers before it:
//! - `memory` keeps rooms and memberships in memory, and follows the journal;
//! - `read` reads timelines, state, relations and search results, as far as a user may see them;
//! - `unread` counts unread messages, and stores receipts and read markers;
//! - `log` is the only code that adds a new event to a room, and resolves states;
//! - `write` changes rooms for the users of this server;
//! - `remote` receives the events of other servers, and answers their requests.

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
    log::new_event::{ClientTransaction, EventToSend},
    memory::{
        RoomMemory,
        room::{Room, RoomView, ServerInRoom},
        sticky_index::ShownStickyEvent,
        user_room::{UnreadNotifications, UserRoom},
        user_rooms::UserRooms,
    },
    read::{
        EventSearch, JoinRules, Relations, RoomAccess, RoomPreviews, StateReader,
        StickyEventReader, Timeline,
        access::UserAccess,
        aggregations::{
            AggregationViewer, AggregationsByEvent, BundledAggregations, ThreadSummary,
        },
        event_context::{ContextLimits, TimelineContext},
        federation_format::EventSources,
        hierarchy::{
            HierarchyPage, HierarchyRequest, HierarchyToken, ServerHierarchy, SpaceChild, SpaceRoom,
        },
        new_events::{NewEvent, NewEventPage, RemoteInvitation},
        relations::{RelatedEventsPage, RelatedEventsRequest},
        search::{SearchHit, SearchKey, SearchPage, SearchQuery},
        sticky_events::StickyEventPage,
        summary::{MutualRooms, RoomPreview},
        threads::{
            SubscriptionChange, SubscriptionRequest, ThreadCount, ThreadFilter, ThreadListRequest,
        },
        timeline::{HiddenEvents, PageRequest, TimelinePage, TimelineSelection},
    },
    remote::{
        EventReceiver, FederationReader, RemoteMemberships, ResidentServer, RoomImporter,
        backfill::{BackfillOutcome, TimelineGap},
        invite_remote_user::DraftInvitation,
        join_import::{ImportOutcome, RoomImport},
        make_and_send_join::{MembershipDraft, MembershipHandshake, RemoteApplicant},
        outgoing::{JoinedMember, OutgoingEvent, OutgoingPage, OutgoingRoomPage},
        outgoing_sticky::OutgoingStickyPage,
        outliers::OutlierOutcome,
        receive::{
            PendingOutcome,
            verdict::{ReceiveHints, ReceiveOutcome, SoftFailureCheck},
        },
        remote_membership::RemoteMembershipEvent,
        serve_events::MissingEventsQuery,
        serve_state::{StateAnswer, StateAnswerTurn},
        stored_inbox::QueuedEvent,
        unplaced_event::UnplacedEvent,
    },
    unread::{
        UnreadCounts, notified_places::EventPlace, receipt_content::receipt_content,
        receipts::ReceiptUpdate,
    },
    write::{
        DelayedEvents, EventSender, ExpiringInvitations, InviteLinks, Memberships,
        RelatedRedactions, Reports, RoomCreation, RoomDeletion, RoomDirectory,
        create::{CreateRoom, check_visibility},
        delayed_events::{
            DelayAction, DelayRequest, DelayedEvent, MAX_DELAY, MAX_SCHEDULED_EVENTS,
        },
        deletion::DeletionRequester,
        directory::{AliasCreator, DirectoryPage, DirectorySearch, NetworkListing},
        invite_links::{InviteLink, NewInviteLink},
        member_change::{MemberChange, MemberProfile, MembershipAction},
        policy_server::PolicyServerClient,
        related_redactions::RelatedRedactionRequest,
        reports::ReportAuthor,
        upgrade::RoomUpgrade,
    },
};
use self::{
    log::{EventLog, backfill_columns, invite_expiry},
    memory::{sticky_index::StickyIndex, timetable::Timetable},
    read::ignored_users::IgnoreSettingsByUser,
    unread::push_counts::CustomRules,
    write::{delayed_events, invite_links},
};
use crate::{
    clock::Clock,
    error::Result,
    matrix::SigningKey,
    numbers::Position,
    storage::{Db, JournalChange, JournalFollower},
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
    /// Sticky events.
    pub sticky_events: StickyEventReader,
    /// Relations, aggregations and threads.
    pub relations: Relations,
    /// Search for events.
    pub search: EventSearch,
    /// Restricted rooms.
    pub join_rules: JoinRules,
    /// Summaries, and the hierarchy of spaces.
    pub previews: RoomPreviews,
    /// Unread counts, read markers and receipts.
    pub unread: UnreadCounts,
    /// Sending the events of users of this server.
    pub sender: EventSender,
    /// Redacting the events that relate to redacted ones.
    pub related_redactions: RelatedRedactions,
    /// Events that are sent later.
    pub delayed_events: DelayedEvents,
    /// Invitations that expire.
    pub invitations: ExpiringInvitations,
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
    pub join_import: RoomImporter,
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
pub(crate) struct RoomEnvironment {
    db: Db,
    clock: Clock,
    key: Arc<SigningKey>,
    tasks: Tasks,
    memory: RoomMemory,
    ignored_users: Arc<IgnoreSettingsByUser>,
    push_rules: Arc<CustomRules>,
    sticky_events: Arc<StickyIndex>,
    timetables: RoomTimetables,
}

/// Work that is done at a certain time.
struct RoomTimetables {
    delayed_events: Arc<Timetable>,
    expiring_invitations: Arc<Timetable>,
    invite_links: Arc<Timetable>,
    sticky_events: Arc<Timetable>,
}

/// Applies the changes of the journal to the data about rooms that is in memory.
struct RoomsFollower {
    memory: RoomMemory,
    ignored_users: Arc<IgnoreSettingsByUser>,
    push_rules: Arc<CustomRules>,
    sticky_events: Arc<StickyIndex>,
    expiring_invitations: Arc<Timetable>,
    sticky_removal: Arc<Timetable>,
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
        let environment = RoomEnvironment {
            push_rules: Arc::new(CustomRules::load(&db).await?),
            ignored_users: Arc::new(IgnoreSettingsByUser::load(&db).await?),
            memory: RoomMemory::load(db.clone(), key.clone()).await?,
            sticky_events: Arc::new(StickyIndex::load(&db, clock.now_ms()).await?),
            timetables: RoomTimetables::load(&db).await?,
            db,
            clock,
            key,
            tasks,
        };
        let journal = environment.db.journal();
        journal.add_follower(Arc::new(RoomsFollower::new(&environment)));
        let services = RoomServices::new(environment, default_version);
        services.search.start_indexing();
        services.related_redactions.start();
        Ok(Self {
            services: Arc::new(services),
        })
    }
}

impl RoomTimetables {
    async fn load(db: &Db) -> Result<Self> {
        Ok(Self {
            delayed_events: Arc::new(delayed_events::load_timetable(db).await?),
            expiring_invitations: Arc::new(invite_expiry::load_timetable(db).await?),
            invite_links: Arc::new(invite_links::load_timetable(db).await?),
            sticky_events: Arc::new(Timetable::new(true)),
        })
    }
}

impl RoomServices {
    /// Builds the services, each from those above it.
    fn new(environment: RoomEnvironment, default_version: RoomVersionId) -> Self {
        let access = RoomAccess::new(&environment);
        let timeline = Timeline::new(&environment);
        let state = StateReader::new(&environment, &access);
        let join_rules = JoinRules::new(&environment);
        let unread = UnreadCounts::new(&environment, &timeline);
        let log = EventLog::new(&environment, &unread);
        let sender = EventSender::new(&environment, &join_rules, &log);
        let invitations = ExpiringInvitations::new(&environment, &sender);
        let federation = FederationReader::new(&environment, &state, &log);
        let remote_memberships = RemoteMemberships::new(&environment, &access, &log);
        let receiver = EventReceiver::new(&environment, &unread, &log, &remote_memberships);
        Self {
            sticky_events: StickyEventReader::new(&environment),
            relations: Relations::new(&environment, &access, &timeline),
            search: EventSearch::new(&environment, &access, &timeline),
            previews: RoomPreviews::new(&environment, &access, &join_rules),
            related_redactions: RelatedRedactions::new(&environment, &sender),
            delayed_events: DelayedEvents::new(&environment, &sender),
            invite_links: InviteLinks::new(&environment, &invitations),
            memberships: Memberships::new(&environment, &sender, &invitations),
            creation: RoomCreation::new(&environment, default_version, &log, &sender),
            deletion: RoomDeletion::new(&environment, &sender),
            directory: RoomDirectory::new(&environment, &sender),
            reports: Reports::new(&environment, &access, &timeline),
            join_import: RoomImporter::new(&environment, &log, &remote_memberships, &receiver),
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
    fn new(environment: &RoomEnvironment) -> Self {
        Self {
            memory: environment.memory.clone(),
            ignored_users: environment.ignored_users.clone(),
            push_rules: environment.push_rules.clone(),
            sticky_events: environment.sticky_events.clone(),
            expiring_invitations: environment.timetables.expiring_invitations.clone(),
            sticky_removal: environment.timetables.sticky_events.clone(),
        }
    }
}

impl JournalFollower for RoomsFollower {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (position, change) in changes {
            self.push_rules.apply_change(change);
            self.ignored_users.apply_change(change);
            self.sticky_events.apply_change(*position, change);
            if matches!(change, JournalChange::StickyEvent { .. }) {
                self.sticky_removal.wake();
            }
            if let JournalChange::Event { event, .. } = change
                && invite_expiry::invite_expires_at(&event.pdu).is_some()
            {
                self.expiring_invitations.wake();
            }
            self.memory.apply_change(*position, change);
        }
    }

    fn failed(&self) {
        self.memory.discard_all();
    }
}
