//! The facts that come with an event of another server, and the decision about it.

use ruma::OwnedEventId;

use crate::{
    matrix::{StateMap, VerifiedEvent},
    numbers::Position,
    rooms::{
        log::{accepted_event::EventFork, snapshots::SnapshotBase},
        memory::{recent_events::RecentRoomEvent, room::RoomTip},
    },
    storage::rooms::events::EventStatus,
};

/// The outcome for an event that another server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiveOutcome {
    /// It is in the room.
    Accepted,
    /// The state before it allows it, but the current state does not, for this reason: no client
    /// sees it.
    SoftFailed(String),
    /// It is not allowed, for this reason. It is stored, so that events which depend on it are
    /// refused, too.
    Rejected(String),
    /// It was already stored.
    Duplicate,
    /// Nothing is decided yet, because events that the checks need are missing.
    Missing {
        /// The missing events among those that it follows: this server does not know the state
        /// after them.
        prev: Vec<OwnedEventId>,
        /// The missing events among its auth events.
        auth: Vec<OwnedEventId>,
    },
}

/// The way in which it is decided whether an event is soft-failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SoftFailureCheck {
    /// The current state decides, once.
    #[default]
    Once,
    /// The event is soft-failed already, and the current state may allow it now.
    Again,
    /// The policy server of the room does not recommend it: it must be soft-failed.
    NotRecommended,
}

/// Facts about an event, other than the event itself, that came from other servers.
#[derive(Clone, Debug, Default)]
pub struct ReceiveHints {
    /// The state before it, for an event that follows one which cannot be fetched. All these state
    /// events must already be stored. If two have the same type and state key, the later one
    /// counts.
    pub state_before: Option<Vec<OwnedEventId>>,
    /// No server has its missing auth events: it must be rejected.
    pub auth_events_are_lost: bool,
    pub soft_failure: SoftFailureCheck,
    /// This server sends it on to the other servers, because it took part in making it.
    pub(crate) is_passed_on: bool,
}

/// An event of another server with the facts that came with it.
#[derive(Clone, Copy)]
pub(crate) struct IncomingEvent<'a> {
    pub(crate) event: &'a VerifiedEvent,
    pub(crate) hints: &'a ReceiveHints,
}

/// The depth of the search for an event itself and for the events that it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupDepth {
    /// Reads nothing if the event follows the tip: storing it will show whether it is known.
    TipOnly,
    /// Looks up all events that it names.
    NamedEvents,
}

/// The result of checking an event.
pub(crate) enum EventCheck {
    Checked(Box<CheckedEvent>),
    Known,
    Missing {
        prev: Vec<OwnedEventId>,
        auth: Vec<OwnedEventId>,
    },
}

/// The decision of the rules about an event.
#[derive(Debug)]
pub(crate) enum EventVerdict {
    Accepted,
    SoftFailed(String),
    Rejected(String),
}

impl EventVerdict {
    /// Returns the status with which the event is stored.
    pub(crate) fn status(&self) -> EventStatus {
        match self {
            Self::Accepted => EventStatus::Accepted,
            Self::SoftFailed(_) => EventStatus::SoftFailed,
            Self::Rejected(_) => EventStatus::Rejected,
        }
    }
}

/// A checked event and its place in the event graph.
#[derive(Debug)]
pub(crate) struct CheckedEvent {
    pub(crate) verdict: EventVerdict,
    /// The snapshot of the state before it.
    pub(crate) base: SnapshotBase,
    pub(crate) state_before: StateMap,
    /// The position at which it is already stored as an outlier.
    pub(crate) stored_at: Option<Position>,
    /// The fork that it causes, if it does not follow the tip.
    pub(crate) fork: Option<EventFork>,
    /// For history: the place in the timeline before which the event belongs.
    pub(crate) gap: Option<Position>,
    /// The events that it follows and that this server does not have.
    pub(crate) missing_prev: Vec<OwnedEventId>,
    /// It is already stored with the same verdict.
    pub(crate) is_unchanged: bool,
}

impl CheckedEvent {
    /// Returns the outcome that callers see.
    pub(crate) fn outcome(&self) -> ReceiveOutcome {
        match &self.verdict {
            EventVerdict::Accepted => ReceiveOutcome::Accepted,
            EventVerdict::SoftFailed(reason) => ReceiveOutcome::SoftFailed(reason.clone()),
            EventVerdict::Rejected(reason) => ReceiveOutcome::Rejected(reason.clone()),
        }
    }

    /// Builds the result for an event that follows the tip of a room.
    pub(crate) fn at_tip(tip: &RoomTip, verdict: EventVerdict) -> Self {
        Self {
            verdict,
            base: SnapshotBase::Stored(tip.snapshot),
            state_before: tip.state.clone(),
            stored_at: None,
            fork: None,
            gap: None,
            missing_prev: Vec::new(),
            is_unchanged: false,
        }
    }
}

/// The known states after the events that an event follows.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrevEventStates {
    pub(crate) known: Vec<RecentRoomEvent>,
    /// The events among them after which the state is not known.
    pub(crate) missing: Vec<OwnedEventId>,
}
