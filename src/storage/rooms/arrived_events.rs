//! Events of other servers that wait for what they lack.

use crate::{
    error::Result,
    storage::{Position, Read, RoomNum, WriteTx, list_of_numbers},
};

/// An event that waits.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ArrivedRow {
    /// Its place among those that wait.
    pub position: Position,
    /// The room.
    pub room: RoomNum,
    /// The server that sent it.
    pub origin: String,
    /// The event as it came.
    pub json: String,
}

/// Stores an event that waits.
pub async fn insert(tx: &mut WriteTx, row: &ArrivedRow) -> Result<()> {
    tx.query("INSERT INTO arrived_events (position, room, origin, json) VALUES ($1, $2, $3, $4)")
        .bind(row.position)
        .bind(row.room)
        .bind(row.origin.clone())
        .bind(row.json.clone())
        .execute()
        .await?;
    Ok(())
}

/// Removes events that wait no more.
pub async fn remove(tx: &mut WriteTx, positions: &[Position]) -> Result<()> {
    tx.query("DELETE FROM arrived_events WHERE position IN (SELECT CAST(value AS BIGINT) FROM json_each($1))")
        .bind(list_of_numbers(positions.iter().copied()))
        .execute()
        .await?;
    Ok(())
}

/// Returns the oldest of the events that wait after a place.
pub async fn after(db: &mut impl Read, position: Position, limit: i64) -> Result<Vec<ArrivedRow>> {
    db.query(
        "SELECT position, room, origin, json FROM arrived_events
         WHERE position > $1 ORDER BY position LIMIT $2",
    )
    .bind(position)
    .bind(limit)
    .fetch_all()
    .await
}
