//! The pushers of users.

use crate::{
    error::Result,
    numbers::{DeviceNum, Position, UserNum},
    storage::{JournalChange, ReadAccess, WriteTx},
};

/// A pusher to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewPusher<'a> {
    /// The user's number.
    pub user: UserNum,
    /// The device that set it.
    pub device: DeviceNum,
    pub app_id: &'a str,
    pub pushkey: &'a str,
    /// The pusher as JSON.
    pub json: &'a str,
    /// The position at which it was set: later events are sent through it.
    pub set_at: Position,
}

/// Stores a pusher in place of the user's one with the same application and key.
pub async fn set(tx: &mut WriteTx, pusher: NewPusher<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO pushers (user_num, app_id, pushkey, device, pusher, unsent_after)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (user_num, app_id, pushkey) DO UPDATE
         SET device = excluded.device, pusher = excluded.pusher, unsent_after = excluded.unsent_after",
    )
    .bind(pusher.user)
    .bind(pusher.app_id)
    .bind(pusher.pushkey)
    .bind(pusher.device)
    .bind(pusher.json)
    .bind(pusher.set_at)
    .execute()
    .await?;
    Ok(())
}

/// A stored pusher.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct PusherRow {
    pub user_num: UserNum,
    pub user_id: String,
    pub app_id: String,
    pub pushkey: String,
    /// The pusher as JSON.
    pub pusher: String,
    /// The position after which there are events that were not sent through it; `None` if all were sent.
    pub unsent_after: Option<Position>,
    /// The time at which the next digest is due; `None` if there is nothing to send, and for other kinds of pushers.
    pub digest_due_ts: Option<i64>,
    /// The time of the last digest.
    pub digest_sent_ts: Option<i64>,
}

/// The times of the digests of an e-mail pusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestTimes {
    /// The time at which the next one is due; `None` if there is nothing to send.
    pub due_ts: Option<i64>,
    /// The time of the last one.
    pub sent_ts: Option<i64>,
}

/// The key of a pusher.
#[derive(Clone, Copy, Debug)]
pub struct PusherKey<'a> {
    pub user: UserNum,
    pub app_id: &'a str,
    pub pushkey: &'a str,
}

/// Returns all pushers.
pub async fn all(db: &mut impl ReadAccess) -> Result<Vec<PusherRow>> {
    db.query(
        "SELECT p.user_num, s.text AS user_id, p.app_id, p.pushkey, p.pusher, p.unsent_after, p.digest_due_ts,
                p.digest_sent_ts
         FROM pushers p JOIN strings s ON s.num = p.user_num",
    )
    .fetch_all()
    .await
}

