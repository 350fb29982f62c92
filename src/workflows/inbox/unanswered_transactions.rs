//! Events whose transaction was not answered in time. They are stored, so that none is lost if the server stops before
//! they are in their rooms.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, ServerName};

use super::{SharedProgress, TransactionInbox, is_internal, lock_progress};
use crate::{
    error::{Error, Result},
    numbers::Position,
    rooms::QueuedEvent,
};

impl TransactionInbox {
    /// Stores the events of a transaction that are still being processed.
    pub(super) async fn store_unfinished_events(
        &self,
        origin: &ServerName,
        progress: &SharedProgress,
    ) -> Result<()> {
        let waiting = lock_progress(progress).unfinished.clone();
        let (ids, events): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let positions = self
            .rooms
            .receiver
            .store_queued_events(origin, &events)
            .await?;
        let stored: BTreeMap<OwnedEventId, Position> = ids.into_iter().zip(positions).collect();
        let done = record_stored_events(progress, stored);
        self.rooms.receiver.remove_queued_events(&done).await
    }

    /// Records that an event is no longer being processed.
    pub(super) async fn finish_event(&self, event_id: &OwnedEventId, progress: &SharedProgress) {
        let stored = {
            let mut progress = lock_progress(progress);
            progress.unfinished.remove(event_id);
            progress.stored.remove(event_id)
        };
        let Some(position) = stored else { return };
        if let Err(error) = self.rooms.receiver.remove_queued_events(&[position]).await {
            // It will be processed once more, which is harmless.
            tracing::warn!(%error, "a processed event could not be removed from the stored events");
        }
    }

    /// Processes the events that were stored when the server stopped, in the background.
    pub fn process_stored_events(&self) {
        let service = self.clone();
        drop(self.tasks.spawn(async move {
            let stopping = service.tasks.stopping().clone();
            let processing = Box::pin(service.process_all_stored());
            if let Some(Err(error)) = stopping.run_until_cancelled(processing).await {
                tracing::error!(%error, "stored events of other servers could not be processed");
            }
        }));
    }

    async fn process_all_stored(&self) -> Result<()> {
        let mut after = Position::ZERO;
        loop {
            let page = self.rooms.receiver.load_queued_events(after).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.position;
            for arrived in page {
                self.finish_stored_event(arrived).await?;
            }
        }
    }

    /// Processes a stored event and removes it, unless it must be tried again.
    async fn finish_stored_event(&self, arrived: QueuedEvent) -> Result<()> {
        let position = arrived.position;
        match self.process_stored_event(arrived).await {
            Err(error) if is_internal(&error) => {
                tracing::warn!(%error, "a stored event could not be processed");
                Ok(())
            }
            outcome => {
                tracing::debug!(?outcome, "a stored event is finished");
                let receiver = &self.rooms.receiver;
                receiver.remove_queued_events(&[position]).await
            }
        }
    }

    async fn process_stored_event(&self, arrived: QueuedEvent) -> Result<()> {
        let room = match self.rooms.memory.room_by_number(arrived.room).await {
            // The room was deleted in the meantime.
            Err(Error::NotFound(_)) => return Ok(()),
            room => room?,
        };
        let event = self
            .federation
            .verify_event(&arrived.json, &room.rules)
            .await?;
        let received = self
            .events
            .receive_event(&arrived.origin, &room, event)
            .await?;
        tracing::debug!(?received, "a stored event was processed");
        Ok(())
    }
}

/// Records the positions of stored events that are not finished yet. Returns those of events that are.
fn record_stored_events(
    progress: &SharedProgress,
    stored: BTreeMap<OwnedEventId, Position>,
) -> Vec<Position> {
    let mut done = Vec::new();
    let mut progress = lock_progress(progress);
    for (event_id, position) in stored {
        if progress.unfinished.contains_key(&event_id) {
            progress.stored.insert(event_id, position);
        } else {
            done.push(position);
        }
    }
    done
}
