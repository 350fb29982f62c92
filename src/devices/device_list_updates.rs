//! The EDUs about local users' devices that other servers receive: device list updates and to-device messages.
//!
//! See [Device management](https://spec.matrix.org/v1.19/server-server-api/#device-management).

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedServerName, UInt, UserId,
    api::federation::transactions::edu::{
        DeviceListUpdateContent, DirectDeviceContent, DirectDeviceMessages, Edu,
        SigningKeyUpdateContent,
    },
    serde::Raw,
};
use serde_json::json;

use super::Devices;
use crate::{
    error::{Error, Result},
    storage::{
        JournalChange, Position, UserNum, WriteTx,
        devices::{
            device_list_changes,
            device_list_updates::{self, NOTHING_SENT, QueuedDeviceListUpdate},
            device_table::{self, Device},
        },
        federation::outbox,
    },
};

/// The number of devices that are sent to a server that has no updates of a user yet: it requests the whole list then.
const MAX_FIRST_DEVICES: usize = 20;
/// The approximate largest size of a to-device EDU for another server, in bytes. One for a single device may be larger.
const MAX_EDU_BYTES: usize = 48 * 1024;
/// The time for which messages wait for a server, and their number. A server that is away longer misses some.
const MESSAGE_LIFETIME_MS: i64 = 30 * 24 * 60 * 60 * 1000;
const MAX_MESSAGES_PER_SERVER: i64 = 10_000;
/// The number of messages that are removed in one transaction.
const MESSAGES_PER_TRANSACTION: i64 = 500;

/// The device list updates of a user that a server must be sent.
#[derive(Debug)]
pub struct OutgoingListUpdates {
    pub user: UserNum,
    /// The EDUs to send.
    pub edus: Vec<Raw<Edu>>,
    /// The position up to which the server knows all changes afterwards.
    pub position: Position,
    /// The `stream_id` of the last EDU.
    pub stream_id: i64,
}

impl Devices {
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
        let mut owed = Vec::new();
        for some in pairs.chunks(PAIRS_PER_TRANSACTION) {
            let mut tx = self.db.write().await?;
            let position = tx.next_position();
            owed.extend(device_list_updates::queue_updates(&mut tx, some, position).await?);
            tx.commit().await?;
        }
        owed.into_iter()
            .map(|server| parse_server_name(&server))
            .collect()
    }

    /// Returns the local users whose keys changed after a position.
    pub async fn lists_changed_after(&self, after: Position) -> Result<Vec<UserNum>> {
        let mut db = self.db.read().await?;
        device_list_changes::users_changed_after(&mut db, after).await
    }

    /// Returns the device list updates for a server, in at most `limit` EDUs.
    pub async fn outgoing_list_updates(
        &self,
        server: &OwnedServerName,
        limit: usize,
    ) -> Result<Vec<OutgoingListUpdates>> {
        let limited = i64::try_from(limit).unwrap_or(i64::MAX);
        let owed = {
            let mut db = self.db.read().await?;
            device_list_updates::queued_updates(&mut db, server.as_str(), limited).await?
        };
        let (mut tellings, mut left) = (Vec::new(), limit);
        for owed in owed {
            // The first updates of a user, and those of the user's own keys, are not split.
            if left < MAX_FIRST_DEVICES + 2 && !tellings.is_empty() {
                break;
            }
            let telling = self.list_updates_of(owed, left).await?;
            left = left.saturating_sub(telling.edus.len());
            tellings.push(telling);
        }
        Ok(tellings)
    }

    async fn list_updates_of(
        &self,
        owed: QueuedDeviceListUpdate,
        limit: usize,
    ) -> Result<OutgoingListUpdates> {
        let user_id = {
            let mut db = self.db.read().await?;
            self.db.strings.user_id(&mut db, owed.user_num).await?
        };
        let user_id =
            UserId::parse(&*user_id).map_err(|source| Error::internal("read a user id", source))?;
        if user_id.server_name() != self.server_name {
            return Ok(OutgoingListUpdates {
                user: owed.user_num,
                edus: Vec::new(),
                position: owed.changed,
                stream_id: owed.stream_id,
            });
        }
        if owed.told == NOTHING_SENT {
            self.first_list_updates(owed, &user_id).await
        } else {
            self.list_updates_since(owed, &user_id, limit).await
        }
    }

    /// Returns the first updates of a user. The server will request the list, because these have no previous id.
    async fn first_list_updates(
        &self,
        owed: QueuedDeviceListUpdate,
        user_id: &UserId,
    ) -> Result<OutgoingListUpdates> {
        let (devices, newest) = {
            let mut db = self.db.read().await?;
            let newest =
                device_list_changes::last_device_or_key_change(&mut db, owed.user_num).await?;
            let devices = device_table::of_user(&mut db, owed.user_num).await?;
            (devices, newest.unwrap_or_default())
        };
        let list = self.federation_devices(user_id).await?;
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
            user: owed.user_num,
            edus,
            position: owed.changed.max(newest),
            stream_id: i64::from(list.stream_id),
        })
    }

    /// Returns the changes since the last updates that a server was sent.
    async fn list_updates_since(
        &self,
        owed: QueuedDeviceListUpdate,
        user_id: &UserId,
        limit: usize,
    ) -> Result<OutgoingListUpdates> {
        let limit = i64::try_from(limit.saturating_sub(1)).unwrap_or(i64::MAX);
        let (changes, devices) = {
            let mut db = self.db.read().await?;
            let user = owed.user_num;
            let changes =
                device_list_changes::devices_changed_after(&mut db, user, owed.told, limit);
            let changes = changes.await?;
            (changes, device_table::of_user(&mut db, user).await?)
        };
        let is_all = i64::try_from(changes.len()).unwrap_or(i64::MAX) < limit;
        let mut devices: BTreeMap<String, Device> = devices
            .into_iter()
            .map(|device| (device.device_id.clone(), device))
            .collect();
        // Read after the changes: the list may be newer than they are, but never older.
        let list = self.federation_devices(user_id).await?;
        let mut keys: BTreeMap<_, _> = list
            .devices
            .into_iter()
            .map(|device| (device.device_id, device.keys))
            .collect();
        let mut telling = OutgoingListUpdates {
            user: owed.user_num,
            edus: Vec::new(),
            position: if is_all { owed.changed } else { owed.told },
            stream_id: owed.stream_id,
        };
        for (device_id, position) in changes {
            telling.position = telling.position.max(position);
            if device_id == device_list_changes::CROSS_SIGNING_DEVICE_ID {
                let mut content = SigningKeyUpdateContent::new(user_id.to_owned());
                content.master_key.clone_from(&list.master_key);
                content.self_signing_key.clone_from(&list.self_signing_key);
                telling.edus.extend(signing_key_edus(content)?);
                continue;
            }
            let device = devices.remove(&device_id);
            let device_id = OwnedDeviceId::from(device_id);
            let mut content = DeviceListUpdateContent::new(
                user_id.to_owned(),
                device_id,
                position_number(position),
            );
            content.prev_id = vec![position_number(telling.stream_id)];
            content.deleted = device.is_none().then_some(true);
            content.keys = keys.remove(&content.device_id);
            content.device_display_name = device.and_then(|device| device.display_name);
            telling.stream_id = position;
            telling
                .edus
                .push(serialize_edu(&Edu::DeviceListUpdate(content))?);
        }
        Ok(telling)
    }

    /// Returns the oldest to-device messages for a server, except those that have expired.
    pub async fn messages_for_server(
        &self,
        server: &OwnedServerName,
        now_ms: i64,
        limit: i64,
    ) -> Result<Vec<(Position, Raw<Edu>)>> {
        let since = now_ms.saturating_sub(MESSAGE_LIFETIME_MS);
        let mut db = self.db.read().await?;
        let rows = outbox::messages(&mut db, server.as_str(), since, limit).await?;
        rows.into_iter()
            .map(|row| Ok((row.position, Raw::from_json_string(row.edu)?)))
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
        tellings: &[OutgoingListUpdates],
    ) -> Result<()> {
        let mut tx = self.db.write().await?;
        if let Some(up_to) = messages {
            outbox::remove_messages(&mut tx, server.as_str(), up_to).await?;
        }
        for telling in tellings {
            let (user, told) = (telling.user, (telling.position, telling.stream_id));
            device_list_updates::set_sent_position(&mut tx, server.as_str(), user, told).await?;
        }
        tx.commit().await
    }
}

