//! The EDUs about local users' devices that other servers receive: device list updates and to-device messages.
//!
//! See [Device management](https://spec.matrix.org/v1.19/server-server-api/#device-management).

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedServerName, UInt, UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, Edu, SigningKeyUpdateContent},
    serde::Raw,
};
use serde_json::json;

use super::{DeviceEnvironment, KeyQueries};
use crate::{
    error::{Error, Result},
    numbers::{Position, UserNum},
    storage::{
        Db,
        devices::{
            device_list_changes,
            device_list_updates::{self, NOTHING_SENT, QueuedDeviceListUpdate, SentDeviceList},
            device_table::{self, Device},
        },
        federation::outbox,
    },
};

/// The number of devices that are sent to a server that has no updates of a user yet: it requests the whole list then.
const MAX_FIRST_DEVICES: usize = 20;
/// The time for which messages wait for a server. A server that is away longer misses some.
const MESSAGE_LIFETIME_MS: i64 = 30 * 24 * 60 * 60 * 1000;
/// The number of messages that are removed in one transaction.
const MESSAGES_PER_TRANSACTION: i64 = 500;

/// The number of pairs of server and user in one transaction.
const PAIRS_PER_TRANSACTION: usize = 500;

/// The device list updates of a user that a server must be sent.
#[derive(Debug)]
pub struct OutgoingListUpdates {
    pub user: UserNum,
    /// The EDUs to send.
    pub edus: Vec<Raw<Edu>>,
    /// The position up to which the server knows all changes afterwards.
    pub position: Position,
    /// The `stream_id` of the last EDU.
    pub stream_id: Position,
}

/// A to-device message for users of another server.
#[derive(Debug)]
pub struct OutgoingMessage {
    pub position: Position,
    pub edu: Raw<Edu>,
}

/// The EDUs about devices that wait for other servers.
#[derive(Clone)]
pub struct OutgoingDeviceEdus {
    db: Db,
    server_name: OwnedServerName,
    key_queries: KeyQueries,
}

impl OutgoingDeviceEdus {
    /// Creates the service.
    pub(super) fn new(environment: &DeviceEnvironment, key_queries: &KeyQueries) -> Self {
        Self {
            db: environment.db.clone(),
            server_name: environment.server_name.clone(),
            key_queries: key_queries.clone(),
        }
    }

    /// Queues device list updates of local users for servers. Returns the servers that must be sent something.
    pub async fn queue_list_updates(
        &self,
        servers: &[OwnedServerName],
        users: &[UserNum],
    ) -> Result<Vec<OwnedServerName>> {
        let servers = servers.iter().map(|server| server.as_str());
        let pairs: Vec<(&str, UserNum)> = servers
            .flat_map(|server| users.iter().map(move |user| (server, *user)))
            .collect();
        let mut affected = Vec::new();
        for chunk in pairs.chunks(PAIRS_PER_TRANSACTION) {
            let mut tx = self.db.write().await?;
            let position = tx.next_position();
            affected.extend(device_list_updates::queue_updates(&mut tx, chunk, position).await?);
            tx.commit().await?;
        }
        affected
            .into_iter()
            .map(|server| parse_server_name(&server))
            .collect()
    }

    /// Returns the local users whose keys changed after a position.
    pub async fn lists_changed_after(&self, after: Position) -> Result<Vec<UserNum>> {
        let mut db = self.db.read().await?;
        device_list_changes::users_changed_after(&mut db, after).await
    }

    /// Returns the device list updates for a server, in at most `limit` EDUs.
    pub async fn list_updates(
        &self,
        server: &OwnedServerName,
        limit: usize,
    ) -> Result<Vec<OutgoingListUpdates>> {
        let limited = i64::try_from(limit).unwrap_or(i64::MAX);
        let all_queued = {
            let mut db = self.db.read().await?;
            device_list_updates::queued_updates(&mut db, server.as_str(), limited).await?
        };
        let (mut updates, mut remaining) = (Vec::new(), limit);
        for queued in all_queued {
            // The first updates of a user, and those of the user's own keys, are not split.
            if remaining < MAX_FIRST_DEVICES + 2 && !updates.is_empty() {
                break;
            }
            let update = self.list_updates_of(queued, remaining).await?;
            remaining = remaining.saturating_sub(update.edus.len());
            updates.push(update);
        }
        Ok(updates)
    }

