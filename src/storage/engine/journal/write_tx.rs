//! A turn to write, and the wait until it is on disk.

use std::sync::Arc;

use tokio::sync::{OwnedMutexGuard, watch};

use super::{Change, Outcome, Position, Raw, Read, Savepoint, Strings, Writer};
use crate::error::{Error, Result};

/// A turn to write. If it is dropped without [`WriteTx::commit`] or [`WriteTx::release`], nothing is written.
pub struct WriteTx {
    pub(super) writer: OwnedMutexGuard<Writer>,
    changes: Vec<(Position, Change)>,
    interned: Vec<(Arc<str>, i64)>,
}

impl Read for WriteTx {
    fn raw(&mut self) -> Raw<'_> {
        self.writer.conn.raw()
    }
}

impl WriteTx {
    pub(super) fn new(writer: OwnedMutexGuard<Writer>) -> Self {
        Self {
            writer,
            changes: Vec::new(),
            interned: Vec::new(),
        }
    }

    /// Takes the next position, for the rows of a change.
    pub fn position(&mut self) -> Position {
        let position = self.writer.next_position;
        self.writer.next_position += 1;
        position
    }

    /// Leaves positions free before the next one, for changes that belong there and may come later.
    pub fn leave_room(&mut self, places: i64) {
        self.writer.next_position += places;
    }

    /// Registers a change that the commit will announce. It is not announced after a roll-back.
    pub fn publish(&mut self, position: Position, change: Change) {
        self.changes.push((position, change));
    }

    /// Leaves the write in the batch and ends the turn. The write is not on disk yet.
    ///
    /// # Errors
    ///
    /// When the batch has been lost.
    pub fn release(mut self) -> Result<Pending> {
        let interned = std::mem::take(&mut self.interned);
        let mut changes = std::mem::take(&mut self.changes);
        let Some(batch) = self.writer.open.as_mut() else {
            return Err(Error::Unavailable(
                "the journal has no open batch".to_owned(),
            ));
        };
        batch.changes.append(&mut changes);
        let outcome = batch.outcome.subscribe();
        self.writer.savepoint = Savepoint::Kept;
        if !interned.is_empty() {
            self.writer.shared.strings.remember(interned);
        }
        Ok(Pending { outcome })
    }

    /// Waits until the write is on disk and the followers have received it.
    pub async fn commit(self) -> Result<()> {
        self.release()?.durable().await
    }

    pub(in crate::storage) fn strings(&self) -> &Strings {
        &self.writer.shared.strings
    }

    pub(in crate::storage) fn interned(&self, text: &str) -> Option<i64> {
        self.interned
            .iter()
            .find(|(known, _)| &**known == text)
            .map(|(_, number)| *number)
    }

    pub(in crate::storage) fn note_interned(&mut self, text: &str, number: i64) {
        self.interned.push((Arc::from(text), number));
    }
}

/// A write in a batch that is not yet on disk.
#[must_use = "nothing may be answered before it is durable"]
pub struct Pending {
    outcome: watch::Receiver<Outcome>,
}

impl Pending {
    /// Waits until the batch is on disk.
    ///
    /// # Errors
    ///
    /// When the batch was lost: nothing of it was stored.
    pub async fn durable(mut self) -> Result<()> {
        let outcome = self.outcome.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(loss))) => Err(loss.clone().into()),
            Ok(None) | Err(_) => Err(Error::Unavailable("the journal stopped".to_owned())),
        }
    }
}
