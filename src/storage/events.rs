//! Events and their places in the timelines.

use super::{DeviceNum, Read, RoomNum, WriteTx, list};
use crate::error::Result;

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
    fn number(self) -> i64 {
        match self {
            Self::Accepted => 0,
            Self::SoftFailed => 1,
            Self::Rejected => 2,
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
    /// The number of the history visibility before it.
    pub visibility: i64,
    /// How it fared in the checks.
    pub status: Status,
    /// The room's counter of events that notify.
    pub notified: i64,
    /// The room's counter of events that mention everybody.
    pub mentioned: i64,
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
    /// The number of the history visibility before it.
    pub visibility: i64,
    /// The room's counter of events that notify.
    pub notified: i64,
    /// The room's counter of events that mention everybody.
    pub mentioned: i64,
    /// Which device here sent it.
    pub device: Option<DeviceNum>,
    /// Under which transaction id.
    pub txn_id: Option<String>,
    /// The redaction that took effect on it.
    pub redacted_by: Option<String>,
    /// Canonical JSON.
    pub json: String,
}

/// Stores an event. Returns `false`, and stores nothing, if the device used the transaction id for this before.
pub async fn insert(tx: &mut WriteTx, event: &NewEvent<'_>) -> Result<bool> {
    let stored = tx
        .query(
            "INSERT INTO events (position, room, event_id, timeline, kind, state_key, sender, state, visibility,
                                 status, notified, mentioned, device, txn_id, json)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
             ON CONFLICT (device, room, kind, txn_id) WHERE txn_id IS NOT NULL DO NOTHING",
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
        .bind(event.transaction.map(|(device, _)| device))
        .bind(event.transaction.map(|(_, txn_id)| txn_id))
        .bind(event.json)
        .execute()
        .await?;
    Ok(stored == 1)
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
        "SELECT position, room, event_id, timeline, state, visibility, notified, mentioned, device, txn_id,
                redacted_by, json
         FROM events WHERE event_id = $1 AND timeline IS NOT NULL AND state IS NOT NULL",
    )
    .bind(event_id)
    .fetch_optional()
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
        "SELECT position, room, event_id, timeline, state, visibility, notified, mentioned, device, txn_id,
                redacted_by, json
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
        "SELECT position, room, event_id, timeline, state, visibility, notified, mentioned, device, txn_id,
                redacted_by, json
         FROM events WHERE room = $1 AND timeline > $2
         ORDER BY timeline LIMIT $3",
    )
    .bind(room)
    .bind(place)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the keys of the state that changed in a span of positions: (type number, state key number).
pub async fn state_keys_changed(
    db: &mut impl Read,
    room: RoomNum,
    after: i64,
    up_to: i64,
) -> Result<Vec<(i64, i64)>> {
    db.query(
        "SELECT DISTINCT kind, state_key FROM events
         WHERE room = $1 AND position > $2 AND position <= $3 AND state_key IS NOT NULL
           AND timeline IS NOT NULL",
    )
    .bind(room)
    .bind(after)
    .bind(up_to)
    .fetch_all()
    .await
}
