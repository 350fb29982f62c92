//! The queue of a pusher: the events that were not sent through it yet.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::push::{HttpPusherData, PushFormat};
use serde_json::Value;

use super::endpoints::{PushEndpoint, WebPushTarget};
use crate::{
    numbers::{Position, RoomNum, UserNum},
    storage::users::pushers::{PusherActivation, PusherRow},
};

/// The largest number of events in a queue. When it is full, the oldest event is dropped: after a hundred missed
/// notifications, users open the rooms anyway.
const MAX_QUEUED_EVENTS: usize = 100;

/// The names of the field of a pusher's data by which a client says that it counts unread events itself.
const COUNTING_FIELDS: [&str; 2] = [
    "disable_badge_count",
    "org.matrix.msc4076.disable_badge_count",
];

/// The queue of a pusher.
pub(super) struct PusherQueue {
    pub(super) user: UserNum,
    pub(super) user_id: String,
    pub(super) app_id: String,
    pub(super) pushkey: String,
    /// The pusher as JSON, as it is stored.
    json: String,
    pub(super) data: HttpPusherData,
    pub(super) target: PushTarget,
    /// The token with which the client activates the pusher; `None` if it is active.
    activation: Option<PusherActivation>,
    state: Mutex<QueueState>,
}

/// The destination of a pusher's notifications.
#[derive(Clone)]
pub(super) enum PushTarget {
    Gateway(PushEndpoint),
    WebPush(Box<WebPushTarget>),
}

/// An event to be sent through a pusher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueuedEvent {
    /// The position at which it was stored.
    pub(super) position: Position,
    pub(super) room: RoomNum,
    pub(super) source: EventSource,
    pub(super) tweaks: PushTweaks,
}

/// The place at which a queued event is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventSource {
    /// In the timeline of the room, at this place.
    Timeline(Position),
    /// It is an invitation to a room that this server is not in.
    RemoteInvitation,
}

/// The parts of push actions that say how a client presents a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PushTweaks {
    pub(super) highlight: bool,
    /// The sound to play.
    pub(super) sound: Option<Arc<str>>,
}

/// The next request of a pusher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NextPush {
    /// The token with which the client activates the pusher.
    Activation(PusherActivation),
    Event(QueuedEvent),
    /// Only the number of unread events, because the user has read some.
    UnreadTotal,
}

/// The part of a queue that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueProgress {
    /// The position after which there are unsent events; `None` if all were sent.
    pub(super) unsent_after: Option<Position>,
}

/// The phase of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueuePhase {
    Idle,
    /// A task sends it.
    Sending,
    /// The pusher was removed or replaced.
    Closed,
}

struct QueueState {
    events: VecDeque<QueuedEvent>,
    /// Events up to here were sent before the pusher was loaded.
    sent_before_start: Position,
    /// Whether the token that activates the pusher must be sent.
    activation_is_due: bool,
    unread_total_changed: bool,
    last_unread_total: Option<u64>,
    phase: QueuePhase,
    /// The value that is stored with the pusher.
    stored_unsent_after: Option<Position>,
}

impl PusherQueue {
    /// Returns the queue of a stored pusher. Events up to `distributed` were sent, unless the pusher says otherwise.
    pub(super) fn new(
        row: PusherRow,
        data: HttpPusherData,
        target: PushTarget,
        distributed: Position,
    ) -> Self {
        let activation = row.activation();
        Self {
            user: row.user_num,
            user_id: row.user_id,
            app_id: row.app_id,
            pushkey: row.pushkey,
            json: row.pusher,
            data,
            target,
            state: Mutex::new(QueueState {
                events: VecDeque::new(),
                sent_before_start: row.unsent_after.unwrap_or(distributed),
                activation_is_due: activation.is_some(),
                unread_total_changed: false,
                last_unread_total: None,
                phase: QueuePhase::Idle,
                stored_unsent_after: row.unsent_after,
            }),
            activation,
        }
    }

    /// Returns whether this is the queue of a stored pusher.
    pub(super) fn is_for(&self, row: &PusherRow) -> bool {
        (&self.app_id, &self.pushkey, &self.json) == (&row.app_id, &row.pushkey, &row.pusher)
            && self.activation == row.activation()
    }

