//! The devices of users, the to-device messages that wait for them, and their encryption keys.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#device-management).

mod backups;
mod cross_signing;
mod device_list_updates;
mod empty_queues;
mod key_counts;
mod key_queries;
mod keys;
mod list_requests;
mod management;
mod message_delivery;
mod remote_device;
mod remote_device_lists;
mod remote_list_updater;
mod remote_messages;
mod signatures;
mod to_device;

use std::{ops::Deref, sync::Arc};

use ruma::OwnedServerName;

pub use self::{
    backups::{BackedUpKeys, BackupPart, BackupState, BackupVersion, KeyBackups},
    cross_signing::{CrossSigningKeys, UiaProof},
    device_list_updates::{OutgoingDeviceEdus, OutgoingListUpdates, OutgoingMessage},
    key_counts::{RemainingKeyCounts, RemainingKeys},
    key_queries::{KeyQueries, KeyViewer, check_user_count},
    keys::{DeviceOwner, EncryptionKeys, KeyOwner, is_one_time_key},
    list_requests::ListRequestTicket,
    management::DeviceManagement,
    remote_device::{RemoteDevice, RemoteDeviceList, RemoteListUpdate},
    remote_device_lists::{ListToRequest, RemoteDeviceLists, SharingChange, StoredDeviceList},
    signatures::KeySignatures,
    to_device::{PendingMessage, ToDeviceMessages},
};
use crate::{
    config::Config,
    error::{Error, Result},
    storage::{Db, JournalFollower},
};

/// The longest device id and device name, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// The devices of this server's users: one service for each kind of data. Cheap to clone.
#[derive(Clone)]
pub struct Devices {
    db: Db,
    services: Arc<DeviceServices>,
}

/// The services of [`Devices`], each built on those above it.
pub struct DeviceServices {
    /// Lists, names and deletion of devices.
    pub management: DeviceManagement,
    /// Messages that wait for devices.
    pub to_device: ToDeviceMessages,
    /// The numbers of keys that are left to claim.
    pub key_counts: RemainingKeyCounts,
    /// Uploads and claims of keys.
    pub keys: EncryptionKeys,
    /// The keys of users as others see them.
    pub key_queries: KeyQueries,
    /// Cross-signing keys.
    pub cross_signing: CrossSigningKeys,
    /// Signatures of keys.
    pub signatures: KeySignatures,
    /// Backups of room keys.
    pub backups: KeyBackups,
    /// EDUs about devices for other servers.
    pub outgoing: OutgoingDeviceEdus,
    /// Device lists of users of other servers.
    pub remote_lists: RemoteDeviceLists,
}

impl Deref for Devices {
    type Target = DeviceServices;

    fn deref(&self) -> &DeviceServices {
        &self.services
    }
}

/// The resources that all services of devices share.
struct DeviceEnvironment {
    db: Db,
    server_name: OwnedServerName,
    /// Whether federation is enabled.
    federates: bool,
}

impl Devices {
    /// Creates the services for the devices in a database.
    pub fn new(db: &Db, config: &Config) -> Self {
        let environment = DeviceEnvironment {
            db: db.clone(),
            server_name: config.server.name.clone(),
            federates: config.federation.enabled,
        };
        Self {
            db: db.clone(),
            services: Arc::new(DeviceServices::new(&environment)),
        }
    }

    /// Adds a follower of the journal, which is notified after the existing ones.
    pub fn add_follower(&self, follower: Arc<dyn JournalFollower>) {
        self.db.journal().add_follower(follower);
    }
}

impl DeviceServices {
    /// Builds the services, each from those above it.
    fn new(environment: &DeviceEnvironment) -> Self {
        let to_device = ToDeviceMessages::new(environment);
        let key_counts = RemainingKeyCounts::new(environment);
        let key_queries = KeyQueries::new(environment);
        Self {
            management: DeviceManagement::new(environment),
            keys: EncryptionKeys::new(environment, &key_counts),
            cross_signing: CrossSigningKeys::new(environment),
            signatures: KeySignatures::new(environment),
            backups: KeyBackups::new(environment),
            outgoing: OutgoingDeviceEdus::new(environment, &key_queries),
            remote_lists: RemoteDeviceLists::new(environment),
            to_device,
            key_counts,
            key_queries,
        }
    }
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
