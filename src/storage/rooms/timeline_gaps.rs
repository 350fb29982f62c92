//! Gaps in timelines: prev events that this server does not have.

use crate::{
    error::Result,
    numbers::{Position, PositionRange, RoomNum},
    storage::{ReadAccess, WriteTx, text_list},
};

/// Records that events are missing before a place in a room's timeline.
pub async fn insert<S: AsRef<str>>(
    tx: &mut WriteTx,
    room: RoomNum,
    missing: impl IntoIterator<Item = S>,
    timeline: Position,
) -> Result<()> {
    for event_id in missing {
        tx.query(
            "INSERT INTO gaps (room, event_id, timeline) VALUES ($1, $2, $3)
             ON CONFLICT (room, event_id) DO UPDATE SET timeline = excluded.timeline
             WHERE excluded.timeline < gaps.timeline",
        )
        .bind(room)
        .bind(event_id.as_ref().to_owned())
        .bind(timeline)
        .execute()
        .await?;
    }
    Ok(())
}

/// Records that an event is no longer missing.
pub async fn close_gap(tx: &mut WriteTx, room: RoomNum, event_id: &str) -> Result<()> {
    tx.query("DELETE FROM gaps WHERE room = $1 AND event_id = $2")
        .bind(room)
        .bind(event_id)
        .execute()
        .await?;
    Ok(())
}

/// A gap in a timeline.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct TimelineGapRow {
    /// The missing event.
    pub event_id: String,
    /// The place before which it belongs.
    pub timeline: Position,
}

/// Returns those of the events that are missing.
pub async fn missing_among<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    room: RoomNum,
    ids: impl IntoIterator<Item = S>,
) -> Result<Vec<TimelineGapRow>> {
    db.query(
        "SELECT event_id, timeline FROM gaps
         WHERE room = $1 AND event_id IN (SELECT value FROM json_each($2))",
    )
    .bind(room)
    .bind(text_list(ids))
    .fetch_all()
    .await
}

/// Returns the gaps in a range of a room's timeline, the newest first.
pub async fn gaps_between(
    db: &mut impl ReadAccess,
    room: RoomNum,
    range: PositionRange,
    limit: i64,
) -> Result<Vec<TimelineGapRow>> {
    db.query(
        "SELECT event_id, timeline FROM gaps
         WHERE room = $1 AND timeline > $2 AND timeline <= $3
         ORDER BY timeline DESC, event_id LIMIT $4",
    )
    .bind(room)
    .bind(range.after)
    .bind(range.up_to)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the place of the newest gap of a room.
pub async fn newest_gap(db: &mut impl ReadAccess, room: RoomNum) -> Result<Option<Position>> {
    db.query("SELECT timeline FROM gaps WHERE room = $1 ORDER BY timeline DESC LIMIT 1")
        .bind(room)
        .fetch_scalar()
        .await
}
