//! Delayed events, and for a while their outcomes.

use crate::{
    error::Result,
    numbers::{DelayedEventNum, DeviceNum, RoomNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// An event to be sent after a delay.
#[derive(Clone, Copy, Debug)]
pub struct NewDelayedEvent<'a> {
    /// The secret id with which it can be cancelled, restarted or sent.
    pub delay_id: &'a str,
    pub user: UserNum,
    pub device: DeviceNum,
    pub txn_id: Option<&'a str>,
    pub room: RoomNum,
    pub kind: &'a str,
    pub state_key: Option<&'a str>,
    /// The content, as JSON.
    pub content: &'a str,
    /// The time for which the event is sticky once it is sent.
    pub sticky_ms: Option<i64>,
    pub delay_ms: i64,
    /// The time at which the delay began.
    pub running_since: i64,
}

/// A delayed event in the table.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct DelayedEventRow {
    pub num: DelayedEventNum,
    /// The secret id with which it can be cancelled, restarted or sent.
    pub delay_id: String,
    pub user_num: UserNum,
    pub room: RoomNum,
    pub kind: String,
    pub state_key: Option<String>,
    /// The content, as JSON.
    pub content: String,
    /// The time for which the event is sticky once it is sent.
    pub sticky_ms: Option<i64>,
    pub delay_ms: i64,
    /// The time at which the delay began.
    pub running_since: i64,
    /// The time at which it was sent, cancelled or refused.
    pub finalised_ts: Option<i64>,
    /// The id of the event that was sent.
    pub event_id: Option<String>,
    /// The reason for a refusal, as JSON.
    pub error: Option<String>,
}

/// The outcome of a delayed event.
#[derive(Clone, Copy, Debug, Default)]
pub struct DelayedEventOutcome<'a> {
    pub ts: i64,
    /// The id of the event that was sent.
    pub event_id: Option<&'a str>,
    /// The reason for a refusal, as JSON.
    pub error: Option<&'a str>,
}

/// Stores a delayed event. Returns whether the transaction id was new.
pub async fn insert(tx: &mut WriteTx, delayed: NewDelayedEvent<'_>) -> Result<bool> {
    let stored = tx
        .query(
            "INSERT INTO delayed_events (delay_id, user_num, device, txn_id, room, kind, state_key, content,
                                         delay_ms, running_since, due_ts, sticky_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (device, room, kind, txn_id) WHERE txn_id IS NOT NULL DO NOTHING",
        )
        .bind(delayed.delay_id)
        .bind(delayed.user)
        .bind(delayed.device)
        .bind(delayed.txn_id)
        .bind(delayed.room)
        .bind(delayed.kind)
        .bind(delayed.state_key)
        .bind(delayed.content)
        .bind(delayed.delay_ms)
        .bind(delayed.running_since)
        .bind(delayed.running_since.saturating_add(delayed.delay_ms))
        .bind(delayed.sticky_ms)
        .execute()
        .await?;
    Ok(stored == 1)
}

/// Returns the delay id of the event that a device delayed under a transaction id.
pub async fn find_by_transaction(
    db: &mut impl ReadAccess,
    device: DeviceNum,
    room: RoomNum,
    kind: &str,
    txn_id: &str,
) -> Result<Option<String>> {
    db.query(
        "SELECT delay_id FROM delayed_events
         WHERE device = $1 AND room = $2 AND kind = $3 AND txn_id = $4 AND txn_id IS NOT NULL",
    )
    .bind(device)
    .bind(room)
    .bind(kind)
    .bind(txn_id)
    .fetch_scalar()
    .await
}

/// The scheduled events of a user.
#[derive(Clone, Copy, Debug, Default, sqlx::FromRow)]
pub struct ScheduledEvents {
    pub count: i64,
    /// The time at which the first of them is sent.
    pub next_due_ts: Option<i64>,
}

