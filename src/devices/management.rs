//! The devices of users: listing, renaming and deleting them.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#device-management).

use ruma::{DeviceId, OwnedDeviceId, api::client::device::Device as DeviceInfo};

use super::{DeviceEnvironment, check_text};
use crate::{
    clock::timestamp,
    error::{Error, Result},
    numbers::{DeviceNum, UserNum},
    storage::{
        Db,
        devices::{
            device_keys, device_list_changes,
            device_table::{self, Device},
        },
    },
};

/// The devices of the users of this server.
#[derive(Clone)]
pub struct DeviceManagement {
    db: Db,
}

impl DeviceManagement {
    /// Creates the service.
    pub(super) fn new(environment: &DeviceEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
        }
    }

    /// Returns the devices of a user.
    pub async fn list(&self, user: UserNum) -> Result<Vec<DeviceInfo>> {
        let mut db = self.db.read().await?;
        let devices = device_table::of_user(&mut db, user).await?;
        Ok(devices.into_iter().map(device_info).collect())
    }

    /// Returns a device of a user.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the user has no such device.
    pub async fn get(&self, user: UserNum, device_id: &DeviceId) -> Result<DeviceInfo> {
        check_text("device_id", device_id.as_str())?;
        let mut db = self.db.read().await?;
        let device = device_table::find(&mut db, user, device_id.as_str()).await?;
        device.map(device_info).ok_or_else(unknown_device)
    }

    /// Returns the id of a device by its number, if it exists.
    pub async fn device_id(&self, device: DeviceNum) -> Result<Option<OwnedDeviceId>> {
        let mut db = self.db.read().await?;
        let device = device_table::get(&mut db, device).await?;
        Ok(device.map(|device| device.device_id.into()))
    }

    /// Renames a device of a user; without a name nothing changes.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the user has no such device.
    pub async fn rename(
        &self,
        user: UserNum,
        device_id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<()> {
        let Some(display_name) = display_name else {
            return self.get(user, device_id).await.map(drop);
        };
        check_text("device_id", device_id.as_str())?;
        check_text("display_name", &display_name)?;
        let mut tx = self.db.write().await?;
        let device = device_table::find(&mut tx, user, device_id.as_str()).await?;
        let device = device.ok_or_else(unknown_device)?;
        if device.display_name.as_deref() == Some(&*display_name) {
            return Ok(());
        }
        device_table::rename(&mut tx, user, device_id.as_str(), Some(display_name)).await?;
        // The name is shown with the device's keys.
        if device_keys::get(&mut tx, device.num).await?.is_some() {
            device_list_changes::record_device_changes(&mut tx, user, &[device_id]).await?;
        }
        tx.commit().await
    }

    /// Creates a device of a user of an application service at this time, unless it exists. Returns whether it was
    /// created.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the device id or the name is too long.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#creating-devices).
    pub async fn create(
        &self,
        user: UserNum,
        device_id: &DeviceId,
        display_name: Option<String>,
        now_ms: i64,
    ) -> Result<bool> {
        check_text("device_id", device_id.as_str())?;
        if let Some(name) = &display_name {
            check_text("display_name", name)?;
        }
        let mut tx = self.db.write().await?;
        if device_table::find(&mut tx, user, device_id.as_str())
            .await?
            .is_some()
        {
            return Ok(false);
        }
        device_table::upsert(&mut tx, user, device_id.as_str(), display_name, now_ms).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Deletes devices of a user, with all their data. Devices that the user does not have are ignored.
    ///
    /// The caller must have checked interactive authentication.
    pub async fn delete(&self, user: UserNum, device_ids: &[&DeviceId]) -> Result<()> {
        let ids: Vec<&str> = device_ids.iter().map(|id| id.as_str()).collect();
        let mut tx = self.db.write().await?;
        let found = device_table::find_all(&mut tx, user, &ids).await?;
        if found.is_empty() {
            return Ok(());
        }
        device_table::delete(&mut tx, user, found).await?;
        tx.commit().await
    }
}

fn unknown_device() -> Error {
    Error::not_found("the device does not exist")
}

fn device_info(device: Device) -> DeviceInfo {
    let mut info = DeviceInfo::new(device.device_id.into());
    info.display_name = device.display_name;
    info.last_seen_ip = device.last_seen_ip;
    info.last_seen_ts = Some(timestamp(device.last_seen_ts));
    info
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use ruma::device_id;

    use super::*;
    use crate::{
        config::Config,
        devices::Devices,
        numbers::{DeviceNum, Position},
        storage::{JournalChange, JournalFollower, testing::TestDb, users::tokens},
    };

    #[derive(Default)]
    struct EndedDevices(Mutex<Vec<DeviceNum>>);

    impl JournalFollower for EndedDevices {
        fn committed(&self, changes: &[(Position, JournalChange)]) {
            let ended = changes.iter().filter_map(|(_, change)| match change {
                JournalChange::SessionsEnded { devices, .. } => Some(devices),
                _ => None,
            });
            self.0.lock().unwrap().extend(ended.flatten());
        }
        fn failed(&self) {}
    }

    #[tokio::test]
    async fn devices_are_listed_renamed_and_deleted() {
        let test = TestDb::new().await;
        let service = Devices::new(&test.db, &Config::default());
        let mut tx = test.db.write().await.unwrap();
        device_table::upsert(&mut tx, UserNum::new(1), "A", Some("Phone".into()), 5)
            .await
            .unwrap();
        device_table::upsert(&mut tx, UserNum::new(2), "B", None, 5)
            .await
            .unwrap();
        tx.commit().await.unwrap();

        let a = device_id!("A");
        assert_eq!(
            service
                .management
                .list(UserNum::new(1))
                .await
                .unwrap()
                .len(),
            1
        );
        service
            .management
            .rename(UserNum::new(1), a, None)
            .await
            .unwrap();
        service
            .management
            .rename(UserNum::new(1), a, Some("Desk".into()))
            .await
            .unwrap();
        let device = service.management.get(UserNum::new(1), a).await.unwrap();
        assert_eq!(device.display_name.as_deref(), Some("Desk"));
        assert_eq!(device.last_seen_ts, Some(timestamp(5)));
        service
            .management
            .delete(UserNum::new(1), &[a, device_id!("B")])
            .await
            .unwrap();

        assert!(matches!(
            service.management.get(UserNum::new(1), a).await,
            Err(Error::NotFound(_))
        ));
        let renamed = service
            .management
            .rename(UserNum::new(1), a, Some("x".into()))
            .await;
        assert!(matches!(renamed, Err(Error::NotFound(_))));
        let others = service
            .management
            .get(UserNum::new(2), device_id!("B"))
            .await;
        assert!(others.is_ok());
    }

    #[tokio::test]
    async fn deleting_a_device_deletes_its_tokens_and_is_published() {
        let test = TestDb::new().await;
        let service = Devices::new(&test.db, &Config::default());
        let ended = Arc::new(EndedDevices::default());
        test.db.journal().add_follower(ended.clone());
        let mut tx = test.db.write().await.unwrap();
        let num = device_table::upsert(&mut tx, UserNum::new(1), "A", None, 5)
            .await
            .unwrap();
        tokens::insert_access(&mut tx, &[1; 32], num, None)
            .await
            .unwrap();
        tx.commit().await.unwrap();

        service
            .management
            .delete(UserNum::new(1), &[device_id!("A")])
            .await
            .unwrap();

        let mut db = test.db.read().await.unwrap();
        let token = tokens::find_access(&mut db, &[1; 32]).await.unwrap();
        assert_eq!(token, None);
        assert_eq!(*ended.0.lock().unwrap(), [num]);
    }
}
