//! Events that are delivered reliably for a while.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, UserNum},
    storage::{ReadAccess, WriteTx, rooms::events::EventRow, text_list},
};

/// A sticky event to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewStickyEvent<'a> {
    pub event_id: &'a str,
    pub room: RoomNum,
    pub sender: UserNum,
    /// The position from which on clients are sent it; `None` while it is soft-failed.
    pub shown_at: Option<Position>,
    /// The time at which it is no longer sticky, in milliseconds since the Unix epoch.
    pub expires_ts: i64,
}

/// A sticky event in the table.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct StickyEventRow {
    pub event_id: String,
    pub room: RoomNum,
    pub sender: UserNum,
    /// The position from which on clients are sent it; `None` while it is soft-failed.
    pub shown_at: Option<Position>,
    /// The time at which it is no longer sticky, in milliseconds since the Unix epoch.
    pub expires_ts: i64,
}

/// Stores a sticky event. One that was stored while it was soft-failed is shown from now on.
pub async fn set(tx: &mut WriteTx, event: NewStickyEvent<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO sticky_events (event_id, room, sender, shown_at, expires_ts)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (event_id) DO UPDATE SET shown_at = excluded.shown_at",
    )
    .bind(event.event_id)
    .bind(event.room)
    .bind(event.sender)
    .bind(event.shown_at)
    .bind(event.expires_ts)
    .execute()
    .await?;
    Ok(())
}

/// Removes an event that was redacted.
pub async fn remove(tx: &mut WriteTx, event_id: &str) -> Result<()> {
    tx.query("DELETE FROM sticky_events WHERE event_id = $1")
        .bind(event_id)
        .execute()
        .await?;
    Ok(())
}

/// Removes the events of a user who is erased.
pub async fn remove_of_sender(tx: &mut WriteTx, sender: UserNum) -> Result<()> {
    tx.query("DELETE FROM sticky_events WHERE sender = $1")
        .bind(sender)
        .execute()
        .await?;
    Ok(())
}

/// Removes events that are no longer sticky.
pub async fn remove_expired(tx: &mut WriteTx, now: i64) -> Result<()> {
    tx.query("DELETE FROM sticky_events WHERE expires_ts <= $1")
        .bind(now)
        .execute()
        .await?;
    Ok(())
}

/// Returns the time at which the next event expires.
pub async fn next_expiry(db: &mut impl ReadAccess) -> Result<Option<i64>> {
    db.query("SELECT expires_ts FROM sticky_events ORDER BY expires_ts LIMIT 1")
        .fetch_scalar()
        .await
}

/// Returns the newest events that are still sticky.
pub async fn all_after(
    db: &mut impl ReadAccess,
    now: i64,
    limit: i64,
) -> Result<Vec<StickyEventRow>> {
    db.query(
        "SELECT event_id, room, sender, shown_at, expires_ts FROM sticky_events
         WHERE expires_ts > $1 ORDER BY expires_ts DESC LIMIT $2",
    )
    .bind(now)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns accepted events by their ids, in no particular order. The place of one that is in no timeline is 0.
pub async fn accepted_events<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    ids: impl IntoIterator<Item = S>,
) -> Result<Vec<EventRow>> {
    db.query(
        "SELECT position, room, event_id, COALESCE(timeline, 0) AS timeline, state, backfilled, withheld, visibility,
                notified, mentioned, threaded_notified, threaded_mentioned, thread, thread_notified, thread_mentioned,
                device, txn_id, redacted_by, json
         FROM events
         WHERE event_id IN (SELECT value FROM json_each($1)) AND state IS NOT NULL AND status = 0",
    )
    .bind(text_list(ids))
    .fetch_all()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn event(event_id: &str, shown_at: Option<i64>, expires_ts: i64) -> NewStickyEvent<'_> {
        NewStickyEvent {
            event_id,
            room: RoomNum::new(1),
            sender: UserNum::new(2),
            shown_at: shown_at.map(Position::new),
            expires_ts,
        }
    }

    #[tokio::test]
    async fn a_soft_failed_event_can_be_shown_later() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        set(&mut tx, event("$1", None, 10)).await.unwrap();
        set(&mut tx, event("$1", Some(7), 10)).await.unwrap();

        let rows = all_after(&mut tx, 9, 9).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].shown_at, Some(Position::new(7)));
    }

    #[tokio::test]
    async fn expired_and_redacted_events_are_removed() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for (event_id, expires_ts) in [("$1", 10), ("$2", 20), ("$3", 30)] {
            set(&mut tx, event(event_id, Some(1), expires_ts))
                .await
                .unwrap();
        }

        assert_eq!(next_expiry(&mut tx).await.unwrap(), Some(10));
        remove_expired(&mut tx, 10).await.unwrap();
        remove(&mut tx, "$2").await.unwrap();

        let rows = all_after(&mut tx, 0, 9).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!((&*rows[0].event_id, rows[0].expires_ts), ("$3", 30));
        assert!(all_after(&mut tx, 30, 9).await.unwrap().is_empty());
        remove_of_sender(&mut tx, UserNum::new(2)).await.unwrap();
        assert_eq!(next_expiry(&mut tx).await.unwrap(), None);
    }
}
