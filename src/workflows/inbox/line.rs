//! Events of one room that come one after the other: each builds on the one before, and none waits for the disk alone.

use ruma::OwnedEventId;

use crate::{
    error::Result,
    rooms::{Received, Rooms, Taken},
    storage::Intent,
};

/// Events that are in their room, and on their way to the disk.
pub(super) struct Line<'a> {
    rooms: &'a Rooms,
    /// While the next one follows at once.
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

    /// Says that the next event comes in a moment: the disk waits for it.
    pub(super) fn hurries(&mut self) {
        self.more
            .get_or_insert_with(|| self.rooms.receiver.more_to_come());
    }

    /// Says that it takes a while until the next event comes.
    pub(super) fn pauses(&mut self) {
        self.more = None;
    }

    /// Adds an event that is in its room.
    pub(super) fn push(&mut self, event_id: OwnedEventId, taken: Taken) {
        self.taken.push((event_id, taken));
    }

    /// Returns what became of the events, when all of that is on disk.
    pub(super) async fn ends(mut self) -> Vec<(OwnedEventId, Result<Received>)> {
        self.pauses();
        let mut outcomes = Vec::with_capacity(self.taken.len());
        for (event_id, taken) in self.taken {
            outcomes.push((event_id, taken.durable().await));
        }
        outcomes
    }
}
