//! An event in its room's timeline, with what readers need to show it.

use std::{
    ops::{Add, Sub},
    sync::Arc,
};

use ruma::{
    OwnedEventId,
    events::{StateEventType, room::member::MembershipState},
};

use super::{Pdu, StateMap, Visibility};

/// An accepted event and its place.
#[derive(Clone, Debug)]
pub struct TimelineEvent {
    /// The journal position at which it was stored.
    pub position: i64,
    /// Its place in the timeline of the room.
    pub timeline: i64,
    /// The event.
    pub pdu: Arc<Pdu>,
    /// What clients see of it, without `unsigned` and the closing brace.
    pub head: Box<str>,
    /// Whether it is a redaction that has not taken effect, which no client is shown.
    pub is_withheld: bool,
    /// `m.room.history_visibility` before it.
    pub visibility: Visibility,
    /// The snapshot of the state before it.
    pub snapshot: i64,
    /// The state of the room when it came, while that is in memory.
    pub state_before: Option<StateMap>,
    /// What it made of the state of the room, where that is not the event itself.
    pub resolved: Option<Arc<Resolved>>,
    /// How many events up to this one notify by the default rules.
    pub notified: i64,
    /// How many events up to this one mention the whole room.
    pub mentioned: i64,
    /// How many of these are in threads.
    pub threaded: Counters,
    /// The thread that it is in.
    pub thread: Option<InThread>,
    /// For whom it counts otherwise than the running counters say.
    pub exceptions: Vec<Exception>,
    /// The device here that sent it.
    pub device: Option<i64>,
    /// The transaction id under which it was sent.
    pub txn_id: Option<String>,
    /// The redaction that took effect on it.
    pub redacted_by: Option<Arc<Pdu>>,
    /// Whether the server sent it while its sender was not looking, as far as memory knows.
    pub unattended: bool,
}

/// What became of the state of a room when an event came that does not follow all that the room knew.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The state of the room after it.
    pub state: StateMap,
    /// The keys that hold something else since.
    pub keys: Vec<(StateEventType, String)>,
    /// Whether the event stands after a gap in the timeline.
    pub after_gap: bool,
}

/// Running counters: how many events notify, and how many mention the whole room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events that notify by the default rules.
    pub notified: i64,
    /// Events that mention the whole room.
    pub mentioned: i64,
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            notified: self.notified + other.notified,
            mentioned: self.mentioned + other.mentioned,
        }
    }
}

impl Sub for Counters {
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
pub struct InThread {
    /// The event that the thread began with.
    pub root: OwnedEventId,
    /// The counters of the thread up to this event.
    pub counters: Counters,
    /// What the event itself adds to them, as far as memory knows.
    pub added: Counters,
}

/// An event that counts otherwise for a user than the room's running counters say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The user's number.
    pub user: i64,
    /// The event's place in the timeline.
    pub timeline: i64,
    /// The thread that the event is in; `None` is the main timeline.
    pub thread: Option<OwnedEventId>,
    /// What to add to the notifications.
    pub notify: i64,
    /// What to add to the highlights.
    pub highlight: i64,
}

impl TimelineEvent {
    /// Returns the running counters of the room.
    pub fn counters(&self) -> Counters {
        Counters {
            notified: self.notified,
            mentioned: self.mentioned,
        }
    }

    /// Returns whether with it its sender comes into the room, as far as memory knows the state before.
    pub fn begins_stay(&self) -> bool {
        let was_in = || {
            let before = self.state_before.as_ref()?;
            before.member(&self.pdu.sender)?.membership()
        };
        self.pdu.member() == Some(&*self.pdu.sender)
            && self.pdu.membership() == Some(MembershipState::Join)
            && was_in() != Some(MembershipState::Join)
    }

    /// Returns whether its sender, of this server, has read the room up to it: whoever speaks in a room looks at it, but
    /// a new name or picture is sent to every room.
    pub fn shows_reading(&self) -> bool {
        let is_own_member_event = self.pdu.member() == Some(&*self.pdu.sender);
        !self.unattended && (!is_own_member_event || self.begins_stay())
    }

    /// Returns the keys of the room's state that it changed.
    pub fn state_keys(&self) -> Vec<(StateEventType, String)> {
        let own = self.pdu.state_key.clone();
        let own = own.map(|state_key| (self.pdu.state_type(), state_key));
        let resolved = self.resolved.iter().flat_map(|resolved| &resolved.keys);
        own.into_iter().chain(resolved.cloned()).collect()
    }

    /// Returns the state event that it replaced, as far as memory knows.
    pub fn replaces(&self) -> Option<&Arc<Pdu>> {
        let state_key = self.pdu.state_key.as_deref()?;
        self.state_before
            .as_ref()?
            .get(&self.pdu.state_type(), state_key)
    }
}
