//! The latest events of a room, with the state after each, including events that are not on disk yet.
//!
//! An event that follows one of them, even if not the newest, needs no query to the database.

use rpds::{HashTrieMapSync, QueueSync};
use ruma::{EventId, OwnedEventId};

use crate::{matrix::StateMap, numbers::SnapshotId, storage::rooms::events::EventStatus};

/// The maximum number of events that are kept.
const MAX_RECENT_EVENTS: usize = 64;

/// The latest events of a room.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentRoomEvents {
    by_id: HashTrieMapSync<OwnedEventId, RecentRoomEvent>,
    order: QueueSync<OwnedEventId>,
}

/// The data of an event that the events after it need.
#[derive(Clone, Debug)]
pub(crate) struct RecentRoomEvent {
    /// The result of the checks of the event.
    pub(crate) status: EventStatus,
    /// The snapshot of the state after it.
    pub(crate) snapshot: SnapshotId,
    /// The state after it.
    pub(crate) state: StateMap,
    /// The events that it follows.
    pub(crate) prev_events: Vec<OwnedEventId>,
}

impl RecentRoomEvents {
    pub(crate) fn get(&self, event_id: &EventId) -> Option<&RecentRoomEvent> {
        self.by_id.get(event_id)
    }

    pub(crate) fn push(&mut self, event_id: OwnedEventId, after: RecentRoomEvent) {
        self.by_id.insert_mut(event_id.clone(), after);
        self.order.enqueue_mut(event_id);
        if self.order.len() > MAX_RECENT_EVENTS
            && let Some(oldest) = self.order.peek().cloned()
        {
            self.order.dequeue_mut();
            self.by_id.remove_mut(&oldest);
        }
    }

    /// Removes all events. After a redaction, their states may still hold the event with its content.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
