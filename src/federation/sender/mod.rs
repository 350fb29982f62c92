//! Sending: what happens here and concerns other servers reaches each of them, in order, whatever crashes meanwhile.
//!
//! The sender follows the journal. `distribution` says what goes to whom; `destination` keeps what waits for one server:
//! since which place in which rooms, not the events themselves, which `log` has once for all while they are new, and
//! the database after that. `delivery` is the task that sends to one server while something waits for it, `batch` and
//! `edus` fill its transactions, and `keeping` writes down what waits.
//!
//! [Transactions](https://spec.matrix.org/v1.19/server-server-api/#transactions)

mod batch;
mod delivery;
mod destination;
mod distribution;
mod edus;
mod inbox;
mod keeping;
mod log;
mod metrics;
mod tidying;

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

use self::{destination::Destination, inbox::Inbox, log::Log, metrics::Metrics};
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

/// Transactions under way at once: to servers that fare well, and to others, which may take their time.
const FAST: usize = 64;
const SLOW: usize = 32;

/// Sends to other servers. Cheap to clone.
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
    /// What happened and is not distributed yet.
    inbox: Arc<Inbox>,
    /// Up to which position it is known which events go to whom.
    distributed: AtomicI64,
    /// Up to which position it is known what goes to whom, devices that changed among it: from here on it is looked at
    /// again after a crash.
    settled: AtomicI64,
    /// Rung when something is to be written down.
    changed: Notify,
    fast: Semaphore,
    slow: Semaphore,
    /// Whoever sends to a server listens to it, so that a stop can wait for them.
    served: watch::Sender<()>,
    metrics: Metrics,
}

impl Sender {
    /// Begins to send, with what waited when the server stopped; unless this server talks to no others.
    ///
    /// # Errors
    ///
    /// When it cannot be read what waits, or the registry has its metrics already.
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

    /// Returns whether all that was said in a room up to now was sent to every server that takes it. Those that do not
    /// answer are not waited for.
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

    /// Reads what waited when the server stopped.
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

    /// Follows the journal, and whoever types or comes and goes.
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
            // The others may be gone for good.
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

    /// Returns what waits for a server, now or from now on.
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

    /// Notes something for servers, and sends it.
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