/// Returns the number of a user's scheduled events, and the time of the next one.
pub async fn count_scheduled(db: &mut impl ReadAccess, user: UserNum) -> Result<ScheduledEvents> {
    let row = db
        .query(
            "SELECT COUNT(*) AS count, MIN(due_ts) AS next_due_ts FROM delayed_events
             WHERE user_num = $1 AND due_ts IS NOT NULL",
        )
        .bind(user)
        .fetch_optional()
        .await?;
    Ok(row.unwrap_or_default())
}

/// Cancels all scheduled events of a user.
pub async fn cancel_of_user(tx: &mut WriteTx, user: UserNum, now: i64) -> Result<()> {
    tx.query(
        "UPDATE delayed_events SET due_ts = NULL, finalised_ts = $2
         WHERE user_num = $1 AND due_ts IS NOT NULL",
    )
    .bind(user)
    .bind(now)
    .execute()
    .await?;
    Ok(())
}

/// Returns a delayed event.
pub async fn get(db: &mut impl ReadAccess, delay_id: &str) -> Result<Option<DelayedEventRow>> {
    db.query(
        "SELECT num, delay_id, user_num, room, kind, state_key, content, sticky_ms, delay_ms, running_since,
                finalised_ts, event_id, error
         FROM delayed_events WHERE delay_id = $1",
    )
    .bind(delay_id)
    .fetch_optional()
    .await
}

