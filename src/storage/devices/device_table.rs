//! The devices of users, and the removal of everything that belongs to a device.

use super::{cross_signing, device_keys, device_list_changes};
use crate::{
    error::{Error, Result},
    numbers::{DeviceNum, UserNum},
    storage::{
        JournalChange, ReadAccess, WriteTx, number_list, text_list,
        users::{account_data, accounts},
    },
};

/// The prefixes of the account data types with a device's notification settings; the device id follows.
///
/// See [MSC3890](https://github.com/matrix-org/matrix-spec-proposals/pull/3890).
const NOTIFICATION_SETTINGS_PREFIXES: [&str; 2] = [
    "m.local_notification_settings.",
    "org.matrix.msc3890.local_notification_settings.",
];

/// A device of a user.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Device {
    pub num: DeviceNum,
    pub user_num: UserNum,
    pub device_id: String,
    pub display_name: Option<String>,
    pub last_seen_ts: i64,
    pub last_seen_ip: Option<String>,
}

/// Returns the devices of a user.
pub async fn of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<Device>> {
    db.query(
        "SELECT num, user_num, device_id, display_name, last_seen_ts, last_seen_ip
         FROM devices
         WHERE user_num = $1
         ORDER BY num",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// A device with its numbers and its id.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct NumberedDevice {
    pub num: DeviceNum,
    pub user_num: UserNum,
    pub device_id: String,
}

/// Returns the devices of several users.
pub async fn of_users(db: &mut impl ReadAccess, users: &[UserNum]) -> Result<Vec<NumberedDevice>> {
    db.query(
        "SELECT num, user_num, device_id
         FROM devices
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
         ORDER BY num",
    )
    .bind(number_list(users.iter().copied()))
    .fetch_all()
    .await
}

/// Returns a device of a user.
pub async fn find(
    db: &mut impl ReadAccess,
    user: UserNum,
    device_id: &str,
) -> Result<Option<Device>> {
    db.query(
        "SELECT num, user_num, device_id, display_name, last_seen_ts, last_seen_ip
         FROM devices
         WHERE user_num = $1 AND device_id = $2",
    )
    .bind(user)
    .bind(device_id)
    .fetch_optional()
    .await
}

/// Returns the numbers of the user's devices that have one of these ids.
pub async fn find_all(
    db: &mut impl ReadAccess,
    user: UserNum,
    device_ids: &[&str],
) -> Result<Vec<DeviceNum>> {
    db.query(
        "SELECT num
         FROM devices
         WHERE user_num = $1 AND device_id IN (SELECT value FROM json_each($2))
         ORDER BY num",
    )
    .bind(user)
    .bind(text_list(device_ids))
    .fetch_scalars()
    .await
}

/// Returns the device with a number.
pub async fn get(db: &mut impl ReadAccess, num: DeviceNum) -> Result<Option<Device>> {
    db.query(
        "SELECT num, user_num, device_id, display_name, last_seen_ts, last_seen_ip
         FROM devices
         WHERE num = $1",
    )
    .bind(num)
    .fetch_optional()
    .await
}

/// The most devices that [`least_recently_seen`] returns.
const MAX_REMOVED_DEVICES: i64 = 100;

/// Stores a device at login, and returns its number. A device that already exists keeps its name.
pub async fn upsert(
    tx: &mut WriteTx,
    user: UserNum,
    device_id: &str,
    display_name: Option<String>,
    now: i64,
) -> Result<DeviceNum> {
    tx.query(
        "INSERT INTO devices (user_num, device_id, display_name, last_seen_ts, last_seen_ip)
         VALUES ($1, $2, $3, $4, NULL)
         ON CONFLICT (user_num, device_id) DO UPDATE
         SET last_seen_ts = excluded.last_seen_ts
         RETURNING num",
    )
    .bind(user)
    .bind(device_id)
    .bind(display_name)
    .bind(now)
    .fetch_scalar()
    .await?
    .ok_or_else(|| Error::internal("store a device", "no number came back"))
}

/// Returns devices of a user other than the `kept` ones that were seen last.
pub async fn least_recently_seen(
    db: &mut impl ReadAccess,
    user: UserNum,
    kept: i64,
) -> Result<Vec<DeviceNum>> {
    db.query(
        "SELECT num FROM devices
         WHERE user_num = $1
         ORDER BY last_seen_ts DESC, num DESC
         LIMIT $2 OFFSET $3",
    )
    .bind(user)
    .bind(MAX_REMOVED_DEVICES)
    .bind(kept)
    .fetch_scalars()
    .await
}

/// Renames a device. Returns `false` if the user has no such device.
pub async fn rename(
    tx: &mut WriteTx,
    user: UserNum,
    device_id: &str,
    display_name: Option<String>,
) -> Result<bool> {
    let changed = tx
        .query(
            "UPDATE devices
             SET display_name = $3
             WHERE user_num = $1 AND device_id = $2",
        )
        .bind(user)
        .bind(device_id)
        .bind(display_name)
        .execute()
        .await?;
    Ok(changed == 1)
}

/// Stores when and from which address a device was last seen.
pub async fn set_last_seen(
    tx: &mut WriteTx,
    num: DeviceNum,
    ts: i64,
    ip: Option<String>,
) -> Result<()> {
    tx.query(
        "UPDATE devices
         SET last_seen_ts = $2, last_seen_ip = $3
         WHERE num = $1",
    )
    .bind(num)
    .bind(ts)
    .bind(ip)
    .execute()
    .await?;
    Ok(())
}

/// Deletes devices of a user with their tokens, messages, transactions, keys, pushers and settings, and announces the
/// end of their sessions.
pub async fn delete(tx: &mut WriteTx, user: UserNum, devices: Vec<DeviceNum>) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let with_keys = device_keys::ids_with_keys(tx, &devices).await?;
    keep_last_seen(tx, user, &devices).await?;
    tx.query(
        "DELETE FROM transactions
         WHERE device IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(number_list(devices.iter().copied()))
    .execute()
    .await?;
    let device_ids: Vec<String> = tx
        .query(
            "DELETE FROM devices
             WHERE num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
             RETURNING device_id",
        )
        .bind(number_list(devices.iter().copied()))
        .fetch_scalars()
        .await?;
    if !with_keys.is_empty() {
        cross_signing::remove_signatures_of(tx, user, &with_keys).await?;
        device_list_changes::record_device_changes(tx, user, &with_keys).await?;
    }
    remove_notification_settings(tx, user, &device_ids).await?;
    announce_ended_sessions(tx, user, devices);
    Ok(())
}

/// Keeps the time at which a user was last seen on devices that are being deleted.
async fn keep_last_seen(tx: &mut WriteTx, user: UserNum, devices: &[DeviceNum]) -> Result<()> {
    let last: Option<Option<i64>> = tx
        .query(
            "SELECT MAX(last_seen_ts) FROM devices
             WHERE num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
        )
        .bind(number_list(devices.iter().copied()))
        .fetch_scalar()
        .await?;
    match last.flatten() {
        Some(last) => accounts::record_last_seen(tx, user, last).await,
        None => Ok(()),
    }
}

/// Removes the account data with the notification settings of devices.
async fn remove_notification_settings(
    tx: &mut WriteTx,
    user: UserNum,
    device_ids: &[String],
) -> Result<()> {
    let kinds: Vec<String> = device_ids
        .iter()
        .flat_map(|id| NOTIFICATION_SETTINGS_PREFIXES.map(|prefix| format!("{prefix}{id}")))
        .collect();
    let removed = account_data::remove_global(tx, user, &kinds).await?;
    for kind in removed.kinds {
        let change = JournalChange::AccountData {
            user,
            room: None,
            kind: kind.into(),
            content: account_data::REMOVED_CONTENT.into(),
        };
        tx.publish(removed.position, change);
    }
    Ok(())
}

/// Announces that the access tokens of devices are no longer valid.
pub fn announce_ended_sessions(tx: &mut WriteTx, user: UserNum, devices: Vec<DeviceNum>) {
    let position = tx.next_position();
    tx.publish(position, JournalChange::SessionsEnded { user, devices });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn a_known_device_keeps_its_number_and_name() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let name = |name: &str| Some(name.to_owned());

        let first = upsert(&mut tx, UserNum::new(1), "PHONE", name("Phone"), 1)
            .await
            .unwrap();
        let again = upsert(&mut tx, UserNum::new(1), "PHONE", name("Other"), 2)
            .await
            .unwrap();
        let others = upsert(&mut tx, UserNum::new(2), "PHONE", None, 3)
            .await
            .unwrap();

        assert_eq!(first, again);
        assert_ne!(first, others);
        let device = find(&mut tx, UserNum::new(1), "PHONE")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(device.display_name.as_deref(), Some("Phone"));
        assert_eq!(device.last_seen_ts, 2);
        assert_eq!(get(&mut tx, first).await.unwrap(), Some(device));
        assert_eq!(
            of_users(&mut tx, &[UserNum::new(1), UserNum::new(2)])
                .await
                .unwrap()
                .len(),
            2
        );
    }

    #[tokio::test]
    async fn devices_are_renamed_seen_and_deleted() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let num = upsert(&mut tx, UserNum::new(1), "A", None, 1)
            .await
            .unwrap();
        upsert(&mut tx, UserNum::new(1), "B", None, 1)
            .await
            .unwrap();

        assert!(
            rename(&mut tx, UserNum::new(1), "A", Some("Desk".into()))
                .await
                .unwrap()
        );
        assert!(!rename(&mut tx, UserNum::new(2), "A", None).await.unwrap());
        set_last_seen(&mut tx, num, 9, Some("::1".into()))
            .await
            .unwrap();
        let device = find(&mut tx, UserNum::new(1), "A").await.unwrap().unwrap();
        assert_eq!(device.display_name.as_deref(), Some("Desk"));
        assert_eq!(device.last_seen_ip.as_deref(), Some("::1"));

        let found = find_all(&mut tx, UserNum::new(1), &["A", "C"])
            .await
            .unwrap();
        assert_eq!(found, [num]);
        delete(&mut tx, UserNum::new(1), found).await.unwrap();
        assert_eq!(of_user(&mut tx, UserNum::new(1)).await.unwrap().len(), 1);
    }
}
