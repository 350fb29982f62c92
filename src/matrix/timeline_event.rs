//! An event in its room's timeline, with what readers need to show it.

use std::sync::Arc;

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
    /// `m.room.history_visibility` before it.
    pub visibility: Visibility,
    /// The snapshot of the state before it.
    pub snapshot: i64,
    /// The state before it, while it is in memory.
    pub state_before: Option<StateMap>,
    /// How many events up to this one notify by the default rules.
    pub notified: i64,
    /// How many events up to this one mention the whole room.
    pub mentioned: i64,
    /// For whom it counts otherwise than the running counters say.
    pub exceptions: Vec<Exception>,
    /// The device here that sent it.
    pub device: Option<i64>,
    /// The transaction id under which it was sent.
    pub txn_id: Option<String>,
    /// The redaction that took effect on it.
    pub redacted_by: Option<Arc<Pdu>>,
}

/// An event that counts otherwise for a user than the room's running counters say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The user's number.
    pub user: i64,
    /// The event's place in the timeline.
    pub timeline: i64,
    /// What to add to the notifications.
    pub notify: i64,
    /// What to add to the highlights.
    pub highlight: i64,
}

impl TimelineEvent {
    /// Returns the state event that it replaced, as far as memory knows.
    pub fn replaces(&self) -> Option<&Arc<Pdu>> {
        let state_key = self.pdu.state_key.as_deref()?;
        self.state_before
            .as_ref()?
            .get(&self.pdu.state_type(), state_key)
    }
}
