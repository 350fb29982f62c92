//! Threads: their lengths, their counters, and the read markers of users in them.

use ruma::OwnedEventId;

use crate::{
    error::Result,
    matrix::NotificationCounters,
    numbers::{Position, RoomNum, StringNum, UserNum},
    storage::{ReadAccess, ThreadMarker, WriteTx, text_list},
};

/// The thread id of the main timeline.
pub const MAIN_THREAD_ID: &str = "main";

/// A thread.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ThreadRow {
    /// The event with which it began.
    pub root: String,
    /// The number of events that relate to it by `m.thread`.
    pub replies: i64,
    /// The place of the newest of them.
    pub latest: Position,
}

/// A thread with new events, and its counters now and at an earlier place.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ThreadCounts {
    /// The event with which it began.
    pub root: String,
    /// The number of events that notify.
    pub notified: i64,
    /// The number of events that mention the whole room.
    pub mentioned: i64,
    /// The number of events that notify, up to the earlier place.
    pub base_notified: i64,
    /// The number of events that mention the whole room, up to the earlier place.
    pub base_mentioned: i64,
}

/// The place up to which a user has read a thread, or the main timeline.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ThreadMarkerRow {
    pub room: RoomNum,
    /// `main`, or the thread's root.
    pub thread: String,
    /// The place in the timeline.
    pub timeline: Position,
    /// The counter of events that notify, at that place.
    pub notified: i64,
    /// The counter of events that mention the whole room, at that place.
    pub mentioned: i64,
    /// As `notified`, at the place up to which everything was read.
    pub base_notified: i64,
    /// As `mentioned`, at the place up to which everything was read.
    pub base_mentioned: i64,
}

impl ThreadMarkerRow {
    /// Returns the row of a marker.
    pub fn from_marker(room: RoomNum, marker: &ThreadMarker) -> Self {
        Self {
            room,
            thread: marker
                .thread
                .as_ref()
                .map_or_else(|| MAIN_THREAD_ID.to_owned(), ToString::to_string),
            timeline: marker.timeline,
            notified: marker.counters.notified,
            mentioned: marker.counters.mentioned,
            base_notified: marker.base.notified,
            base_mentioned: marker.base.mentioned,
        }
    }

    /// Returns the marker; `None` if the thread's root is not an event id.
    pub fn to_marker(&self) -> Option<ThreadMarker> {
        let thread = match self.thread.as_str() {
            MAIN_THREAD_ID => None,
            thread_root => Some(OwnedEventId::try_from(thread_root).ok()?),
        };
        Some(ThreadMarker {
            thread,
            timeline: self.timeline,
            counters: NotificationCounters {
                notified: self.notified,
                mentioned: self.mentioned,
            },
            base: NotificationCounters {
                notified: self.base_notified,
                mentioned: self.base_mentioned,
            },
        })
    }
}

/// Returns the counters of a thread.
pub async fn counters(
    db: &mut impl ReadAccess,
    room: RoomNum,
    thread_root: &str,
) -> Result<NotificationCounters> {
    let row: Option<(i64, i64)> = db
        .query("SELECT notified, mentioned FROM threads WHERE room = $1 AND root = $2")
        .bind(room)
        .bind(thread_root)
        .fetch_optional()
        .await?;
    let (notified, mentioned) = row.unwrap_or_default();
    Ok(NotificationCounters {
        notified,
        mentioned,
    })
}

/// An event of a thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadedEvent<'a> {
    pub room: RoomNum,
    pub thread_root: &'a str,
    /// The place in the timeline.
    pub timeline: Position,
    /// Whether it relates to the thread by `m.thread`.
    pub is_reply: bool,
    /// The counters of the thread up to the event.
    pub counters: NotificationCounters,
}

