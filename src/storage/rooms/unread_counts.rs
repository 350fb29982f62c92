//! The read markers of users, and the events that count differently for them than in the rooms' running counters.

use crate::{
    error::Result,
    matrix::{CountException, NotificationCounters},
    numbers::{Position, RoomNum, UserNum},
    storage::{ReadAccess, ReadMarker, WriteTx, values_clause},
};

/// The number of rows that one statement stores.
const ROWS_PER_STATEMENT: usize = 32;

/// The place up to which a user has read a room.
#[derive(Debug, sqlx::FromRow)]
pub struct ReadMarkerRow {
    pub room: RoomNum,
    timeline: Position,
    notified: i64,
    mentioned: i64,
    threaded_notified: i64,
    threaded_mentioned: i64,
}

impl ReadMarkerRow {
    /// Returns the place with the counters there.
    pub fn to_marker(&self) -> ReadMarker {
        ReadMarker {
            timeline: self.timeline,
            counters: NotificationCounters {
                notified: self.notified,
                mentioned: self.mentioned,
            },
            threaded: NotificationCounters {
                notified: self.threaded_notified,
                mentioned: self.threaded_mentioned,
            },
        }
    }
}

/// Moves a user's read marker forward.
pub async fn mark_read(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    marker: ReadMarker,
) -> Result<()> {
    tx.query(
        "INSERT INTO read_markers (user_num, room, timeline, notified, mentioned, threaded_notified,
                                   threaded_mentioned)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (user_num, room) DO UPDATE
         SET timeline = excluded.timeline, notified = excluded.notified, mentioned = excluded.mentioned,
             threaded_notified = excluded.threaded_notified, threaded_mentioned = excluded.threaded_mentioned
         WHERE excluded.timeline > read_markers.timeline",
    )
    .bind(user)
    .bind(room)
    .bind(marker.timeline)
    .bind(marker.counters.notified)
    .bind(marker.counters.mentioned)
    .bind(marker.threaded.notified)
    .bind(marker.threaded.mentioned)
    .execute()
    .await?;
    Ok(())
}

/// Moves a user's marker of the main timeline forward.
pub async fn mark_main_read(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    timeline: Position,
    counters: NotificationCounters,
) -> Result<()> {
    tx.query(
        "INSERT INTO thread_markers (user_num, room, thread, timeline, notified, mentioned, base_notified,
                                     base_mentioned)
         SELECT $1, $2, 'main', $3, $4, $5, COALESCE(MAX(notified - threaded_notified), 0),
                COALESCE(MAX(mentioned - threaded_mentioned), 0)
         FROM read_markers WHERE user_num = $1 AND room = $2
         ON CONFLICT (user_num, room, thread) DO UPDATE
         SET timeline = excluded.timeline, notified = excluded.notified, mentioned = excluded.mentioned,
             base_notified = excluded.base_notified, base_mentioned = excluded.base_mentioned
         WHERE excluded.timeline > thread_markers.timeline",
    )
    .bind(user)
    .bind(room)
    .bind(timeline)
    .bind(counters.notified)
    .bind(counters.mentioned)
    .execute()
    .await?;
    Ok(())
}

/// Removes the exceptions of a thread, or of the main timeline, that a user has read.
pub async fn clear_exceptions_in(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    thread: Option<&str>,
    up_to: Position,
) -> Result<()> {
    tx.query(
        "DELETE FROM unread_exceptions
         WHERE user_num = $1 AND room = $2 AND COALESCE(thread, '') = $3 AND timeline <= $4",
    )
    .bind(user)
    .bind(room)
    .bind(thread.unwrap_or_default())
    .bind(up_to)
    .execute()
    .await?;
    Ok(())
}

/// Removes the exceptions that a user has read.
pub async fn clear_exceptions(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    up_to: Position,
) -> Result<()> {
    tx.query("DELETE FROM unread_exceptions WHERE user_num = $1 AND room = $2 AND timeline <= $3")
        .bind(user)
        .bind(room)
        .bind(up_to)
        .execute()
        .await?;
    Ok(())
}

/// Stores the users for whom events count differently.
pub async fn insert_exceptions(
    tx: &mut WriteTx,
    room: RoomNum,
    exceptions: &[CountException],
) -> Result<()> {
    for chunk in exceptions.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO unread_exceptions (user_num, room, timeline, thread, notify, highlight) {}",
            values_clause(chunk.len(), 6)
        );
        let mut query = tx.query(sqlx::AssertSqlSafe(sql));
        for exception in chunk {
            query = query
                .bind(exception.user)
                .bind(room)
                .bind(exception.timeline)
                .bind(exception.thread.as_ref().map(|root| root.as_str()))
                .bind(exception.notify)
                .bind(exception.highlight);
        }
        query.execute().await?;
    }
    Ok(())
}

/// Returns the read markers of a user.
pub async fn read_markers(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<ReadMarkerRow>> {
    db.query(
        "SELECT room, timeline, notified, mentioned, threaded_notified, threaded_mentioned
         FROM read_markers WHERE user_num = $1",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Returns the read marker of a user in a room.
pub async fn read_marker(
    db: &mut impl ReadAccess,
    user: UserNum,
    room: RoomNum,
) -> Result<ReadMarker> {
    let row: Option<ReadMarkerRow> = db
        .query(
            "SELECT room, timeline, notified, mentioned, threaded_notified, threaded_mentioned
             FROM read_markers WHERE user_num = $1 AND room = $2",
        )
        .bind(user)
        .bind(room)
        .fetch_optional()
        .await?;
    Ok(row.map(|row| row.to_marker()).unwrap_or_default())
}

/// An event that counts differently for a user than in the room's running counters.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct CountExceptionRow {
    pub room: RoomNum,
    /// The place in the timeline.
    pub timeline: Position,
    /// The thread that the event is in; `None` is the main timeline.
    pub thread: Option<String>,
    /// The difference in notifications.
    pub notify: i64,
    /// The difference in highlights.
    pub highlight: i64,
}

/// Returns the exceptions of a user.
pub async fn exceptions(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<CountExceptionRow>> {
    db.query(
        "SELECT room, timeline, thread, notify, highlight FROM unread_exceptions
         WHERE user_num = $1 ORDER BY room, timeline",
    )
    .bind(user)
    .fetch_all()
    .await
}
