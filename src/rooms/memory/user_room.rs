//! A room of a user: the membership, the place up to which the user has read the room, and the unread counts that
//! follow from it.

use std::{collections::HashMap, sync::Arc};

use ruma::{OwnedEventId, events::room::member::MembershipState};

use crate::{
    matrix::{CountException, NotificationCounters, TimelineEvent},
    numbers::Position,
    storage::{ReadMarker, ReadPosition, RoomRemoval, ThreadMarker},
};

/// Markers by thread; `None` is the main timeline.
pub(crate) type ThreadMarkers = HashMap<Option<OwnedEventId>, ThreadMarker>;

/// The membership and the read state of a user in a room.
#[derive(Clone, Debug)]
pub struct UserRoom {
    /// The membership.
    pub membership: MembershipState,
    /// The journal position from which on the user has had this membership.
    pub position: Position,
    /// The stripped state of an invitation or a knock, as a JSON list.
    pub stripped_state: Option<Arc<str>>,
    /// Whether the user has forgotten the room.
    pub forgotten: bool,
    /// The last update about the room, if it was deleted.
    pub removed: Option<Arc<RoomRemoval>>,
    /// The place up to which the user has read everything.
    pub marker: ReadMarker,
    /// The markers of threads, and of the main timeline, that are beyond that place.
    pub(crate) threads: Arc<ThreadMarkers>,
    /// The events after the markers that count differently for this user than in the room's counters.
    pub exceptions: Vec<CountException>,
}

impl Default for UserRoom {
    fn default() -> Self {
        Self {
            membership: MembershipState::Leave,
            position: Position::ZERO,
            stripped_state: None,
            forgotten: false,
            removed: None,
            marker: ReadMarker::default(),
            threads: Arc::default(),
            exceptions: Vec::new(),
        }
    }
}

impl UserRoom {
    /// Returns the entry of a room that was deleted.
    pub(crate) fn from_removed(left_at: Position, removed: Arc<RoomRemoval>) -> Self {
        Self {
            position: left_at,
            // Only the end of the room is still shown.
            forgotten: true,
            removed: Some(removed),
            ..Self::default()
        }
    }
}

/// The unread events of a user in a room or a thread.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnreadNotifications {
    /// The unread events that notify.
    pub notification_count: u64,
    /// The unread events that are highlighted.
    pub highlight_count: u64,
}

impl UserRoom {
    /// Returns the numbers of unread notifications and highlights, given the room's running counters.
    pub fn unread_counts(&self, room: NotificationCounters) -> UnreadNotifications {
        let mut count = room - self.marker.counters;
        for thread in self.threads.values() {
            count = count - (thread.counters - thread.base);
        }
        for exception in &self.exceptions {
            count.notified += exception.notify;
            count.mentioned += exception.highlight;
        }
        as_counts(count)
    }

    /// Returns the unread counts of the main timeline alone, given its counters.
    pub fn unread_in_main(&self, main: NotificationCounters) -> UnreadNotifications {
        let read = self.threads.get(&None);
        self.unread_with_exceptions(
            None,
            main - read.map_or(self.marker.main_counters(), |read| read.counters),
        )
    }

    /// Returns the unread counts of a thread, given its counters now, and at the place up to which
    /// everything was read.
    pub fn unread_in_thread(
        &self,
        thread_root: &OwnedEventId,
        now: NotificationCounters,
        base: NotificationCounters,
    ) -> UnreadNotifications {
        let thread = Some(thread_root.clone());
        let read = self.threads.get(&thread).map_or(base, |read| read.counters);
        self.unread_with_exceptions(thread.as_ref(), now - read)
    }

    fn unread_with_exceptions(
        &self,
        thread: Option<&OwnedEventId>,
        mut count: NotificationCounters,
    ) -> UnreadNotifications {
        let in_thread = self
            .exceptions
            .iter()
            .filter(|exception| exception.thread.as_ref() == thread);
        for exception in in_thread {
            count.notified += exception.notify;
            count.mentioned += exception.highlight;
        }
        as_counts(count)
    }

    /// Returns whether the user has read an event.
    pub fn has_read(&self, event: &TimelineEvent) -> bool {
        let thread = event.thread.as_ref().map(|thread| &thread.root);
        event.timeline <= self.read_up_to(thread)
    }

    /// Returns the place up to which a thread, or the main timeline, was read.
    fn read_up_to(&self, thread: Option<&OwnedEventId>) -> Position {
        let marker = self.threads.get(&thread.cloned());
        self.marker
            .timeline
            .max(marker.map_or(Position::ZERO, |marker| marker.timeline))
    }

    /// Applies a new read marker.
    pub(crate) fn apply_reading(&mut self, reading: &ReadPosition) {
        match reading {
            ReadPosition::All { marker, threads } => {
                if marker.timeline <= self.marker.timeline {
                    return;
                }
                self.marker = *marker;
                let threads = threads.iter().cloned();
                self.threads = Arc::new(
                    threads
                        .map(|marker| (marker.thread.clone(), marker))
                        .collect(),
                );
            }
            ReadPosition::Thread(marker) => {
                if marker.timeline <= self.read_up_to(marker.thread.as_ref()) {
                    return;
                }
                Arc::make_mut(&mut self.threads).insert(marker.thread.clone(), marker.clone());
            }
        }
        self.drop_read_exceptions();
    }

    /// Applies an event that the user has sent.
    pub(crate) fn apply_sent_event(&mut self, event: &TimelineEvent) {
        // Events of a thread and joins are published together with their markers.
        if event.thread.is_none() && !event.is_new_join() {
            let marker = ThreadMarker {
                thread: None,
                timeline: event.timeline,
                counters: event.counters() - event.threaded_counters,
                base: self.marker.main_counters(),
            };
            self.apply_reading(&ReadPosition::Thread(marker));
        }
    }

    /// Removes the exceptions of events that the user has read.
    pub(crate) fn drop_read_exceptions(&mut self) {
        let mut exceptions = std::mem::take(&mut self.exceptions);
        exceptions
            .retain(|exception| exception.timeline > self.read_up_to(exception.thread.as_ref()));
        self.exceptions = exceptions;
    }
}

fn as_counts(count: NotificationCounters) -> UnreadNotifications {
    UnreadNotifications {
        notification_count: u64::try_from(count.notified).unwrap_or(0),
        highlight_count: u64::try_from(count.mentioned).unwrap_or(0),
    }
}