/// Adds an event to a thread.
pub async fn add_event(tx: &mut WriteTx, event: &ThreadedEvent<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO threads (room, root, replies, latest, active, notified, mentioned)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (room, root) DO UPDATE
         SET replies = threads.replies + excluded.replies,
             latest = CASE WHEN threads.latest IS NULL OR excluded.latest > threads.latest
                           THEN excluded.latest ELSE threads.latest END,
             active = CASE WHEN excluded.active > threads.active THEN excluded.active ELSE threads.active END,
             notified = excluded.notified, mentioned = excluded.mentioned",
    )
    .bind(event.room)
    .bind(event.thread_root)
    .bind(i64::from(event.is_reply))
    .bind(event.is_reply.then_some(event.timeline))
    .bind(event.timeline)
    .bind(event.counters.notified)
    .bind(event.counters.mentioned)
    .execute()
    .await?;
    Ok(())
}

/// Removes a reply from a thread. Its relationship must be removed already.
pub async fn remove_reply(
    tx: &mut WriteTx,
    room: RoomNum,
    thread_root: &str,
    rel_type: StringNum,
) -> Result<()> {
    tx.query(
        "UPDATE threads SET replies = replies - 1, latest = (
             SELECT MAX(r.timeline) FROM relations r
             WHERE r.room = $1 AND r.parent = $2 AND r.rel_type = $3)
         WHERE room = $1 AND root = $2",
    )
    .bind(room)
    .bind(thread_root)
    .bind(rel_type)
    .execute()
    .await?;
    Ok(())
}

/// Returns the threads that began with one of these events.
pub async fn of_roots<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    room: RoomNum,
    roots: impl IntoIterator<Item = S>,
) -> Result<Vec<ThreadRow>> {
    db.query(
        "SELECT root, replies, latest FROM threads
         WHERE room = $1 AND root IN (SELECT value FROM json_each($2)) AND latest IS NOT NULL",
    )
    .bind(room)
    .bind(text_list(roots))
    .fetch_all()
    .await
}

/// Returns the threads of a room whose newest reply is before a place, the newest first.
pub async fn before_place(
    db: &mut impl ReadAccess,
    room: RoomNum,
    place: Position,
    limit: i64,
) -> Result<Vec<ThreadRow>> {
    db.query(
        "SELECT root, replies, latest FROM threads
         WHERE room = $1 AND latest < $2
         ORDER BY latest DESC LIMIT $3",
    )
    .bind(room)
    .bind(place)
    .bind(limit)
    .fetch_all()
    .await
}

/// An event that replies in a thread.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct ThreadReplyRow {
    /// The place in the timeline.
    pub timeline: Position,
    /// The number of the history visibility before it.
    pub visibility: i64,
    /// The number of the sender.
    pub sender: UserNum,
}

