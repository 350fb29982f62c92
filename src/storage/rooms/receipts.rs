//! Read receipts.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// A receipt in the table.
#[derive(Debug, sqlx::FromRow)]
pub struct ReceiptRow {
    pub user_num: UserNum,
    /// `m.read` or `m.read.private`.
    pub kind: String,
    /// Empty for an unthreaded receipt, or `main`, or the thread's root.
    pub thread: String,
    pub event_id: String,
    pub ts: i64,
    /// The journal position.
    pub position: Position,
}

/// A receipt to be stored.
#[derive(Debug)]
pub struct NewReceiptRow<'a> {
    pub room: RoomNum,
    pub user: UserNum,
    /// `m.read` or `m.read.private`.
    pub kind: &'a str,
    /// Empty for an unthreaded receipt, or `main`, or the thread's root.
    pub thread: &'a str,
    pub event_id: &'a str,
    /// The place of that event in the timeline.
    pub event_timeline: Position,
    pub ts: i64,
    /// The journal position.
    pub position: Position,
}

/// Moves a receipt forward. Returns `false` if it was already as far.
pub async fn move_forward(tx: &mut WriteTx, receipt: &NewReceiptRow<'_>) -> Result<bool> {
    let changed = tx
        .query(
            "INSERT INTO receipts (room, user_num, kind, thread, event_id, event_timeline, ts, position)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (room, user_num, kind, thread) DO UPDATE
             SET event_id = excluded.event_id, event_timeline = excluded.event_timeline, ts = excluded.ts,
                 position = excluded.position
             WHERE excluded.event_timeline > receipts.event_timeline",
        )
        .bind(receipt.room)
        .bind(receipt.user)
        .bind(receipt.kind)
        .bind(receipt.thread)
        .bind(receipt.event_id)
        .bind(receipt.event_timeline)
        .bind(receipt.ts)
        .bind(receipt.position)
        .execute()
        .await?;
    Ok(changed == 1)
}

/// Returns the receipts of a room.
pub async fn of_room(db: &mut impl ReadAccess, room: RoomNum) -> Result<Vec<ReceiptRow>> {
    db.query(
        "SELECT user_num, kind, thread, event_id, ts, position FROM receipts
         WHERE room = $1 ORDER BY position",
    )
    .bind(room)
    .fetch_all()
    .await
}
