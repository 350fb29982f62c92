//! An event in its room's timeline, with the data that are needed to show it.

use std::{
    ops::{Add, Sub},
    sync::Arc,
};

use ruma::{OwnedEventId, events::room::member::MembershipState};

use super::{EventVisibility, Pdu, StateMap, StateMapKey};
use crate::numbers::{DeviceNum, Position, SnapshotId, UserNum};

/// An accepted event and its place in the timeline.
#[derive(Clone, Debug)]
pub struct TimelineEvent {
    /// The journal position at which it was stored.
    pub position: Position,
    /// Its place in the timeline of the room.
    pub timeline: Position,
    pub pdu: Arc<Pdu>,
    /// The event in the client format, without `unsigned` and the closing brace.
    pub head: Box<str>,
    /// Whether it is a redaction that has not taken effect, which is not shown to clients.
    pub is_withheld: bool,
    /// The `m.room.history_visibility` before it.
    pub visibility: EventVisibility,
    /// The snapshot of the state before it.
    pub snapshot: SnapshotId,
    /// The state of the room when it was stored, while that is in memory.
    pub state_before: Option<StateMap>,
    /// The state of the room after it, where that differs from the state before by more than the event itself.
    pub resolved: Option<Arc<ResolvedState>>,
    /// The number of events up to this one that notify by the default rules.
    pub notified: i64,
    /// The number of events up to this one that mention the whole room.
    pub mentioned: i64,
    /// The part of these counts that is in threads.
    pub threaded_counters: NotificationCounters,
    pub thread: Option<ThreadPosition>,
    /// The users for whom it counts differently from the running counters.
    pub exceptions: Vec<CountException>,
    /// The local device that sent it.
    pub device: Option<DeviceNum>,
    /// The transaction id under which it was sent.
    pub txn_id: Option<String>,
    /// The redaction that took effect on it.
    pub redacted_by: Option<Arc<Pdu>>,
    /// Whether it was sent on behalf of its sender, without the sender looking at the room, as far as memory knows.
    pub unattended: bool,
}

/// The change of a room's state by an event that does not follow all events that the room had.
#[derive(Clone, Debug)]
pub struct ResolvedState {
    /// The state of the room after the event.
    pub state: StateMap,
    /// The state keys that changed.
    pub changed_keys: Vec<StateMapKey>,
    /// Whether the event follows a gap in the timeline.
    pub after_gap: bool,
}

/// Running counters of events that notify and of events that mention the whole room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotificationCounters {
    /// Events that notify by the default rules.
    pub notified: i64,
    /// Events that mention the whole room.
    pub mentioned: i64,
}

impl Add for NotificationCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            notified: self.notified + other.notified,
            mentioned: self.mentioned + other.mentioned,
        }
    }
}

impl Sub for NotificationCounters {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            notified: self.notified - other.notified,
            mentioned: self.mentioned - other.mentioned,
        }
    }
}

/// The place of an event in a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadPosition {
    /// The event with which the thread began.
    pub root: OwnedEventId,
    /// The counters of the thread up to this event.
    pub counters: NotificationCounters,
    /// The amount that the event itself adds to them, as far as memory knows.
    pub added: NotificationCounters,
}

/// An event that counts differently for a user than in the room's running counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountException {
    pub user: UserNum,
    pub timeline: Position,
    /// The thread that the event is in; `None` is the main timeline.
    pub thread: Option<OwnedEventId>,
    /// The difference in notifications.
    pub notify: i64,
    /// The difference in highlights.
    pub highlight: i64,
}

impl TimelineEvent {
    /// Returns the running counters of the room.
    pub fn counters(&self) -> NotificationCounters {
        NotificationCounters {
            notified: self.notified,
            mentioned: self.mentioned,
        }
    }

    /// Returns whether its sender joins the room with it, as far as memory knows the state before.
    pub fn is_new_join(&self) -> bool {
        let was_in = || {
            let before = self.state_before.as_ref()?;
            before.member(&self.pdu.sender)?.membership()
        };
        self.pdu.member() == Some(&*self.pdu.sender)
            && self.pdu.membership() == Some(MembershipState::Join)
            && was_in() != Some(MembershipState::Join)
    }

    /// Returns whether it shows that its local sender has read the room up to it. A user who sends to a room looks at
    /// it, but a new name or avatar is sent to all rooms.
    pub fn is_read_by_sender(&self) -> bool {
        let is_own_member_event = self.pdu.member() == Some(&*self.pdu.sender);
        !self.unattended && (!is_own_member_event || self.is_new_join())
    }

    /// Returns the keys of the room's state that it changed.
    pub fn changed_state_keys(&self) -> Vec<StateMapKey> {
        let own = self.pdu.state_key.clone();
        let own = own.map(|state_key| (self.pdu.state_type(), state_key));
        let resolved = self
            .resolved
            .iter()
            .flat_map(|resolved| &resolved.changed_keys);
        own.into_iter().chain(resolved.cloned()).collect()
    }

    /// Returns the state event that it replaced, as far as memory knows.
    pub fn replaced_state_event(&self) -> Option<&Arc<Pdu>> {
        let state_key = self.pdu.state_key.as_deref()?;
        self.state_before
            .as_ref()?
            .get(&self.pdu.state_type(), state_key)
    }
}
