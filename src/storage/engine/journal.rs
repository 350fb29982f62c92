//! The only writer: fair turns, group commit, positions, and the announcement of committed changes.
//!
//! A write waits for its turn on a fair lock and runs in a savepoint of the open batch. The write that opens a batch
//! also queues the *flusher* on the same lock. The flusher gets its turn after all writes that are waiting by then, and
//! commits them together. Writes that arrive during that commit form the next batch. So a single write costs one fsync,
//! and so do thirty-two that arrive at the same time. A writer that is held up by a lock of its own, such as a room's,
//! registers an intent, and the batch waits a few milliseconds for it.
//!
//! A turn that fails, or whose caller is dropped, is rolled back to its savepoint and does not affect the others.
//!
//! A commit without an answer leaves its batch *in doubt*: the database is asked until it answers whether it stored the
//! batch. Until then nothing is written, and no writer of the batch gets an answer.

mod batch_in_doubt;
mod write_tx;

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

use self::batch_in_doubt::{CommitError, DoubtfulBatch};
pub use self::write_tx::{Pending, WriteTx};
use super::{
    change::Change,
    dialect::{Conn, Raw, Target},
    directory_lock::DirectoryLock,
    failure::BatchLoss,
    interned_strings::Strings,
    migrations,
};
use crate::{
    error::{Error, Result},
    health::Health,
    storage::Read,
    tasks::Tasks,
};

/// The time for which a batch waits for writers that have registered an intent.
const RIPENING: Duration = Duration::from_millis(4);
/// The number of changes from which on a batch waits for no intent.
const LARGE: usize = 256;
/// The time between two questions to the database about a batch in doubt.
const DOUBT_INTERVAL: Duration = Duration::from_millis(250);
/// The interval at which the journal tries to write, after it could not.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// The place of a change in the order of all changes. A sync token is made of such positions.
pub type Position = i64;

/// A follower of the journal in memory. It is called in order, between the commit and its answer, so it must be quick.
pub trait Follower: Send + Sync {
    /// Handles changes that are on disk.
    fn committed(&self, changes: &[(Position, Change)]);
    /// Handles the loss of a batch: everything in memory from writes that were not yet durable is wrong.
    fn failed(&self);
}

/// The state of a batch for its writers: `None` while it is open, then whether it is on disk.
type Outcome = Option<Result<(), BatchLoss>>;

/// The handle of the journal. It is cheap to clone.
#[derive(Clone)]
pub struct Journal {
    writer: Arc<Mutex<Writer>>,
    shared: Arc<Shared>,
}

/// An announcement of a write, for which a batch may wait a little.
pub struct Intent {
    shared: Arc<Shared>,
}

struct Shared {
    /// The number of registered intents.
    intents: AtomicUsize,
    /// The newest position that readers may see.
    published: AtomicI64,
    followers: RwLock<Vec<Arc<dyn Follower>>>,
    /// Locked while a batch is announced, so that a reader can keep memory from changing.
    telling: RwLock<()>,
    strings: Strings,
    health: Health,
}

struct Writer {
    target: Target,
    conn: Conn,
    /// Whether the connection is unusable; the next turn opens a new one.
    lost: bool,
    next_position: Position,
    open: Option<Batch>,
    /// The batch whose commit was not answered.
    in_doubt: Option<DoubtfulBatch>,
    savepoint: Savepoint,
    /// Whether a caller was dropped while it opened a batch: the transaction may or may not have begun.
    opening: bool,
    closed: bool,
    flush: mpsc::UnboundedSender<()>,
    shared: Arc<Shared>,
    /// The locks on the data directories, held until the journal is closed.
    locks: Vec<DirectoryLock>,
    #[cfg(test)]
    fault: batch_in_doubt::Fault,
}

