//! Sends local events and EDUs to the other servers that they concern, in order, even if this server crashes.
//!
//! The sender follows the journal. `distribution` decides which servers receive what. `destination` keeps the queue of
//! one server: the first unsent position of each room, not the events themselves. `destination_health` decides when a
//! server that failed is tried again. Recent events are in memory once for all servers, in `recent_events`; older ones
//! are in the database. `delivery` is the task that sends to one server as long as something is waiting, `batch` and
//! `edus` fill its transactions, each a `transaction_batch`, and `queue_persistence` stores the queues.
//!
//! [Transactions](https://spec.matrix.org/v1.19/server-server-api/#transactions)

mod batch;
mod cleanup;
mod delivery;
mod destination;
mod destination_health;
mod distribution;
mod edus;
mod metrics;
mod pending_changes;
mod queue_persistence;
mod recent_events;
mod transaction_batch;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use prometheus::Registry;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{Notify, Semaphore, watch};

use self::{
    destination::Destination, metrics::SenderMetrics, pending_changes::ChangeCollector,
    recent_events::RecentOutgoingEvents,
};
use super::{Federation, FederationClient};
use crate::{
    clock::Clock,
    devices::Devices,
    ephemeral::EphemeralState,
    error::Result,
    numbers::{AtomicPosition, Position, RoomNum},
    rooms::Rooms,
    storage::{
        Db,
        devices::device_list_updates,
        federation::outbox::{self, DestinationRow},
    },
    tasks::Tasks,
};

/// The number of concurrent transactions to healthy servers, and to others, which may take their time.
const MAX_FAST_TRANSACTIONS: usize = 64;
const MAX_SLOW_TRANSACTIONS: usize = 32;

/// The service that sends events and EDUs to other servers. Cheap to clone.
#[derive(Clone)]
pub struct FederationSender {
    inner: Arc<FederationSenderInner>,
}

/// The services that the sender uses.
pub struct SenderServices {
    pub db: Db,
    pub clock: Clock,
    pub tasks: Tasks,
    pub rooms: Rooms,
    pub devices: Devices,
    pub ephemeral: EphemeralState,
}

struct FederationSenderInner {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    rooms: Rooms,
    devices: Devices,
    ephemeral: EphemeralState,
    client: FederationClient,
    destinations: Mutex<HashMap<OwnedServerName, Arc<Destination>>>,
    recent_events: RwLock<RecentOutgoingEvents>,
    /// Changes that are not distributed yet.
    pending_changes: Arc<ChangeCollector>,
    /// The position up to which events have been distributed.
    distributed: AtomicPosition,
    /// The position up to which everything has been distributed, including device list changes. After a crash, changes
    /// are read again from here.
    fully_distributed: AtomicPosition,
    /// Notified when the queues must be stored.
    queues_changed: Notify,
    fast_permits: Semaphore,
    slow_permits: Semaphore,
    /// Each running delivery holds a receiver, so that a stop can wait for them.
    running_deliveries: watch::Sender<()>,
    metrics: SenderMetrics,
}

impl FederationSender {
    /// Starts to send, beginning with the stored queues, unless federation is disabled.
    ///
    /// # Errors
    ///
    /// When the queues cannot be read, or the registry already contains these metrics.
    pub async fn start(
        services: SenderServices,
        federation: &Federation,
        registry: &Registry,
    ) -> Result<Self> {
        let SenderServices {
            db,
            clock,
            tasks,
            rooms,
            devices,
            ephemeral,
        } = services;
        let client = federation.client().clone();
        let cursor = {
            let mut db = db.read().await?;
            outbox::cursor(&mut db).await?
        };
        let inner = Arc::new(FederationSenderInner {
            pending_changes: ChangeCollector::new(rooms.memory.server_name()),
            db,
            clock,
            tasks,
            rooms,
            devices,
            ephemeral,
            destinations: Mutex::default(),
            recent_events: RwLock::new(RecentOutgoingEvents::starting_after(cursor)),
            distributed: AtomicPosition::new(cursor),
            fully_distributed: AtomicPosition::new(cursor),
            queues_changed: Notify::new(),
            fast_permits: Semaphore::new(MAX_FAST_TRANSACTIONS),
            slow_permits: Semaphore::new(MAX_SLOW_TRANSACTIONS),
            running_deliveries: watch::Sender::new(()),
            metrics: SenderMetrics::new(registry)?,
            client,
        });
        let sender = Self { inner };
        if sender.inner.client.is_enabled() {
            sender.load_queues(cursor).await?;
            sender.start_following();
        }
        Ok(sender)
    }

