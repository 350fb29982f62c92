//! The latest events of a room, with the state after each: those included that are not on disk yet.
//!
//! An event that follows one of them, but not the newest, needs nothing from the database.

use rpds::{HashTrieMapSync, QueueSync};
use ruma::{EventId, OwnedEventId};

use crate::{matrix::StateMap, storage::rooms::events::Status};

/// How many are kept. A clone is a pointer, as that of a state is.
const KEPT: usize = 64;

/// The latest events of a room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lately {
    by_id: HashTrieMapSync<OwnedEventId, After>,
    order: QueueSync<OwnedEventId>,
}

/// An event, as those see it that follow it.
#[derive(Clone, Debug)]
pub(crate) struct After {
    /// How it fared in the checks.
    pub(crate) status: Status,
    /// The snapshot of the state after it.
    pub(crate) snapshot: i64,
    /// That state.
    pub(crate) state: StateMap,
    /// What it follows.
    pub(crate) prev_events: Vec<OwnedEventId>,
}

impl Lately {
    pub(crate) fn get(&self, event_id: &EventId) -> Option<&After> {
        self.by_id.get(event_id)
    }

    pub(crate) fn push(&mut self, event_id: OwnedEventId, after: After) {
        self.by_id.insert_mut(event_id.clone(), after);
        self.order.enqueue_mut(event_id);
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.peek().cloned()
        {
            self.order.dequeue_mut();
            self.by_id.remove_mut(&oldest);
        }
    }

    /// Takes a redacted event into the states that hold it.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}
