//! The one writer: fair turns, group commit, positions, and what a commit tells.
//!
//! A write waits its turn on a fair lock and runs in a savepoint of the open batch. Whoever opens a batch
//! also queues the *flusher* on the same lock: it gets its turn after all who are waiting by then, and
//! commits them together. Those who arrive during that commit form the next batch. So a lone write pays one
//! fsync, and so do thirty-two that come at once. Writers that are on their way but held up by a lock of their own,
//! such as a room's, say so by an intent, and the batch waits a few milliseconds for them.
//!
//! A turn that fails, or whose caller vanishes, is rolled back to its savepoint and harms no neighbour.
//!
//! A commit that is not answered leaves its batch *in doubt*: the database is asked, again and again until it answers,
//! whether it stored the batch. Nothing is written, and nobody who wrote in the batch gets an answer, until then.

mod doubt;
mod turn;

use std::{
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, timeout},
};

use self::doubt::{CommitError, DoubtfulBatch};
pub use self::turn::{Pending, WriteTx};
use super::{
    change::Change,
    dialect::{Conn, Raw, Target},
    failure::BatchLoss,
    lock::DirectoryLock,
    migrate,
    strings::Strings,
};
use crate::{
    error::{Error, Result},
    health::Health,
    storage::Read,
    tasks::Tasks,
};

/// How long a batch waits for those who are on their way into it.
const RIPENING: Duration = Duration::from_millis(4);
/// Changes with which a batch waits for nobody.
const LARGE: usize = 256;
/// How long the journal waits before it asks the database once more what became of a batch.
const DOUBT_INTERVAL: Duration = Duration::from_millis(250);
/// How often the journal tries whether something can be stored, after it could not.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// The place of a change in the one order of all changes; a sync token is one of these.
pub type Position = i64;

/// Someone who follows the journal in memory. Called in order, between the commit and its answer: be quick.
pub trait Follower: Send + Sync {
    /// The changes are on disk.
    fn committed(&self, changes: &[(Position, Change)]);
    /// A batch was lost: whatever memory took from writes that were not yet durable is wrong.
    fn failed(&self);
}

/// What a write waits for: `None` while its batch is open, then whether it is on disk.
type Outcome = Option<Result<(), BatchLoss>>;

/// The journal's front: cheap to clone.
#[derive(Clone)]
pub struct Journal {
    writer: Arc<Mutex<Writer>>,
    shared: Arc<Shared>,
}

/// Somebody who will write in a moment, for whom a batch may wait a little.
pub struct Intent {
    shared: Arc<Shared>,
}

struct Shared {
    /// Those who will write in a moment.
    intents: AtomicUsize,
    /// The newest position that readers may see.
    published: AtomicI64,
    followers: RwLock<Vec<Arc<dyn Follower>>>,
    /// Held while a batch is told, so that a reader can hold memory still.
    telling: RwLock<()>,
    strings: Strings,
    health: Health,
}

struct Writer {
    target: Target,
    conn: Conn,
    /// The connection is not to be trusted; the next turn connects anew.
    lost: bool,
    next_position: Position,
    open: Option<Batch>,
    /// The batch whose commit was not answered.
    in_doubt: Option<DoubtfulBatch>,
    savepoint: Savepoint,
    /// A caller vanished while it opened a batch: the transaction may or may not have begun.
    opening: bool,
    closed: bool,
    flush: mpsc::UnboundedSender<()>,
    shared: Arc<Shared>,
    /// Kept until the journal is closed.
    locks: Vec<DirectoryLock>,
    #[cfg(test)]
    fault: doubt::Fault,
}

/// The savepoint of the latest turn in the open batch.
///
/// Every state is set before the statement that leads to it is awaited, or holds whether or not it ran: a
/// caller may vanish at any await.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Savepoint {
    /// None was made, or nobody knows whether it was; in either case nothing was written in it.
    None,
    /// A turn writes in it. Found like this by the next, it is of one who failed or vanished.
    Open,
    /// The turn is over and what it wrote stays.
    Kept,
}

struct Batch {
    outcome: watch::Sender<Outcome>,
    changes: Vec<(Position, Change)>,
}

