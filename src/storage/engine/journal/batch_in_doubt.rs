//! Batches in doubt: the database was asked to commit them, and did not answer.

use super::{JournalWriter, ReadAccess, SavepointState, WriteBatch};
use crate::error::{Error, Result};

/// A batch of which it is not known whether it was stored.
pub(super) struct DoubtfulBatch {
    batch: WriteBatch,
    /// The number that its commit wrote.
    number: i64,
    /// The reason why there was no answer.
    error: Error,
}

/// The failure of a commit.
pub(super) enum CommitError {
    /// It failed before the database was asked to commit.
    Before(Error),
    /// The database was asked to commit, and did not answer.
    Unanswered {
        /// The number of the batch.
        number: i64,
        /// The reason why there was no answer.
        error: Error,
    },
}

impl JournalWriter {
    /// Asks the database to commit.
    pub(super) async fn run_commit(&mut self) -> Result<()> {
        #[cfg(test)]
        match std::mem::take(&mut self.fault) {
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
    pub(super) fn put_in_doubt(&mut self, number: i64, error: Error) {
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
        // The writer's lock is only free when the former connection is closed, and with it its commit is over.
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
            tracing::info!("a batch whose commit was not answered was stored");
            self.announce_batch(&doubtful.batch);
        } else {
            let DoubtfulBatch { batch, error, .. } = doubtful;
            tracing::error!(%error, "a batch of changes could not be written");
            self.report_lost_batch(Some(batch), &error);
        }
        Ok(())
    }
}

/// The fault that a test causes in the next commit.
#[cfg(test)]
#[derive(Default)]
pub(super) enum CommitFault {
    #[default]
    None,
    /// The connection breaks before the database commits.
    NotCommitted,
    /// The connection breaks after the database committed.
    AnswerLost,
}

#[cfg(test)]
impl CommitFault {
    fn error() -> Error {
        Error::Unavailable("the connection is lost".to_owned())
    }
}
