//! The identity keys of devices.

use crate::{
    error::Result,
    numbers::{DeviceNum, UserNum},
    storage::{ReadAccess, WriteTx, number_list},
};

/// The identity keys of a device, with the data that are published with them.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct DeviceKeysRow {
    pub user_num: UserNum,
    pub device_id: String,
    /// The display name of the device.
    pub display_name: Option<String>,
    /// The keys, as JSON.
    pub keys: String,
}

/// A device that has identity keys.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct DeviceWithKeys {
    pub user_num: UserNum,
    pub user_id: String,
    pub device: DeviceNum,
}

/// Returns the devices of this server's users that have identity keys.
pub async fn devices_with_keys(db: &mut impl ReadAccess) -> Result<Vec<DeviceWithKeys>> {
    db.query(
        "SELECT k.user_num, s.text AS user_id, k.device
         FROM device_keys k JOIN strings s ON s.num = k.user_num
         ORDER BY k.device",
    )
    .fetch_all()
    .await
}

/// Stores the identity keys of a device.
pub async fn set(tx: &mut WriteTx, user: UserNum, device: DeviceNum, keys: &str) -> Result<()> {
    tx.query(
        "INSERT INTO device_keys (device, user_num, keys)
         VALUES ($1, $2, $3)
         ON CONFLICT (device) DO UPDATE
         SET keys = excluded.keys",
    )
    .bind(device)
    .bind(user)
    .bind(keys)
    .execute()
    .await?;
    Ok(())
}

/// Returns the identity keys of a device.
pub async fn get(db: &mut impl ReadAccess, device: DeviceNum) -> Result<Option<String>> {
    db.query("SELECT keys FROM device_keys WHERE device = $1")
        .bind(device)
        .fetch_scalar()
        .await
}

/// Returns the identity keys of all devices of these users.
pub async fn of_users(db: &mut impl ReadAccess, users: &[UserNum]) -> Result<Vec<DeviceKeysRow>> {
    db.query(
        "SELECT d.user_num, d.device_id, d.display_name, k.keys
         FROM device_keys k
         JOIN devices d ON d.num = k.device
         WHERE k.user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
         ORDER BY k.device",
    )
    .bind(number_list(users.iter().copied()))
    .fetch_all()
    .await
}

/// Returns the ids of the given devices that have identity keys.
pub async fn ids_with_keys(db: &mut impl ReadAccess, devices: &[DeviceNum]) -> Result<Vec<String>> {
    db.query(
        "SELECT d.device_id
         FROM device_keys k
         JOIN devices d ON d.num = k.device
         WHERE k.device IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(number_list(devices.iter().copied()))
    .fetch_scalars()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{devices::device_table, testing::TestDb};

    #[tokio::test]
    async fn keys_are_replaced_and_go_with_their_device() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let device = device_table::upsert(&mut tx, UserNum::new(1), "A", Some("Phone".into()), 1)
            .await
            .unwrap();

        set(&mut tx, UserNum::new(1), device, "{}").await.unwrap();
        set(&mut tx, UserNum::new(1), device, r#"{"a":1}"#)
            .await
            .unwrap();

        let rows = of_users(&mut tx, &[UserNum::new(1), UserNum::new(2)])
            .await
            .unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].keys, r#"{"a":1}"#);
        assert_eq!(rows[0].display_name.as_deref(), Some("Phone"));
        assert_eq!(
            ids_with_keys(&mut tx, &[device, DeviceNum::new(99)])
                .await
                .unwrap(),
            ["A"]
        );
        device_table::delete(&mut tx, UserNum::new(1), vec![device])
            .await
            .unwrap();
        assert_eq!(get(&mut tx, device).await.unwrap(), None);
    }
}
