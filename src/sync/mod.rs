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
    notifications::Only,
    remote_echo::{SendInFlight, Sends},
    response::Answer,
    response_json::{StateAfter, write},
    sliding::{Request as SlidingRequest, Response as SlidingResponse},
    sync_waiters::Waiters,
    thread_subscriptions::subscriptions,
    token::{Token, place_of, place_token},
};
use self::{
    lazy_members::LazyMembers, recent_changes::Recent, sliding::Sliding, unread::ThreadCache,
};
use crate::{
    clock::Clock,
    devices::Devices,
    ephemeral::{Ephemeral, PresenceUpdate},
    error::{Error, Result},
    keyed_semaphore::{Turn, Turns},
    rooms::Rooms,
    storage::{Db, DeviceNum, UserNum},
    tasks::Tasks,
    users::{Session, Users},
};

/// The longest time that a client may wait for changes.
const LONGEST_WAIT: Duration = Duration::from_mins(3);
/// The number of initial syncs that one user may run at the same time, and of further ones that may wait.
const FIRST_SYNCS_AT_ONCE: usize = 3;
const MAX_WAITING_FIRST_SYNCS: usize = 10;
/// The time after which a user may try an initial sync again when too many wait.
const FIRST_SYNC_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Computes the changes for clients that sync. Cheap to clone.
#[derive(Clone)]
pub struct Sync {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    clock: Clock,
    users: Users,
    devices: Devices,
    rooms: Rooms,
    ephemeral: Ephemeral,
    recent: Arc<Recent>,
    waiters: Arc<Waiters>,
    lazy: LazyMembers,
    threads: ThreadCache,
    first_syncs: Turns<UserNum>,
    sliding: Sliding,
    sends: Sends,
    tasks: Tasks,
}

/// The parameters of a sync.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// The token to start from; `None` for an initial sync.
    pub since: Option<Token>,
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
pub struct Sources {
    pub db: Db,
    pub clock: Clock,
    pub users: Users,
    pub devices: Devices,
    pub rooms: Rooms,
    pub ephemeral: Ephemeral,
}

impl Sync {
    /// Starts to follow the journal. The rooms must follow it already, so that they see each change first.
    pub fn new(sources: Sources, tasks: &Tasks) -> Self {
        let Sources {
            db,
            clock,
            users,
            devices,
            rooms,
            ephemeral,
        } = sources;
        let recent = Arc::new(Recent::new(db.journal().published()));
        db.journal().follow(recent.clone());
        let waiters = Waiters::start(rooms.clone(), &ephemeral, tasks);
        db.journal().follow(waiters.clone());
        let sliding = Sliding::following(db.journal());
        let inner = Inner {
            db,
            clock,
            users,
            devices,
            rooms,
            ephemeral,
            recent,
            waiters,
            lazy: LazyMembers::default(),
            threads: ThreadCache::default(),
            first_syncs: Turns::new(FIRST_SYNCS_AT_ONCE, MAX_WAITING_FIRST_SYNCS),
            sliding,
            sends: Sends::default(),
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
        self.inner.begin(session, &request).await?;
        let _waiting = self.inner.ephemeral.presence.waits(session.user);
        let deadline = Instant::now() + request.timeout.min(LONGEST_WAIT);
        loop {
            let mut news = self.inner.waiters.register(session.user);
            let answer = self.inner.respond(session, &request).await?;
            let is_due =
                request.since.is_none() || request.full_state || Instant::now() >= deadline;
            if is_due || answer.is_news {
                self.hold_echo(session, answer.shows_own).await;
                return Ok(answer.response);
            }
            tokio::select! {
                () = news.come() => {}
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
    pub async fn turn_for_everything(&self, session: &Session) -> Result<Turn> {
        let place = self.inner.first_syncs.place(&session.user);
        let place = place.ok_or(Error::LimitExceeded {
            retry_after: FIRST_SYNC_RETRY_AFTER,
        })?;
        Ok(place.turn().await)
    }

    /// Records that a device sends something. Until the response is handed to its connection, the device does not
    /// receive its own events.
    pub fn sending(&self, device: DeviceNum) -> SendInFlight {
        self.inner.sends.begin(device)
    }

    /// Waits until the device has the responses to its send requests, if it is about to receive events of its user.
    pub async fn hold_echo(&self, session: &Session, shows_own: bool) {
        if shows_own {
            self.inner.sends.settled(session.device).await;
        }
    }

    /// Returns the changes since a token without waiting.
    pub async fn changes(&self, session: &Session, request: &SyncRequest) -> Result<Answer> {
        self.inner.respond(session, request).await
    }

    /// Records that a client has received everything before a token.
    pub async fn acknowledge(&self, session: &Session, token: &Token) -> Result<()> {
        self.inner
            .devices
            .acknowledge(session.device, token.to_device)
            .await
    }

    /// Returns the waiters, which wake clients when there are changes for their user.
    pub fn waiters(&self) -> &Arc<Waiters> {
        &self.inner.waiters
    }
}

impl Inner {
    /// Returns a request whose token is not in the future: no client can have received changes that do not exist.
    fn clamped(&self, request: &SyncRequest) -> SyncRequest {
        let now = self.db.journal().published();
        let clamp = |since: Token| Token {
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
    async fn begin(&self, session: &Session, request: &SyncRequest) -> Result<()> {
        let update = PresenceUpdate::syncs(request.set_presence.clone())?;
        self.ephemeral
            .presence
            .update(session.user, &session.user_id, update);
        if let Some(since) = &request.since {
            self.devices
                .acknowledge(session.device, since.to_device)
                .await
        } else {
            self.lazy.forget(session.device);
            Ok(())
        }
    }
}
