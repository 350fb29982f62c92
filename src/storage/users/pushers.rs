//! The pushers of users.

use crate::{
    error::Result,
    numbers::{DeviceNum, UserNum},
    storage::{ReadAccess, WriteTx},
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
}

/// Stores a pusher in place of the user's one with the same application and key.
pub async fn set(tx: &mut WriteTx, pusher: NewPusher<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO pushers (user_num, app_id, pushkey, device, pusher)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (user_num, app_id, pushkey) DO UPDATE
         SET device = excluded.device, pusher = excluded.pusher",
    )
    .bind(pusher.user)
    .bind(pusher.app_id)
    .bind(pusher.pushkey)
    .bind(pusher.device)
    .bind(pusher.json)
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

/// Removes the pushers of all other users with this application and key.
pub async fn remove_of_others(
    tx: &mut WriteTx,
    user: UserNum,
    app_id: &str,
    pushkey: &str,
) -> Result<()> {
    tx.query("DELETE FROM pushers WHERE user_num <> $1 AND app_id = $2 AND pushkey = $3")
        .bind(user)
        .bind(app_id)
        .bind(pushkey)
        .execute()
        .await?;
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
