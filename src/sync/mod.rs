//! The changes for a user between two positions of the journal: one engine, and the ways to present them.
//!
//! `snapshot` takes from memory the state at one position; `room_sections` derives from it the part of a room that one
//! user may see, with `timeline_reader`, `state_sections` and `unread`; `response` builds a response of `/sync`.
//! `sync_waiters` lets clients wait for changes, which `long_poll` does, and `api/websocket` pushes the same responses
//! through a WebSocket. `sliding` answers only for the rooms that a client displays.

mod account_data;
mod changed_rooms;
mod deleted_rooms;
mod device_lists;
mod device_sections;
mod ephemeral_events;
mod event_fields;
mod event_format;
mod invitations;
mod lazy_members;
mod legacy_sync;
mod long_poll;
mod notifications;
mod presence;
mod profile_updates;
mod recent_changes;
mod remote_echo;
mod response;
mod response_json;
mod room_sections;
mod sliding;
mod snapshot;
mod state_sections;
mod sticky_events;
mod summary;
mod sync_viewer;
mod sync_waiters;
mod thread_subscriptions;
mod timeline_reader;
mod timeline_slice;
mod token;
mod token_reader;
mod unread;

use std::{sync::Arc, time::Duration};

use ruma::{
    RoomId,
    api::client::{push::get_notifications, sync::sync_events::DeviceLists},
    presence::PresenceState,
};
use serde_json::Value;

use self::{
    account_data::AccountDataReader,
    changed_rooms::ChangedRoomReader,
    deleted_rooms::RemovedRoomReader,
    device_lists::DeviceListReader,
    device_sections::DeviceSections,
    lazy_members::LazyMembers,
    legacy_sync::LegacySync,
    long_poll::LongPoll,
    notifications::NotificationReader,
    presence::PresenceReader,
    profile_updates::ProfileUpdateReader,
    recent_changes::RecentChanges,
    response::{ResponseBuilder, ResponseSections},
    room_sections::RoomSections,
    sliding::{SlidingSections, SlidingSync},
    snapshot::SnapshotReader,
    state_sections::StateSections,
    sticky_events::StickySections,
    timeline_reader::TimelineReader,
    token_reader::TokenReader,
};
pub use self::{
    event_format::{EventRecipient, client_event, event_in_format},
    notifications::NotificationSelection,
    profile_updates::ProfileUpdates,
    remote_echo::{PendingSends, SendInFlight},
    response::SyncAnswer,
    response_json::{StateAfterName, write_response},
    sliding::{SlidingSyncRequest as SlidingRequest, SlidingSyncResponse as SlidingResponse},
    sync_waiters::SyncWaiters,
    thread_subscriptions::split_subscription_changes,
    token::{SyncToken, parse_timeline_token, timeline_token},
};
use crate::{
    clock::Clock,
    devices::Devices,
    ephemeral::EphemeralState,
    error::{Error, Result},
    keyed_semaphore::{KeyedPermit, KeyedSemaphore},
    numbers::{DeviceNum, Position, UserNum},
    rooms::Rooms,
    storage::Db,
    tasks::Tasks,
    users::{Session, SyncFilter, Users},
};

/// The longest time that a client may wait for changes.
const MAX_SYNC_TIMEOUT: Duration = Duration::from_mins(3);
/// The number of initial syncs that one user may run at the same time, and of further ones that may wait.
const MAX_CONCURRENT_INITIAL_SYNCS: usize = 3;
const MAX_WAITING_INITIAL_SYNCS: usize = 10;
/// The time after which a user may try an initial sync again when too many wait.
const INITIAL_SYNC_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Computes the changes for clients that sync. Cheap to clone.
#[derive(Clone)]
pub struct Sync {
    services: Arc<SyncServices>,
}

/// The services behind [`Sync`], each built on those above it.
struct SyncServices {
    initial_sync_permits: KeyedSemaphore<UserNum>,
    devices: Devices,
    waiters: Arc<SyncWaiters>,
    sends: PendingSends,
    /// The changes of device lists.
    device_lists: DeviceListReader,
    /// The responses of `/sync`.
    responses: ResponseBuilder,
    /// The requests that wait for such a response.
    long_poll: LongPoll,
    /// The endpoints that are older than `/sync`.
    legacy: LegacySync,
    /// The list of notifications.
    notifications: NotificationReader,
    /// Sliding sync.
    sliding: SlidingSync,
}

