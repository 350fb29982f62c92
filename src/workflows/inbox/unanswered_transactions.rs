//! Events whose transaction was not answered in time. They are stored, so that none is lost if the server stops before
//! they are in their rooms.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, ServerName};

use super::{Shared, is_our_fault, locked};
use crate::{
    error::{Error, Result},
    rooms::Arrived,
    storage::Position,
    workflows::Workflows,
};

impl Workflows {
    /// Stores the events of a transaction that are still being processed.
    pub(super) async fn keep_for_later(&self, origin: &ServerName, notes: &Shared) -> Result<()> {
        let waiting = locked(notes).waiting.clone();
        let (ids, events): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let positions = self.rooms.receiver.keep_arrived(origin, &events).await?;
        let kept: BTreeMap<OwnedEventId, Position> = ids.into_iter().zip(positions).collect();
        let mut done = Vec::new();
        {
            let mut notes = locked(notes);
            for (event_id, position) in kept {
                if notes.waiting.contains_key(&event_id) {
                    notes.kept.insert(event_id, position);
                } else {
                    done.push(position);
                }
            }
        }
        self.rooms.receiver.forget_arrived(&done).await
    }

    /// Records that an event is no longer being processed.
    pub(super) async fn done_with(&self, event_id: &OwnedEventId, notes: &Shared) {
        let kept = {
            let mut notes = locked(notes);
            notes.waiting.remove(event_id);
            notes.kept.remove(event_id)
        };
        let Some(position) = kept else { return };
        if let Err(error) = self.rooms.receiver.forget_arrived(&[position]).await {
            // It will be processed once more, which is harmless.
            tracing::warn!(%error, "a processed event could not be removed from the stored events");
        }
    }

    /// Processes the events that were stored when the server stopped, in the background.
    pub fn take_what_was_kept(&self) {
        let workflows = self.clone();
        drop(self.tasks.spawn(async move {
            let stopping = workflows.tasks.stopping().clone();
            let taking = Box::pin(workflows.take_kept());
            if let Some(Err(error)) = stopping.run_until_cancelled(taking).await {
                tracing::error!(%error, "stored events of other servers could not be processed");
            }
        }));
    }

    async fn take_kept(&self) -> Result<()> {
        let mut after = 0;
        loop {
            let page = self.rooms.receiver.arrived(after).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.position;
            for arrived in page {
                let position = arrived.position;
                match self.take_arrived(arrived).await {
                    Err(error) if is_our_fault(&error) => {
                        tracing::warn!(%error, "a stored event could not be processed");
                    }
                    taken => {
                        tracing::debug!(?taken, "a stored event is finished");
                        self.rooms.receiver.forget_arrived(&[position]).await?;
                    }
                }
            }
        }
    }

    async fn take_arrived(&self, arrived: Arrived) -> Result<()> {
        let room = match self.rooms.memory.room_by_number(arrived.room).await {
            // The room was deleted in the meantime.
            Err(Error::NotFound(_)) => return Ok(()),
            room => room?,
        };
        let event = self.federation.verify(&arrived.json, &room.rules).await?;
        let received = self.receive_event(&arrived.origin, &room, event).await?;
        tracing::debug!(?received, "a stored event was processed");
        Ok(())
    }
}