/// The number of pairs of server and user in one transaction.
const PAIRS_PER_TRANSACTION: usize = 500;

/// To-device messages to users of one other server.
pub(super) struct RemoteServerMessages {
    server: OwnedServerName,
    edus: Vec<String>,
}

/// Serializes the messages of one user to devices of other servers: some EDUs for each server.
pub(super) fn serialize_for_servers(
    sender: &UserId,
    kind: &str,
    messages: BTreeMap<OwnedServerName, DirectDeviceMessages>,
) -> Result<Vec<RemoteServerMessages>> {
    let mut letters = Vec::new();
    for (server, messages) in messages {
        let mut edus = Vec::new();
        let mut piece = DirectDeviceMessages::new();
        let mut size = 0;
        for (user_id, of_user) in messages {
            for (device, content) in of_user {
                let length = content.json().get().len();
                if size > 0 && size + length > MAX_EDU_BYTES {
                    edus.push(to_device_edu(sender, kind, std::mem::take(&mut piece))?);
                    size = 0;
                }
                size += length;
                let of_user = piece.entry(user_id.clone()).or_default();
                of_user.insert(device, content);
            }
        }
        if !piece.is_empty() {
            edus.push(to_device_edu(sender, kind, piece)?);
        }
        letters.push(RemoteServerMessages { server, edus });
    }
    Ok(letters)
}

/// Stores messages for other servers, in the transaction that stores the rest of the request. If too many wait for a
/// server, the oldest are removed.
pub(super) async fn store_remote_messages(
    tx: &mut WriteTx,
    letters: &[RemoteServerMessages],
    now_ms: i64,
) -> Result<()> {
    for RemoteServerMessages { server, edus } in letters {
        for edu in edus {
            let position = tx.next_position();
            let message = outbox::NewServerMessage {
                position,
                server: server.as_str(),
                edu,
                created_ts: now_ms,
            };
            outbox::insert_message(tx, message).await?;
            let server = server.clone();
            tx.publish(position, JournalChange::ToServer { server });
        }
        outbox::keep_newest_messages(tx, server.as_str(), MAX_MESSAGES_PER_SERVER).await?;
    }
    Ok(())
}

fn to_device_edu(sender: &UserId, kind: &str, messages: DirectDeviceMessages) -> Result<String> {
    let message_id = format!("{:032x}", rand::random::<u128>());
    let mut content = DirectDeviceContent::new(sender.to_owned(), kind.into(), message_id.into());
    content.messages = messages;
    Ok(serde_json::to_string(&Edu::DirectToDevice(content))?)
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
    UInt::try_from(position).unwrap_or_default()
}

fn parse_server_name(server: &str) -> Result<OwnedServerName> {
    server
        .try_into()
        .map_err(|source| Error::internal("read the name of a server", source))
}
