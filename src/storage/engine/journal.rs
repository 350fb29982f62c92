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

mod batch;
mod followers;
mod write_tx;
mod writer;

use std::{
    sync::{Arc, PoisonError, RwLockReadGuard},
    time::Duration,
};

use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, timeout},
};

use self::{followers::JournalState, writer::JournalWriter};
pub use self::{
    followers::{JournalFollower, WriteIntent},
    write_tx::{PendingWrite, WriteTx},
    writer::last_position,
};
use super::{
    dialect::DatabaseTarget, directory_lock::DirectoryLock, interned_strings::InternedStrings,
    migrations,
};
use crate::{error::Result, health::Health, numbers::Position, tasks::Tasks};

/// The time for which a batch waits for writers that have registered an intent.
const MAX_INTENT_WAIT: Duration = Duration::from_millis(4);
/// The time between two attempts to find out whether a batch in doubt was stored.
const DOUBT_INTERVAL: Duration = Duration::from_millis(250);
/// The interval at which the journal tries to write again after a failure.
const WRITE_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The handle of the journal. It is cheap to clone.
#[derive(Clone)]
pub struct Journal {
    writer: Arc<Mutex<JournalWriter>>,
    shared: Arc<JournalState>,
}

impl Journal {
    /// Connects the writer, brings the schema up to date and starts the flusher.
    pub(crate) async fn open(
        target: &DatabaseTarget,
        strings: InternedStrings,
        tasks: &Tasks,
        locks: Vec<DirectoryLock>,
    ) -> Result<Self> {
        let mut conn = target.connect_writer().await?;
        migrations::run(&mut conn).await?;
        let (flush_sender, flush_receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(JournalState::new(strings));
        let writer =
            JournalWriter::open(target.clone(), conn, shared.clone(), flush_sender, locks).await?;
        shared.published.store(writer.next_position.previous());
        let writer = Arc::new(Mutex::new(writer));
        // The flusher runs until the last writer is dropped, not until the stop signal: written changes must reach the
        // disk.
        drop(tasks.spawn(run_flusher(Arc::downgrade(&writer), flush_receiver)));
        Ok(Self { writer, shared })
    }

    /// Waits for a turn and opens a savepoint in the current batch.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`](crate::error::Error::Unavailable) once the journal is closed, or when the database
    /// cannot be reached.
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
        self.shared.published.load()
    }

    /// Returns the health of the journal, which has the reason why it cannot store anything, if there is one.
    pub(crate) fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Drops all followers. They and the database keep each other, and all connections, alive.
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
        let (closed_sender, _) = mpsc::unbounded_channel();
        writer.flush_requests = closed_sender;
    }
}

async fn run_flusher(
    writer: std::sync::Weak<Mutex<JournalWriter>>,
    mut flush_requests: mpsc::UnboundedReceiver<()>,
) {
    loop {
        match timeout(WRITE_RETRY_INTERVAL, flush_requests.recv()).await {
            Ok(Some(())) => {}
            Ok(None) => return,
            Err(_) => {
                if let Some(writer) = writer.upgrade() {
                    writer.lock_owned().await.retry_write().await;
                }
            }
        }
        flush_when_ready(&writer).await;
    }
}

/// Flushes the writer once, as soon as it is ready or has waited long enough.
async fn flush_when_ready(writer: &std::sync::Weak<Mutex<JournalWriter>>) {
    let requested_at = Instant::now();
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
        if writer.is_ready_to_flush() || requested_at.elapsed() > MAX_INTENT_WAIT {
            writer.flush().await;
            if writer.in_doubt.is_none() {
                return;
            }
            continue;
        }
        // Writers that already wait go first, and those that have registered an intent get time to arrive.
        drop(writer);
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
