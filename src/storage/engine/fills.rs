//! Tables that are filled from the stored events: how far that has come, and what it reads.

use crate::{
    error::Result,
    storage::{Read, RoomNum, UserNum, WriteTx},
};

/// An event that is looked at.
#[derive(Debug, sqlx::FromRow)]
pub struct StoredEvent {
    /// The journal position.
    pub position: i64,
    /// The room.
    pub room: RoomNum,
    /// Its id.
    pub event_id: String,
    /// Its place in the timeline.
    pub timeline: Option<i64>,
    /// The number of its type.
    pub kind: i64,
    /// The number of its sender.
    pub sender: UserNum,
    /// Canonical JSON.
    pub json: String,
}

/// Returns up to where events were looked at, and up to where they have to be.
pub async fn progress(db: &mut impl Read, name: &str) -> Result<Option<(i64, Option<i64>)>> {
    db.query("SELECT done, up_to FROM fills WHERE name = $1")
        .bind(name)
        .fetch_optional()
        .await
}

/// Notes up to where events were looked at.
pub async fn set_progress(tx: &mut WriteTx, name: &str, done: i64) -> Result<()> {
    tx.query("UPDATE fills SET done = $2 WHERE name = $1")
        .bind(name)
        .bind(done)
        .execute()
        .await?;
    Ok(())
}

/// Returns the next events to be looked at.
pub async fn events(
    db: &mut impl Read,
    after: i64,
    up_to: i64,
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

/// Sets what follows from the JSON of a stored event.
pub async fn set_derived(
    tx: &mut WriteTx,
    position: i64,
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
