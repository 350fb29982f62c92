//! Consecutive events of one room: each builds on the one before, and they share one write to disk.

use ruma::OwnedEventId;

use crate::{
    error::Result,
    rooms::{Received, Rooms, Taken},
    storage::Intent,
};

/// Events that are in their room, and not yet on disk.
pub(super) struct Line<'a> {
    rooms: &'a Rooms,
    /// Held while the next event is about to follow.
    more: Option<Intent>,
    taken: Vec<(OwnedEventId, Taken)>,
}

impl<'a> Line<'a> {
    pub(super) fn new(rooms: &'a Rooms) -> Self {
        Self {
            rooms,
            more: None,
            taken: Vec::new(),
        }
    }

    /// Announces that the next event follows soon, so that the commit waits for it.
    pub(super) fn hurries(&mut self) {
        self.more
            .get_or_insert_with(|| self.rooms.receiver.more_to_come());
    }

    /// Announces that the next event is not expected soon, so that the commit need not wait.
    pub(super) fn pauses(&mut self) {
        self.more = None;
    }

    /// Adds an event that is in its room.
    pub(super) fn push(&mut self, event_id: OwnedEventId, taken: Taken) {
        self.taken.push((event_id, taken));
    }

    /// Returns the results of the events, as soon as all of them are on disk.
    pub(super) async fn ends(mut self) -> Vec<(OwnedEventId, Result<Received>)> {
        self.pauses();
        let mut outcomes = Vec::with_capacity(self.taken.len());
        for (event_id, taken) in self.taken {
            outcomes.push((event_id, taken.durable().await));
        }
        outcomes
    }
}