/// The resources that all services of sync share.
struct SyncEnvironment {
    db: Db,
    clock: Clock,
    users: Users,
    devices: Devices,
    rooms: Rooms,
    ephemeral: EphemeralState,
    recent_changes: Arc<RecentChanges>,
    waiters: Arc<SyncWaiters>,
    sends: PendingSends,
    tasks: Tasks,
}

/// The parameters of a sync.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// The token to start from; `None` for an initial sync.
    pub since: Option<SyncToken>,
    pub filter: Arc<SyncFilter>,
    /// Whether all state is wanted, even where nothing changed.
    pub full_state: bool,
    /// The time to wait for changes.
    pub timeout: Duration,
    /// The presence of the user while they sync.
    pub set_presence: PresenceState,
    /// Whether the state is wanted as it is after the timeline instead of before it.
    pub use_state_after: bool,
}

/// The services that a sync reads from.
pub struct SyncSources {
    pub db: Db,
    pub clock: Clock,
    pub users: Users,
    pub devices: Devices,
    pub rooms: Rooms,
    pub ephemeral: EphemeralState,
}

impl Sync {
    /// Starts to follow the journal. The rooms must follow it already, so that they see each change first.
    pub fn new(sources: SyncSources, tasks: &Tasks) -> Self {
        let environment = SyncEnvironment::start(sources, tasks);
        Self {
            services: Arc::new(SyncServices::new(environment)),
        }
    }

    /// Returns the changes since the client's token, and waits for a change if there is none.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync).
    pub async fn sync(&self, session: &Session, request: SyncRequest) -> Result<SyncAnswer> {
        self.services.long_poll.sync(session, &request).await
    }

    /// Waits until a user may run an initial sync. Its response is large, and takes memory until the client has read
    /// it.
    ///
    /// The turn lasts until it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when too many requests of the user wait for a turn.
    pub async fn wait_for_initial_sync(&self, session: &Session) -> Result<KeyedPermit> {
        let place = self.services.initial_sync_permits.enqueue(&session.user);
        let place = place.ok_or(Error::LimitExceeded {
            retry_after: INITIAL_SYNC_RETRY_AFTER,
        })?;
        Ok(place.acquire().await)
    }

    /// Records that a device sends something. Until the response is handed to its connection, the device does not
    /// receive its own events.
    pub fn begin_send(&self, device: DeviceNum) -> SendInFlight {
        self.services.sends.begin_send(device)
    }

    /// Waits until the device has the responses to its send requests, if it is about to receive events of its user.
    pub async fn wait_for_send_responses(&self, session: &Session, has_own_events: bool) {
        if has_own_events {
            self.services.sends.wait_for_responses(session.device).await;
        }
    }

    /// Returns the changes since a token without waiting.
    pub async fn changes(&self, session: &Session, request: &SyncRequest) -> Result<SyncAnswer> {
        self.services.responses.respond(session, request).await
    }

    /// Records that a client has received everything before a token.
    pub async fn acknowledge(&self, session: &Session, token: &SyncToken) -> Result<()> {
        self.services
            .devices
            .to_device
            .acknowledge(session.device, token.to_device)
            .await
    }

    /// Returns the waiters, which wake clients when there are changes for their user.
    pub fn waiters(&self) -> &Arc<SyncWaiters> {
        &self.services.waiters
    }

    /// Returns the changes of the rooms that a client displays, and waits for a change if there is none.
    ///
    /// See [MSC4186](https://github.com/matrix-org/matrix-spec-proposals/pull/4186).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPos`] when the connection is unknown, or was forgotten; [`Error::InvalidParam`] when the client
    /// asks for too much.
    pub async fn sliding_sync(
        &self,
        session: &Session,
        request: SlidingRequest,
    ) -> Result<SlidingResponse> {
        self.services.sliding.sync(session, request).await
    }

    /// Returns the users whose keys changed since a token, and those with whom the user no longer shares a room.
    ///
    /// Changes after `to` may be included: a client that receives them twice loses nothing.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when `to` is before `from`.
    pub async fn key_changes(
        &self,
        session: &Session,
        from: SyncToken,
        to: SyncToken,
    ) -> Result<DeviceLists> {
        let lists = &self.services.device_lists;
        lists.key_changes(session, from, to).await
    }

