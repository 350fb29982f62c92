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
pub use self::write_tx::{PendingWrite, WriteTx};
use super::{
    change::JournalChange,
    dialect::{DatabaseTarget, RawConnection, WriterConnection},
    directory_lock::DirectoryLock,
    failure::BatchLoss,
    interned_strings::InternedStrings,
    migrations,
};
use crate::{
    error::{Error, Result},
    health::Health,
    storage::ReadAccess,
    tasks::Tasks,
};

/// The time for which a batch waits for writers that have registered an intent.
const MAX_INTENT_WAIT: Duration = Duration::from_millis(4);
/// The number of changes from which on a batch waits for no intent.
const LARGE_BATCH_CHANGES: usize = 256;
/// The time between two questions to the database about a batch in doubt.
const DOUBT_INTERVAL: Duration = Duration::from_millis(250);
/// The interval at which the journal tries to write, after it could not.
const WRITE_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The place of a change in the order of all changes. A sync token is made of such positions.
pub type Position = i64;

/// A follower of the journal in memory. It is called in order, between the commit and its answer, so it must be quick.
pub trait JournalFollower: Send + Sync {
    /// Handles changes that are on disk.
    fn committed(&self, changes: &[(Position, JournalChange)]);
    /// Handles the loss of a batch: everything in memory from writes that were not yet durable is wrong.
    fn failed(&self);
}

/// The state of a batch for its writers: `None` while it is open, then whether it is on disk.
type BatchOutcome = Option<Result<(), BatchLoss>>;

/// The handle of the journal. It is cheap to clone.
#[derive(Clone)]
pub struct Journal {
    writer: Arc<Mutex<JournalWriter>>,
    shared: Arc<JournalState>,
}

/// An announcement of a write, for which a batch may wait a little.
pub struct WriteIntent {
    shared: Arc<JournalState>,
}

struct JournalState {
    /// The number of registered intents.
    intents: AtomicUsize,
    /// The newest position that readers may see.
    published: AtomicI64,
    followers: RwLock<Vec<Arc<dyn JournalFollower>>>,
    /// Locked while a batch is announced, so that a reader can keep memory from changing.
    announcing: RwLock<()>,
    strings: InternedStrings,
    health: Health,
}

struct JournalWriter {
    target: DatabaseTarget,
    conn: WriterConnection,
    /// Whether the connection is unusable; the next turn opens a new one.
    connection_lost: bool,
    next_position: Position,
    open_batch: Option<WriteBatch>,
    /// The batch whose commit was not answered.
    in_doubt: Option<DoubtfulBatch>,
    savepoint: SavepointState,
    /// Whether a caller was dropped while it opened a batch: the transaction may or may not have begun.
    is_opening: bool,
    closed: bool,
    flush_requests: mpsc::UnboundedSender<()>,
    shared: Arc<JournalState>,
    /// The locks on the data directories, held until the journal is closed.
    locks: Vec<DirectoryLock>,
    #[cfg(test)]
    fault: batch_in_doubt::CommitFault,
}

/// The savepoint of the latest turn in the open batch.
///
/// Each state is set before the statement that leads to it is awaited, or holds whether or not it ran: a caller may be
/// dropped at any await.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SavepointState {
    /// There is none, or it is not known whether there is. In both cases nothing was written in it.
    None,
    /// A turn writes in it. If the next turn finds this state, the turn before failed or was dropped.
    Open,
    /// The turn is over and its changes stay.
    Kept,
}

struct WriteBatch {
    outcome: watch::Sender<BatchOutcome>,
    changes: Vec<(Position, JournalChange)>,
}