    /// Returns whether the client counts unread events itself, so that it is not sent the number.
    ///
    /// See [MSC4076](https://github.com/matrix-org/matrix-spec-proposals/pull/4076).
    pub(super) fn leaves_counting_to_client(&self) -> bool {
        COUNTING_FIELDS
            .iter()
            .any(|name| self.data.data.get(*name) == Some(&Value::Bool(true)))
    }

    /// Returns whether the gateway is sent the id of an event, and not the event.
    pub(super) fn sends_only_ids(&self) -> bool {
        self.data.format == Some(PushFormat::EventIdOnly)
    }

    /// Adds an event. Returns whether a task must be started that sends the queue.
    pub(super) fn push(&self, event: QueuedEvent) -> bool {
        let mut state = self.lock();
        let is_unwanted = self.activation.is_some() || event.position <= state.sent_before_start;
        if state.is_closed() || is_unwanted {
            return false;
        }
        if state.events.len() >= MAX_QUEUED_EVENTS {
            state.events.pop_front();
        }
        state.events.push_back(event);
        state.begin_sending()
    }

    /// Returns whether a task must be started that sends the token with which the client activates the pusher.
    pub(super) fn must_send_activation(&self) -> bool {
        let mut state = self.lock();
        state.activation_is_due && state.begin_sending()
    }

    /// Records that the user has read something. Returns whether a task must be started that sends the queue.
    ///
    /// Browsers show something for every message, so they are not sent the number alone.
    pub(super) fn request_unread_total(&self) -> bool {
        let mut state = self.lock();
        let is_browser = matches!(self.target, PushTarget::WebPush(_));
        if state.is_closed() || is_browser || self.leaves_counting_to_client() {
            return false;
        }
        state.unread_total_changed = true;
        state.begin_sending()
    }

    /// Returns the next request. `None` ends the task that sends the queue.
    pub(super) fn next(&self) -> Option<NextPush> {
        let mut state = self.lock();
        let activation = self.activation.as_ref();
        let next = match state.events.front() {
            _ if state.is_closed() => None,
            _ if state.activation_is_due => activation.cloned().map(NextPush::Activation),
            Some(event) => Some(NextPush::Event(event.clone())),
            None if state.unread_total_changed => Some(NextPush::UnreadTotal),
            None => None,
        };
        state.phase = match next {
            _ if state.is_closed() => QueuePhase::Closed,
            Some(_) => QueuePhase::Sending,
            None => QueuePhase::Idle,
        };
        next
    }

    /// Removes a request that was sent, or that need not be sent any more.
    pub(super) fn finish(&self, push: &NextPush, unread_total: Option<u64>) {
        let mut state = self.lock();
        match push {
            // It may have been dropped meanwhile because the queue was full.
            NextPush::Event(event) if state.events.front() == Some(event) => {
                state.events.pop_front();
            }
            NextPush::Event(_) => {}
            NextPush::Activation(_) => state.activation_is_due = false,
            NextPush::UnreadTotal => state.unread_total_changed = false,
        }
        state.last_unread_total = unread_total.or(state.last_unread_total);
    }

    /// Returns the number of unread events that the gateway was last sent.
    pub(super) fn last_unread_total(&self) -> Option<u64> {
        self.lock().last_unread_total
    }

    /// Ends the queue: the pusher was removed or replaced.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.phase = QueuePhase::Closed;
        state.events.clear();
    }

    /// Returns the progress, if it is not what is stored.
    pub(super) fn progress_to_store(&self) -> Option<QueueProgress> {
        let state = self.lock();
        let unsent_after = state.events.front().map(|event| event.position.previous());
        (!state.is_closed() && unsent_after != state.stored_unsent_after)
            .then_some(QueueProgress { unsent_after })
    }

    /// Records that the progress was stored.
    pub(super) fn set_stored_progress(&self, progress: QueueProgress) {
        self.lock().stored_unsent_after = progress.unsent_after;
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn is_closed(&self) -> bool {
        self.phase == QueuePhase::Closed
    }

    /// Returns whether a task must be started that sends the queue, and expects that it is.
    fn begin_sending(&mut self) -> bool {
        let is_idle = self.phase == QueuePhase::Idle;
        if is_idle {
            self.phase = QueuePhase::Sending;
        }
        is_idle
    }
}
