//! An event that may be appended to a room, with the data that is stored with it.

use ruma::OwnedEventId;

use super::{new_event::ClientTransaction, snapshots::SnapshotBase};
use crate::{
    matrix::{Pdu, StateMap},
    numbers::{DelayedEventNum, Position},
    rooms::unread::push_counts::{PersonalIncrement, UnreadIncrement},
};

/// The number of places that are reserved in the timeline where events are missing.
pub(crate) const GAP_PLACES: i64 = 1 << 20;

/// An event that was built and authorized, with the data to store with it.
#[derive(Debug)]
pub(crate) struct AcceptedEvent {
    pub(crate) pdu: Pdu,
    pub(crate) json: String,
    pub(crate) counting: UnreadIncrement,
    pub(crate) transaction: Option<ClientTransaction>,
    /// The number of the delayed event that is sent with this event.
    pub(crate) delayed_event: Option<DelayedEventNum>,
    /// Data that only events of other servers have.
    pub(crate) arrival: Option<RemoteArrival>,
    /// Whether the server sends the event without the sender's action, so that it does not show
    /// what the sender has read.
    pub(crate) unattended: bool,
}

impl AcceptedEvent {
    /// Keeps the read marker of the sender where it is. The event is not counted as unread for the
    /// sender, like the sender's other events.
    pub(crate) fn keep_sender_unread(&mut self) {
        self.unattended = true;
        let UnreadIncrement {
            notify,
            mention,
            exceptions,
            ..
        } = &mut self.counting;
        if *notify || *mention {
            exceptions.push(PersonalIncrement {
                user_id: self.pdu.sender.clone(),
                notify: -i64::from(*notify),
                highlight: -i64::from(*mention),
            });
        }
    }
}

/// Data about an event of another server that is not part of the event.
#[derive(Debug, Default)]
pub(crate) struct RemoteArrival {
    /// The position at which it is already stored, without a place in the timeline.
    pub(crate) stored_at: Option<Position>,
    /// Whether this server sends the event to the other servers in the room.
    pub(crate) is_outgoing: bool,
    /// The position of the event in a fork; `None` if it follows the forward extremities.
    pub(crate) fork: Option<EventFork>,
}

impl RemoteArrival {
    /// Returns the data for an event that this server has made.
    pub(super) fn of_own_event() -> Self {
        Self {
            is_outgoing: true,
            ..Self::default()
        }
    }
}

/// The states around an event that does not follow all forward extremities of the room.
#[derive(Debug)]
pub(crate) struct EventFork {
    /// The snapshot of the state before the event.
    pub(crate) base: SnapshotBase,
    /// The state before the event.
    pub(crate) before: StateMap,
    /// The resolved state of the room after the event.
    pub(crate) current: StateMap,
    /// The forward extremities after the event, each with its hash if the event id does not contain
    /// it.
    pub(crate) extremities: Vec<(OwnedEventId, Option<String>)>,
    /// The `prev_events` that this server does not have.
    pub(crate) missing: Vec<OwnedEventId>,
    /// The place before which the missing events belong, if it was already reserved.
    pub(crate) gap_at: Option<Position>,
}

impl EventFork {
    /// Returns whether events are missing before the event.
    pub(super) fn has_gap(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Returns whether places must be reserved for the missing events.
    pub(super) fn needs_gap_places(&self) -> bool {
        self.has_gap() && self.gap_at.is_none()
    }
}
