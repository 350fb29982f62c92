//! Events and their places in the timelines.

use ruma::OwnedEventId;

use crate::{
    error::Result,
    matrix::{Counters, InThread},
    storage::{DeviceNum, Read, RoomNum, WriteTx, list, list_of_numbers},
};

/// How an event fared in the checks on receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It counts.
    Accepted,
    /// It is allowed where it stands, but not by the present state: it is not shown.
    SoftFailed,
    /// It is not allowed.
    Rejected,
}

impl Status {
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
pub struct NewEvent<'a> {
    /// The journal position.
    pub position: i64,
    /// The room.
    pub room: RoomNum,
    /// Its id.
    pub event_id: &'a str,
    /// Its place in the timeline; `None` for an event that is shown in none.
    pub timeline: Option<i64>,
    /// The number of its type.
    pub kind: i64,
    /// The number of its state key.
    pub state_key: Option<i64>,
    /// The number of its sender.
    pub sender: i64,
    /// The snapshot of the state before it; `None` for an outlier.
    pub state: Option<i64>,
    /// The snapshot of the state after it, where that is neither the position nor `state`.
    pub state_after: Option<i64>,
    /// Whether it is history that came later.
    pub backfilled: bool,
    /// Whether this server sends it to others.
    pub goes_out: bool,
    /// Whether it is a redaction that has not taken effect, which no client is shown.
    pub withheld: bool,
    /// The number of the history visibility before it.
    pub visibility: i64,
    /// How it fared in the checks.
    pub status: Status,
    /// The room's counter of events that notify.
    pub notified: i64,
    /// The room's counter of events that mention everybody.
    pub mentioned: i64,
    /// The same counters of all threads of the room.
    pub threaded: Counters,
    /// The thread that it is in, and the same counters of it.
    pub thread: Option<(&'a str, Counters)>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub origin_server_ts: i64,
    /// Which device sent it under which transaction id.
    pub transaction: Option<(DeviceNum, &'a str)>,
    /// Canonical JSON.
    pub json: &'a str,
}

/// An event as the timeline has it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EventRow {
    /// The journal position.
    pub position: i64,
    /// The room.
    pub room: RoomNum,
    /// Its id.
    pub event_id: String,
    /// Its place in the timeline.
    pub timeline: i64,
    /// The snapshot of the state before it.
    pub state: i64,
    /// Whether it is history that came later.
    pub backfilled: bool,
    /// Whether it is a redaction that has not taken effect, which no client is shown.
    pub withheld: bool,
    /// The number of the history visibility before it.
    pub visibility: i64,
    /// The room's counter of events that notify.
    pub notified: i64,
    /// The room's counter of events that mention everybody.
    pub mentioned: i64,
    /// The same counters of all threads of the room.
    pub threaded_notified: i64,
    /// As `threaded_notified`, of those that mention everybody.
    pub threaded_mentioned: i64,
    /// The thread that it is in.
    pub thread: Option<String>,
    /// The same counters of its thread.
    pub thread_notified: i64,
    /// As `thread_notified`, of those that mention everybody.
    pub thread_mentioned: i64,
    /// Which device here sent it.
    pub device: Option<DeviceNum>,
    /// Under which transaction id.
    pub txn_id: Option<String>,
    /// The redaction that took effect on it.
    pub redacted_by: Option<String>,
    /// Canonical JSON.
    pub json: String,
}

impl EventRow {
    /// Returns the counters of all threads of the room.
    pub fn threaded(&self) -> Counters {
        Counters {
            notified: self.threaded_notified,
            mentioned: self.threaded_mentioned,
        }
    }

