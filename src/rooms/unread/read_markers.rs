//! Read markers of users: one for everything up to a place, and beyond it others for the main timeline
//! and for single threads.
//!
//! An event counts in its thread or in the main timeline, and each of these has running counters. The
//! unread count of a room is the growth of the room's counters since the place up to which everything
//! was read, minus the part that the markers of threads cover since then.

use ruma::OwnedEventId;

use crate::{
    error::Result,
    matrix::TimelineEvent,
    numbers::{Position, RoomNum, UserNum},
    storage::{
        JournalChange, ReadMarker, ReadPosition, ThreadMarker, WriteTx,
        rooms::{
            threads::{self, ThreadMarkerRow},
            unread_counts,
        },
    },
};

/// The user and the room of a new read marker, and its position in the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomReader {
    pub(crate) user: UserNum,
    pub(crate) room: RoomNum,
    pub(crate) position: Position,
}

/// Records that a user has read everything up to an event.
pub(crate) async fn mark_room_read(
    tx: &mut WriteTx,
    reader: RoomReader,
    event: &TimelineEvent,
) -> Result<()> {
    let RoomReader { user, room, .. } = reader;
    let marker = ReadMarker {
        timeline: event.timeline,
        counters: event.counters(),
        threaded: event.threaded_counters,
    };
    if marker.timeline <= unread_counts::read_marker(tx, user, room).await?.timeline {
        return Ok(());
    }
    unread_counts::mark_read(tx, user, room, marker).await?;
    unread_counts::clear_exceptions(tx, user, room, marker.timeline).await?;
    threads::clear_markers(tx, user, room, marker.timeline).await?;
    let mut further = Vec::new();
    for row in threads::markers_in_room(tx, user, room).await? {
        let Some(mut thread) = row.to_marker() else {
            continue;
        };
        thread.base = match &thread.thread {
            Some(thread_root) => {
                threads::counters_at(tx, room, thread_root.as_str(), marker.timeline).await?
            }
            None => marker.main_counters(),
        };
        threads::set_base_counters(tx, user, &ThreadMarkerRow::from_marker(room, &thread)).await?;
        further.push(thread);
    }
    let reading = ReadPosition::All {
        marker,
        threads: further,
    };
    tx.publish(
        reader.position,
        JournalChange::ReadPosition {
            user,
            room,
            reading,
        },
    );
    Ok(())
}

/// Records that a user has read a thread, or the main timeline, up to an event.
pub(crate) async fn mark_thread_read(
    tx: &mut WriteTx,
    reader: RoomReader,
    thread: Option<&OwnedEventId>,
    event: &TimelineEvent,
) -> Result<()> {
    let RoomReader { user, room, .. } = reader;
    let all = unread_counts::read_marker(tx, user, room).await?;
    if event.timeline <= all.timeline {
        return Ok(());
    }
    let (counters, base) = match thread {
        Some(thread_root) => (
            threads::counters_at(tx, room, thread_root.as_str(), event.timeline).await?,
            threads::counters_at(tx, room, thread_root.as_str(), all.timeline).await?,
        ),
        None => (
            event.counters() - event.threaded_counters,
            all.main_counters(),
        ),
    };
    let marker = ThreadMarker {
        thread: thread.cloned(),
        timeline: event.timeline,
        counters,
        base,
    };
    if !threads::mark_read(tx, user, &ThreadMarkerRow::from_marker(room, &marker)).await? {
        return Ok(());
    }
    let thread_root = thread.map(|thread_root| thread_root.as_str());
    unread_counts::clear_exceptions_in(tx, user, room, thread_root, event.timeline).await?;
    tx.publish(
        reader.position,
        JournalChange::ReadPosition {
            user,
            room,
            reading: ReadPosition::Thread(marker),
        },
    );
    Ok(())
}

/// Records that a user has read the events before one that the user sends.
///
/// A user who joins begins with nothing unread. An event in a thread shows that the user has read that
/// thread only, and an event in the main timeline that the user has read the main timeline only.
pub(crate) async fn mark_read_by_sending(
    tx: &mut WriteTx,
    reader: RoomReader,
    event: &TimelineEvent,
) -> Result<()> {
    if event.is_new_join() {
        return mark_room_read(tx, reader, event).await;
    }
    if let Some(thread) = &event.thread {
        return mark_thread_read(tx, reader, Some(&thread.root), event).await;
    }
    // This publishes no change: memory updates the marker when it receives the event itself.
    let counters = event.counters() - event.threaded_counters;
    unread_counts::mark_main_read(tx, reader.user, reader.room, event.timeline, counters).await
}
