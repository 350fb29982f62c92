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
    /// Whether notifications are sent through it.
    pub is_enabled: bool,
    /// The token with which the client activates it; `None` if it is active.
    pub activation: Option<&'a PusherActivation>,
    /// The position at which it was set: later events are sent through it.
    pub set_at: Position,
}

/// The token with which a client activates a pusher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PusherActivation {
    pub token: String,
    /// The time at which the token expires, in milliseconds.
    pub expires_ts: i64,
}

/// Stores a pusher in place of the user's one with the same application and key.
pub async fn set(tx: &mut WriteTx, pusher: NewPusher<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO pushers (user_num, app_id, pushkey, device, pusher, unsent_after, is_enabled, activation_token,
                              activation_expires_ts)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (user_num, app_id, pushkey) DO UPDATE
         SET device = excluded.device, pusher = excluded.pusher, unsent_after = excluded.unsent_after,
             is_enabled = excluded.is_enabled, activation_token = excluded.activation_token,
             activation_expires_ts = excluded.activation_expires_ts",
    )
    .bind(pusher.user)
    .bind(pusher.app_id)
    .bind(pusher.pushkey)
    .bind(pusher.device)
    .bind(pusher.json)
    .bind(pusher.set_at)
    .bind(pusher.is_enabled)
    .bind(pusher.activation.map(|activation| activation.token.as_str()))
    .bind(pusher.activation.map(|activation| activation.expires_ts))
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
    /// Whether notifications are sent through it.
    pub is_enabled: bool,
    /// The token with which the client activates it; `None` if it is active.
    pub activation_token: Option<String>,
    pub activation_expires_ts: Option<i64>,
    /// The device that set it.
    pub device: DeviceNum,
    pub device_id: String,
}

impl PusherRow {
    /// Returns the key of the pusher.
    pub fn key(&self) -> PusherKey<'_> {
        PusherKey {
            user: self.user_num,
            app_id: &self.app_id,
            pushkey: &self.pushkey,
        }
    }

    /// Returns the token with which the client activates the pusher, or `None` if it is active.
    pub fn activation(&self) -> Option<PusherActivation> {
        Some(PusherActivation {
            token: self.activation_token.clone()?,
            expires_ts: self.activation_expires_ts?,
        })
    }
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
                p.digest_sent_ts, p.is_enabled, p.activation_token, p.activation_expires_ts, p.device, d.device_id
         FROM pushers p JOIN strings s ON s.num = p.user_num JOIN devices d ON d.num = p.device",
    )
    .fetch_all()
    .await
}

/// Returns the pushers of a user.
pub async fn rows_of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<PusherRow>> {
    db.query(
        "SELECT p.user_num, s.text AS user_id, p.app_id, p.pushkey, p.pusher, p.unsent_after, p.digest_due_ts,
                p.digest_sent_ts, p.is_enabled, p.activation_token, p.activation_expires_ts, p.device, d.device_id
         FROM pushers p JOIN strings s ON s.num = p.user_num JOIN devices d ON d.num = p.device
         WHERE p.user_num = $1
         ORDER BY p.app_id, p.pushkey",
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

/// Activates a pusher. Events after a position are sent through it.
pub async fn activate(tx: &mut WriteTx, key: PusherKey<'_>, after: Position) -> Result<()> {
    tx.query(
        "UPDATE pushers SET activation_token = NULL, activation_expires_ts = NULL, unsent_after = $4
         WHERE user_num = $1 AND app_id = $2 AND pushkey = $3",
    )
    .bind(key.user)
    .bind(key.app_id)
    .bind(key.pushkey)
    .bind(after)
    .execute()
    .await?;
    Ok(())
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

    /// Returns the pushers of a user, as JSON.
    async fn stored(tx: &mut WriteTx, user: i64) -> Vec<String> {
        let rows = tx
            .query("SELECT pusher FROM pushers WHERE user_num = $1")
            .bind(user);
        rows.fetch_scalars().await.unwrap()
    }

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
                is_enabled: true,
                activation: None,
                set_at: Position::new(3),
            };
            set(&mut tx, pusher).await.unwrap();
        }

        assert_eq!(stored(&mut tx, 1).await, ["c"]);
        remove_of_others(&mut tx, UserNum::new(1), "app", "key")
            .await
            .unwrap();
        assert!(stored(&mut tx, 2).await.is_empty());
        remove(&mut tx, UserNum::new(1), "app", "other")
            .await
            .unwrap();
        assert_eq!(stored(&mut tx, 1).await, ["c"]);
        device_table::delete(&mut tx, UserNum::new(1), vec![one])
            .await
            .unwrap();
        assert!(stored(&mut tx, 1).await.is_empty());
    }
}