/// Returns the scheduled events of a user, in the order of their times.
pub async fn scheduled(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<DelayedEventRow>> {
    db.query(
        "SELECT num, delay_id, user_num, room, kind, state_key, content, sticky_ms, delay_ms, running_since,
                finalised_ts, event_id, error
         FROM delayed_events WHERE user_num = $1 AND due_ts IS NOT NULL ORDER BY due_ts, num",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Returns events that are due, in the order of their times.
pub async fn due_events(
    db: &mut impl ReadAccess,
    now: i64,
    limit: i64,
) -> Result<Vec<DelayedEventRow>> {
    db.query(
        "SELECT num, delay_id, user_num, room, kind, state_key, content, sticky_ms, delay_ms, running_since,
                finalised_ts, event_id, error
         FROM delayed_events WHERE due_ts IS NOT NULL AND due_ts <= $1 ORDER BY due_ts, num LIMIT $2",
    )
    .bind(now)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the time of the next event.
pub async fn next_due(db: &mut impl ReadAccess) -> Result<Option<i64>> {
    db.query("SELECT due_ts FROM delayed_events WHERE due_ts IS NOT NULL ORDER BY due_ts LIMIT 1")
        .fetch_scalar()
        .await
}

/// Restarts the delay of an event. Returns whether the event was still scheduled.
pub async fn restart(tx: &mut WriteTx, num: DelayedEventNum, now: i64) -> Result<bool> {
    let restarted = tx
        .query(
            "UPDATE delayed_events SET running_since = $2, due_ts = delay_ms + $3
             WHERE num = $1 AND due_ts IS NOT NULL",
        )
        .bind(num)
        .bind(now)
        .bind(now)
        .execute()
        .await?;
    Ok(restarted == 1)
}

/// Stores the outcome of a delayed event. Returns whether the event was still scheduled.
pub async fn finish(
    tx: &mut WriteTx,
    num: DelayedEventNum,
    outcome: DelayedEventOutcome<'_>,
) -> Result<bool> {
    let finished = tx
        .query(
            "UPDATE delayed_events SET due_ts = NULL, finalised_ts = $2, event_id = $3, error = $4
             WHERE num = $1 AND due_ts IS NOT NULL",
        )
        .bind(num)
        .bind(outcome.ts)
        .bind(outcome.event_id)
        .bind(outcome.error)
        .execute()
        .await?;
    Ok(finished == 1)
}

/// A key of the state: an event type and a state key.
#[derive(Clone, Copy, Debug)]
pub struct StateKeyText<'a> {
    pub kind: &'a str,
    pub state_key: &'a str,
}

/// Cancels the delayed events by which users other than `sender` would set a state event.
pub async fn cancel_state_of_others(
    tx: &mut WriteTx,
    room: RoomNum,
    key: StateKeyText<'_>,
    sender: UserNum,
    now: i64,
) -> Result<()> {
    tx.query(
        "UPDATE delayed_events SET due_ts = NULL, finalised_ts = $5
         WHERE room = $1 AND kind = $2 AND state_key = $3 AND user_num <> $4 AND due_ts IS NOT NULL",
    )
    .bind(room)
    .bind(key.kind)
    .bind(key.state_key)
    .bind(sender)
    .bind(now)
    .execute()
    .await?;
    Ok(())
}

/// Deletes outcomes of a user's delayed events: those before a time, and all but the latest `keep`.
pub async fn delete_old_outcomes(
    tx: &mut WriteTx,
    user: UserNum,
    before_ts: i64,
    keep: i64,
) -> Result<()> {
    tx.query(
        "DELETE FROM delayed_events
         WHERE user_num = $1 AND due_ts IS NULL
           AND (finalised_ts < $2 OR num <= (
               SELECT num FROM delayed_events WHERE user_num = $1 AND due_ts IS NULL
               ORDER BY num DESC LIMIT 1 OFFSET $3))",
    )
    .bind(user)
    .bind(before_ts)
    .bind(keep)
    .execute()
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn delayed(delay_id: &str, delay_ms: i64) -> NewDelayedEvent<'_> {
        NewDelayedEvent {
            delay_id,
            user: UserNum::new(1),
            device: DeviceNum::new(1),
            txn_id: Some(delay_id),
            room: RoomNum::new(1),
            kind: "k",
            state_key: Some(""),
            content: "{}",
            sticky_ms: None,
            delay_ms,
            running_since: 100,
        }
    }

    #[tokio::test]
    async fn events_are_due_in_their_order_and_finish_once() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for (delay_id, delay_ms) in [("late", 9), ("soon", 1), ("soon too", 1)] {
            assert!(insert(&mut tx, delayed(delay_id, delay_ms)).await.unwrap());
        }
        assert!(!insert(&mut tx, delayed("late", 9)).await.unwrap());

        let rows = due_events(&mut tx, 101, 10).await.unwrap();
        let ids: Vec<&str> = rows.iter().map(|row| row.delay_id.as_str()).collect();
        assert_eq!(ids, ["soon", "soon too"]);
        let first = rows[0].num;
        assert!(
            finish(&mut tx, first, DelayedEventOutcome::default())
                .await
                .unwrap()
        );
        assert!(
            !finish(&mut tx, first, DelayedEventOutcome::default())
                .await
                .unwrap()
        );
        assert!(!restart(&mut tx, first, 200).await.unwrap());
        assert!(restart(&mut tx, rows[1].num, 200).await.unwrap());
        assert_eq!(next_due(&mut tx).await.unwrap(), Some(109));
        assert_eq!(scheduled(&mut tx, UserNum::new(1)).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn outcomes_are_deleted_by_age_and_number() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for (delay_id, ts) in [("a", 1), ("b", 50), ("c", 51), ("d", 52)] {
            insert(&mut tx, delayed(delay_id, 0)).await.unwrap();
            let row = get(&mut tx, delay_id).await.unwrap().unwrap();
            let outcome = DelayedEventOutcome {
                ts,
                ..DelayedEventOutcome::default()
            };
            finish(&mut tx, row.num, outcome).await.unwrap();
        }

        delete_old_outcomes(&mut tx, UserNum::new(1), 10, 2)
            .await
            .unwrap();

        assert!(get(&mut tx, "b").await.unwrap().is_none());
        assert!(get(&mut tx, "c").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn only_the_state_of_others_is_cancelled() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        insert(&mut tx, delayed("a", 5)).await.unwrap();

        let key = StateKeyText {
            kind: "k",
            state_key: "",
        };
        cancel_state_of_others(&mut tx, RoomNum::new(1), key, UserNum::new(1), 7)
            .await
            .unwrap();
        assert_eq!(scheduled(&mut tx, UserNum::new(1)).await.unwrap().len(), 1);
        cancel_state_of_others(&mut tx, RoomNum::new(1), key, UserNum::new(2), 7)
            .await
            .unwrap();
        assert!(
            scheduled(&mut tx, UserNum::new(1))
                .await
                .unwrap()
                .is_empty()
        );
    }
}
