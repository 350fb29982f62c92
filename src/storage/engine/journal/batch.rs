//! Batches of writes, and batches in doubt: the database was asked to commit them, and did not answer.

use tokio::sync::watch;

use crate::{
    error::{Error, Result},
    numbers::Position,
    storage::engine::{change::JournalChange, failure::BatchLoss},
};
/// The state of a batch for its writers: `None` while it is open, then whether it is on disk.
pub(super) type BatchOutcome = Option<Result<(), BatchLoss>>;

/// The writes that are committed together.
pub(super) struct WriteBatch {
    pub(super) outcome: watch::Sender<BatchOutcome>,
    pub(super) changes: Vec<(Position, JournalChange)>,
}

/// A batch of which it is not known whether it was stored.
pub(super) struct DoubtfulBatch {
    pub(super) batch: WriteBatch,
    /// The number that its commit wrote.
    pub(super) number: i64,
    /// The reason why there was no answer.
    pub(super) error: Error,
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
    pub(super) fn error() -> Error {
        Error::Unavailable("the connection is lost".to_owned())
    }
}
