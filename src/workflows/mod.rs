//! Operations that need several services, such as the changes in rooms that follow from a change to an account.
//!
//! Each kind of work has a service of its own, with only the services that it needs. [`WorkflowServices`] lists them.

mod accounts;
mod activity;
mod aliases;
mod creation;
mod device_list_tracker;
mod edus;
mod expiring_invites;
mod guests;
mod identity_bindings;
mod inbox;
mod invite_links;
mod join_leave_knock;
mod memberships;
mod people;
mod profiles;
mod received_invites;
mod remote;
mod remote_keys;
mod server_notices;
mod state_events;
mod third_party_invites;
mod upgrade;

use std::{ops::Deref, sync::Arc};

pub use self::{
    accounts::AccountRemoval,
    activity::{ReadReceipt, UserActivity},
    aliases::RemoteDirectory,
    creation::RoomCreator,
    expiring_invites::{ExpiringInviteRequest, RoomInvitations},
    identity_bindings::IdentityBindings,
    inbox::{PduResults, ReceivedTransaction, TransactionInbox},
    invite_links::{LinkPreview, LinkRedemption},
    join_leave_knock::{AcceptedSignedEvent, SignedEvent, SignedEventReceiver},
    memberships::{MembershipChanges, MembershipRequest},
    people::{PeopleList, PeopleWithPresence, PersonWithPresence},
    profiles::UserProfiles,
    received_invites::{InvitationReceiver, ReceivedInvitation},
    remote::{
        FetchedEvent, HistoryFetcher, JoinRequest, RemoteInvitations, RemoteLeaves, RoomJoins,
        RoomKnocks, SpaceReader,
    },
    remote_keys::KeyQueries,
    server_notices::{ServerNotice, ServerNotices},
    state_events::{StateEventRequest, StateEvents},
    third_party_invites::ThirdPartyInvites,
    upgrade::RoomUpgrades,
};
use self::{
    device_list_tracker::DeviceListTracker,
    edus::EduReceiver,
    guests::RoomGuests,
    inbox::{EventReception, StateFetchLimit},
    remote::{EntryRoutes, EntryServices, MembershipLocks, ServerFinder},
};
use crate::{
    application_services::ServiceQueries, clock::Clock, devices::Devices,
    ephemeral::EphemeralState, federation::Federation, rooms::Rooms, tasks::Tasks, users::Users,
};

/// The services that the workflows use.
pub struct WorkflowSources {
    pub users: Users,
    pub devices: Devices,
    pub rooms: Rooms,
    pub ephemeral: EphemeralState,
    pub federation: Federation,
    pub service_queries: ServiceQueries,
    pub tasks: Tasks,
    pub clock: Clock,
}

/// The operations that need several services: one service for each kind of work. Cheap to clone.
#[derive(Clone)]
pub struct Workflows {
    services: Arc<WorkflowServices>,
}

/// The services of [`Workflows`].
pub struct WorkflowServices {
    /// Deactivation of accounts.
    pub accounts: AccountRemoval,
    /// Presence, typing and read receipts.
    pub activity: UserActivity,
    /// Creation of rooms.
    pub creation: RoomCreator,
    /// Aliases and public rooms, of this server and of others.
    pub directory: RemoteDirectory,
    /// History from other servers.
    pub history: HistoryFetcher,
    /// Addresses at identity servers.
    pub identity_bindings: IdentityBindings,
    /// Transactions of other servers.
    pub inbox: TransactionInbox,
    /// Invites that expire.
    pub invitations: RoomInvitations,
    /// Links to rooms, and registration with them.
    pub invite_links: LinkRedemption,
    /// Joins, of rooms of this server and of others.
    pub joins: RoomJoins,
    /// Queries and claims of keys.
    pub keys: KeyQueries,
    /// Knocks, on rooms of this server and of others.
    pub knocks: RoomKnocks,
    /// Invites, leaves, kicks and bans.
    pub memberships: MembershipChanges,
    /// Server notices.
    pub notices: ServerNotices,
    /// The list of local users.
    pub people: PeopleList,
    /// Profiles, of this server's users and of others.
    pub profiles: UserProfiles,
    /// Invites of other servers.
    pub received_invitations: InvitationReceiver,
    /// Joins, leaves and knocks of users of other servers.
    pub signed_events: SignedEventReceiver,
    /// Spaces with rooms of any server.
    pub spaces: SpaceReader,
    /// State events of local users.
    pub state_events: StateEvents,
    /// Invites to e-mail addresses.
    pub third_party_invites: ThirdPartyInvites,
    /// Upgrades of rooms.
    pub upgrades: RoomUpgrades,
}

impl Deref for Workflows {
    type Target = WorkflowServices;

    fn deref(&self) -> &WorkflowServices {
        &self.services
    }
}

impl Workflows {
    /// Creates the services, and starts their background tasks.
    pub fn new(sources: &WorkflowSources) -> Self {
        Self {
            services: Arc::new(WorkflowServices::new(sources)),
        }
    }
}

impl WorkflowServices {
    /// Builds the services, each from those above it.
    fn new(sources: &WorkflowSources) -> Self {
        let device_list_tracker = DeviceListTracker::start(sources);
        let profiles = UserProfiles::new(sources);
        let notices = ServerNotices::new(sources, &profiles);
        let upgrades = RoomUpgrades::new(sources, &profiles);
        let directory = RemoteDirectory::new(sources);
        let servers = ServerFinder::new(sources, &directory);
        let locks = MembershipLocks::new(sources);
        let routes = EntryRoutes::new(sources, &servers);
        let leaves = RemoteLeaves::new(sources, &servers, &locks, &routes);
        let invites = RemoteInvitations::new(sources, &locks);
        let memberships = MembershipChanges::new(sources, &profiles, &notices, &leaves, &invites);
        let spaces = SpaceReader::new(sources, &servers);
        let guests = RoomGuests::new(sources, &spaces);
        let state_fetches = StateFetchLimit::default();
        let events = EventReception::new(sources, &state_fetches);
        let edus = EduReceiver::new(sources, &device_list_tracker);
        let state_events = StateEvents::new(sources, &notices, &invites, &guests);
        let third_party_invites =
            ThirdPartyInvites::new(sources, &profiles, &memberships, &state_events);
        let entry = EntryServices {
            profiles: profiles.clone(),
            servers,
            locks,
            routes,
            memberships: memberships.clone(),
        };
        Self {
            accounts: AccountRemoval::new(sources, &leaves),
            activity: UserActivity::new(sources),
            creation: RoomCreator::new(
                sources,
                &profiles,
                &invites,
                &upgrades,
                &third_party_invites,
            ),
            identity_bindings: IdentityBindings::new(sources),
            history: HistoryFetcher::new(sources, &state_fetches),
            inbox: TransactionInbox::new(sources, &events, &edus),
            invitations: RoomInvitations::new(sources, &profiles, &invites),
            invite_links: LinkRedemption::new(sources, &profiles, &memberships, &upgrades),
            joins: RoomJoins::new(sources, &entry, &guests, &upgrades, &events),
            keys: KeyQueries::new(sources, &device_list_tracker),
            knocks: RoomKnocks::new(sources, &entry),
            people: PeopleList::new(sources),
            received_invitations: InvitationReceiver::new(sources, &invites),
            signed_events: SignedEventReceiver::new(sources),
            directory,
            memberships,
            notices,
            profiles,
            spaces,
            state_events,
            third_party_invites,
            upgrades,
        }
    }
}
