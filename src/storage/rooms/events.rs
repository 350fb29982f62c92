//! Events and their places in the timelines.

use ruma::OwnedEventId;

use crate::{
    error::Result,
    matrix::{NotificationCounters, ThreadPosition},
    numbers::{DeviceNum, Position, PositionRange, RoomNum, SnapshotId, StringNum, UserNum},
    storage::{ReadAccess, WriteTx, number_list, text_list},
};

/// The result of the checks on receipt of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStatus {
    /// The event is part of the room.
    Accepted,
    /// The event is allowed at its place in the graph, but not by the current state. It is not shown.
    SoftFailed,
    /// The event is not allowed.
    Rejected,
}

impl EventStatus {
    /// Returns the number under which it is stored.
    pub fn number(self) -> i64 {
        match self {
            Self::Accepted => 0,
            Self::SoftFailed => 1,
            Self::Rejected => 2,
        }
    }

    /// Returns the status that is stored under a number.
    pub fn from_number(number: i64) -> Self {
        match number {
            0 => Self::Accepted,
            1 => Self::SoftFailed,
            _ => Self::Rejected,
        }
    }
}

/// An event to be stored.
#[derive(Debug)]
pub struct NewEventRow<'a> {
    /// The journal position.
    pub position: Position,
    pub room: RoomNum,
    pub event_id: &'a str,
    /// The place in the timeline; `None` for an event that is in none.
    pub timeline: Option<Position>,
    /// The number of the event type.
    pub kind: StringNum,
    /// The number of the state key.
    pub state_key: Option<StringNum>,
    /// The number of the sender.
    pub sender: UserNum,
    /// The snapshot of the state before it; `None` for an outlier.
    pub state: Option<SnapshotId>,
    /// The snapshot of the state after it, where that is neither the position nor `state`.
    pub state_after: Option<SnapshotId>,
    /// Whether it was received by backfill.
    pub backfilled: bool,
    /// Whether this server sends it to others.
    pub goes_out: bool,
    /// Whether it is a redaction that has not taken effect, which is not shown to clients.
    pub withheld: bool,
    /// The number of the history visibility before it.
    pub visibility: i64,
    /// The result of the checks.
    pub status: EventStatus,
    /// The room's counter of events that notify.
    pub notified: i64,
    /// The room's counter of events that mention the whole room.
    pub mentioned: i64,
    /// The same counters for all threads of the room.
    pub threaded_counters: NotificationCounters,
    /// The thread that it is in, and the counters of the thread.
    pub thread: Option<(&'a str, NotificationCounters)>,
    /// The `origin_server_ts`.
    pub origin_server_ts: i64,
    /// The device that sent it, and the transaction id.
    pub transaction: Option<(DeviceNum, &'a str)>,
    /// The canonical JSON.
    pub json: &'a str,
}

/// An event in the timeline.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EventRow {
    /// The journal position.
    pub position: Position,
    pub room: RoomNum,
    pub event_id: String,
    /// The place in the timeline.
    pub timeline: Position,
    /// The snapshot of the state before it.
    pub state: SnapshotId,
    /// Whether it was received by backfill.
    pub backfilled: bool,
    /// Whether it is a redaction that has not taken effect, which is not shown to clients.
    pub withheld: bool,
    /// The number of the history visibility before it.
    pub visibility: i64,
    /// The room's counter of events that notify.
    pub notified: i64,
    /// The room's counter of events that mention the whole room.
    pub mentioned: i64,
    /// The counter of events that notify, for all threads of the room.
    pub threaded_notified: i64,
    /// The counter of events that mention the whole room, for all threads of the room.
    pub threaded_mentioned: i64,
    /// The thread that it is in.
    pub thread: Option<String>,
    /// The thread's counter of events that notify.
    pub thread_notified: i64,
    /// The thread's counter of events that mention the whole room.
    pub thread_mentioned: i64,
    /// The local device that sent it.
    pub device: Option<DeviceNum>,
    pub txn_id: Option<String>,
    /// The redaction that took effect on it.
    pub redacted_by: Option<String>,
    /// The canonical JSON.
    pub json: String,
}

impl EventRow {
    /// Returns the counters for all threads of the room.
    pub fn threaded_counters(&self) -> NotificationCounters {
        NotificationCounters {
            notified: self.threaded_notified,
            mentioned: self.threaded_mentioned,
        }
    }

