//! To-device messages: delivered once, stored until the device acknowledges them.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging).

use std::sync::Arc;

use ruma::{
    OwnedServerName, ServerName, UserId,
    api::{
        client::to_device::send_event_to_device::v3::Request,
        federation::transactions::edu::DirectDeviceContent,
    },
};

use super::{
    DeviceEnvironment, check_text,
    empty_queues::EmptyQueueCache,
    message_delivery::{
        MAX_TARGET_DEVICES, MessagesByUser, check_contents, check_delivery_size, find_deliveries,
        serialize_messages, store_deliveries,
    },
    remote_messages::{self, serialize_remote_messages},
};
use crate::{
    error::Result,
    matrix::{MAX_JSON_DEPTH, check_depth},
    numbers::{DeviceNum, Position},
    storage::{
        Db, WriteTx,
        devices::{
            received_to_device_messages,
            to_device::{self, DeviceWithMessages},
        },
    },
};

/// The number of journal positions for which transactions are remembered.
const TRANSACTIONS_KEPT: i64 = 1_000_000;
/// The average number of a device's requests between deletions of its old transactions.
const FORGET_INTERVAL: i64 = 256;
/// The time for which ids of other servers' messages are remembered: longer than any server tries to send one.
const RECEIVED_ID_LIFETIME_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// A message that waits for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingMessage {
    /// The position in the journal.
    pub position: Position,
    /// The event as JSON: `content`, `sender` and `type`.
    pub message: String,
}

/// The to-device messages.
#[derive(Clone)]
pub struct ToDeviceMessages {
    db: Db,
    server_name: OwnedServerName,
    /// Whether federation is enabled.
    federates: bool,
    empty_queues: Arc<EmptyQueueCache>,
}

/// A message of a user of another server, serialized.
struct ReceivedMessage<'a> {
    message_id: &'a str,
    by_user: MessagesByUser,
}

impl ToDeviceMessages {
    /// Creates the service, which follows the journal.
    pub(super) fn new(environment: &DeviceEnvironment) -> Self {
        let empty_queues = Arc::new(EmptyQueueCache::default());
        environment.db.journal().add_follower(empty_queues.clone());
        Self {
            db: environment.db.clone(),
            server_name: environment.server_name.clone(),
            federates: environment.federates,
            empty_queues,
        }
    }

    /// Sends messages to devices. A transaction id that was already used is ignored.
    ///
    /// Messages to devices on other servers are stored for the federation sender.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::TooLarge`] or [`crate::error::Error::InvalidParam`] when the messages are too large
    /// or too many.
    #[tracing::instrument(skip_all, fields(user_id = %sender, txn_id = %request.txn_id), err(level = "debug"))]
    pub async fn send(
        &self,
        sender: &UserId,
        device: DeviceNum,
        request: &Request,
        now_ms: i64,
    ) -> Result<()> {
        let kind = request.event_type.to_string();
        check_text("eventType", &kind)?;
        check_text("txnId", request.txn_id.as_str())?;
        check_contents(&request.messages)?;
        let local = serialize_messages(&self.server_name, sender, &kind, &request.messages)?;
        let remote = if self.federates {
            serialize_remote_messages(&self.server_name, sender, &kind, &request.messages)?
        } else {
            Vec::new()
        };
        let endpoint = format!("sendToDevice/{kind}");
        let txn_id = request.txn_id.as_str();
        let mut tx = self.db.write().await?;
        if !to_device::insert_transaction(&mut tx, device, &endpoint, txn_id).await? {
            return Ok(());
        }
        let deliveries = find_deliveries(&mut tx, &self.db, &local).await?;
        check_delivery_size(&deliveries)?;
        store_deliveries(&mut tx, deliveries).await?;
        remote_messages::store_remote_messages(&mut tx, &remote, now_ms).await?;
        forget_old_transactions(&mut tx, device).await?;
        tx.commit().await
    }

