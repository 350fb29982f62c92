//! The graph of a room's events: their status, the states before and after them, outliers, and redactions without
//! target.

use std::ops::RangeInclusive;

use sqlx::AssertSqlSafe;

use super::events::EventStatus;
use crate::{
    error::Result,
    numbers::{Position, RoomNum, SnapshotId, StringNum, UserNum},
    storage::{ReadAccess, WriteTx, text_list, values_clause},
};

/// The number of outliers that one statement stores.
const OUTLIERS_PER_STATEMENT: usize = 50;

/// An event in the graph.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EventNode {
    pub event_id: String,
    /// The journal position at which it was stored.
    pub position: Position,
    pub room: RoomNum,
    /// The place in the timeline, if it has one.
    pub timeline: Option<Position>,
    /// The number of the status.
    pub status: i64,
    /// The snapshot of the state before it; `None` for an outlier.
    pub state: Option<SnapshotId>,
    /// The snapshot of the state after it.
    pub state_after: Option<SnapshotId>,
    /// The number of the history visibility before it.
    pub visibility: i64,
    /// The canonical JSON.
    pub json: String,
}

impl EventNode {
    /// Returns the result of the checks.
    pub fn status(&self) -> EventStatus {
        EventStatus::from_number(self.status)
    }
}

/// Returns those of the events that are stored, in no particular order.
pub async fn find_nodes<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    ids: impl IntoIterator<Item = S>,
) -> Result<Vec<EventNode>> {
    db.query(
        "SELECT event_id, position, room, timeline, status, state,
                COALESCE(state_after, CASE WHEN state_key IS NULL OR state IS NULL OR status = 2 THEN state
                                           ELSE position END) AS state_after, visibility, json
         FROM events WHERE event_id IN (SELECT value FROM json_each($1))",
    )
    .bind(text_list(ids))
    .fetch_all()
    .await
}

/// The position of a stored event.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EventPositionRow {
    pub event_id: String,
    /// The journal position at which it was stored.
    pub position: Position,
}

/// Returns the positions of events.
pub async fn positions<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    ids: impl IntoIterator<Item = S>,
) -> Result<Vec<EventPositionRow>> {
    db.query(
        "SELECT event_id, position
         FROM events WHERE event_id IN (SELECT value FROM json_each($1))",
    )
    .bind(text_list(ids))
    .fetch_all()
    .await
}

/// An event that is stored outside the timeline, without its state.
#[derive(Debug)]
pub struct OutlierRow<'a> {
    /// The journal position.
    pub position: Position,
    pub room: RoomNum,
    pub event_id: &'a str,
    /// The number of the event type.
    pub kind: StringNum,
    /// The number of the state key.
    pub state_key: Option<StringNum>,
    /// The number of the sender.
    pub sender: UserNum,
    /// Whether it was accepted or rejected.
    pub status: EventStatus,
    pub origin_server_ts: i64,
    /// The canonical JSON.
    pub json: &'a str,
}

/// Stores outliers. Those that are already stored do not change.
pub async fn insert_outliers(tx: &mut WriteTx, outliers: &[OutlierRow<'_>]) -> Result<()> {
    for chunk in outliers.chunks(OUTLIERS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO events (position, room, event_id, kind, state_key, sender, visibility, status, notified,
                                 mentioned, origin_server_ts, json) {}
             ON CONFLICT DO NOTHING",
            values_clause(chunk.len(), 12)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for outlier in chunk {
            query = query
                .bind(outlier.position)
                .bind(outlier.room)
                .bind(outlier.event_id.to_owned())
                .bind(outlier.kind)
                .bind(outlier.state_key)
                .bind(outlier.sender)
                .bind(1_i64)
                .bind(outlier.status.number())
                .bind(0_i64)
                .bind(0_i64)
                .bind(outlier.origin_server_ts)
                .bind(outlier.json.to_owned());
        }
        query.execute().await?;
    }
    Ok(())
}

/// An event that may have to be sent to other servers.
#[derive(Debug, sqlx::FromRow)]
pub struct SendableEvent {
    /// The journal position, or the place in the timeline if the query reads by place.
    pub position: Position,
    pub room: RoomNum,
    pub event_id: String,
    /// Whether this server sends it to others.
    pub goes_out: bool,
    /// The canonical JSON.
    pub json: String,
}

/// Returns the accepted events that were stored after one position and up to another, in order.
pub async fn events_after_position(
    db: &mut impl ReadAccess,
    after: Position,
    up_to: Position,
    limit: i64,
) -> Result<Vec<SendableEvent>> {
    db.query(
        "SELECT position, room, event_id, goes_out, json FROM events
         WHERE position > $1 AND position <= $2 AND status = 0 AND timeline IS NOT NULL AND NOT backfilled
         ORDER BY position LIMIT $3",
    )
    .bind(after)
    .bind(up_to)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns accepted events of a room from a place in its timeline on, in order, with the places as positions.
pub async fn events_of_room_from(
    db: &mut impl ReadAccess,
    room: RoomNum,
    from: Position,
    limit: i64,
) -> Result<Vec<SendableEvent>> {
    db.query(
        "SELECT timeline AS position, room, event_id, goes_out, json FROM events
         WHERE room = $1 AND timeline >= $2 AND status = 0 AND NOT backfilled
         ORDER BY timeline LIMIT $3",
    )
    .bind(room)
    .bind(from)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the newest accepted events of a room in a range of its timeline, the newest first.
pub async fn newest_events_of_room(
    db: &mut impl ReadAccess,
    room: RoomNum,
    places: RangeInclusive<Position>,
    limit: i64,
) -> Result<Vec<SendableEvent>> {
    db.query(
        "SELECT timeline AS position, room, event_id, goes_out, json FROM events
         WHERE room = $1 AND timeline >= $2 AND timeline <= $3 AND status = 0 AND NOT backfilled
         ORDER BY timeline DESC LIMIT $4",
    )
    .bind(room)
    .bind(*places.start())
    .bind(*places.end())
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the place of the newest event before a place in a room's timeline.
pub async fn place_before(
    db: &mut impl ReadAccess,
    room: RoomNum,
    place: Position,
) -> Result<Option<Position>> {
    db.query(
        "SELECT timeline FROM events
         WHERE room = $1 AND timeline < $2
         ORDER BY timeline DESC LIMIT 1",
    )
    .bind(room)
    .bind(place)
    .fetch_scalar()
    .await
}

/// Stores a redaction whose target is not here yet.
pub async fn store_waiting_redaction(
    tx: &mut WriteTx,
    room: RoomNum,
    target: &str,
    redaction: &str,
) -> Result<()> {
    tx.query(
        "INSERT INTO waiting_redactions (room, target, event_id) VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING",
    )
    .bind(room)
    .bind(target)
    .bind(redaction)
    .execute()
    .await?;
    Ok(())
}

/// Returns the redactions that wait for an event.
pub async fn waiting_redactions(
    db: &mut impl ReadAccess,
    room: RoomNum,
    target: &str,
) -> Result<Vec<String>> {
    db.query(
        "SELECT event_id FROM waiting_redactions WHERE room = $1 AND target = $2 ORDER BY event_id",
    )
    .bind(room)
    .bind(target)
    .fetch_scalars()
    .await
}

/// Deletes and returns the redactions that waited for an event.
pub async fn take_waiting_redactions(
    tx: &mut WriteTx,
    room: RoomNum,
    target: &str,
) -> Result<Vec<String>> {
    tx.query("DELETE FROM waiting_redactions WHERE room = $1 AND target = $2 RETURNING event_id")
        .bind(room)
        .bind(target)
        .fetch_scalars()
        .await
}