/// Returns the replies of a thread, the newest first.
pub async fn replies(
    db: &mut impl ReadAccess,
    room: RoomNum,
    thread_root: &str,
    rel_type: StringNum,
    limit: i64,
) -> Result<Vec<ThreadReplyRow>> {
    db.query(
        "SELECT r.timeline, e.visibility, r.sender FROM relations r JOIN events e ON e.position = r.child
         WHERE r.room = $1 AND r.parent = $2 AND r.rel_type = $3
         ORDER BY r.timeline DESC LIMIT $4",
    )
    .bind(room)
    .bind(thread_root)
    .bind(rel_type)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the threads with new events after a place, the newest first.
pub async fn active_after(
    db: &mut impl ReadAccess,
    room: RoomNum,
    place: Position,
    limit: i64,
) -> Result<Vec<ThreadCounts>> {
    db.query(
        "SELECT t.root, t.notified, t.mentioned,
                COALESCE((SELECT e.thread_notified FROM events e
                          WHERE e.room = t.room AND e.thread = t.root AND e.timeline <= $2
                          ORDER BY e.timeline DESC LIMIT 1), 0) AS base_notified,
                COALESCE((SELECT e.thread_mentioned FROM events e
                          WHERE e.room = t.room AND e.thread = t.root AND e.timeline <= $2
                          ORDER BY e.timeline DESC LIMIT 1), 0) AS base_mentioned
         FROM threads t
         WHERE t.room = $1 AND t.active > $2
         ORDER BY t.active DESC LIMIT $3",
    )
    .bind(room)
    .bind(place)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the counters of a thread at a place in the timeline.
pub async fn counters_at(
    db: &mut impl ReadAccess,
    room: RoomNum,
    thread_root: &str,
    place: Position,
) -> Result<NotificationCounters> {
    let row: Option<(i64, i64)> = db
        .query(
            "SELECT thread_notified, thread_mentioned FROM events
             WHERE room = $1 AND thread = $2 AND timeline <= $3
             ORDER BY timeline DESC LIMIT 1",
        )
        .bind(room)
        .bind(thread_root)
        .bind(place)
        .fetch_optional()
        .await?;
    let (notified, mentioned) = row.unwrap_or_default();
    Ok(NotificationCounters {
        notified,
        mentioned,
    })
}

/// Moves a user's marker of a thread, or of the main timeline, forward. Returns `false` if it was already as far.
pub async fn mark_read(tx: &mut WriteTx, user: UserNum, marker: &ThreadMarkerRow) -> Result<bool> {
    let changed = tx
        .query(
            "INSERT INTO thread_markers (user_num, room, thread, timeline, notified, mentioned, base_notified,
                                         base_mentioned)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (user_num, room, thread) DO UPDATE
             SET timeline = excluded.timeline, notified = excluded.notified, mentioned = excluded.mentioned,
                 base_notified = excluded.base_notified, base_mentioned = excluded.base_mentioned
             WHERE excluded.timeline > thread_markers.timeline",
        )
        .bind(user)
        .bind(marker.room)
        .bind(&marker.thread)
        .bind(marker.timeline)
        .bind(marker.notified)
        .bind(marker.mentioned)
        .bind(marker.base_notified)
        .bind(marker.base_mentioned)
        .execute()
        .await?;
    Ok(changed == 1)
}

/// Sets the counters that a marker's thread had at the place up to which everything was read.
pub async fn set_base_counters(
    tx: &mut WriteTx,
    user: UserNum,
    marker: &ThreadMarkerRow,
) -> Result<()> {
    tx.query(
        "UPDATE thread_markers SET base_notified = $4, base_mentioned = $5
         WHERE user_num = $1 AND room = $2 AND thread = $3",
    )
    .bind(user)
    .bind(marker.room)
    .bind(&marker.thread)
    .bind(marker.base_notified)
    .bind(marker.base_mentioned)
    .execute()
    .await?;
    Ok(())
}

/// Removes the markers up to a place, up to which everything was read.
pub async fn clear_markers(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    up_to: Position,
) -> Result<()> {
    tx.query("DELETE FROM thread_markers WHERE user_num = $1 AND room = $2 AND timeline <= $3")
        .bind(user)
        .bind(room)
        .bind(up_to)
        .execute()
        .await?;
    Ok(())
}

/// Returns a user's markers of a room.
pub async fn markers_in_room(
    db: &mut impl ReadAccess,
    user: UserNum,
    room: RoomNum,
) -> Result<Vec<ThreadMarkerRow>> {
    db.query(
        "SELECT room, thread, timeline, notified, mentioned, base_notified, base_mentioned FROM thread_markers
         WHERE user_num = $1 AND room = $2",
    )
    .bind(user)
    .bind(room)
    .fetch_all()
    .await
}

/// Returns a user's markers of every room.
pub async fn markers(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<ThreadMarkerRow>> {
    db.query(
        "SELECT room, thread, timeline, notified, mentioned, base_notified, base_mentioned FROM thread_markers
         WHERE user_num = $1",
    )
    .bind(user)
    .fetch_all()
    .await
}