    async fn list_updates_of(
        &self,
        queued: QueuedDeviceListUpdate,
        limit: usize,
    ) -> Result<OutgoingListUpdates> {
        let user_id = {
            let mut db = self.db.read().await?;
            self.db.strings.user_id(&mut db, queued.user_num).await?
        };
        if user_id.server_name() != self.server_name {
            return Ok(OutgoingListUpdates {
                user: queued.user_num,
                edus: Vec::new(),
                position: queued.changed,
                stream_id: queued.stream_id,
            });
        }
        if queued.sent_up_to == NOTHING_SENT {
            self.first_list_updates(queued, &user_id).await
        } else {
            self.list_updates_since(queued, &user_id, limit).await
        }
    }

    /// Returns the first updates of a user. The server will request the list, because these have no previous id.
    async fn first_list_updates(
        &self,
        queued: QueuedDeviceListUpdate,
        user_id: &UserId,
    ) -> Result<OutgoingListUpdates> {
        let (devices, newest) = {
            let mut db = self.db.read().await?;
            let newest =
                device_list_changes::last_device_or_key_change(&mut db, queued.user_num).await?;
            let devices = device_table::of_user(&mut db, queued.user_num).await?;
            (devices, newest.unwrap_or_default())
        };
        let list = self.key_queries.federation_devices(user_id).await?;
        let mut keys: BTreeMap<_, _> = list
            .devices
            .into_iter()
            .map(|device| (device.device_id, device.keys))
            .collect();
        let mut edus = Vec::new();
        for device in devices.into_iter().rev().take(MAX_FIRST_DEVICES) {
            let device_id = OwnedDeviceId::from(device.device_id.as_str());
            let mut content =
                DeviceListUpdateContent::new(user_id.to_owned(), device_id, list.stream_id);
            content.keys = keys.remove(&content.device_id);
            content.device_display_name = device.display_name;
            edus.push(serialize_edu(&Edu::DeviceListUpdate(content))?);
        }
        if list.master_key.is_some() {
            let mut content = SigningKeyUpdateContent::new(user_id.to_owned());
            content.master_key = list.master_key;
            content.self_signing_key = list.self_signing_key;
            edus.extend(signing_key_edus(content)?);
        }
        Ok(OutgoingListUpdates {
            user: queued.user_num,
            edus,
            position: queued.changed.max(newest),
            stream_id: Position::new(i64::from(list.stream_id)),
        })
    }

