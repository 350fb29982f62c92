//! Consecutive events of one room: each builds on the one before, and they share one write to disk.

use ruma::OwnedEventId;

use crate::{
    error::Result,
    rooms::{PendingOutcome, ReceiveOutcome, Rooms},
    storage::WriteIntent,
};

/// The outcome of an event, as soon as it is on disk.
pub(super) struct StoredEventOutcome {
    pub(super) event_id: OwnedEventId,
    pub(super) outcome: Result<ReceiveOutcome>,
}

/// Events that are in their room, and not yet on disk.
pub(super) struct CommitBatch<'a> {
    rooms: &'a Rooms,
    /// Held while the next event is about to follow.
    commit_delay: Option<WriteIntent>,
    events: Vec<(OwnedEventId, PendingOutcome)>,
}

impl<'a> CommitBatch<'a> {
    pub(super) fn new(rooms: &'a Rooms) -> Self {
        Self {
            rooms,
            commit_delay: None,
            events: Vec::new(),
        }
    }

    /// Announces that the next event follows soon, so that the commit waits for it.
    pub(super) fn delay_commit(&mut self) {
        self.commit_delay
            .get_or_insert_with(|| self.rooms.receiver.announce_more_events());
    }

    /// Announces that the next event is not expected soon, so that the commit need not wait.
    pub(super) fn allow_commit(&mut self) {
        self.commit_delay = None;
    }

    /// Adds an event that is in its room.
    pub(super) fn push(&mut self, event_id: OwnedEventId, pending: PendingOutcome) {
        self.events.push((event_id, pending));
    }

    /// Returns the results of the events, as soon as all of them are on disk.
    pub(super) async fn wait_until_stored(mut self) -> Vec<StoredEventOutcome> {
        self.allow_commit();
        let mut outcomes = Vec::with_capacity(self.events.len());
        for (event_id, pending) in self.events {
            outcomes.push(StoredEventOutcome {
                event_id,
                outcome: pending.wait_until_durable().await,
            });
        }
        outcomes
    }
}
