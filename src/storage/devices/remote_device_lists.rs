//! The device lists of users of other servers.

use sqlx::AssertSqlSafe;

use crate::{
    error::Result,
    numbers::{RoomNum, StreamId, UserNum},
    storage::{
        ReadAccess, WriteTx, interned_strings::NumberedUser, number_list, text_list, values_clause,
    },
};

/// The number of rows that one statement inserts.
const ROWS_PER_STATEMENT: usize = 64;

/// The state of a user's device list.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RemoteDeviceListRow {
    pub user_num: UserNum,
    /// The `stream_id` of the stored list, if the user's server gave one.
    pub stream_id: Option<StreamId>,
    /// Whether the list is up to date, as far as this server knows.
    pub is_fresh: bool,
    /// Whether clients were notified of a change, and none has queried the list since.
    pub is_reported: bool,
}

/// A user's device that has keys.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RemoteDeviceRow {
    pub user_num: UserNum,
    pub device_id: String,
    /// The keys, as JSON.
    pub keys: String,
    pub display_name: Option<String>,
}

/// Returns the states of users' device lists.
pub async fn lists(
    db: &mut impl ReadAccess,
    users: &[UserNum],
) -> Result<Vec<RemoteDeviceListRow>> {
    db.query(
        "SELECT user_num, stream_id, is_fresh, is_told AS is_reported
         FROM remote_device_lists
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(number_list(users.iter().copied()))
    .fetch_all()
    .await
}

/// Returns the devices of users.
pub async fn devices(db: &mut impl ReadAccess, users: &[UserNum]) -> Result<Vec<RemoteDeviceRow>> {
    db.query(
        "SELECT user_num, device_id, keys, display_name
         FROM remote_devices
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(number_list(users.iter().copied()))
    .fetch_all()
    .await
}

/// Returns those of a user's devices that have these ids.
pub async fn devices_with_ids(
    db: &mut impl ReadAccess,
    user: UserNum,
    device_ids: &[&str],
) -> Result<Vec<RemoteDeviceRow>> {
    db.query(
        "SELECT user_num, device_id, keys, display_name
         FROM remote_devices
         WHERE user_num = $1 AND device_id IN (SELECT value FROM json_each($2))",
    )
    .bind(user)
    .bind(text_list(device_ids))
    .fetch_all()
    .await
}

/// The size of a user's device list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct DeviceListSize {
    pub devices: i64,
    /// The size of all keys together.
    pub bytes: i64,
}

/// Returns the size of a user's device list.
pub async fn stored_size(db: &mut impl ReadAccess, user: UserNum) -> Result<DeviceListSize> {
    let size = db
        .query(
            "SELECT COUNT(*) AS devices, COALESCE(SUM(OCTET_LENGTH(keys)), 0) AS bytes
             FROM remote_devices
             WHERE user_num = $1",
        )
        .bind(user)
        .fetch_optional()
        .await?;
    Ok(size.unwrap_or_default())
}

/// Returns some of the users whose lists must be queried, after a user number.
pub async fn users_to_query(
    db: &mut impl ReadAccess,
    after: UserNum,
    limit: i64,
) -> Result<Vec<NumberedUser>> {
    db.query(
        "SELECT l.user_num, s.text AS user_id
         FROM remote_device_lists l
         JOIN strings s ON s.num = l.user_num
         WHERE NOT l.is_fresh AND l.user_num > $1
         ORDER BY l.user_num LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all()
    .await
}

/// Stores the state of a list.
pub async fn set_list(tx: &mut WriteTx, row: &RemoteDeviceListRow) -> Result<()> {
    tx.query(
        "INSERT INTO remote_device_lists (user_num, stream_id, is_fresh, is_told)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (user_num) DO UPDATE
         SET stream_id = excluded.stream_id, is_fresh = excluded.is_fresh, is_told = excluded.is_told",
    )
    .bind(row.user_num)
    .bind(row.stream_id)
    .bind(row.is_fresh)
    .bind(row.is_reported)
    .execute()
    .await?;
    Ok(())
}

/// Starts tracking the lists of users about whom clients are being notified. Lists that are already tracked do not
/// change.
pub async fn track_users(tx: &mut WriteTx, users: &[UserNum]) -> Result<()> {
    for chunk in users.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO remote_device_lists (user_num, is_fresh, is_told) {}
             ON CONFLICT (user_num) DO NOTHING",
            values_clause(chunk.len(), 3)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for user in chunk {
            query = query.bind(*user).bind(false).bind(true);
        }
        query.execute().await?;
    }
    Ok(())
}

/// Replaces the stored devices of a user.
pub async fn replace_devices(
    tx: &mut WriteTx,
    user: UserNum,
    devices: &[RemoteDeviceRow],
) -> Result<()> {
    tx.query("DELETE FROM remote_devices WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    for chunk in devices.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO remote_devices (user_num, device_id, keys, display_name) {}
             ON CONFLICT (user_num, device_id) DO NOTHING",
            values_clause(chunk.len(), 4)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for device in chunk {
            query = query
                .bind(user)
                .bind(&*device.device_id)
                .bind(&*device.keys)
                .bind(device.display_name.clone());
        }
        query.execute().await?;
    }
    Ok(())
}

/// Stores a device.
pub async fn set_device(tx: &mut WriteTx, device: &RemoteDeviceRow) -> Result<()> {
    tx.query(
        "INSERT INTO remote_devices (user_num, device_id, keys, display_name)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (user_num, device_id) DO UPDATE
         SET keys = excluded.keys, display_name = excluded.display_name",
    )
    .bind(device.user_num)
    .bind(&*device.device_id)
    .bind(&*device.keys)
    .bind(device.display_name.clone())
    .execute()
    .await?;
    Ok(())
}

/// Removes a device.
pub async fn remove_device(tx: &mut WriteTx, user: UserNum, device_id: &str) -> Result<()> {
    tx.query("DELETE FROM remote_devices WHERE user_num = $1 AND device_id = $2")
        .bind(user)
        .bind(device_id)
        .execute()
        .await?;
    Ok(())
}

/// Records that clients have queried lists since they were notified of changes, even if they got no answer.
pub async fn mark_queried(tx: &mut WriteTx, users: &[UserNum]) -> Result<()> {
    tx.query(
        "UPDATE remote_device_lists SET is_told = FALSE
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(number_list(users.iter().copied()))
    .execute()
    .await?;
    Ok(())
}

/// Stops tracking the lists of users.
pub async fn untrack_users(tx: &mut WriteTx, users: &[UserNum]) -> Result<()> {
    tx.query(
        "DELETE FROM remote_device_lists
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(number_list(users.iter().copied()))
    .execute()
    .await?;
    Ok(())
}

/// Stops tracking the lists of the members of a room.
pub async fn untrack_members(tx: &mut WriteTx, room: RoomNum) -> Result<()> {
    tx.query(
        "DELETE FROM remote_device_lists
         WHERE user_num IN (SELECT user_num FROM memberships WHERE room = $1)",
    )
    .bind(room)
    .execute()
    .await?;
    Ok(())
}

/// Stops tracking the lists of users who share no room with a user of this server.
pub async fn untrack_users_without_shared_rooms(tx: &mut WriteTx) -> Result<u64> {
    tx.query(
        "DELETE FROM remote_device_lists
         WHERE NOT EXISTS (
             SELECT 1
             FROM memberships theirs
             JOIN memberships ours ON ours.room = theirs.room AND ours.membership = 'join'
             JOIN accounts a ON a.user_num = ours.user_num
             WHERE theirs.user_num = remote_device_lists.user_num AND theirs.membership = 'join')",
    )
    .execute()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        numbers::Position,
        storage::{
            rooms::memberships,
            testing::TestDb,
            users::accounts::{self, Account},
        },
    };

    fn list_of(user_num: UserNum, is_fresh: bool) -> RemoteDeviceListRow {
        RemoteDeviceListRow {
            user_num,
            stream_id: is_fresh.then_some(StreamId::new(5)),
            is_fresh,
            is_reported: true,
        }
    }

    fn device(device_id: &str) -> RemoteDeviceRow {
        RemoteDeviceRow {
            user_num: UserNum::new(1),
            device_id: device_id.to_owned(),
            keys: "{}".to_owned(),
            display_name: None,
        }
    }

    #[tokio::test]
    async fn devices_are_stored_with_their_list_and_go_with_it() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let (a, b) = (device("A"), device("B"));

        set_list(&mut tx, &list_of(UserNum::new(1), true))
            .await
            .unwrap();
        replace_devices(&mut tx, UserNum::new(1), std::slice::from_ref(&a))
            .await
            .unwrap();
        replace_devices(&mut tx, UserNum::new(1), std::slice::from_ref(&b))
            .await
            .unwrap();
        set_device(&mut tx, &a).await.unwrap();
        let both = devices(&mut tx, &[UserNum::new(1)]).await.unwrap();
        assert!(both.len() == 2 && both.contains(&a) && both.contains(&b));
        let named = devices_with_ids(&mut tx, UserNum::new(1), &["B", "C"])
            .await
            .unwrap();
        assert_eq!(named, [b]);
        let size = |devices, bytes| DeviceListSize { devices, bytes };
        let stored = stored_size(&mut tx, UserNum::new(1)).await.unwrap();
        assert_eq!(stored, size(2, 4));
        let stored = stored_size(&mut tx, UserNum::new(2)).await.unwrap();
        assert_eq!(stored, size(0, 0));
        remove_device(&mut tx, UserNum::new(1), "B").await.unwrap();
        assert_eq!(devices(&mut tx, &[UserNum::new(1)]).await.unwrap(), [a]);
        mark_queried(&mut tx, &[UserNum::new(1)]).await.unwrap();
        let expected = RemoteDeviceListRow {
            is_reported: false,
            ..list_of(UserNum::new(1), true)
        };
        assert_eq!(
            lists(&mut tx, &[UserNum::new(1), UserNum::new(2)])
                .await
                .unwrap(),
            [expected]
        );

        track_users(&mut tx, &[UserNum::new(1), UserNum::new(2)])
            .await
            .unwrap();
        let both = lists(&mut tx, &[UserNum::new(1), UserNum::new(2)])
            .await
            .unwrap();
        assert_eq!(both.iter().filter(|list| list.is_fresh).count(), 1);
        untrack_users(&mut tx, &[UserNum::new(1), UserNum::new(2)])
            .await
            .unwrap();
        assert!(
            lists(&mut tx, &[UserNum::new(1), UserNum::new(2)])
                .await
                .unwrap()
                .is_empty()
        );
        assert!(
            devices(&mut tx, &[UserNum::new(1)])
                .await
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn users_who_share_no_local_room_are_untracked() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let mut users = Vec::new();
        for name in ["@alice:here", "@bob:there", "@carol:there", "@dave:there"] {
            users.push(tx.intern_user(name).await.unwrap());
        }
        let account = Account {
            user_num: users[0],
            password_hash: None,
            admin: false,
            guest: false,
            deactivated: false,
            suspended: false,
            locked: false,
            erased_position: None,
            created_ts: 1,
        };
        accounts::insert(&mut tx, &account).await.unwrap();
        for (user, room) in [(0, 7), (1, 7), (2, 8)] {
            let new = memberships::NewMembership {
                user: users[user],
                room: RoomNum::new(room),
                membership: "join",
                position: Position::new(1),
                event: None,
                stripped_state: None,
            };
            memberships::set(&mut tx, new).await.unwrap();
        }
        for user in &users[1..] {
            set_list(&mut tx, &list_of(*user, false)).await.unwrap();
        }
        let found = users_to_query(&mut tx, users[1], 10).await.unwrap();
        assert_eq!(found.len(), 2);
        let carol = NumberedUser {
            user_num: users[2],
            user_id: "@carol:there".to_owned(),
        };
        assert_eq!(found[0], carol);

        assert_eq!(
            untrack_users_without_shared_rooms(&mut tx).await.unwrap(),
            2
        );
        let left = lists(&mut tx, &users).await.unwrap();
        assert_eq!(left, [list_of(users[1], false)]);
        untrack_members(&mut tx, RoomNum::new(7)).await.unwrap();
        assert!(lists(&mut tx, &users).await.unwrap().is_empty());
    }
}