/// Returns the pushers of a user.
pub async fn rows_of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<PusherRow>> {
    db.query(
        "SELECT p.user_num, s.text AS user_id, p.app_id, p.pushkey, p.pusher, p.unsent_after, p.digest_due_ts,
                p.digest_sent_ts
         FROM pushers p JOIN strings s ON s.num = p.user_num
         WHERE p.user_num = $1",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Stores how far events were sent through a pusher.
pub async fn set_unsent_after(
    tx: &mut WriteTx,
    key: PusherKey<'_>,
    unsent_after: Option<Position>,
) -> Result<()> {
    tx.query(
        "UPDATE pushers SET unsent_after = $4
         WHERE user_num = $1 AND app_id = $2 AND pushkey = $3",
    )
    .bind(key.user)
    .bind(key.app_id)
    .bind(key.pushkey)
    .bind(unsent_after)
    .execute()
    .await?;
    Ok(())
}

/// Stores the times of the digests of an e-mail pusher. All events so far are then handled.
pub async fn set_digest_times(
    tx: &mut WriteTx,
    key: PusherKey<'_>,
    times: DigestTimes,
) -> Result<()> {
    tx.query(
        "UPDATE pushers SET unsent_after = NULL, digest_due_ts = $4, digest_sent_ts = $5
         WHERE user_num = $1 AND app_id = $2 AND pushkey = $3",
    )
    .bind(key.user)
    .bind(key.app_id)
    .bind(key.pushkey)
    .bind(times.due_ts)
    .bind(times.sent_ts)
    .execute()
    .await?;
    Ok(())
}

/// Removes the e-mail pushers of a user for an address in lower case.
pub async fn remove_of_address(
    tx: &mut WriteTx,
    user: UserNum,
    app_id: &str,
    address: &str,
) -> Result<()> {
    tx.query("DELETE FROM pushers WHERE user_num = $1 AND app_id = $2 AND LOWER(pushkey) = $3")
        .bind(user)
        .bind(app_id)
        .bind(address)
        .execute()
        .await?;
    Ok(())
}

/// Returns the position up to which events were given to the queues of the pushers.
pub async fn progress(db: &mut impl ReadAccess) -> Result<Position> {
    let position = db
        .query("SELECT position FROM push_progress")
        .fetch_scalar()
        .await?;
    Ok(position.unwrap_or_default())
}

/// Stores the position up to which events were given to the queues of the pushers.
pub async fn set_progress(tx: &mut WriteTx, position: Position) -> Result<()> {
    tx.query("UPDATE push_progress SET position = $1")
        .bind(position)
        .execute()
        .await?;
    Ok(())
}

/// Returns the pushers of a user, as JSON.
pub async fn of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<String>> {
    db.query("SELECT pusher FROM pushers WHERE user_num = $1 ORDER BY app_id, pushkey")
        .bind(user)
        .fetch_scalars()
        .await
}

/// Announces that a user's pushers changed, and returns the position of the change.
pub fn announce_change(tx: &mut WriteTx, user: UserNum) -> Position {
    let position = tx.next_position();
    tx.publish(position, JournalChange::PushersChanged { user });
    position
}

/// Removes a pusher of a user.
pub async fn remove(tx: &mut WriteTx, user: UserNum, app_id: &str, pushkey: &str) -> Result<()> {
    tx.query("DELETE FROM pushers WHERE user_num = $1 AND app_id = $2 AND pushkey = $3")
        .bind(user)
        .bind(app_id)
        .bind(pushkey)
        .execute()
        .await?;
    Ok(())
}

/// Removes the pushers of all other users with this application and key, and announces that.
pub async fn remove_of_others(
    tx: &mut WriteTx,
    user: UserNum,
    app_id: &str,
    pushkey: &str,
) -> Result<()> {
    let others: Vec<UserNum> = tx
        .query(
            "DELETE FROM pushers WHERE user_num <> $1 AND app_id = $2 AND pushkey = $3
             RETURNING user_num",
        )
        .bind(user)
        .bind(app_id)
        .bind(pushkey)
        .fetch_scalars()
        .await?;
    for other in others {
        announce_change(tx, other);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{devices::device_table, testing::TestDb};

    #[tokio::test]
    async fn pushers_are_replaced_removed_and_go_with_their_device() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let one = device_table::upsert(&mut tx, UserNum::new(1), "A", None, 1)
            .await
            .unwrap();
        let two = device_table::upsert(&mut tx, UserNum::new(2), "B", None, 1)
            .await
            .unwrap();
        for (user, device, json) in [(1, one, "a"), (2, two, "b"), (1, one, "c")] {
            let pusher = NewPusher {
                user: UserNum::new(user),
                device,
                app_id: "app",
                pushkey: "key",
                json,
                set_at: Position::new(3),
            };
            set(&mut tx, pusher).await.unwrap();
        }

        assert_eq!(of_user(&mut tx, UserNum::new(1)).await.unwrap(), ["c"]);
        remove_of_others(&mut tx, UserNum::new(1), "app", "key")
            .await
            .unwrap();
        assert!(of_user(&mut tx, UserNum::new(2)).await.unwrap().is_empty());
        remove(&mut tx, UserNum::new(1), "app", "other")
            .await
            .unwrap();
        assert_eq!(of_user(&mut tx, UserNum::new(1)).await.unwrap(), ["c"]);
        device_table::delete(&mut tx, UserNum::new(1), vec![one])
            .await
            .unwrap();
        assert!(of_user(&mut tx, UserNum::new(1)).await.unwrap().is_empty());
    }
}
