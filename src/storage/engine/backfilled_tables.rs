//! The progress of filling tables from the stored events, and the events to read for it.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, StringNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// An event that a table is filled from.
#[derive(Debug, sqlx::FromRow)]
pub struct StoredEvent {
    /// The journal position.
    pub position: Position,
    pub room: RoomNum,
    pub event_id: String,
    /// The place in the timeline.
    pub timeline: Option<Position>,
    /// The number of the event type.
    pub kind: StringNum,
    /// The number of the sender.
    pub sender: UserNum,
    /// The canonical JSON.
    pub json: String,
}

/// The progress of filling a table.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct BackfillProgress {
    /// The position up to which events have been read.
    pub done: Position,
    /// The position up to which they must be read; `None` for a table that is filled as long as there are new events.
    pub up_to: Option<Position>,
}

/// Returns the progress of filling a table.
pub async fn progress(db: &mut impl ReadAccess, name: &str) -> Result<Option<BackfillProgress>> {
    db.query("SELECT done, up_to FROM fills WHERE name = $1")
        .bind(name)
        .fetch_optional()
        .await
}

/// Stores the position up to which events have been read.
pub async fn set_progress(tx: &mut WriteTx, name: &str, done: Position) -> Result<()> {
    tx.query("UPDATE fills SET done = $2 WHERE name = $1")
        .bind(name)
        .bind(done)
        .execute()
        .await?;
    Ok(())
}

/// Returns the next events to read.
pub async fn next_events(
    db: &mut impl ReadAccess,
    after: Position,
    up_to: Position,
    limit: i64,
) -> Result<Vec<StoredEvent>> {
    db.query(
        "SELECT position, room, event_id, timeline, kind, sender, json FROM events
         WHERE position > $1 AND position <= $2
         ORDER BY position LIMIT $3",
    )
    .bind(after)
    .bind(up_to)
    .bind(limit)
    .fetch_all()
    .await
}

/// Sets the columns that are derived from the JSON of a stored event.
pub async fn set_derived_columns(
    tx: &mut WriteTx,
    position: Position,
    origin_server_ts: i64,
    thread: Option<&str>,
) -> Result<()> {
    tx.query("UPDATE events SET origin_server_ts = $2, thread = $3 WHERE position = $1")
        .bind(position)
        .bind(origin_server_ts)
        .bind(thread)
        .execute()
        .await?;
    Ok(())
}
