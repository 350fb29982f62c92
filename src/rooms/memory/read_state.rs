//! The place up to which a user has read a room, and the unread counts that follow from it.

use std::{collections::HashMap, sync::Arc};

use ruma::OwnedEventId;

use super::user_rooms::UserRoom;
use crate::{
    matrix::{Counters, TimelineEvent},
    storage::{Reading, ThreadMarker},
};

/// Markers by thread; `None` is the main timeline.
pub(crate) type ThreadMarkers = HashMap<Option<OwnedEventId>, ThreadMarker>;

impl UserRoom {
    /// Returns the numbers of unread notifications and highlights, given the room's running counters.
    pub fn unread(&self, room: Counters) -> (u64, u64) {
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
    pub fn unread_in_main(&self, main: Counters) -> (u64, u64) {
        let read = self.threads.get(&None);
        self.unread_since(
            None,
            main - read.map_or(self.marker.main(), |read| read.counters),
        )
    }

    /// Returns the unread counts of a thread, given its counters now, and at the place up to which
    /// everything was read.
    pub fn unread_in_thread(
        &self,
        thread_root: &OwnedEventId,
        now: Counters,
        base: Counters,
    ) -> (u64, u64) {
        let thread = Some(thread_root.clone());
        let read = self.threads.get(&thread).map_or(base, |read| read.counters);
        self.unread_since(thread.as_ref(), now - read)
    }

    fn unread_since(&self, thread: Option<&OwnedEventId>, mut count: Counters) -> (u64, u64) {
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

    /// Returns the place up to which a thread, or the main timeline, was read.
    fn read_in(&self, thread: Option<&OwnedEventId>) -> i64 {
        let marker = self.threads.get(&thread.cloned());
        self.marker
            .timeline
            .max(marker.map_or(0, |marker| marker.timeline))
    }

    /// Applies a new read marker.
    pub(crate) fn read(&mut self, reading: &Reading) {
        match reading {
            Reading::All { marker, threads } => {
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
            Reading::Thread(marker) => {
                if marker.timeline <= self.read_in(marker.thread.as_ref()) {
                    return;
                }
                Arc::make_mut(&mut self.threads).insert(marker.thread.clone(), marker.clone());
            }
        }
        self.drop_read_exceptions();
    }

    /// Applies an event that the user has sent.
    pub(crate) fn sent(&mut self, event: &TimelineEvent) {
        // Events of a thread and joins are published together with their markers.
        if event.thread.is_none() && !event.begins_stay() {
            let marker = ThreadMarker {
                thread: None,
                timeline: event.timeline,
                counters: event.counters() - event.threaded,
                base: self.marker.main(),
            };
            self.read(&Reading::Thread(marker));
        }
    }

    /// Removes the exceptions of events that the user has read.
    pub(crate) fn drop_read_exceptions(&mut self) {
        let mut exceptions = std::mem::take(&mut self.exceptions);
        exceptions.retain(|exception| exception.timeline > self.read_in(exception.thread.as_ref()));
        self.exceptions = exceptions;
    }
}

fn as_counts(count: Counters) -> (u64, u64) {
    (
        u64::try_from(count.notified).unwrap_or(0),
        u64::try_from(count.mentioned).unwrap_or(0),
    )
}