impl Journal {
    /// Connects the writer, brings the schema up to date and starts the flusher.
    pub(crate) async fn open(
        target: &DatabaseTarget,
        strings: InternedStrings,
        (tasks, locks): (&Tasks, Vec<DirectoryLock>),
    ) -> Result<Self> {
        let mut conn = target.connect_writer().await?;
        migrations::run(&mut conn).await?;
        let (flush, wanted) = mpsc::unbounded_channel();
        let shared = Arc::new(JournalState {
            intents: AtomicUsize::new(0),
            published: AtomicI64::new(0),
            followers: RwLock::default(),
            announcing: RwLock::default(),
            strings,
            health: Health::default(),
        });
        let mut writer = JournalWriter {
            target: target.clone(),
            conn,
            connection_lost: false,
            next_position: 1,
            open_batch: None,
            in_doubt: None,
            savepoint: SavepointState::None,
            is_opening: false,
            closed: false,
            flush_requests: flush,
            shared: shared.clone(),
            locks,
            #[cfg(test)]
            fault: batch_in_doubt::CommitFault::default(),
        };
        writer.load_position().await?;
        shared
            .published
            .store(writer.next_position - 1, Ordering::SeqCst);
        let writer = Arc::new(Mutex::new(writer));
        // The flusher runs until the last writer is dropped, not until the stop signal: written changes must reach the
        // disk.
        drop(tasks.spawn(run_flusher(Arc::downgrade(&writer), wanted)));
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
    pub fn register_intent(&self) -> WriteIntent {
        WriteIntent::new(&self.shared)
    }

    /// Returns the newest position that readers may see.
    pub fn published_position(&self) -> Position {
        self.shared.published.load(Ordering::SeqCst)
    }

    /// Returns the reason why the journal cannot store anything, if there is one.
    pub(crate) fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Drops all followers at the end of a test.
    #[cfg(test)]
    pub(crate) fn remove_followers(&self) {
        let followers = self.shared.followers.write();
        followers.unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps the followers' memory from changing: until the guard is dropped, no commit is announced.
    ///
    /// This must be held for a moment only, and never across an await: writes wait for it.
    pub fn hold_announcements(&self) -> RwLockReadGuard<'_, ()> {
        self.shared
            .announcing
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a follower. Followers are called in the order in which they were added.
    pub fn add_follower(&self, follower: Arc<dyn JournalFollower>) {
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
        if let Err(error) = writer.resolve_doubt().await {
            tracing::error!(%error, "the journal was closed without knowing whether the last changes were stored");
            // The waiting writers get the error that the journal stopped.
            writer.in_doubt = None;
        }
        writer.closed = true;
        writer.locks.clear();
        if let Err(error) = writer.conn.prepare_close().await {
            tracing::warn!(%error, "the database did not close cleanly");
        }
        // This ends the flusher.
        let (nobody, _) = mpsc::unbounded_channel();
        writer.flush_requests = nobody;
    }
}

async fn run_flusher(
    writer: std::sync::Weak<Mutex<JournalWriter>>,
    mut wanted: mpsc::UnboundedReceiver<()>,
) {
    loop {
        match timeout(WRITE_RETRY_INTERVAL, wanted.recv()).await {
            Ok(Some(())) => {}
            Ok(None) => return,
            Err(_) => {
                if let Some(writer) = writer.upgrade() {
                    writer.lock_owned().await.retry_write().await;
                }
            }
        }
        let asked = Instant::now();
        while let Some(writer) = writer.upgrade() {
            let mut writer = writer.lock_owned().await;
            if writer.in_doubt.is_some() {
                if let Err(error) = writer.resolve_doubt().await {
                    tracing::debug!(%error, "the database does not answer yet");
                    drop(writer);
                    tokio::time::sleep(DOUBT_INTERVAL).await;
                }
                continue;
            }
            if writer.is_ready_to_flush() || asked.elapsed() > MAX_INTENT_WAIT {
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

impl WriteIntent {
    fn new(shared: &Arc<JournalState>) -> Self {
        shared.intents.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: shared.clone(),
        }
    }
}

impl Drop for WriteIntent {
    fn drop(&mut self) {
        self.shared.intents.fetch_sub(1, Ordering::SeqCst);
    }
}

impl JournalState {
    fn announce_changes(&self, changes: &[(Position, JournalChange)], newest: Position) {
        let _telling = self
            .announcing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
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

    fn announce_failure(&self) {
        self.strings.clear_cache();
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

impl JournalWriter {
    /// Returns whether no intent is registered, or the open batch is large enough.
    fn is_ready_to_flush(&self) -> bool {
        self.shared.intents.load(Ordering::SeqCst) == 0
            || self
                .open_batch
                .as_ref()
                .is_none_or(|batch| batch.changes.len() >= LARGE_BATCH_CHANGES)
    }

    async fn take_turn(&mut self) -> Result<()> {
        if self.closed {
            return Err(Error::Unavailable("the server is stopping".to_owned()));
        }
        self.resolve_doubt().await?;
        if let Err(error) = self.undo_unfinished_turn().await {
            self.discard_batch(&error).await;
        }
        if self.connection_lost {
            let connected = self.reconnect().await;
            if let Err(error) = &connected {
                // Nothing is lost by this: requests are still answered from memory.
                self.record_problem(&BatchLoss::from(error));
            }
            connected?;
        }
        let begun = self.open_savepoint().await;
        if let Err(error) = &begun {
            self.discard_batch(error).await;
        }
        begun
    }

    async fn reconnect(&mut self) -> Result<()> {
        self.conn = self.target.connect_writer().await?;
        self.load_position().await?;
        self.connection_lost = false;
        Ok(())
    }

    async fn open_savepoint(&mut self) -> Result<()> {
        if self.open_batch.is_none() {
            self.is_opening = true;
            self.conn.begin_transaction().await?;
            self.is_opening = false;
            self.open_batch = Some(WriteBatch {
                outcome: watch::Sender::new(None),
                changes: Vec::new(),
            });
            // The flusher queues behind the writers that already wait.
            let _ = self.flush_requests.send(());
        }
        let was_kept =
            std::mem::replace(&mut self.savepoint, SavepointState::None) == SavepointState::Kept;
        let make = if was_kept {
            "RELEASE SAVEPOINT turn; SAVEPOINT turn"
        } else {
            "SAVEPOINT turn"
        };
        self.conn.run_sql(make).await?;
        self.savepoint = SavepointState::Open; // until `release` says otherwise
        Ok(())
    }

    /// Undoes the unfinished turn of a caller that failed or was dropped.
    async fn undo_unfinished_turn(&mut self) -> Result<()> {
        if self.is_opening {
            // SQLite refuses if no transaction had begun; then there is nothing to undo.
            if let Err(error) = self.conn.run_sql("ROLLBACK").await {
                tracing::debug!(%error, "no transaction to roll back");
            }
            self.is_opening = false;
        }
        if self.savepoint == SavepointState::Open {
            self.conn.run_sql("ROLLBACK TO SAVEPOINT turn").await?;
            // The savepoint itself stays, empty; the next turn is inside it.
            self.savepoint = SavepointState::None;
        }
        Ok(())
    }

    /// Commits the open batch, announces its changes in order, then answers all its writers.
    async fn flush(&mut self) {
        if self.open_batch.is_none() {
            return;
        }
        match self.commit().await {
            Ok(()) => {
                self.savepoint = SavepointState::None;
                if let Some(batch) = self.open_batch.take() {
                    self.announce_batch(&batch);
                }
            }
            Err(CommitError::Before(error)) => {
                tracing::error!(%error, "a batch of changes could not be written");
                self.discard_batch(&error).await;
            }
            Err(CommitError::Unanswered { number, error }) => self.put_in_doubt(number, error),
        }
    }

    async fn commit(&mut self) -> Result<(), CommitError> {
        self.undo_unfinished_turn()
            .await
            .map_err(CommitError::Before)?;
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
    fn announce_batch(&self, batch: &WriteBatch) {
        self.shared
            .announce_changes(&batch.changes, self.next_position - 1);
        self.shared.health.clear();
        batch.outcome.send_replace(Some(Ok(())));
    }

    /// Reports that a batch was not stored.
    fn report_lost_batch(&self, batch: Option<WriteBatch>, error: &Error) {
        self.shared.announce_failure();
        let loss = BatchLoss::from(error);
        self.record_problem(&loss);
        if let Some(batch) = batch {
            batch.outcome.send_replace(Some(Err(loss)));
        }
    }

    /// Records for the operator's tools that nothing can be stored, if this may last for a while.
    fn record_problem(&self, loss: &BatchLoss) {
        if let Some(problem) = loss.problem() {
            self.shared.health.set_problem(problem);
        }
    }

    /// Tries to write, if the last attempt failed.
    async fn retry_write(&mut self) {
        if self.shared.health.problem().is_none() || self.closed {
            return;
        }
        match self.take_turn().await {
            Ok(()) => self.flush().await,
            Err(error) => tracing::debug!(%error, "the journal still cannot store anything"),
        }
    }

    /// Drops the open batch and the connection, because it is not known whether the database still answers.
    async fn discard_batch(&mut self, error: &Error) {
        self.savepoint = SavepointState::None;
        self.is_opening = false;
        self.connection_lost = true;
        if let Err(error) = self.conn.abort_transaction().await {
            tracing::debug!(%error, "a lost connection does not answer");
        }
        let batch = self.open_batch.take();
        self.report_lost_batch(batch, error);
    }

    async fn load_position(&mut self) -> Result<()> {
        let last = last_position(self).await?;
        self.next_position = self.next_position.max(last + 1);
        Ok(())
    }
}

/// Returns the position of the last change that a connection sees.
pub async fn last_position(db: &mut impl ReadAccess) -> Result<Position> {
    let last = db
        .query("SELECT position FROM journal")
        .fetch_scalar()
        .await?;
    Ok(last.unwrap_or_default())
}

impl ReadAccess for JournalWriter {
    fn raw(&mut self) -> RawConnection<'_> {
        self.conn.raw()
    }
}

#[cfg(test)]
mod tests;
