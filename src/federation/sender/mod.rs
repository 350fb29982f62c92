//! Sends local events and EDUs to the other servers that they concern, in order, even if this server crashes.
//!
//! The sender follows the journal. `distribution` decides which servers receive what. `destination` keeps the queue of
//! one server: the first unsent position of each room, not the events themselves. Recent events are in memory once for
//! all servers, in `recent_events`; older ones are in the database. `delivery` is the task that sends to one server as long as
//! something is waiting, `batch` and `edus` fill its transactions, and `queue_persistence` stores the queues.
//!
//! [Transactions](https://spec.matrix.org/v1.19/server-server-api/#transactions)

mod batch;
mod cleanup;
mod delivery;
mod destination;
mod distribution;
mod edus;
mod metrics;
mod pending_changes;
mod queue_persistence;
mod recent_events;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

use prometheus::Registry;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{Notify, Semaphore, watch};

use self::{
    destination::Destination, metrics::Metrics, pending_changes::Inbox, recent_events::Log,
};
use super::{Client, Federation};
use crate::{
    clock::Clock,
    devices::Devices,
    ephemeral::Ephemeral,
    error::Result,
    rooms::Rooms,
    storage::{Db, Position, RoomNum, devices::device_list_updates, federation::outbox},
    tasks::Tasks,
};

/// The number of concurrent transactions to healthy servers, and to others, which may take their time.
const FAST: usize = 64;
const SLOW: usize = 32;

/// The service that sends events and EDUs to other servers. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    rooms: Rooms,
    devices: Devices,
    ephemeral: Ephemeral,
    client: Client,
    destinations: Mutex<HashMap<OwnedServerName, Arc<Destination>>>,
    log: RwLock<Log>,
    /// Changes that are not distributed yet.
    inbox: Arc<Inbox>,
    /// The position up to which events have been distributed.
    distributed: AtomicI64,
    /// The position up to which everything has been distributed, including device list changes. After a crash, changes
    /// are read again from here.
    settled: AtomicI64,
    /// Notified when the queues must be stored.
    changed: Notify,
    fast: Semaphore,
    slow: Semaphore,
    /// Each running delivery holds a receiver, so that a stop can wait for them.
    served: watch::Sender<()>,
    metrics: Metrics,
}

impl Sender {
    /// Starts to send, beginning with the stored queues, unless federation is disabled.
    ///
    /// # Errors
    ///
    /// When the queues cannot be read, or the registry already contains these metrics.
    pub async fn start(
        (db, clock, tasks): (Db, Clock, Tasks),
        (rooms, devices, ephemeral): (Rooms, Devices, Ephemeral),
        federation: &Federation,
        registry: &Registry,
    ) -> Result<Self> {
        let client = federation.client().clone();
        let cursor = {
            let mut db = db.read().await?;
            outbox::cursor(&mut db).await?
        };
        let inner = Arc::new(Inner {
            inbox: Inbox::new(rooms.memory.server_name()),
            db,
            clock,
            tasks,
            rooms,
            devices,
            ephemeral,
            destinations: Mutex::default(),
            log: RwLock::new(Log::after(cursor)),
            distributed: AtomicI64::new(cursor),
            settled: AtomicI64::new(cursor),
            changed: Notify::new(),
            fast: Semaphore::new(FAST),
            slow: Semaphore::new(SLOW),
            served: watch::Sender::new(()),
            metrics: Metrics::new(registry)?,
            client,
        });
        let sender = Self { inner };
        if sender.inner.client.is_enabled() {
            sender.recall(cursor).await?;
            sender.follow();
        }
        Ok(sender)
    }

    /// Returns whether all events of a room have been sent to every server that accepts transactions. Failing servers
    /// are not waited for.
    pub fn is_sent(&self, room: RoomNum) -> bool {
        let inner = &self.inner;
        if !inner.client.is_enabled() {
            return true;
        }
        if inner.distributed.load(Ordering::SeqCst) < inner.inbox.newest_event() {
            return false;
        }
        let destinations = inner.destinations();
        !destinations.values().any(|destination| {
            let state = destination.lock();
            state.health.failures == 0 && state.unsent.contains_key(&room)
        })
    }

    /// Reads the stored queues.
    async fn recall(&self, cursor: Position) -> Result<()> {
        let mut db = self.inner.db.read().await?;
        let rows = outbox::destinations(&mut db).await?;
        let unsent = outbox::unsent(&mut db).await?;
        let with_messages = outbox::servers_with_messages(&mut db).await?;
        let with_lists = device_list_updates::servers(&mut db).await?;
        drop(db);
        let now = self.inner.clock.now_ms();
        {
            let mut all = self.inner.destinations();
            for row in rows {
                if let Ok(server) = OwnedServerName::try_from(row.server.as_str()) {
                    let destination = Destination::stored(server.clone(), &row, now);
                    all.insert(server, Arc::new(destination));
                }
            }
        }
        let destination = |server: &str| {
            let server = <&ServerName>::try_from(server).ok()?;
            Some(self.inner.destination(server))
        };
        for row in unsent {
            if let Some(destination) = destination(&row.server) {
                destination.lock().recall(&row, cursor);
            }
        }
        for server in with_messages.iter().filter_map(|it| destination(it)) {
            server.lock().has_messages = true;
        }
        for server in with_lists.iter().filter_map(|it| destination(it)) {
            server.lock().has_lists = true;
        }
        Ok(())
    }

    /// Follows the journal, and changes in typing and presence.
    fn follow(&self) {
        let inner = &self.inner;
        inner.db.journal().follow(inner.inbox.clone());
        let inbox = inner.inbox.clone();
        let listener = move |stir| inbox.stir(stir);
        inner.ephemeral.listen(Arc::new(listener));
        let watching = Arc::downgrade(inner);
        inner.client.watch(Box::new(move |server| {
            let Some(inner) = watching.upgrade() else {
                return;
            };
            let (found, now) = (
                inner.destinations().get(server).cloned(),
                inner.clock.now_ms(),
            );
            if let Some(destination) = found {
                destination.lives(now);
            }
        }));
        for destination in inner.all() {
            // Servers with less important items wait, because they may have disappeared for good.
            let has_letters = destination.lock().has_letters();
            if has_letters {
                inner.serve(&destination);
            }
        }
        drop(inner.tasks.spawn(inner.clone().distribute()));
        drop(inner.tasks.spawn(inner.clone().keep()));
        drop(inner.tasks.spawn(inner.clone().tidy()));
    }
}

impl Inner {
    fn destinations(&self) -> MutexGuard<'_, HashMap<OwnedServerName, Arc<Destination>>> {
        self.destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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

    fn all(&self) -> Vec<Arc<Destination>> {
        self.destinations().values().cloned().collect()
    }

    /// Changes the queues of servers, and starts to send to them.
    fn note<'a>(
        self: &Arc<Self>,
        servers: impl IntoIterator<Item = &'a OwnedServerName>,
        note: impl Fn(&mut destination::State),
    ) {
        let servers: HashSet<&OwnedServerName> = servers.into_iter().collect();
        for server in servers {
            let destination = self.destination(server);
            note(&mut destination.lock());
            self.serve(&destination);
        }
    }
}
