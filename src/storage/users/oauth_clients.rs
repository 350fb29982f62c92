//! The clients of the OAuth 2.0 API, and the devices that signed in with them.

use crate::{
    error::Result,
    numbers::{DeviceNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// The client of a device.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct DeviceClientRow {
    pub device_id: String,
    /// The metadata of the client, a JSON object.
    pub metadata: String,
}

/// Stores a client, or the time at which it was used again.
pub async fn upsert(tx: &mut WriteTx, client_id: &str, metadata: &str, used_ts: i64) -> Result<()> {
    tx.query(
        "INSERT INTO oauth_clients (client_id, metadata, used_ts)
         VALUES ($1, $2, $3)
         ON CONFLICT (client_id) DO UPDATE SET used_ts = excluded.used_ts",
    )
    .bind(client_id)
    .bind(metadata)
    .bind(used_ts)
    .execute()
    .await?;
    Ok(())
}

/// Deletes the clients that were not used since a time, except those with signed-in devices.
pub async fn delete_unused(tx: &mut WriteTx, before_ts: i64) -> Result<()> {
    tx.query(
        "DELETE FROM oauth_clients
         WHERE used_ts < $1
           AND NOT EXISTS (SELECT 1 FROM oauth_devices WHERE oauth_devices.client_id = oauth_clients.client_id)",
    )
    .bind(before_ts)
    .execute()
    .await?;
    Ok(())
}

/// Returns the metadata of a client, a JSON object.
pub async fn metadata(db: &mut impl ReadAccess, client_id: &str) -> Result<Option<String>> {
    db.query("SELECT metadata FROM oauth_clients WHERE client_id = $1")
        .bind(client_id)
        .fetch_scalar()
        .await
}

/// Records the client with which a device signed in.
pub async fn set_device_client(tx: &mut WriteTx, device: DeviceNum, client_id: &str) -> Result<()> {
    tx.query(
        "INSERT INTO oauth_devices (device, client_id)
         VALUES ($1, $2)
         ON CONFLICT (device) DO UPDATE SET client_id = excluded.client_id",
    )
    .bind(device)
    .bind(client_id)
    .execute()
    .await?;
    Ok(())
}

/// Records that a device signed in without the OAuth 2.0 API.
pub async fn remove_device_client(tx: &mut WriteTx, device: DeviceNum) -> Result<()> {
    tx.query("DELETE FROM oauth_devices WHERE device = $1")
        .bind(device)
        .execute()
        .await?;
    Ok(())
}

/// Returns the id of the client with which a device signed in.
pub async fn client_of_device(
    db: &mut impl ReadAccess,
    device: DeviceNum,
) -> Result<Option<String>> {
    db.query("SELECT client_id FROM oauth_devices WHERE device = $1")
        .bind(device)
        .fetch_scalar()
        .await
}

/// Returns the clients of those devices of a user that signed in with the OAuth 2.0 API.
pub async fn clients_of_user(
    db: &mut impl ReadAccess,
    user: UserNum,
) -> Result<Vec<DeviceClientRow>> {
    db.query(
        "SELECT d.device_id, c.metadata
         FROM devices d
         JOIN oauth_devices o ON o.device = d.num
         JOIN oauth_clients c ON c.client_id = o.client_id
         WHERE d.user_num = $1",
    )
    .bind(user)
    .fetch_all()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{devices::device_table, testing::TestDb};

    #[tokio::test]
    async fn an_unused_client_is_deleted_unless_a_device_signed_in_with_it() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let alice = UserNum::new(1);
        upsert(&mut tx, "used", "{}", 1).await.unwrap();
        upsert(&mut tx, "unused", "{}", 1).await.unwrap();
        upsert(&mut tx, "recent", "{}", 1).await.unwrap();
        upsert(&mut tx, "recent", "{}", 5).await.unwrap();
        let device = device_table::upsert(&mut tx, alice, "A", None, 1).await;
        let device = device.unwrap();
        set_device_client(&mut tx, device, "used").await.unwrap();

        delete_unused(&mut tx, 5).await.unwrap();

        assert!(metadata(&mut tx, "unused").await.unwrap().is_none());
        assert!(metadata(&mut tx, "recent").await.unwrap().is_some());
        let client = client_of_device(&mut tx, device).await.unwrap();
        assert_eq!(client.as_deref(), Some("used"));
        let all = clients_of_user(&mut tx, alice).await.unwrap();
        assert_eq!(all[0].device_id, "A");
        device_table::delete(&mut tx, alice, vec![device])
            .await
            .unwrap();
        assert_eq!(client_of_device(&mut tx, device).await.unwrap(), None);
        delete_unused(&mut tx, 5).await.unwrap();
        assert!(metadata(&mut tx, "used").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_device_can_sign_in_with_another_client_or_without_one() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        upsert(&mut tx, "one", "{}", 1).await.unwrap();
        upsert(&mut tx, "other", "{}", 1).await.unwrap();
        let device = device_table::upsert(&mut tx, UserNum::new(1), "A", None, 1).await;
        let device = device.unwrap();
        set_device_client(&mut tx, device, "one").await.unwrap();

        set_device_client(&mut tx, device, "other").await.unwrap();
        let client = client_of_device(&mut tx, device).await.unwrap();
        assert_eq!(client.as_deref(), Some("other"));

        remove_device_client(&mut tx, device).await.unwrap();
        assert_eq!(client_of_device(&mut tx, device).await.unwrap(), None);
    }
}
