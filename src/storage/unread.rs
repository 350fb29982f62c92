//! How far users have read, and what counts otherwise for them than the rooms' running counters say.

use super::{Read, ReadMarker, RoomNum, UserNum, WriteTx, values};
use crate::{error::Result, matrix::Exception};

/// Rows a statement.
const CHUNK: usize = 32;

/// Moves a user's read marker forward.
pub async fn mark_read(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    marker: ReadMarker,
) -> Result<()> {
    tx.query(
        "INSERT INTO read_markers (user_num, room, timeline, notified, mentioned) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (user_num, room) DO UPDATE
         SET timeline = excluded.timeline, notified = excluded.notified, mentioned = excluded.mentioned
         WHERE excluded.timeline > read_markers.timeline",
    )
    .bind(user)
    .bind(room)
    .bind(marker.timeline)
    .bind(marker.notified)
    .bind(marker.mentioned)
    .execute()
    .await?;
    Ok(())
}

/// Removes the exceptions that a user has read.
pub async fn clear_exceptions(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    up_to: i64,
) -> Result<()> {
    tx.query("DELETE FROM unread_exceptions WHERE user_num = $1 AND room = $2 AND timeline <= $3")
        .bind(user)
        .bind(room)
        .bind(up_to)
        .execute()
        .await?;
    Ok(())
}

/// Stores for whom an event counts otherwise.
pub async fn insert_exceptions(
    tx: &mut WriteTx,
    room: RoomNum,
    exceptions: &[Exception],
) -> Result<()> {
    for chunk in exceptions.chunks(CHUNK) {
        let sql = format!(
            "INSERT INTO unread_exceptions (user_num, room, timeline, notify, highlight) {}",
            values(chunk.len(), 5)
        );
        let mut query = tx.query(sqlx::AssertSqlSafe(sql));
        for exception in chunk {
            query = query
                .bind(exception.user)
                .bind(room)
                .bind(exception.timeline)
                .bind(exception.notify)
                .bind(exception.highlight);
        }
        query.execute().await?;
    }
    Ok(())
}

/// Returns the read markers of a user: (room, place, notified, mentioned).
pub async fn markers(db: &mut impl Read, user: UserNum) -> Result<Vec<(RoomNum, i64, i64, i64)>> {
    db.query("SELECT room, timeline, notified, mentioned FROM read_markers WHERE user_num = $1")
        .bind(user)
        .fetch_all()
        .await
}

/// Returns the exceptions of a user: (room, place, notify, highlight).
pub async fn exceptions(
    db: &mut impl Read,
    user: UserNum,
) -> Result<Vec<(RoomNum, i64, i64, i64)>> {
    db.query(
        "SELECT room, timeline, notify, highlight FROM unread_exceptions
         WHERE user_num = $1 ORDER BY room, timeline",
    )
    .bind(user)
    .fetch_all()
    .await
}