    /// Returns the events of which a user was notified, the newest first, up to a point in the journal.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3notifications).
    pub async fn notifications(
        &self,
        session: &Session,
        from: Option<Position>,
        limit: Option<u64>,
        only: NotificationSelection,
    ) -> Result<get_notifications::v3::Response> {
        let notifications = &self.services.notifications;
        notifications
            .notifications(session, from, limit, only)
            .await
    }

    /// Returns the rooms of a user with their latest messages, the presence and the account data.
    pub async fn initial_sync(
        &self,
        session: &Session,
        limit: Option<u32>,
        with_left: bool,
    ) -> Result<Value> {
        let legacy = &self.services.legacy;
        legacy.initial_sync(session, limit, with_left).await
    }

    /// Returns the events since a token, and waits for one if there is none.
    pub async fn events(
        &self,
        session: &Session,
        from: Option<SyncToken>,
        timeout: Duration,
    ) -> Result<Value> {
        self.services.legacy.events(session, from, timeout).await
    }

    /// Returns the events of a room that a user may read after a point of its timeline, and waits for one if there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a room that the user may not read.
    pub async fn peek_room(
        &self,
        session: &Session,
        room_id: &RoomId,
        from: Option<Position>,
        timeout: Duration,
    ) -> Result<Value> {
        let legacy = &self.services.legacy;
        legacy.peek_room(session, room_id, from, timeout).await
    }
}

impl SyncEnvironment {
    /// Starts the followers of the journal.
    fn start(sources: SyncSources, tasks: &Tasks) -> Self {
        let SyncSources {
            db,
            clock,
            users,
            devices,
            rooms,
            ephemeral,
        } = sources;
        let recent_changes = Arc::new(RecentChanges::new(db.journal().published_position()));
        db.journal().add_follower(recent_changes.clone());
        let waiters = SyncWaiters::start(rooms.clone(), &ephemeral, tasks);
        db.journal().add_follower(waiters.clone());
        Self {
            db,
            clock,
            users,
            devices,
            rooms,
            ephemeral,
            recent_changes,
            waiters,
            sends: PendingSends::default(),
            tasks: tasks.clone(),
        }
    }
}

impl SyncServices {
    /// Builds the services, each from those above it.
    fn new(environment: SyncEnvironment) -> Self {
        let tokens = TokenReader::new(environment.db.clone(), environment.ephemeral.clone());
        let changed_rooms = ChangedRoomReader::new(&environment, &tokens);
        let snapshots = SnapshotReader::new(&environment, &tokens, &changed_rooms);
        let account_data = AccountDataReader::new(&environment);
        let removed_rooms = RemovedRoomReader::new(&environment);
        let device_lists = DeviceListReader::new(&environment, &tokens, &snapshots, &removed_rooms);
        let devices = DeviceSections::new(&environment, &device_lists);
        let timelines = TimelineReader::new(&environment);
        let sticky = StickySections::new(&environment, &timelines);
        let lazy_members = Arc::new(LazyMembers::default());
        let states = StateSections::new(&environment, &timelines, &lazy_members);
        let sections = ResponseSections {
            tokens: tokens.clone(),
            snapshots: snapshots.clone(),
            account_data: account_data.clone(),
            rooms: RoomSections::new(&environment, &timelines, states),
            removed_rooms,
            presence: PresenceReader::new(&environment, &tokens),
            profiles: ProfileUpdateReader::new(&environment),
            devices: devices.clone(),
            sticky: sticky.clone(),
        };
        let responses = ResponseBuilder::new(&environment, sections);
        let sliding = SlidingSections {
            tokens: tokens.clone(),
            changed_rooms,
            snapshots,
            account_data,
            devices,
            device_lists: device_lists.clone(),
            timelines,
            sticky,
        };
        Self {
            initial_sync_permits: KeyedSemaphore::new(
                MAX_CONCURRENT_INITIAL_SYNCS,
                MAX_WAITING_INITIAL_SYNCS,
            ),
            sliding: SlidingSync::start(&environment, &sliding),
            long_poll: LongPoll::new(&environment, lazy_members, &tokens, &responses),
            legacy: LegacySync::new(&environment, &tokens, &responses),
            notifications: NotificationReader::new(&environment),
            device_lists,
            responses,
            devices: environment.devices,
            waiters: environment.waiters,
            sends: environment.sends,
        }
    }
}
