//! The changes for a user between two positions of the journal: one engine, and the ways to present them.
//!
//! `snapshot` takes from memory the state at one position; `room_view` derives from it the part of a room that one user
//! may see; `response` builds a response of `/sync`. `sync_waiters` lets clients wait for changes, and `api/websocket` pushes
//! the same responses through a WebSocket. `sliding` answers only for the rooms that a client displays.

mod deleted_rooms;
mod device_lists;
mod event_fields;
mod event_format;
mod lazy_members;
mod legacy_sync;
mod notifications;
mod recent_changes;
mod remote_echo;
mod response;
mod response_json;
mod room_view;
mod sliding;
mod snapshot;
mod summary;
mod sync_waiters;
mod thread_subscriptions;
mod timeline_slice;
mod token;
mod unread;

use std::{sync::Arc, time::Duration};

use ruma::{
    api::client::{filter::FilterDefinition, sync::sync_events::v3::Response},
    presence::PresenceState,
};
use tokio::time::Instant;

pub use self::{
    event_format::{client_event, event_in_format},
    notifications::NotificationSelection,
    remote_echo::{PendingSends, SendInFlight},
    response::SyncAnswer,
    response_json::{StateAfterName, write_response},
    sliding::{SlidingSyncRequest as SlidingRequest, SlidingSyncResponse as SlidingResponse},
    sync_waiters::SyncWaiters,
    thread_subscriptions::split_subscription_changes,
    token::{SyncToken, parse_timeline_token, timeline_token},
};
use self::{
    lazy_members::LazyMembers, recent_changes::RecentChanges, sliding::SlidingSync,
    unread::ThreadCache,
};
use crate::{
    clock::Clock,
    devices::Devices,
    ephemeral::{EphemeralState, PresenceUpdate},
    error::{Error, Result},
    keyed_semaphore::{KeyedPermit, KeyedSemaphore},
    rooms::Rooms,
    storage::{Db, DeviceNum, UserNum},
    tasks::Tasks,
    users::{Session, Users},
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
    inner: Arc<SyncInner>,
}

struct SyncInner {
    db: Db,
    clock: Clock,
    users: Users,
    devices: Devices,
    rooms: Rooms,
    ephemeral: EphemeralState,
    recent_changes: Arc<RecentChanges>,
    waiters: Arc<SyncWaiters>,
    lazy_members: LazyMembers,
    threads: ThreadCache,
    initial_sync_permits: KeyedSemaphore<UserNum>,
    sliding: SlidingSync,
    sends: PendingSends,
    tasks: Tasks,
}

/// The parameters of a sync.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// The token to start from; `None` for an initial sync.
    pub since: Option<SyncToken>,
    pub filter: Arc<FilterDefinition>,
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
        let SyncSources {
            db,
            clock,
            users,
            devices,
            rooms,
            ephemeral,
        } = sources;
        let recent = Arc::new(RecentChanges::new(db.journal().published_position()));
        db.journal().add_follower(recent.clone());
        let waiters = SyncWaiters::start(rooms.clone(), &ephemeral, tasks);
        db.journal().add_follower(waiters.clone());
        let sliding = SlidingSync::start(db.journal());
        let inner = SyncInner {
            db,
            clock,
            users,
            devices,
            rooms,
            ephemeral,
            recent_changes: recent,
            waiters,
            lazy_members: LazyMembers::default(),
            threads: ThreadCache::default(),
            initial_sync_permits: KeyedSemaphore::new(
                MAX_CONCURRENT_INITIAL_SYNCS,
                MAX_WAITING_INITIAL_SYNCS,
            ),
            sliding,
            sends: PendingSends::default(),
            tasks: tasks.clone(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the changes since the client's token, and waits for a change if there is none.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync).
    pub async fn sync(&self, session: &Session, request: SyncRequest) -> Result<Response> {
        let request = self.inner.clamped(&request);
        self.inner.record_sync_start(session, &request).await?;
        let _waiting = self.inner.ephemeral.presence.keep_online(session.user);
        let deadline = Instant::now() + request.timeout.min(MAX_SYNC_TIMEOUT);
        loop {
            let mut news = self.inner.waiters.register(session.user);
            let answer = self.inner.respond(session, &request).await?;
            let is_due =
                request.since.is_none() || request.full_state || Instant::now() >= deadline;
            if is_due || answer.has_changes {
                self.wait_for_send_responses(session, answer.has_own_events)
                    .await;
                return Ok(answer.response);
            }
            tokio::select! {
                () = news.wait_for_change() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(answer.response),
                () = self.inner.tasks.stopping().cancelled() => return Ok(answer.response),
            }
        }
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
        let place = self.inner.initial_sync_permits.enqueue(&session.user);
        let place = place.ok_or(Error::LimitExceeded {
            retry_after: INITIAL_SYNC_RETRY_AFTER,
        })?;
        Ok(place.acquire().await)
    }

    /// Records that a device sends something. Until the response is handed to its connection, the device does not
    /// receive its own events.
    pub fn begin_send(&self, device: DeviceNum) -> SendInFlight {
        self.inner.sends.begin_send(device)
    }

    /// Waits until the device has the responses to its send requests, if it is about to receive events of its user.
    pub async fn wait_for_send_responses(&self, session: &Session, shows_own: bool) {
        if shows_own {
            self.inner.sends.wait_for_responses(session.device).await;
        }
    }

    /// Returns the changes since a token without waiting.
    pub async fn changes(&self, session: &Session, request: &SyncRequest) -> Result<SyncAnswer> {
        self.inner.respond(session, request).await
    }

    /// Records that a client has received everything before a token.
    pub async fn acknowledge(&self, session: &Session, token: &SyncToken) -> Result<()> {
        self.inner
            .devices
            .to_device
            .acknowledge(session.device, token.to_device)
            .await
    }

    /// Returns the waiters, which wake clients when there are changes for their user.
    pub fn waiters(&self) -> &Arc<SyncWaiters> {
        &self.inner.waiters
    }
}

impl SyncInner {
    /// Returns a request whose token is not in the future: no client can have received changes that do not exist.
    fn clamped(&self, request: &SyncRequest) -> SyncRequest {
        let now = self.db.journal().published_position();
        let clamp = |since: SyncToken| SyncToken {
            position: since.position.clamp(0, now),
            to_device: since.to_device.clamp(0, now),
            ..since
        };
        SyncRequest {
            since: request.since.map(clamp),
            ..request.clone()
        }
    }

    /// Records that the client is online and has received everything before its token.
    async fn record_sync_start(&self, session: &Session, request: &SyncRequest) -> Result<()> {
        let update = PresenceUpdate::set_by_sync(request.set_presence.clone())?;
        self.ephemeral
            .presence
            .update(session.user, &session.user_id, update);
        if let Some(since) = &request.since {
            self.devices
                .to_device
                .acknowledge(session.device, since.to_device)
                .await
        } else {
            self.lazy_members.forget_device(session.device);
            Ok(())
        }
    }
}