/// The savepoint of the latest turn in the open batch.
///
/// Each state is set before the statement that leads to it is awaited, or holds whether or not it ran: a caller may be
/// dropped at any await.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Savepoint {
    /// There is none, or it is not known whether there is. In both cases nothing was written in it.
    None,
    /// A turn writes in it. If the next turn finds this state, the turn before failed or was dropped.
    Open,
    /// The turn is over and its changes stay.
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
        migrations::run(&mut conn).await?;
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
            fault: batch_in_doubt::Fault::default(),
        };
        writer.recall_position().await?;
        shared
            .published
            .store(writer.next_position - 1, Ordering::SeqCst);
        let writer = Arc::new(Mutex::new(writer));
        // The flusher runs until the last writer is dropped, not until the stop signal: written changes must reach the
        // disk.
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

    /// Announces a write: an open batch waits a little for it.
    ///
    /// Without this, writers that are kept apart by a lock of their own would each pay for a commit.
    pub fn intent(&self) -> Intent {
        Intent::new(&self.shared)
    }

    /// Returns the newest position that readers may see.
    pub fn published(&self) -> Position {
        self.shared.published.load(Ordering::SeqCst)
    }

    /// Returns the reason why the journal cannot store anything, if there is one.
    pub(crate) fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Drops all followers at the end of a test.
    #[cfg(test)]
    pub(crate) fn forget_followers(&self) {
        let followers = self.shared.followers.write();
        followers.unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps the followers' memory from changing: until the guard is dropped, no commit is announced.
    ///
    /// This must be held for a moment only, and never across an await: writes wait for it.
    pub fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.shared
            .telling
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a follower. Followers are called in the order in which they were added.
    pub fn follow(&self, follower: Arc<dyn Follower>) {
        self.shared
            .followers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(follower);
    }

    /// Commits the open batch and refuses further turns.
    pub(crate) async fn close(&self) {
        let mut writer = self.writer.lock().await;
        writer.flush().await;
        if let Err(error) = writer.settle_doubt().await {
            tracing::error!(%error, "the journal was closed without knowing whether the last changes were stored");
            // The waiting writers get the error that the journal stopped.
            writer.in_doubt = None;
        }
        writer.closed = true;
        writer.locks.clear();
        if let Err(error) = writer.conn.retire().await {
            tracing::warn!(%error, "the database did not close cleanly");
        }
        // This ends the flusher.
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
            // Writers that wait by now go first, and announced ones get time to arrive.
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
    /// Returns whether no intent is registered, or the open batch is large enough.
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
                // Nothing is lost by this: requests are still answered from memory.
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
            // The flusher queues behind the writers that already wait.
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

    /// Undoes the unfinished turn of a caller that failed or was dropped.
    async fn settle(&mut self) -> Result<()> {
        if self.opening {
            // SQLite refuses if no transaction had begun; then there is nothing to undo.
            if let Err(error) = self.conn.run("ROLLBACK").await {
                tracing::debug!(%error, "no transaction to roll back");
            }
            self.opening = false;
        }
        if self.savepoint == Savepoint::Open {
            self.conn.run("ROLLBACK TO SAVEPOINT turn").await?;
            // The savepoint itself stays, empty; the next turn is inside it.
            self.savepoint = Savepoint::None;
        }
        Ok(())
    }

    /// Commits the open batch, announces its changes in order, then answers all its writers.
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

    /// Announces the changes of a batch that is on disk, and answers all its writers.
    fn tell(&self, batch: &Batch) {
        self.shared.tell(&batch.changes, self.next_position - 1);
        self.shared.health.clear();
        batch.outcome.send_replace(Some(Ok(())));
    }

    /// Reports that a batch was not stored.
    fn tell_loss(&self, batch: Option<Batch>, error: &Error) {
        self.shared.tell_failure();
        let loss = BatchLoss::from(error);
        self.note_problem(&loss);
        if let Some(batch) = batch {
            batch.outcome.send_replace(Some(Err(loss)));
        }
    }

    /// Records for the operator's tools that nothing can be stored, if this may last for a while.
    fn note_problem(&self, loss: &BatchLoss) {
        if let Some(problem) = loss.problem() {
            self.shared.health.set_problem(problem);
        }
    }

    /// Tries to write, if the last attempt failed.
    async fn probe(&mut self) {
        if self.shared.health.problem().is_none() || self.closed {
            return;
        }
        match self.take_turn().await {
            Ok(()) => self.flush().await,
            Err(error) => tracing::debug!(%error, "the journal still cannot store anything"),
        }
    }

    /// Drops the open batch and the connection, because it is not known whether the database still answers.
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
