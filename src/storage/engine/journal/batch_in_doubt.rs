//! Batches in doubt: the database was asked to commit them, and did not answer.

use super::{Batch, Read, Savepoint, Writer};
use crate::error::{Error, Result};

/// A batch of which it is not known whether it was stored.
pub(super) struct DoubtfulBatch {
    batch: Batch,
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

impl Writer {
    /// Asks the database to commit.
    pub(super) async fn run_commit(&mut self) -> Result<()> {
        #[cfg(test)]
        match std::mem::take(&mut self.fault) {
            Fault::None => {}
            Fault::NotCommitted => return Err(Fault::error()),
            Fault::AnswerLost => {
                self.conn.run("COMMIT").await?;
                return Err(Fault::error());
            }
        }
        self.conn.run("COMMIT").await
    }

    /// Puts the open batch in doubt until the database says whether it stored it.
    pub(super) fn doubt(&mut self, number: i64, error: Error) {
        tracing::warn!(%error, "a commit was not answered: checking whether it took place");
        self.savepoint = Savepoint::None;
        self.lost = true;
        self.in_doubt = self.open.take().map(|batch| DoubtfulBatch {
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
    pub(super) async fn settle_doubt(&mut self) -> Result<()> {
        if self.in_doubt.is_none() {
            return Ok(());
        }
        if let Err(error) = self.conn.give_up().await {
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
        self.lost = false;
        if stored == Some(doubtful.number) {
            tracing::info!("a batch whose commit was not answered was stored");
            self.tell(&doubtful.batch);
        } else {
            let DoubtfulBatch { batch, error, .. } = doubtful;
            tracing::error!(%error, "a batch of changes could not be written");
            self.tell_loss(Some(batch), &error);
        }
        Ok(())
    }
}

/// The fault that a test causes in the next commit.
#[cfg(test)]
#[derive(Default)]
pub(super) enum Fault {
    #[default]
    None,
    /// The connection breaks before the database commits.
    NotCommitted,
    /// The connection breaks after the database committed.
    AnswerLost,
}

#[cfg(test)]
impl Fault {
    fn error() -> Error {
        Error::Unavailable("the connection is lost".to_owned())
    }
}