    /// Returns the thread that it is in.
    pub fn thread_position(&self) -> Option<ThreadPosition> {
        let root = OwnedEventId::try_from(self.thread.as_deref()?).ok()?;
        let counters = NotificationCounters {
            notified: self.thread_notified,
            mentioned: self.thread_mentioned,
        };
        Some(ThreadPosition {
            root,
            counters,
            added: NotificationCounters::default(),
        })
    }
}

/// Stores an event. Returns `false`, and stores nothing, if the device has already used the transaction id or the event
/// is already stored.
pub async fn insert(tx: &mut WriteTx, event: &NewEventRow<'_>) -> Result<bool> {
    let stored = tx
        .query(
            "INSERT INTO events (position, room, event_id, timeline, kind, state_key, sender, state, visibility,
                                 status, notified, mentioned, threaded_notified, threaded_mentioned, thread,
                                 thread_notified, thread_mentioned, origin_server_ts, device, txn_id, state_after,
                                 backfilled, goes_out, withheld, json)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
                     $22, $23, $24, $25)
             ON CONFLICT DO NOTHING",
        )
        .bind(event.position)
        .bind(event.room)
        .bind(event.event_id)
        .bind(event.timeline)
        .bind(event.kind)
        .bind(event.state_key)
        .bind(event.sender)
        .bind(event.state)
        .bind(event.visibility)
        .bind(event.status.number())
        .bind(event.notified)
        .bind(event.mentioned)
        .bind(event.threaded_counters.notified)
        .bind(event.threaded_counters.mentioned)
        .bind(event.thread.map(|(root, _)| root))
        .bind(event.thread.map_or(0, |(_, counters)| counters.notified))
        .bind(event.thread.map_or(0, |(_, counters)| counters.mentioned))
        .bind(event.origin_server_ts)
        .bind(event.transaction.map(|(device, _)| device))
        .bind(event.transaction.map(|(_, txn_id)| txn_id))
        .bind(event.state_after)
        .bind(event.backfilled)
        .bind(event.goes_out)
        .bind(event.withheld)
        .bind(event.json)
        .execute()
        .await?;
    Ok(stored == 1)
}

/// Updates an event that was stored without a place in the timeline, as an outlier or as rejected, after it was checked
/// again.
pub async fn update_placement(tx: &mut WriteTx, event: &NewEventRow<'_>) -> Result<()> {
    tx.query(
        "UPDATE events
         SET timeline = $2, state = $3, state_after = $4, visibility = $5, status = $6, notified = $7,
             mentioned = $8, threaded_notified = $9, threaded_mentioned = $10, thread = $11, thread_notified = $12,
             thread_mentioned = $13, backfilled = $14, goes_out = $15, withheld = $16
         WHERE position = $1",
    )
    .bind(event.position)
    .bind(event.timeline)
    .bind(event.state)
    .bind(event.state_after)
    .bind(event.visibility)
    .bind(event.status.number())
    .bind(event.notified)
    .bind(event.mentioned)
    .bind(event.threaded_counters.notified)
    .bind(event.threaded_counters.mentioned)
    .bind(event.thread.map(|(root, _)| root))
    .bind(event.thread.map_or(0, |(_, counters)| counters.notified))
    .bind(event.thread.map_or(0, |(_, counters)| counters.mentioned))
    .bind(event.backfilled)
    .bind(event.goes_out)
    .bind(event.withheld)
    .execute()
    .await?;
    Ok(())
}

/// The running counters of a room.
#[derive(Clone, Copy, Debug)]
pub struct RoomCounters {
    pub all: NotificationCounters,
    /// The part of these that is in threads.
    pub threaded: NotificationCounters,
}

/// Shows a redaction that was withheld, at a new place in the timeline or at its present one.
pub async fn show_redaction(
    tx: &mut WriteTx,
    event_id: &str,
    place: Option<Position>,
    counters: RoomCounters,
) -> Result<()> {
    tx.query(
        "UPDATE events
         SET withheld = FALSE, timeline = COALESCE($2, timeline), notified = $3, mentioned = $4,
             threaded_notified = $5, threaded_mentioned = $6
         WHERE event_id = $1",
    )
    .bind(event_id)
    .bind(place)
    .bind(counters.all.notified)
    .bind(counters.all.mentioned)
    .bind(counters.threaded.notified)
    .bind(counters.threaded.mentioned)
    .execute()
    .await?;
    Ok(())
}

