//! The writer behind the journal: its connection, the savepoint of each turn, and the commit of a batch.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::{mpsc, watch};

#[cfg(test)]
use super::batch::CommitFault;
use super::{
    batch::{CommitError, DoubtfulBatch, WriteBatch},
    followers::JournalState,
};
use crate::{
    error::{Error, Result},
    numbers::Position,
    storage::engine::{
        dialect::{DatabaseTarget, RawConnection, WriterConnection},
        directory_lock::DirectoryLock,
        failure::BatchLoss,
        query::ReadAccess,
    },
};

/// The number of changes from which on a batch no longer waits for writers with an intent.
const LARGE_BATCH_CHANGES: usize = 256;

/// The only writer to the database.
pub(super) struct JournalWriter {
    pub(super) target: DatabaseTarget,
    pub(super) conn: WriterConnection,
    /// Whether the connection is unusable; the next turn opens a new one.
    pub(super) connection_lost: bool,
    pub(super) next_position: Position,
    pub(super) open_batch: Option<WriteBatch>,
    /// The batch whose commit was not answered.
    pub(super) in_doubt: Option<DoubtfulBatch>,
    pub(super) savepoint: SavepointState,
    /// Whether a caller was dropped while it opened a batch: the transaction may or may not have begun.
    pub(super) is_opening: bool,
    pub(super) closed: bool,
    pub(super) flush_requests: mpsc::UnboundedSender<()>,
    pub(super) shared: Arc<JournalState>,
    /// The locks on the data directories, held until the journal is closed.
    pub(super) locks: Vec<DirectoryLock>,
    #[cfg(test)]
    pub(super) fault: CommitFault,
}

/// The savepoint of the latest turn in the open batch.
///
/// Each state is set before the statement that leads to it is awaited, or holds whether or not it ran: a caller may be
/// dropped at any await.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SavepointState {
    /// There is none, or it is not known whether there is. In both cases nothing was written in it.
    None,
    /// A turn writes in it. If the next turn finds this state, the turn before failed or was dropped.
    Open,
    /// The turn is over and its changes stay.
    Kept,
}

impl JournalWriter {
    /// Wraps the first connection, and reads the newest position.
    pub(super) async fn open(
        target: DatabaseTarget,
        conn: WriterConnection,
        shared: Arc<JournalState>,
        flush_requests: mpsc::UnboundedSender<()>,
        locks: Vec<DirectoryLock>,
    ) -> Result<Self> {
        let mut writer = Self {
            target,
            conn,
            connection_lost: false,
            next_position: Position::new(1),
            open_batch: None,
            in_doubt: None,
            savepoint: SavepointState::None,
            is_opening: false,
            closed: false,
            flush_requests,
            shared,
            locks,
            #[cfg(test)]
            fault: CommitFault::default(),
        };
        writer.load_position().await?;
        Ok(writer)
    }

    /// Returns whether no intent is registered, or the open batch is large enough.
    pub(super) fn is_ready_to_flush(&self) -> bool {
        self.shared.intents.load(Ordering::SeqCst) == 0
            || self
                .open_batch
                .as_ref()
                .is_none_or(|batch| batch.changes.len() >= LARGE_BATCH_CHANGES)
    }

    pub(super) async fn take_turn(&mut self) -> Result<()> {
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
            mem::replace(&mut self.savepoint, SavepointState::None) == SavepointState::Kept;
        let make = if was_kept {
            "RELEASE SAVEPOINT turn; SAVEPOINT turn"
        } else {
            "SAVEPOINT turn"
        };
        self.conn.run_sql(make).await?;
        self.savepoint = SavepointState::Open; // until `release` sets another state
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
    pub(super) async fn flush(&mut self) {
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
        let (last, number) = (self.next_position.previous(), rand::random::<i64>());
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
            .announce_changes(&batch.changes, self.next_position.previous());
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

    /// Records that nothing can be stored, if this may last for a while, so that operators can see it.
    fn record_problem(&self, loss: &BatchLoss) {
        if let Some(problem) = loss.problem() {
            self.shared.health.set_problem(problem);
        }
    }

    /// Tries to write, if the last attempt failed.
    pub(super) async fn retry_write(&mut self) {
        if self.shared.health.problem().is_none() || self.closed {
            return;
        }
        match self.take_turn().await {
            Ok(()) => self.flush().await,
            Err(error) => tracing::debug!(%error, "the journal still cannot store anything"),
        }
    }

    /// Drops the open batch and the connection, because it is not known whether the database still answers.
    pub(super) async fn discard_batch(&mut self, error: &Error) {
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
        self.next_position = self.next_position.max(last.next());
        Ok(())
    }

    /// Asks the database to commit.
    async fn run_commit(&mut self) -> Result<()> {
        #[cfg(test)]
        match mem::take(&mut self.fault) {
            CommitFault::None => {}
            CommitFault::NotCommitted => return Err(CommitFault::error()),
            CommitFault::AnswerLost => {
                self.conn.run_sql("COMMIT").await?;
                return Err(CommitFault::error());
            }
        }
        self.conn.run_sql("COMMIT").await
    }

    /// Puts the open batch in doubt until the database says whether it stored it.
    fn put_in_doubt(&mut self, number: i64, error: Error) {
        tracing::warn!(%error, "a commit was not answered: checking whether it took place");
        self.savepoint = SavepointState::None;
        self.connection_lost = true;
        self.in_doubt = self.open_batch.take().map(|batch| DoubtfulBatch {
            batch,
            number,
            error,
        });
    }

    /// Finds out whether the batch in doubt was stored, and answers its writers.
    ///
    /// # Errors
    ///
    /// When the database does not answer: the batch stays in doubt.
    pub(super) async fn resolve_doubt(&mut self) -> Result<()> {
        if self.in_doubt.is_none() {
            return Ok(());
        }
        if let Err(error) = self.conn.abort_transaction().await {
            tracing::debug!(%error, "a lost connection does not answer");
        }
        // The writer's lock is free only after the former connection is closed, and then its commit is over, too.
        self.conn = self.target.connect_writer().await?;
        let stored: Option<i64> = self
            .query("SELECT batch FROM journal")
            .fetch_scalar()
            .await?;
        let Some(doubtful) = self.in_doubt.take() else {
            return Ok(());
        };
        self.connection_lost = false;
        if stored == Some(doubtful.number) {
            tracing::info!("a batch was stored although its commit was not answered");
            self.announce_batch(&doubtful.batch);
        } else {
            let DoubtfulBatch { batch, error, .. } = doubtful;
            tracing::error!(%error, "a batch of changes could not be written");
            self.report_lost_batch(Some(batch), &error);
        }
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