    /// Returns a function that calls [`FederationSender::is_room_sent`]. It does not keep the sender alive, because the
    /// rooms keep the function, and the sender keeps the rooms.
    pub fn room_sent_check(&self) -> impl Fn(RoomNum) -> bool + Send + Sync + use<> {
        let inner = Arc::downgrade(&self.inner);
        move |room| {
            let sender = inner.upgrade().map(|inner| Self { inner });
            sender.is_some_and(|sender| sender.is_room_sent(room))
        }
    }

    /// Returns whether all events of a room have been sent to every server that accepts transactions. Failing servers
    /// are not waited for.
    pub fn is_room_sent(&self, room: RoomNum) -> bool {
        let inner = &self.inner;
        if !inner.client.is_enabled() {
            return true;
        }
        if inner.distributed.load() < inner.pending_changes.newest_event() {
            return false;
        }
        let destinations = inner.destinations();
        !destinations.values().any(|destination| {
            let state = destination.lock();
            state.health.failures == 0 && state.unsent.contains_key(&room)
        })
    }

    /// Reads the stored queues.
    async fn load_queues(&self, cursor: Position) -> Result<()> {
        let mut db = self.inner.db.read().await?;
        let rows = outbox::destinations(&mut db).await?;
        let unsent = outbox::unsent_rooms(&mut db).await?;
        let with_messages = outbox::servers_with_messages(&mut db).await?;
        let with_lists = device_list_updates::servers_with_updates(&mut db).await?;
        drop(db);
        self.inner.add_stored_destinations(&rows);
        let destination = |server: &str| {
            let server = <&ServerName>::try_from(server).ok()?;
            Some(self.inner.destination(server))
        };
        for row in unsent {
            if let Some(destination) = destination(&row.server) {
                destination.lock().restore_unsent(&row, cursor);
            }
        }
        for server in with_messages.iter().filter_map(|it| destination(it)) {
            server.lock().has_messages = true;
        }
        for server in with_lists.iter().filter_map(|it| destination(it)) {
            server.lock().has_device_lists = true;
        }
        Ok(())
    }

    /// Follows the journal, and changes in typing and presence.
    fn start_following(&self) {
        let inner = &self.inner;
        inner
            .db
            .journal()
            .add_follower(inner.pending_changes.clone());
        let pending = inner.pending_changes.clone();
        let listener = move |change| pending.add_ephemeral_change(change);
        inner.ephemeral.add_listener(Arc::new(listener));
        let watching = Arc::downgrade(inner);
        inner.client.watch_contacts(Box::new(move |server| {
            let Some(inner) = watching.upgrade() else {
                return;
            };
            let (found, now) = (
                inner.destinations().get(server).cloned(),
                inner.clock.now_ms(),
            );
            if let Some(destination) = found {
                destination.record_contact(now);
            }
        }));
        for destination in inner.all_destinations() {
            // Servers with less important items wait, because they may have disappeared for good.
            let has_durable_items = destination.lock().has_durable_items();
            if has_durable_items {
                inner.start_delivery(&destination);
            }
        }
        drop(inner.tasks.spawn(inner.clone().distribute()));
        drop(inner.tasks.spawn(inner.clone().persist_queues()));
        drop(inner.tasks.spawn(inner.clone().clean_up_regularly()));
    }
}

impl FederationSenderInner {
    fn destinations(&self) -> MutexGuard<'_, HashMap<OwnedServerName, Arc<Destination>>> {
        self.destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn add_stored_destinations(&self, rows: &[DestinationRow]) {
        let now = self.clock.now_ms();
        let mut all = self.destinations();
        for row in rows {
            if let Ok(server) = OwnedServerName::try_from(row.server.as_str()) {
                let destination = Destination::from_row(server.clone(), row, now);
                all.insert(server, Arc::new(destination));
            }
        }
    }

    /// Returns the queue of a server, and creates it if necessary.
    fn destination(&self, server: &ServerName) -> Arc<Destination> {
        let mut all = self.destinations();
        if let Some(known) = all.get(server) {
            return known.clone();
        }
        let destination = Arc::new(Destination::new(server.to_owned()));
        all.insert(server.to_owned(), destination.clone());
        destination
    }

    fn all_destinations(&self) -> Vec<Arc<Destination>> {
        self.destinations().values().cloned().collect()
    }

    /// Changes the queues of servers, and starts to send to them.
    fn update_queues<'a>(
        self: &Arc<Self>,
        servers: impl IntoIterator<Item = &'a OwnedServerName>,
        note: impl Fn(&mut destination::DestinationState),
    ) {
        let servers: HashSet<&OwnedServerName> = servers.into_iter().collect();
        for server in servers {
            let destination = self.destination(server);
            note(&mut destination.lock());
            self.start_delivery(&destination);
        }
    }
}
