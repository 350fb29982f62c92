//! A turn to write, and the wait until its changes are on disk.

use std::sync::Arc;

use tokio::sync::{OwnedMutexGuard, watch};

use super::{
    batch::BatchOutcome,
    writer::{JournalWriter, SavepointState},
};
use crate::{
    error::{Error, Result},
    numbers::{Position, StringNum},
    storage::engine::{
        change::JournalChange, dialect::RawConnection, interned_strings::InternedStrings,
        query::ReadAccess,
    },
};

/// A turn to write. If it is dropped without [`WriteTx::commit`] or [`WriteTx::release`], nothing is written.
pub struct WriteTx {
    pub(super) writer: OwnedMutexGuard<JournalWriter>,
    changes: Vec<(Position, JournalChange)>,
    interned: Vec<(Arc<str>, StringNum)>,
}

impl ReadAccess for WriteTx {
    fn raw(&mut self) -> RawConnection<'_> {
        self.writer.conn.raw()
    }
}

impl WriteTx {
    pub(super) fn new(writer: OwnedMutexGuard<JournalWriter>) -> Self {
        Self {
            writer,
            changes: Vec::new(),
            interned: Vec::new(),
        }
    }

    /// Takes the next position, for the rows of a change.
    pub fn next_position(&mut self) -> Position {
        let position = self.writer.next_position;
        self.writer.next_position = position.next();
        position
    }

    /// Leaves positions free before the next one, for changes that belong there and may come later.
    pub fn reserve_positions(&mut self, count: i64) {
        self.writer.next_position = self.writer.next_position.plus(count);
    }

    /// Registers a change that the commit will announce. It is not announced after a roll-back.
    pub fn publish(&mut self, position: Position, change: JournalChange) {
        self.changes.push((position, change));
    }

    /// Leaves the write in the batch and ends the turn. The write is not on disk yet.
    ///
    /// # Errors
    ///
    /// When the batch has been lost.
    pub fn release(mut self) -> Result<PendingWrite> {
        let interned = std::mem::take(&mut self.interned);
        let mut changes = std::mem::take(&mut self.changes);
        let Some(batch) = self.writer.open_batch.as_mut() else {
            return Err(Error::Unavailable(
                "the journal has no open batch".to_owned(),
            ));
        };
        batch.changes.append(&mut changes);
        let outcome = batch.outcome.subscribe();
        self.writer.savepoint = SavepointState::Kept;
        if !interned.is_empty() {
            self.writer.shared.strings.cache_pairs(interned);
        }
        Ok(PendingWrite { outcome })
    }

    /// Waits until the write is on disk and the followers have received it.
    pub async fn commit(self) -> Result<()> {
        self.release()?.wait_until_durable().await
    }

    pub(in crate::storage) fn strings(&self) -> &InternedStrings {
        &self.writer.shared.strings
    }

    pub(in crate::storage) fn interned_number(&self, text: &str) -> Option<StringNum> {
        self.interned
            .iter()
            .find(|(known, _)| &**known == text)
            .map(|(_, number)| *number)
    }

    pub(in crate::storage) fn record_interned(&mut self, text: &str, number: StringNum) {
        self.interned.push((Arc::from(text), number));
    }
}

/// A write in a batch that is not yet on disk.
#[must_use = "nothing may be answered before it is durable"]
pub struct PendingWrite {
    outcome: watch::Receiver<BatchOutcome>,
}

impl PendingWrite {
    /// Waits until the batch is on disk.
    ///
    /// # Errors
    ///
    /// When the batch was lost: nothing of it was stored.
    pub async fn wait_until_durable(mut self) -> Result<()> {
        let outcome = self.outcome.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(loss))) => Err(loss.clone().into()),
            Ok(None) | Err(_) => Err(Error::Unavailable("the journal stopped".to_owned())),
        }
    }
}