    /// Returns the changes since the last updates that a server was sent.
    async fn list_updates_since(
        &self,
        queued: QueuedDeviceListUpdate,
        user_id: &UserId,
        limit: usize,
    ) -> Result<OutgoingListUpdates> {
        let limit = i64::try_from(limit.saturating_sub(1)).unwrap_or(i64::MAX);
        let (changes, devices) = {
            let mut db = self.db.read().await?;
            let user = queued.user_num;
            let changes =
                device_list_changes::devices_changed_after(&mut db, user, queued.sent_up_to, limit);
            let changes = changes.await?;
            (changes, device_table::of_user(&mut db, user).await?)
        };
        let is_all = i64::try_from(changes.len()).unwrap_or(i64::MAX) < limit;
        let mut devices: BTreeMap<String, Device> = devices
            .into_iter()
            .map(|device| (device.device_id.clone(), device))
            .collect();
        // Read after the changes: the list may be newer than they are, but never older.
        let list = self.key_queries.federation_devices(user_id).await?;
        let mut keys: BTreeMap<_, _> = list
            .devices
            .into_iter()
            .map(|device| (device.device_id, device.keys))
            .collect();
        let mut updates = OutgoingListUpdates {
            user: queued.user_num,
            edus: Vec::new(),
            position: if is_all {
                queued.changed
            } else {
                queued.sent_up_to
            },
            stream_id: queued.stream_id,
        };
        for changed in changes {
            updates.position = updates.position.max(changed.position);
            if changed.device_id == device_list_changes::CROSS_SIGNING_DEVICE_ID {
                let mut content = SigningKeyUpdateContent::new(user_id.to_owned());
                content.master_key.clone_from(&list.master_key);
                content.self_signing_key.clone_from(&list.self_signing_key);
                updates.edus.extend(signing_key_edus(content)?);
                continue;
            }
            let device = devices.remove(&changed.device_id);
            let device_id = OwnedDeviceId::from(changed.device_id);
            let mut content = DeviceListUpdateContent::new(
                user_id.to_owned(),
                device_id,
                position_number(changed.position),
            );
            content.prev_id = vec![position_number(updates.stream_id)];
            content.deleted = device.is_none().then_some(true);
            content.keys = keys.remove(&content.device_id);
            content.device_display_name = device.and_then(|device| device.display_name);
            updates.stream_id = changed.position;
            updates
                .edus
                .push(serialize_edu(&Edu::DeviceListUpdate(content))?);
        }
        Ok(updates)
    }

    /// Returns the oldest to-device messages for a server, except those that have expired.
    pub async fn messages(
        &self,
        server: &OwnedServerName,
        now_ms: i64,
        limit: i64,
    ) -> Result<Vec<OutgoingMessage>> {
        let since = now_ms.saturating_sub(MESSAGE_LIFETIME_MS);
        let mut db = self.db.read().await?;
        let rows = outbox::messages(&mut db, server.as_str(), since, limit).await?;
        rows.into_iter()
            .map(|row| {
                Ok(OutgoingMessage {
                    position: row.position,
                    edu: Raw::from_json_string(row.edu)?,
                })
            })
            .collect()
    }

    /// Removes expired to-device messages.
    pub async fn remove_expired_messages(&self, now_ms: i64) -> Result<()> {
        let before = now_ms.saturating_sub(MESSAGE_LIFETIME_MS);
        loop {
            let mut tx = self.db.write().await?;
            let removed =
                outbox::remove_old_messages(&mut tx, before, MESSAGES_PER_TRANSACTION).await?;
            tx.commit().await?;
            if removed == 0 {
                return Ok(());
            }
        }
    }

    /// Records that a server has received the messages up to a position, and device list updates.
    pub async fn record_sent(
        &self,
        server: &OwnedServerName,
        messages: Option<Position>,
        updates: &[OutgoingListUpdates],
    ) -> Result<()> {
        let mut tx = self.db.write().await?;
        if let Some(up_to) = messages {
            outbox::remove_messages(&mut tx, server.as_str(), up_to).await?;
        }
        for update in updates {
            let sent = SentDeviceList {
                up_to: update.position,
                stream_id: update.stream_id,
            };
            device_list_updates::set_sent_position(&mut tx, server.as_str(), update.user, sent)
                .await?;
        }
        tx.commit().await
    }
}

/// Returns the EDUs of a user's cross-signing keys: of the specified type, and of the older unstable type.
fn signing_key_edus(content: SigningKeyUpdateContent) -> Result<[Raw<Edu>; 2]> {
    let old = json!({ "edu_type": "org.matrix.signing_key_update", "content": content });
    let old = Raw::from_json_string(old.to_string())?;
    Ok([serialize_edu(&Edu::SigningKeyUpdate(content))?, old])
}

fn serialize_edu(edu: &Edu) -> Result<Raw<Edu>> {
    Ok(Raw::new(edu)?)
}

fn position_number(position: Position) -> UInt {
    UInt::try_from(position.as_i64()).unwrap_or_default()
}

fn parse_server_name(server: &str) -> Result<OwnedServerName> {
    server
        .try_into()
        .map_err(|source| Error::internal("read the name of a server", source))
}