/// Returns the id of the event that a device sent under a transaction id.
pub async fn find_by_transaction(
    db: &mut impl ReadAccess,
    device: DeviceNum,
    room: RoomNum,
    kind: StringNum,
    txn_id: &str,
) -> Result<Option<String>> {
    db.query(
        "SELECT event_id FROM events
         WHERE device = $1 AND room = $2 AND kind = $3 AND txn_id = $4 AND txn_id IS NOT NULL",
    )
    .bind(device)
    .bind(room)
    .bind(kind)
    .bind(txn_id)
    .fetch_scalar()
    .await
}

/// Replaces the JSON of an event by its redacted form.
pub async fn redact(tx: &mut WriteTx, event_id: &str, json: &str, redaction: &str) -> Result<()> {
    tx.query("UPDATE events SET json = $2, redacted_by = $3 WHERE event_id = $1")
        .bind(event_id)
        .bind(json)
        .bind(redaction)
        .execute()
        .await?;
    Ok(())
}

/// Returns an event that is in a timeline.
pub async fn get(db: &mut impl ReadAccess, event_id: &str) -> Result<Option<EventRow>> {
    db.query(
        "SELECT position, room, event_id, timeline, state, backfilled, withheld, visibility, notified, mentioned,
                threaded_notified, threaded_mentioned, thread, thread_notified, thread_mentioned, device, txn_id, redacted_by, json
         FROM events WHERE event_id = $1 AND timeline IS NOT NULL AND state IS NOT NULL",
    )
    .bind(event_id)
    .fetch_optional()
    .await
}

/// Returns an event, whether or not it is in a timeline. If it is not, its place is 0.
pub async fn get_anywhere(db: &mut impl ReadAccess, event_id: &str) -> Result<Option<EventRow>> {
    db.query(
        "SELECT position, room, event_id, COALESCE(timeline, 0) AS timeline, COALESCE(state, 0) AS state, backfilled,
                withheld, visibility, notified, mentioned, threaded_notified, threaded_mentioned, thread, thread_notified,
                thread_mentioned, device, txn_id, redacted_by, json
         FROM events WHERE event_id = $1",
    )
    .bind(event_id)
    .fetch_optional()
    .await
}

/// Returns the events at these places of a timeline, in no particular order.
pub async fn at_places(
    db: &mut impl ReadAccess,
    room: RoomNum,
    places: &[Position],
) -> Result<Vec<EventRow>> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    db.query(
        "SELECT position, room, event_id, timeline, state, backfilled, withheld, visibility, notified, mentioned,
                threaded_notified, threaded_mentioned, thread, thread_notified, thread_mentioned, device, txn_id, redacted_by, json
         FROM events
         WHERE room = $1 AND timeline IN (SELECT CAST(value AS BIGINT) FROM json_each($2)) AND state IS NOT NULL",
    )
    .bind(room)
    .bind(number_list(places.iter().copied()))
    .fetch_all()
    .await
}

/// Returns the events with these ids that are in the timeline of a room, in no particular order.
pub async fn of_room_with_ids<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    room: RoomNum,
    ids: impl IntoIterator<Item = S>,
) -> Result<Vec<EventRow>> {
    db.query(
        "SELECT position, room, event_id, timeline, state, backfilled, withheld, visibility, notified, mentioned,
                threaded_notified, threaded_mentioned, thread, thread_notified, thread_mentioned, device, txn_id, redacted_by, json
         FROM events
         WHERE event_id IN (SELECT value FROM json_each($2)) AND room = $1
           AND timeline IS NOT NULL AND state IS NOT NULL",
    )
    .bind(room)
    .bind(text_list(ids))
    .fetch_all()
    .await
}

/// An event with its time.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct DatedEventRow {
    /// The place in the timeline.
    pub timeline: Position,
    /// The number of the history visibility before it.
    pub visibility: i64,
    pub origin_server_ts: i64,
    pub event_id: String,
}