    /// Returns the thread that it is in.
    pub fn in_thread(&self) -> Option<InThread> {
        let root = OwnedEventId::try_from(self.thread.as_deref()?).ok()?;
        let counters = Counters {
            notified: self.thread_notified,
            mentioned: self.thread_mentioned,
        };
        Some(InThread {
            root,
            counters,
            added: Counters::default(),
        })
    }
}

/// Stores an event. Returns `false`, and stores nothing, if the device used the transaction id for this before, or if
/// the event is stored already.
pub async fn insert(tx: &mut WriteTx, event: &NewEvent<'_>) -> Result<bool> {
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
        .bind(event.threaded.notified)
        .bind(event.threaded.mentioned)
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

/// Gives an event its place that was stored without one: an outlier, or one that was rejected.
pub async fn place(tx: &mut WriteTx, event: &NewEvent<'_>) -> Result<()> {
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
    .bind(event.threaded.notified)
    .bind(event.threaded.mentioned)
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

/// Shows a redaction that was withheld, at a place of the timeline or where it is.
pub async fn show_redaction(
    tx: &mut WriteTx,
    event_id: &str,
    place: Option<i64>,
    (counters, threaded): (Counters, Counters),
) -> Result<()> {
    tx.query(
        "UPDATE events
         SET withheld = FALSE, timeline = COALESCE($2, timeline), notified = $3, mentioned = $4,
             threaded_notified = $5, threaded_mentioned = $6
         WHERE event_id = $1",
    )
    .bind(event_id)
    .bind(place)
    .bind(counters.notified)
    .bind(counters.mentioned)
    .bind(threaded.notified)
    .bind(threaded.mentioned)
    .execute()
    .await?;
    Ok(())
}

/// Returns the event that a device sent under a transaction id.
pub async fn by_transaction(
    db: &mut impl Read,
    device: DeviceNum,
    room: RoomNum,
    kind: i64,
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

/// Replaces the JSON of an event by what a redaction leaves of it.
pub async fn redact(tx: &mut WriteTx, event_id: &str, json: &str, redaction: &str) -> Result<()> {
    tx.query("UPDATE events SET json = $2, redacted_by = $3 WHERE event_id = $1")
        .bind(event_id)
        .bind(json)
        .bind(redaction)
        .execute()
        .await?;
    Ok(())
}

/// Returns an event that a timeline shows.
pub async fn get(db: &mut impl Read, event_id: &str) -> Result<Option<EventRow>> {
    db.query(
        "SELECT position, room, event_id, timeline, state, backfilled, withheld, visibility, notified, mentioned,
                threaded_notified, threaded_mentioned, thread, thread_notified, thread_mentioned, device, txn_id, redacted_by, json
         FROM events WHERE event_id = $1 AND timeline IS NOT NULL AND state IS NOT NULL",
    )
    .bind(event_id)
    .fetch_optional()
    .await
}

/// Returns an event, whether or not a timeline shows it. Where none does, its place is 0.
pub async fn any(db: &mut impl Read, event_id: &str) -> Result<Option<EventRow>> {
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

/// Returns events that a timeline shows, by their places in it, in no particular order.
pub async fn at(db: &mut impl Read, room: RoomNum, places: &[i64]) -> Result<Vec<EventRow>> {
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
    .bind(list_of_numbers(places.iter().copied()))
    .fetch_all()
    .await
}

/// Returns events that a timeline shows, by their ids, in no particular order.
pub async fn with_ids<S: AsRef<str>>(
    db: &mut impl Read,
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
    .bind(list(ids))
    .fetch_all()
    .await
}

/// Returns the events made at a time or before it, the latest first: (place, visibility, time, id).
pub async fn made_before(
    db: &mut impl Read,
    room: RoomNum,
    (ts, place): (i64, i64),
    limit: i64,
) -> Result<Vec<(i64, i64, i64, String)>> {
    db.query(
        "SELECT timeline, visibility, origin_server_ts, event_id FROM events
         WHERE room = $1 AND timeline IS NOT NULL AND NOT withheld
           AND origin_server_ts <= $2 AND (origin_server_ts < $2 OR timeline < $3)
         ORDER BY origin_server_ts DESC, timeline DESC LIMIT $4",
    )
    .bind(room)
    .bind(ts)
    .bind(place)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the events made at a time or after it, the earliest first: (place, visibility, time, id).
pub async fn made_after(
    db: &mut impl Read,
    room: RoomNum,
    (ts, place): (i64, i64),
    limit: i64,
) -> Result<Vec<(i64, i64, i64, String)>> {
    db.query(
        "SELECT timeline, visibility, origin_server_ts, event_id FROM events
         WHERE room = $1 AND timeline IS NOT NULL AND NOT withheld
           AND origin_server_ts >= $2 AND (origin_server_ts > $2 OR timeline > $3)
         ORDER BY origin_server_ts, timeline LIMIT $4",
    )
    .bind(room)
    .bind(ts)
    .bind(place)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the JSON of any events by id: (id, status, JSON).
pub async fn by_ids<S: AsRef<str>>(
    db: &mut impl Read,
    ids: impl IntoIterator<Item = S>,
) -> Result<Vec<(String, i64, String)>> {
    db.query(
        "SELECT event_id, status, json FROM events
         WHERE event_id IN (SELECT value FROM json_each($1))",
    )
    .bind(list(ids))
    .fetch_all()
    .await
}

/// Returns events of a room before a place of its timeline (not including it), the newest first.
pub async fn before(
    db: &mut impl Read,
    room: RoomNum,
    place: i64,
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

/// Returns events of a room after a place of its timeline (not including it), the oldest first.
pub async fn after(
    db: &mut impl Read,
    room: RoomNum,
    place: i64,
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