    /// Stores messages from users of another server, in their order. Messages that were already received are ignored,
    /// and so are those that are too large or have too many targets.
    ///
    /// # Errors
    ///
    /// When the messages cannot be stored: the server has to send them again.
    #[tracing::instrument(skip_all, fields(server = %origin, count = messages.len()), err(level = "debug"))]
    pub async fn receive(
        &self,
        origin: &ServerName,
        messages: &[DirectDeviceContent],
        now_ms: i64,
    ) -> Result<()> {
        let messages = self.readable_messages(messages);
        if messages.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        let server = tx.intern(origin.as_str()).await?;
        let mut stored = 0;
        for message in messages {
            if stored > MAX_TARGET_DEVICES {
                tx.commit().await?;
                tx = self.db.write().await?;
                stored = 0;
            }
            let id = message.message_id;
            if !received_to_device_messages::insert(&mut tx, server, id, now_ms).await? {
                continue;
            }
            let deliveries = find_deliveries(&mut tx, &self.db, &message.by_user).await?;
            if check_delivery_size(&deliveries).is_ok() {
                stored += deliveries.len();
                store_deliveries(&mut tx, deliveries).await?;
            }
        }
        if tx.next_position().as_i64() % FORGET_INTERVAL == 0 {
            received_to_device_messages::delete_before(&mut tx, now_ms - RECEIVED_ID_LIFETIME_MS)
                .await?;
        }
        tx.commit().await
    }

    /// Serializes messages from users of another server, without those that are too large or malformed.
    fn readable_messages<'a>(
        &self,
        messages: &'a [DirectDeviceContent],
    ) -> Vec<ReceivedMessage<'a>> {
        let mut readable = Vec::with_capacity(messages.len());
        for message in messages {
            let kind = message.ev_type.to_string();
            let (id, sender) = (message.message_id.as_str(), &message.sender);
            let serialized = check_text("type", &kind)
                .and_then(|()| check_text("message_id", id))
                .and_then(|()| check_contents(&message.messages))
                .and_then(|()| {
                    serialize_messages(&self.server_name, sender, &kind, &message.messages)
                });
            match serialized {
                Ok(by_user) => readable.push(ReceivedMessage {
                    message_id: id,
                    by_user,
                }),
                Err(error) => tracing::debug!(%error, "a to-device message is ignored"),
            }
        }
        readable
    }

    /// Returns the messages for a device after one position, up to another, oldest first.
    ///
    /// For a device without messages it does not read from disk.
    pub async fn pending(
        &self,
        device: DeviceNum,
        after: Position,
        up_to: Position,
        limit: usize,
    ) -> Result<Vec<PendingMessage>> {
        if self.empty_queues.is_empty(device) {
            return Ok(Vec::new());
        }
        let generation = self.empty_queues.generation();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut db = self.db.read().await?;
        let rows = to_device::messages_between(&mut db, device, after, up_to, limit).await?;
        if rows.is_empty() && to_device::oldest_position(&mut db, device).await?.is_none() {
            self.empty_queues.remember_empty(generation, device);
        }
        // Older versions of this server did not limit the depth, and stored some that clients cannot parse.
        let readable = rows
            .into_iter()
            .filter(|row| check_depth(&row.message, MAX_JSON_DEPTH).is_ok());
        let pending = readable.map(|row| PendingMessage {
            position: row.position,
            message: row.message,
        });
        Ok(pending.collect())
    }

    /// Returns the devices for which messages wait.
    pub async fn devices_with_messages(&self) -> Result<Vec<DeviceWithMessages>> {
        let mut db = self.db.read().await?;
        to_device::devices_with_messages(&mut db).await
    }

    /// Deletes the messages for a device up to a position in a turn of the caller, who stores them elsewhere.
    pub async fn delete_moved(
        &self,
        tx: &mut WriteTx,
        device: DeviceNum,
        up_to: Position,
    ) -> Result<()> {
        to_device::delete(tx, device, up_to).await.map(drop)
    }

    /// Deletes the messages for a device up to a position, because it has received them.
    pub async fn acknowledge(&self, device: DeviceNum, up_to: Position) -> Result<()> {
        if self.empty_queues.is_empty(device) {
            return Ok(());
        }
        let mut db = self.db.read().await?;
        let oldest = to_device::oldest_position(&mut db, device).await?;
        drop(db);
        if oldest.is_none_or(|oldest| oldest > up_to) {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        to_device::delete(&mut tx, device, up_to).await?;
        tx.commit().await
    }
}

async fn forget_old_transactions(tx: &mut WriteTx, device: DeviceNum) -> Result<()> {
    let now = tx.next_position();
    if now.as_i64() % FORGET_INTERVAL == 0 && now.as_i64() > TRANSACTIONS_KEPT {
        to_device::delete_transactions(tx, device, now.plus(-TRANSACTIONS_KEPT)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