impl Journal {
    /// Connects the writer, brings the schema up to date and starts the flusher.
    pub(crate) async fn open(
        target: &Target,
        strings: Strings,
        (tasks, locks): (&Tasks, Vec<DirectoryLock>),
    ) -> Result<Self> {
        let mut conn = target.connect_writer().await?;
        migrate::run(&mut conn).await?;
        let (flush, wanted) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            intents: AtomicUsize::new(0),
            published: AtomicI64::new(0),
            followers: RwLock::default(),
            telling: RwLock::default(),
            strings,
            health: Health::default(),
        });
        let mut writer = Writer {
            target: target.clone(),
            conn,
            lost: false,
            next_position: 1,
            open: None,
            in_doubt: None,
            savepoint: Savepoint::None,
            opening: false,
            closed: false,
            flush,
            shared: shared.clone(),
            locks,
            #[cfg(test)]
            fault: doubt::Fault::default(),
        };
        writer.recall_position().await?;
        shared
            .published
            .store(writer.next_position - 1, Ordering::SeqCst);
        let writer = Arc::new(Mutex::new(writer));
        // The flusher ends with the last writer, not with the stop signal: what is written must reach the disk.
        drop(tasks.spawn(flusher(Arc::downgrade(&writer), wanted)));
        Ok(Self { writer, shared })
    }

    /// Waits for a turn and opens a savepoint in the current batch.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] once the journal is closed, or when the database cannot be reached.
    pub async fn write(&self) -> Result<WriteTx> {
        let mut writer = self.writer.clone().lock_owned().await;
        writer.take_turn().await?;
        Ok(WriteTx::new(writer))
    }

    /// Says that a write comes in a moment: a batch that is open waits a little for it.
    ///
    /// Without it, writers that are kept apart by a lock of their own would each pay for a commit.
    pub fn intent(&self) -> Intent {
        Intent::new(&self.shared)
    }

    /// Returns the newest position that readers may see.
    pub fn published(&self) -> Position {
        self.shared.published.load(Ordering::SeqCst)
    }

    /// Returns what keeps the journal from storing anything.
    pub(crate) fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Lets go of all who follow: a test is over.
    #[cfg(test)]
    pub(crate) fn forget_followers(&self) {
        let followers = self.shared.followers.write();
        followers.unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Holds what followers keep in memory still: until the guard is dropped no commit is told.
    ///
    /// For moments only, and never across an await: writes wait for it.
    pub fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.shared
            .telling
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a follower; those added first are told first.
    pub fn follow(&self, follower: Arc<dyn Follower>) {
        self.shared
            .followers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(follower);
    }

    /// Commits what is open and lets no further turn begin.
    pub(crate) async fn close(&self) {
        let mut writer = self.writer.lock().await;
        writer.flush().await;
        if let Err(error) = writer.settle_doubt().await {
            tracing::error!(%error, "it is not known whether the last changes were stored");
            // Those who wait for it hear that the journal stopped.
            writer.in_doubt = None;
        }
        writer.closed = true;
        writer.locks.clear();
        if let Err(error) = writer.conn.retire().await {
            tracing::warn!(%error, "the database did not close cleanly");
        }
        // Ends the flusher.
        let (nobody, _) = mpsc::unbounded_channel();
        writer.flush = nobody;
    }
}

async fn flusher(writer: std::sync::Weak<Mutex<Writer>>, mut wanted: mpsc::UnboundedReceiver<()>) {
    loop {
        match timeout(PROBE_INTERVAL, wanted.recv()).await {
            Ok(Some(())) => {}
            Ok(None) => return,
            Err(_) => {
                if let Some(writer) = writer.upgrade() {
                    writer.lock_owned().await.probe().await;
                }
            }
        }
        let asked = Instant::now();
        while let Some(writer) = writer.upgrade() {
            let mut writer = writer.lock_owned().await;
            if writer.in_doubt.is_some() {
                if let Err(error) = writer.settle_doubt().await {
                    tracing::debug!(%error, "the database does not answer yet");
                    drop(writer);
                    tokio::time::sleep(DOUBT_INTERVAL).await;
                }
                continue;
            }
            if writer.is_ripe() || asked.elapsed() > RIPENING {
                writer.flush().await;
                if writer.in_doubt.is_some() {
                    continue;
                }
                break;
            }
            // Those who wait by now go first, and those who are on their way get the time to come.
            drop(writer);
            tokio::task::yield_now().await;
        }
    }
}

impl Intent {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.intents.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: shared.clone(),
        }
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        self.shared.intents.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn tell(&self, changes: &[(Position, Change)], newest: Position) {
        let _telling = self.telling.write().unwrap_or_else(PoisonError::into_inner);
        for follower in self
            .followers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            follower.committed(changes);
        }
        self.published.store(newest, Ordering::SeqCst);
    }

    fn tell_failure(&self) {
        self.strings.forget();
        for follower in self
            .followers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            follower.failed();
        }
    }
}

impl Writer {
    /// Returns whether nobody is on their way into the open batch, or it is large enough.
    fn is_ripe(&self) -> bool {
        self.shared.intents.load(Ordering::SeqCst) == 0
            || self
                .open
                .as_ref()
                .is_none_or(|batch| batch.changes.len() >= LARGE)
    }

    async fn take_turn(&mut self) -> Result<()> {
        if self.closed {
            return Err(Error::Unavailable("the server is stopping".to_owned()));
        }
        self.settle_doubt().await?;
        if let Err(error) = self.settle().await {
            self.lose(&error).await;
        }
        if self.lost {
            let connected = self.connect_again().await;
            if let Err(error) = &connected {
                // Nothing is lost by it: memory goes on answering.
                self.note_problem(&BatchLoss::from(error));
            }
            connected?;
        }
        let begun = self.begin().await;
        if let Err(error) = &begun {
            self.lose(error).await;
        }
        begun
    }

