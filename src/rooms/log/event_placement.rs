//! The position of an event in the log, and the states before and after it.

use ruma::events::TimelineEventType;

use super::{
    accepted_event::{EventFork, RemoteArrival},
    snapshots,
};
use crate::{
    error::Result,
    matrix::{EventVisibility, Pdu, StateMap, TimelineEvent},
    numbers::{Position, SnapshotId, StringNum, UserNum},
    rooms::memory::{recent_events::RecentRoomEvent, room::RoomTip},
    storage::{
        WriteTx,
        rooms::{events::EventStatus, state_snapshots::StateEntry},
    },
};

/// The position of an event, and the numbers of its interned strings.
pub(crate) struct EventNumbers {
    /// The position in the journal, and the place in the timeline.
    pub(crate) position: Position,
    /// The position at which the event is stored: an earlier one if it was stored
    /// without a place before.
    pub(crate) stored_at: Position,
    pub(crate) kind: StringNum,
    pub(crate) sender: UserNum,
    pub(crate) state_key: Option<StringNum>,
}

impl EventNumbers {
    /// Returns the state entry that makes the event the current one for its key.
    pub(crate) fn state_entry(&self, state_key: StringNum) -> StateEntry {
        StateEntry {
            kind: self.kind,
            state_key,
            event: Some(self.stored_at),
        }
    }
}

/// Returns the next position and the numbers of an event's strings.
pub(crate) async fn intern_event(
    tx: &mut WriteTx,
    pdu: &Pdu,
    stored_at: Option<Position>,
) -> Result<EventNumbers> {
    let position = tx.next_position();
    Ok(EventNumbers {
        position,
        stored_at: stored_at.unwrap_or(position),
        kind: tx.intern(&pdu.kind.to_string()).await?,
        sender: tx.intern_user(pdu.sender.as_str()).await?,
        state_key: match &pdu.state_key {
            Some(state_key) => Some(tx.intern(state_key).await?),
            None => None,
        },
    })
}

/// The states before and after an event that is about to be stored.
pub(super) struct EventPlacement {
    pub(super) before: StateMap,
    /// The snapshot before the event.
    pub(super) snapshot: SnapshotId,
    /// The snapshot after the event, unless it follows from the numbers of the event.
    pub(super) snapshot_after: Option<SnapshotId>,
    /// Whether this server sends the event to the other servers in the room.
    pub(super) is_outgoing: bool,
    pub(super) fork: Option<EventFork>,
}

impl EventPlacement {
    /// Stores the snapshots around an event in a fork. An event that follows the tip needs none.
    pub(super) async fn prepare(
        tx: &mut WriteTx,
        tip: &RoomTip,
        numbers: &EventNumbers,
        arrival: RemoteArrival,
    ) -> Result<Self> {
        let mut placement = Self {
            before: tip.state.clone(),
            snapshot: tip.snapshot,
            snapshot_after: None,
            is_outgoing: arrival.is_outgoing,
            fork: arrival.fork,
        };
        let own_chain = tip.snapshot_chain;
        if let Some(fork) = &placement.fork {
            placement.before = fork.before.clone();
            placement.snapshot = snapshots::store_snapshot(tx, &fork.base, own_chain).await?;
            if let Some(state_key) = numbers.state_key {
                let entry = numbers.state_entry(state_key);
                let after =
                    snapshots::store_branch(tx, placement.snapshot, &[entry], own_chain).await?;
                placement.snapshot_after = Some(after);
            }
        } else if numbers.state_key.is_some() && numbers.stored_at != numbers.position {
            placement.snapshot_after = Some(SnapshotId::at(numbers.position));
        }
        Ok(placement)
    }

    /// Returns the state before the events that follow this event.
    pub(super) fn state_after(&self, tip: &RoomTip, event: &TimelineEvent) -> RecentRoomEvent {
        let (mut snapshot, mut state) = (tip.snapshot, tip.state.clone());
        if self.fork.is_some() {
            snapshot = self.snapshot_after.unwrap_or(self.snapshot);
            state = self.before.clone();
            if event.pdu.state_key.is_some() {
                state.insert(event.pdu.clone());
            }
        }
        RecentRoomEvent {
            status: EventStatus::Accepted,
            snapshot,
            state,
            prev_events: event.pdu.prev_events.clone(),
        }
    }
}

/// Returns the history visibility of an event, given the state before it.
pub(crate) fn event_visibility(before: &StateMap, pdu: &Pdu) -> EventVisibility {
    let visibility = EventVisibility::of_state(before);
    if pdu.is_state(&TimelineEventType::RoomHistoryVisibility, "") {
        // An event that changes the history visibility is visible to everyone who could see it
        // under the old or the new one.
        return visibility.min(EventVisibility::of_event(pdu));
    }
    visibility
}