/// A point in the order of a room's events by time, in which events of the same time are sorted by place.
#[derive(Clone, Copy, Debug)]
pub struct TimeOrderPoint {
    /// The time in milliseconds since the Unix epoch.
    pub ts: i64,
    /// The place in the timeline.
    pub place: Position,
}

/// Returns the events before a point in the order by time, the latest first.
pub async fn made_before(
    db: &mut impl ReadAccess,
    room: RoomNum,
    from: TimeOrderPoint,
    limit: i64,
) -> Result<Vec<DatedEventRow>> {
    db.query(
        "SELECT timeline, visibility, origin_server_ts, event_id FROM events
         WHERE room = $1 AND timeline IS NOT NULL AND NOT withheld
           AND origin_server_ts <= $2 AND (origin_server_ts < $2 OR timeline < $3)
         ORDER BY origin_server_ts DESC, timeline DESC LIMIT $4",
    )
    .bind(room)
    .bind(from.ts)
    .bind(from.place)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the events after a point in the order by time, the earliest first.
pub async fn made_after(
    db: &mut impl ReadAccess,
    room: RoomNum,
    from: TimeOrderPoint,
    limit: i64,
) -> Result<Vec<DatedEventRow>> {
    db.query(
        "SELECT timeline, visibility, origin_server_ts, event_id FROM events
         WHERE room = $1 AND timeline IS NOT NULL AND NOT withheld
           AND origin_server_ts >= $2 AND (origin_server_ts > $2 OR timeline > $3)
         ORDER BY origin_server_ts, timeline LIMIT $4",
    )
    .bind(room)
    .bind(from.ts)
    .bind(from.place)
    .bind(limit)
    .fetch_all()
    .await
}

/// The JSON of a stored event.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct EventJsonRow {
    pub event_id: String,
    /// The number of the [`EventStatus`].
    pub status: i64,
    /// The canonical JSON.
    pub json: String,
}

/// Returns events by id, whether or not they are in a timeline.
pub async fn by_ids<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    ids: impl IntoIterator<Item = S>,
) -> Result<Vec<EventJsonRow>> {
    db.query(
        "SELECT event_id, status, json FROM events
         WHERE event_id IN (SELECT value FROM json_each($1))",
    )
    .bind(text_list(ids))
    .fetch_all()
    .await
}

/// Returns the first of the events that were added to any room in a range of positions, except fetched history.
pub async fn added_between(
    db: &mut impl ReadAccess,
    range: PositionRange,
    limit: i64,
) -> Result<Vec<EventRow>> {
    db.query(
        "SELECT position, room, event_id, timeline, state, backfilled, withheld, visibility, notified, mentioned,
                threaded_notified, threaded_mentioned, thread, thread_notified, thread_mentioned, device, txn_id, redacted_by, json
         FROM events
         WHERE position > $1 AND position <= $2 AND timeline IS NOT NULL AND state IS NOT NULL
           AND NOT backfilled AND NOT withheld
         ORDER BY position LIMIT $3",
    )
    .bind(range.after)
    .bind(range.up_to)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the events of a room before a place in its timeline (not including it), the newest first.
pub async fn before_place(
    db: &mut impl ReadAccess,
    room: RoomNum,
    place: Position,
    limit: i64,
) -> Result<Vec<EventRow>> {
    db.query(
        "SELECT position, room, event_id, timeline, state, backfilled, withheld, visibility, notified, mentioned,
                threaded_notified, threaded_mentioned, thread, thread_notified, thread_mentioned, device, txn_id, redacted_by, json
         FROM events WHERE room = $1 AND timeline < $2
         ORDER BY timeline DESC LIMIT $3",
    )
    .bind(room)
    .bind(place)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the events of a room after a place in its timeline (not including it), the oldest first.
pub async fn after_place(
    db: &mut impl ReadAccess,
    room: RoomNum,
    place: Position,
    limit: i64,
) -> Result<Vec<EventRow>> {
    db.query(
        "SELECT position, room, event_id, timeline, state, backfilled, withheld, visibility, notified, mentioned,
                threaded_notified, threaded_mentioned, thread, thread_notified, thread_mentioned, device, txn_id, redacted_by, json
         FROM events WHERE room = $1 AND timeline > $2
         ORDER BY timeline LIMIT $3",
    )
    .bind(room)
    .bind(place)
    .bind(limit)
    .fetch_all()
    .await
}
