//! The devices of users, the to-device messages that wait for them, and their encryption keys.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#device-management).

mod backups;
mod cross_signing;
mod device_list_updates;
mod key_counts;
mod key_queries;
mod keys;
mod remote_device_lists;
mod signatures;
mod to_device;

use std::sync::Arc;

use ruma::{DeviceId, OwnedServerName, api::client::device::Device as DeviceInfo};

pub use self::{
    backups::{BackedUpKeys, BackupPart, BackupState, BackupVersion},
    cross_signing::UiaProof,
    device_list_updates::OutgoingListUpdates,
    key_counts::RemainingKeys,
    key_queries::{KeyViewer, check_user_count},
    keys::{DeviceOwner, is_one_time_key},
    remote_device_lists::{
        ListRequestTicket, RemoteDevice, RemoteDeviceList, RemoteListUpdate, SharingChange,
        StoredDeviceList,
    },
    to_device::PendingMessage,
};
use self::{
    key_counts::KeyCountCache, remote_device_lists::ListRequests, to_device::EmptyQueueCache,
};
use crate::{
    clock::timestamp,
    config::Config,
    error::{Error, Result},
    storage::{
        Db, JournalFollower, UserNum,
        devices::{
            device_keys, device_list_changes,
            device_table::{self, Device},
        },
    },
};

/// The longest device id and device name, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// The service for the devices of this server's users.
#[derive(Clone)]
pub struct Devices {
    db: Db,
    server_name: OwnedServerName,
    /// Whether federation is enabled.
    federates: bool,
    empty_queues: Arc<EmptyQueueCache>,
    key_counts: Arc<KeyCountCache>,
    list_requests: Arc<ListRequests>,
}

impl Devices {
    /// Creates the service for the devices in a database.
    pub fn new(db: &Db, config: &Config) -> Self {
        let queues = Arc::new(EmptyQueueCache::default());
        db.journal().add_follower(queues.clone());
        let key_counts = Arc::new(KeyCountCache::default());
        db.journal().add_follower(key_counts.clone());
        Self {
            db: db.clone(),
            server_name: config.server.name.clone(),
            federates: config.federation.enabled,
            empty_queues: queues,
            key_counts,
            list_requests: Arc::default(),
        }
    }

    /// Adds a follower of the journal, which is notified after the existing ones.
    pub fn add_follower(&self, follower: Arc<dyn JournalFollower>) {
        self.db.journal().add_follower(follower);
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

/// Checks a text that is stored and looked up unchanged: its length, and that the database accepts it.
fn check_text(name: &str, text: &str) -> Result<()> {
    if text.len() > MAX_NAME_BYTES || text.contains('\0') {
        return Err(Error::invalid_param(format!(
            "{name} is longer than {MAX_NAME_BYTES} bytes, or contains U+0000"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ruma::device_id;

    use super::*;
    use crate::storage::{
        DeviceNum, JournalChange, JournalFollower, Position, testing::TestDb, users::tokens,
    };

    #[derive(Default)]
    struct EndedDevices(Mutex<Vec<DeviceNum>>);

    impl JournalFollower for EndedDevices {
        fn committed(&self, changes: &[(Position, JournalChange)]) {
            for (_, change) in changes {
                if let JournalChange::SessionsEnded { devices, .. } = change {
                    self.0.lock().unwrap().extend(devices);
                }
            }
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
        assert_eq!(service.list(UserNum::new(1)).await.unwrap().len(), 1);
        service.rename(UserNum::new(1), a, None).await.unwrap();
        service
            .rename(UserNum::new(1), a, Some("Desk".into()))
            .await
            .unwrap();
        let device = service.get(UserNum::new(1), a).await.unwrap();
        assert_eq!(device.display_name.as_deref(), Some("Desk"));
        assert_eq!(device.last_seen_ts, Some(timestamp(5)));
        service
            .delete(UserNum::new(1), &[a, device_id!("B")])
            .await
            .unwrap();

        assert!(matches!(
            service.get(UserNum::new(1), a).await,
            Err(Error::NotFound(_))
        ));
        let renamed = service.rename(UserNum::new(1), a, Some("x".into())).await;
        assert!(matches!(renamed, Err(Error::NotFound(_))));
        let others = service.get(UserNum::new(2), device_id!("B")).await;
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
            .delete(UserNum::new(1), &[device_id!("A")])
            .await
            .unwrap();

        let mut db = test.db.read().await.unwrap();
        let token = tokens::find_access(&mut db, &[1; 32]).await.unwrap();
        assert_eq!(token, None);
        assert_eq!(*ended.0.lock().unwrap(), [num]);
    }
}
