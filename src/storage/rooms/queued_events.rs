//! Events of other servers that are queued until their missing prev events and auth events are
//! here.

use crate::{
    error::Result,
    numbers::{Position, RoomNum},
    storage::{ReadAccess, WriteTx, number_list},
};

/// A queued event.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct QueuedEventRow {
    /// The position in the queue.
    pub position: Position,
    pub room: RoomNum,
    pub origin: String,
    /// The event as it was received.
    pub json: String,
}

/// Queues an event.
pub async fn insert(tx: &mut WriteTx, row: &QueuedEventRow) -> Result<()> {
    tx.query("INSERT INTO arrived_events (position, room, origin, json) VALUES ($1, $2, $3, $4)")
        .bind(row.position)
        .bind(row.room)
        .bind(row.origin.clone())
        .bind(row.json.clone())
        .execute()
        .await?;
    Ok(())
}

/// Removes events from the queue.
pub async fn remove(tx: &mut WriteTx, positions: &[Position]) -> Result<()> {
    tx.query("DELETE FROM arrived_events WHERE position IN (SELECT CAST(value AS BIGINT) FROM json_each($1))")
        .bind(number_list(positions.iter().copied()))
        .execute()
        .await?;
    Ok(())
}

/// Returns the oldest events of the queue after a position.
pub async fn after_position(
    db: &mut impl ReadAccess,
    position: Position,
    limit: i64,
) -> Result<Vec<QueuedEventRow>> {
    db.query(
        "SELECT position, room, origin, json FROM arrived_events
         WHERE position > $1 ORDER BY position LIMIT $2",
    )
    .bind(position)
    .bind(limit)
    .fetch_all()
    .await
}