    async fn connect_again(&mut self) -> Result<()> {
        self.conn = self.target.connect_writer().await?;
        self.recall_position().await?;
        self.lost = false;
        Ok(())
    }

    async fn begin(&mut self) -> Result<()> {
        if self.open.is_none() {
            self.opening = true;
            self.conn.begin().await?;
            self.opening = false;
            self.open = Some(Batch {
                outcome: watch::Sender::new(None),
                changes: Vec::new(),
            });
            // The flusher queues behind those who wait already.
            let _ = self.flush.send(());
        }
        let was_kept = std::mem::replace(&mut self.savepoint, Savepoint::None) == Savepoint::Kept;
        let make = if was_kept {
            "RELEASE SAVEPOINT turn; SAVEPOINT turn"
        } else {
            "SAVEPOINT turn"
        };
        self.conn.run(make).await?;
        self.savepoint = Savepoint::Open; // until `release` says otherwise
        Ok(())
    }

    /// Undoes what a caller left behind that failed or vanished.
    async fn settle(&mut self) -> Result<()> {
        if self.opening {
            // SQLite refuses when nothing had begun; then nothing is to be undone.
            if let Err(error) = self.conn.run("ROLLBACK").await {
                tracing::debug!(%error, "no transaction to roll back");
            }
            self.opening = false;
        }
        if self.savepoint == Savepoint::Open {
            self.conn.run("ROLLBACK TO SAVEPOINT turn").await?;
            // The savepoint itself stays, empty; the next turn lies in it.
            self.savepoint = Savepoint::None;
        }
        Ok(())
    }

    /// Commits the open batch, tells its changes in order, then answers all who wait for it.
    async fn flush(&mut self) {
        if self.open.is_none() {
            return;
        }
        match self.commit().await {
            Ok(()) => {
                self.savepoint = Savepoint::None;
                if let Some(batch) = self.open.take() {
                    self.tell(&batch);
                }
            }
            Err(CommitError::Before(error)) => {
                tracing::error!(%error, "a batch of changes could not be written");
                self.lose(&error).await;
            }
            Err(CommitError::Unanswered { number, error }) => self.doubt(number, error),
        }
    }

    async fn commit(&mut self) -> Result<(), CommitError> {
        self.settle().await.map_err(CommitError::Before)?;
        let (last, number) = (self.next_position - 1, rand::random::<i64>());
        self.query("UPDATE journal SET position = $1, batch = $2")
            .bind(last)
            .bind(number)
            .execute()
            .await
            .map_err(CommitError::Before)?;
        let committed = self.run_commit().await;
        committed.map_err(|error| CommitError::Unanswered { number, error })
    }

    /// Tells the changes of a batch that is on disk, and answers all who wait for it.
    fn tell(&self, batch: &Batch) {
        self.shared.tell(&batch.changes, self.next_position - 1);
        self.shared.health.clear();
        batch.outcome.send_replace(Some(Ok(())));
    }

    /// Says that a batch was not stored.
    fn tell_loss(&self, batch: Option<Batch>, error: &Error) {
        self.shared.tell_failure();
        let loss = BatchLoss::from(error);
        self.note_problem(&loss);
        if let Some(batch) = batch {
            batch.outcome.send_replace(Some(Err(loss)));
        }
    }

    /// Notes for the operator's tools that nothing can be stored, if that may go on for a while.
    fn note_problem(&self, loss: &BatchLoss) {
        if let Some(problem) = loss.problem() {
            self.shared.health.set_problem(problem);
        }
    }

    /// Tries whether something can be stored, if it could not of late.
    async fn probe(&mut self) {
        if self.shared.health.problem().is_none() || self.closed {
            return;
        }
        match self.take_turn().await {
            Ok(()) => self.flush().await,
            Err(error) => tracing::debug!(%error, "nothing can be stored yet"),
        }
    }

    /// Gives up the open batch and the connection: whether the database still answers is not known.
    async fn lose(&mut self, error: &Error) {
        self.savepoint = Savepoint::None;
        self.opening = false;
        self.lost = true;
        if let Err(error) = self.conn.give_up().await {
            tracing::debug!(%error, "a lost connection does not answer");
        }
        let batch = self.open.take();
        self.tell_loss(batch, error);
    }

    async fn recall_position(&mut self) -> Result<()> {
        let last = position(self).await?;
        self.next_position = self.next_position.max(last + 1);
        Ok(())
    }
}

/// Returns the position of the last change that a connection sees.
pub async fn position(db: &mut impl Read) -> Result<Position> {
    let last = db
        .query("SELECT position FROM journal")
        .fetch_scalar()
        .await?;
    Ok(last.unwrap_or_default())
}

impl Read for Writer {
    fn raw(&mut self) -> Raw<'_> {
        self.conn.raw()
    }
}

#[cfg(test)]
mod tests;
