//! How far users have read: everything up to a place, and beyond it the main timeline and single threads.
//!
//! An event counts in its thread or in the main timeline, each of which has running counters. What a user has not
//! read of the room is what the room's counters say since the place up to which everything was read, less what the
//! markers of threads cover since then.

use std::{collections::HashMap, sync::Arc};

use ruma::OwnedEventId;

use crate::{
    error::Result,
    matrix::{Counters, TimelineEvent},
    rooms::memory::user_rooms::UserRoom,
    storage::{
        Change, Position, ReadMarker, Reading, RoomNum, ThreadMarker, UserNum, WriteTx,
        rooms::{
            threads::{self, MarkerRow},
            unread,
        },
    },
};

/// Markers by thread; `None` is the main timeline.
pub(crate) type ThreadMarkers = HashMap<Option<OwnedEventId>, ThreadMarker>;

/// Whose reading is noted, where, and at which position of the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) user: UserNum,
    pub(crate) room: RoomNum,
    pub(crate) position: Position,
}

/// Notes that a user has read everything up to an event.
pub(crate) async fn read_all(
    tx: &mut WriteTx,
    reader: Reader,
    event: &TimelineEvent,
) -> Result<()> {
    let Reader { user, room, .. } = reader;
    let marker = ReadMarker {
        timeline: event.timeline,
        counters: event.counters(),
        threaded: event.threaded,
    };
    if marker.timeline <= unread::marker(tx, user, room).await?.timeline {
        return Ok(());
    }
    unread::mark_read(tx, user, room, marker).await?;
    unread::clear_exceptions(tx, user, room, marker.timeline).await?;
    threads::clear_markers(tx, user, room, marker.timeline).await?;
    let mut further = Vec::new();
    for row in threads::markers_in(tx, user, room).await? {
        let Some(mut thread) = row.marker() else {
            continue;
        };
        thread.base = match &thread.thread {
            Some(thread_root) => {
                threads::counters_at(tx, room, thread_root.as_str(), marker.timeline).await?
            }
            None => marker.main(),
        };
        threads::set_base(tx, user, &MarkerRow::of(room, &thread)).await?;
        further.push(thread);
    }
    let reading = Reading::All {
        marker,
        threads: further,
    };
    tx.publish(
        reader.position,
        Change::Read {
            user,
            room,
            reading,
        },
    );
    Ok(())
}

/// Notes that a user has read a thread, or the main timeline, up to an event.
pub(crate) async fn read_thread(
    tx: &mut WriteTx,
    reader: Reader,
    thread: Option<&OwnedEventId>,
    event: &TimelineEvent,
) -> Result<()> {
    let Reader { user, room, .. } = reader;
    let all = unread::marker(tx, user, room).await?;
    if event.timeline <= all.timeline {
        return Ok(());
    }
    let (counters, base) = match thread {
        Some(thread_root) => (
            threads::counters_at(tx, room, thread_root.as_str(), event.timeline).await?,
            threads::counters_at(tx, room, thread_root.as_str(), all.timeline).await?,
        ),
        None => (event.counters() - event.threaded, all.main()),
    };
    let marker = ThreadMarker {
        thread: thread.cloned(),
        timeline: event.timeline,
        counters,
        base,
    };
    if !threads::mark_read(tx, user, &MarkerRow::of(room, &marker)).await? {
        return Ok(());
    }
    let thread_root = thread.map(|thread_root| thread_root.as_str());
    unread::clear_exceptions_in(tx, user, room, thread_root, event.timeline).await?;
    tx.publish(
        reader.position,
        Change::Read {
            user,
            room,
            reading: Reading::Thread(marker),
        },
    );
    Ok(())
}

/// Notes that a user has read what stands before an event that the user sends.
///
/// Whoever joins begins with nothing unread. An event in a thread tells of that thread alone, and one of the main
/// timeline of the main timeline.
pub(crate) async fn read_by_sending(
    tx: &mut WriteTx,
    reader: Reader,
    event: &TimelineEvent,
) -> Result<()> {
    if event.begins_stay() {
        return read_all(tx, reader, event).await;
    }
    if let Some(thread) = &event.thread {
        return read_thread(tx, reader, Some(&thread.root), event).await;
    }
    // Memory follows the event itself.
    let counters = event.counters() - event.threaded;
    unread::mark_main_read(tx, reader.user, reader.room, (event.timeline, counters)).await
}

impl UserRoom {
    /// Returns the numbers of notifications and of highlights, given the room's running counters.
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

    /// Returns the same of the main timeline alone, given its counters.
    pub fn unread_in_main(&self, main: Counters) -> (u64, u64) {
        let read = self.threads.get(&None);
        self.unread_since(
            None,
            main - read.map_or(self.marker.main(), |read| read.counters),
        )
    }

    /// Returns the same of a thread, given its counters now, and at the place up to which everything was read.
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

    /// Returns up to which place a thread, or the main timeline, was read.
    fn read_in(&self, thread: Option<&OwnedEventId>) -> i64 {
        let marker = self.threads.get(&thread.cloned());
        self.marker
            .timeline
            .max(marker.map_or(0, |marker| marker.timeline))
    }

    /// Follows what the user has read.
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

    /// Follows an event that the user has sent.
    pub(crate) fn sent(&mut self, event: &TimelineEvent) {
        // That of a thread, or of a join, is told with its markers.
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

    /// Forgets what counts otherwise, but was read.
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
