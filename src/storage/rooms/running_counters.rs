//! The running counters of rooms along their timelines. History that was fetched later has none.

use crate::{
    error::Result,
    matrix::NotificationCounters,
    numbers::{Position, PositionRange, RoomNum},
    storage::{ReadAccess, number_list},
};

/// The counters of a room at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct CounterRow {
    /// The place of the event in the timeline.
    pub timeline: Position,
    notified: i64,
    mentioned: i64,
}

impl CounterRow {
    /// Returns the counters.
    pub fn counters(&self) -> NotificationCounters {
        NotificationCounters {
            notified: self.notified,
            mentioned: self.mentioned,
        }
    }
}

/// The place of an event in the timeline of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RoomPlaceRow {
    pub room: RoomNum,
    /// The place; `None` if the room has no event that was asked for.
    pub timeline: Option<Position>,
}

/// Returns the counters at the events in a part of a timeline, the newest first.
pub async fn in_range(
    db: &mut impl ReadAccess,
    room: RoomNum,
    range: PositionRange,
    limit: i64,
) -> Result<Vec<CounterRow>> {
    db.query(
        "SELECT timeline, notified, mentioned FROM events
         WHERE room = $1 AND timeline > $2 AND timeline <= $3 AND NOT backfilled
         ORDER BY timeline DESC LIMIT $4",
    )
    .bind(room)
    .bind(range.after)
    .bind(range.up_to)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the counters at the oldest event in a part of a timeline.
pub async fn oldest_in_range(
    db: &mut impl ReadAccess,
    room: RoomNum,
    range: PositionRange,
) -> Result<Option<CounterRow>> {
    db.query(
        "SELECT timeline, notified, mentioned FROM events
         WHERE room = $1 AND timeline > $2 AND timeline <= $3 AND NOT backfilled
         ORDER BY timeline LIMIT 1",
    )
    .bind(room)
    .bind(range.after)
    .bind(range.up_to)
    .fetch_optional()
    .await
}

/// Returns the newest event of each room up to a place.
pub async fn newest_places(
    db: &mut impl ReadAccess,
    rooms: &[RoomNum],
    place: Position,
) -> Result<Vec<RoomPlaceRow>> {
    db.query(
        "SELECT CAST(r.value AS BIGINT) AS room,
                (SELECT e.timeline FROM events e
                 WHERE e.room = CAST(r.value AS BIGINT) AND e.timeline <= $2
                 ORDER BY e.timeline DESC LIMIT 1) AS timeline
         FROM json_each($1) r",
    )
    .bind(number_list(rooms.iter().copied()))
    .bind(place)
    .fetch_all()
    .await
}
