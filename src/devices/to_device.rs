//! To-device messages: delivered once, stored until the device acknowledges them.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{
    OwnedUserId, ServerName, UserId,
    api::{
        client::to_device::send_event_to_device::v3::{Messages, Request},
        federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    },
    canonical_json::CanonicalJsonObject,
    to_device::DeviceIdOrAllDevices,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Devices, check_text,
    device_list_updates::{self, RemoteServerMessages},
};
use crate::{
    error::{Error, Result},
    matrix::{MAX_JSON_DEPTH, check_depth},
    storage::{
        DeviceNum, JournalChange, JournalFollower, Position, UserNum, WriteTx,
        devices::{device_table, received_to_device_messages, to_device},
    },
};

/// The largest number of target devices of one request: each needs a row.
const MAX_TARGET_DEVICES: usize = 10_000;
/// The largest total size that one request may store, in bytes. A request that names each device is always smaller;
/// with "*" the same message is stored for each device of a user.
const MAX_DELIVERED_BYTES: usize = 4 * 1024 * 1024;
/// The largest number of other servers that one request reaches. Clients share a room key with some hundred devices in
/// one request, some with all.
const MAX_TARGET_SERVERS: usize = 1_000;
/// The largest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The number of devices that are remembered to have no messages. When it is reached, all of them are forgotten.
const MAX_CACHED_DEVICES: usize = 100_000;
/// The number of journal positions for which transactions are remembered.
const TRANSACTIONS_KEPT: Position = 1_000_000;
/// The average number of a device's requests between deletions of its old transactions.
const FORGET_INTERVAL: Position = 256;
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

#[derive(Serialize)]
struct ToDeviceMessage<'a> {
    content: &'a RawValue,
    sender: &'a UserId,
    r#type: &'a str,
}

impl Devices {
    /// Sends messages to devices. A transaction id that was already used is ignored.
    ///
    /// Messages to devices on other servers are stored for the federation sender.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] or [`Error::InvalidParam`] when the messages are too large or too many.
    #[tracing::instrument(skip_all, fields(user_id = %sender, txn_id = %request.txn_id), err(level = "debug"))]
    pub async fn send_to_device(
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
        let letters = self.serialize_messages(sender, &kind, &request.messages)?;
        let remote = self.serialize_remote_messages(sender, &kind, &request.messages)?;
        let endpoint = format!("sendToDevice/{kind}");
        let txn_id = request.txn_id.as_str();
        let mut tx = self.db.write().await?;
        if !to_device::insert_transaction(&mut tx, device, &endpoint, txn_id).await? {
            return Ok(());
        }
        let deliveries = find_target_devices(&mut tx, &self.db, &letters).await?;
        check_delivery_size(&deliveries)?;
        store_deliveries(&mut tx, deliveries).await?;
        device_list_updates::store_remote_messages(&mut tx, &remote, now_ms).await?;
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
    pub async fn receive_messages(
        &self,
        origin: &ServerName,
        messages: &[DirectDeviceContent],
        now_ms: i64,
    ) -> Result<()> {
        let mut written = Vec::with_capacity(messages.len());
        for message in messages {
            let kind = message.ev_type.to_string();
            let (id, sender) = (message.message_id.as_str(), &message.sender);
            let is_fit = check_text("type", &kind)
                .and_then(|()| check_text("message_id", id))
                .and_then(|()| check_contents(&message.messages));
            match is_fit.and_then(|()| self.serialize_messages(sender, &kind, &message.messages)) {
                Ok(letters) => written.push((id, letters)),
                Err(error) => tracing::debug!(%error, "a to-device message is ignored"),
            }
        }
        if written.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.write().await?;
        let server = tx.intern(origin.as_str()).await?;
        let mut reached = 0;
        for (id, letters) in written {
            if reached > MAX_TARGET_DEVICES {
                tx.commit().await?;
                tx = self.db.write().await?;
                reached = 0;
            }
            if !received_to_device_messages::insert(&mut tx, server, id, now_ms).await? {
                continue;
            }
            let deliveries = find_target_devices(&mut tx, &self.db, &letters).await?;
            if check_delivery_size(&deliveries).is_ok() {
                reached += deliveries.len();
                store_deliveries(&mut tx, deliveries).await?;
            }
        }
        if tx.next_position() % FORGET_INTERVAL == 0 {
            received_to_device_messages::delete_before(&mut tx, now_ms - RECEIVED_ID_LIFETIME_MS)
                .await?;
        }
        tx.commit().await
    }

    /// Returns the messages for a device after one position, up to another, oldest first.
    ///
    /// For a device without messages it does not read from disk.
    pub async fn pending_messages(
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
            .filter(|(_, message)| check_depth(message, MAX_JSON_DEPTH).is_ok());
        let pending = readable.map(|(position, message)| PendingMessage { position, message });
        Ok(pending.collect())
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

    /// Serializes each message once, for all its target devices.
    fn serialize_messages(
        &self,
        sender: &UserId,
        kind: &str,
        messages: &Messages,
    ) -> Result<MessagesByUser> {
        let targets: usize = messages.values().map(BTreeMap::len).sum();
        if targets > MAX_TARGET_DEVICES {
            return Err(Error::invalid_param(format!(
                "the messages have more than {MAX_TARGET_DEVICES} target devices"
            )));
        }
        let mut letters = MessagesByUser::new();
        for (user_id, devices) in messages {
            if user_id.server_name() != self.server_name {
                continue;
            }
            let mut written = Vec::with_capacity(devices.len());
            for (target, content) in devices {
                let message = serde_json::to_string(&ToDeviceMessage {
                    content: content.json(),
                    sender,
                    r#type: kind,
                })?;
                if message.len() > MAX_MESSAGE_BYTES {
                    return Err(Error::TooLarge("a message is too large".to_owned()));
                }
                written.push((target.clone(), Arc::from(message)));
            }
            letters.insert(user_id.clone(), written);
        }
        Ok(letters)
    }

    /// Serializes the messages to devices of users of other servers, by server.
    fn serialize_remote_messages(
        &self,
        sender: &UserId,
        kind: &str,
        messages: &Messages,
    ) -> Result<Vec<RemoteServerMessages>> {
        let mut by_server = BTreeMap::<_, DirectDeviceMessages>::new();
        for (user_id, devices) in messages {
            if user_id.server_name() == self.server_name || !self.federates {
                continue;
            }
            for content in devices.values() {
                check_can_be_sent(content.json())?;
            }
            let of_server = by_server
                .entry(user_id.server_name().to_owned())
                .or_default();
            of_server.insert(user_id.clone(), devices.clone());
        }
        if by_server.len() > MAX_TARGET_SERVERS {
            return Err(Error::invalid_param(format!(
                "the messages have more than {MAX_TARGET_SERVERS} target servers"
            )));
        }
        device_list_updates::serialize_for_servers(sender, kind, by_server)
    }
}

/// Checks that the content of each message is an object.
fn check_contents(messages: &Messages) -> Result<()> {
    let mut contents = messages.values().flat_map(BTreeMap::values);
    if contents.all(|content| content.json().get().starts_with('{')) {
        Ok(())
    } else {
        Err(Error::BadJson(
            "the content of a message is not an object".to_owned(),
        ))
    }
}

/// Checks that a message can be part of a signed transaction.
fn check_can_be_sent(content: &RawValue) -> Result<()> {
    if content.get().len() > MAX_MESSAGE_BYTES {
        return Err(Error::TooLarge("a message is too large".to_owned()));
    }
    serde_json::from_str::<CanonicalJsonObject>(content.get())
        .map(|_| ())
        .map_err(|error| Error::BadJson(format!("a message cannot be signed: {error}")))
}

/// The messages for each user: for one device, or for all.
type MessagesByUser = BTreeMap<OwnedUserId, Vec<(DeviceIdOrAllDevices, Arc<str>)>>;

/// A message for a device.
struct DeviceDelivery {
    user: UserNum,
    device: DeviceNum,
    message: Arc<str>,
}

/// Finds the target devices of messages.
async fn find_target_devices(
    tx: &mut WriteTx,
    db: &crate::storage::Db,
    letters: &MessagesByUser,
) -> Result<Vec<DeviceDelivery>> {
    let user_ids: Vec<&str> = letters.keys().map(|user_id| user_id.as_str()).collect();
    let users = db.strings.find_users(tx, &user_ids).await?;
    let user_ids = db.strings.find_user_ids(tx, &users).await?;
    let mut by_user: HashMap<UserNum, Vec<(DeviceNum, String)>> = HashMap::new();
    for device in device_table::of_users(tx, &users).await? {
        let of_user = by_user.entry(device.user_num).or_default();
        of_user.push((device.num, device.device_id));
    }
    let mut deliveries = Vec::new();
    for (user, devices) in by_user {
        let written = user_ids.get(&user).and_then(|user_id| {
            let user_id = <&UserId>::try_from(&**user_id).ok()?;
            letters.get(user_id)
        });
        for (target, message) in written.into_iter().flatten() {
            let reached = devices
                .iter()
                .filter(|(_, id)| is_target_device(target, id));
            deliveries.extend(reached.map(|(device, _)| DeviceDelivery {
                user,
                device: *device,
                message: message.clone(),
            }));
        }
    }
    Ok(deliveries)
}

/// Checks the number of target devices, and the total size to store for them.
fn check_delivery_size(deliveries: &[DeviceDelivery]) -> Result<()> {
    if deliveries.len() > MAX_TARGET_DEVICES {
        return Err(Error::invalid_param(format!(
            "the messages have more than {MAX_TARGET_DEVICES} target devices"
        )));
    }
    let bytes = deliveries.iter().map(|delivery| delivery.message.len());
    if bytes.sum::<usize>() > MAX_DELIVERED_BYTES {
        return Err(Error::TooLarge(format!(
            "the messages to all devices exceed {MAX_DELIVERED_BYTES} bytes in total"
        )));
    }
    Ok(())
}

fn is_target_device(target: &DeviceIdOrAllDevices, device_id: &str) -> bool {
    match target {
        DeviceIdOrAllDevices::DeviceId(id) => id.as_str() == device_id,
        DeviceIdOrAllDevices::AllDevices => true,
    }
}

async fn store_deliveries(tx: &mut WriteTx, deliveries: Vec<DeviceDelivery>) -> Result<()> {
    let mut rows = Vec::with_capacity(deliveries.len());
    for DeviceDelivery {
        user,
        device,
        message,
    } in deliveries
    {
        let position = tx.next_position();
        tx.publish(position, JournalChange::ToDevice { user, device });
        rows.push((position, device, message));
    }
    to_device::insert(tx, &rows).await
}

async fn forget_old_transactions(tx: &mut WriteTx, device: DeviceNum) -> Result<()> {
    let now = tx.next_position();
    if now % FORGET_INTERVAL == 0 && now > TRANSACTIONS_KEPT {
        to_device::delete_transactions(tx, device, now - TRANSACTIONS_KEPT).await?;
    }
    Ok(())
}

/// The devices that are known to have no messages.
#[derive(Default)]
pub(super) struct EmptyQueueCache {
    cached: Mutex<EmptyQueues>,
}

#[derive(Default)]
struct EmptyQueues {
    /// Counts new messages: a result that was read before one must not be remembered after it.
    generation: u64,
    empty: HashSet<DeviceNum>,
}

impl EmptyQueueCache {
    fn lock(&self) -> MutexGuard<'_, EmptyQueues> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self, device: DeviceNum) -> bool {
        self.lock().empty.contains(&device)
    }

    fn generation(&self) -> u64 {
        self.lock().generation
    }

    fn remember_empty(&self, generation: u64, device: DeviceNum) {
        let mut known = self.lock();
        if known.generation != generation {
            return;
        }
        if known.empty.len() >= MAX_CACHED_DEVICES {
            known.empty.clear();
        }
        known.empty.insert(device);
    }
}

impl JournalFollower for EmptyQueueCache {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            if let JournalChange::ToDevice { device, .. } = change {
                let mut known = self.lock();
                known.generation += 1;
                known.empty.remove(device);
            }
        }
    }

    fn failed(&self) {
        // Nothing to undo: only committed data is remembered.
    }
}

#[cfg(test)]
mod tests {
    use ruma::{api::IncomingRequestExt, user_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        config::Config,
        storage::{federation::outbox, testing::TestDb},
    };

    fn request(txn_id: &str, messages: &Value) -> Request {
        let body = serde_json::to_vec(&json!({"messages": messages})).unwrap();
        let request = axum::http::Request::put("/").body(&body[..]).unwrap();
        Request::try_from_http_request(request, &["org.example", txn_id]).unwrap()
    }

    struct TwoDevices {
        test: TestDb,
        service: Devices,
        phone: DeviceNum,
        desk: DeviceNum,
    }

    async fn two_devices() -> TwoDevices {
        let test = TestDb::new().await;
        let service = Devices::new(&test.db, &Config::default());
        let mut tx = test.db.write().await.unwrap();
        let bob = tx.intern_user("@bob:localhost").await.unwrap();
        let phone = device_table::upsert(&mut tx, bob, "PHONE", None, 1)
            .await
            .unwrap();
        let desk = device_table::upsert(&mut tx, bob, "DESK", None, 1)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        TwoDevices {
            test,
            service,
            phone,
            desk,
        }
    }

    impl TwoDevices {
        async fn send(&self, txn_id: &str, messages: Value) -> Result<()> {
            let alice = user_id!("@alice:localhost");
            let request = request(txn_id, &messages);
            self.service
                .send_to_device(alice, self.desk, &request, 1_000)
                .await
        }

        async fn all_pending(&self, device: DeviceNum) -> Vec<PendingMessage> {
            let now = self.test.db.journal().published_position();
            self.service
                .pending_messages(device, 0, now, 100)
                .await
                .unwrap()
        }
    }

    #[tokio::test]
    async fn a_message_reaches_one_device_or_all() {
        let two = two_devices().await;

        let to_one = json!({"@bob:localhost": {"PHONE": {"n": 1}, "NONE": {}}});
        two.send("1", to_one).await.unwrap();
        let to_all = json!({"@bob:localhost": {"*": {"n": 2}}, "@nobody:localhost": {"*": {}}});
        two.send("2", to_all).await.unwrap();

        let waiting = two.all_pending(two.phone).await;
        let first: Value = serde_json::from_str(&waiting[0].message).unwrap();
        let expected = json!({
            "content": {"n": 1}, "sender": "@alice:localhost", "type": "org.example",
        });
        assert_eq!(first, expected);
        assert_eq!(waiting.len(), 2);
        assert_eq!(two.all_pending(two.desk).await.len(), 1);
    }

    #[tokio::test]
    async fn a_repeated_transaction_sends_no_second_message() {
        let two = two_devices().await;
        let messages = json!({"@bob:localhost": {"PHONE": {}}});

        two.send("1", messages.clone()).await.unwrap();
        two.send("1", messages).await.unwrap();

        assert_eq!(two.all_pending(two.phone).await.len(), 1);
    }

    #[tokio::test]
    async fn messages_wait_until_they_are_acknowledged() {
        let two = two_devices().await;
        for txn_id in ["1", "2", "3"] {
            let messages = json!({"@bob:localhost": {"PHONE": {"n": txn_id}}});
            two.send(txn_id, messages).await.unwrap();
        }
        let all = two.all_pending(two.phone).await;
        assert_eq!(two.all_pending(two.phone).await, all);

        two.service
            .acknowledge(two.phone, all[1].position)
            .await
            .unwrap();

        assert_eq!(two.all_pending(two.phone).await, all[2..]);
        let after = two
            .service
            .pending_messages(two.phone, 0, all[1].position, 10)
            .await;
        assert!(after.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_device_without_messages_causes_no_disk_reads() {
        let two = two_devices().await;
        assert!(two.all_pending(two.phone).await.is_empty());
        assert!(two.service.empty_queues.is_empty(two.phone));

        let messages = json!({"@bob:localhost": {"PHONE": {}}});
        two.send("1", messages).await.unwrap();

        assert!(!two.service.empty_queues.is_empty(two.phone));
        assert_eq!(two.all_pending(two.phone).await.len(), 1);
    }

    fn remote_message(message_id: &str, messages: &Value) -> DirectDeviceContent {
        let content = json!({
            "sender": "@eve:there", "type": "org.example", "message_id": message_id,
            "messages": messages,
        });
        serde_json::from_value(content).unwrap()
    }

    #[tokio::test]
    async fn a_message_from_another_server_is_delivered_once() {
        let two = two_devices().await;
        let origin = ruma::server_name!("there");
        let first = remote_message("1", &json!({"@bob:localhost": {"*": {"n": 1}}}));
        let second = remote_message("2", &json!({"@bob:localhost": {"PHONE": {"n": 2}}}));
        let large = json!({"@bob:localhost": {"PHONE": {"x": "x".repeat(MAX_MESSAGE_BYTES)}}});
        let messages = [first, remote_message("3", &large), second.clone()];

        let receive = async |two: &TwoDevices, messages: &[DirectDeviceContent]| {
            let received = two.service.receive_messages(origin, messages, 1_000);
            received.await.unwrap();
        };
        receive(&two, &messages).await;
        receive(&two, &messages).await;
        let test = two.test.reopen().await;
        let service = Devices::new(&test.db, &Config::default());
        let two = TwoDevices {
            test,
            service,
            ..two
        };
        receive(&two, &[second]).await;

        let waiting = two.all_pending(two.phone).await;
        let numbers = waiting.iter().map(|pending| {
            let message: Value = serde_json::from_str(&pending.message).unwrap();
            assert_eq!(message["sender"], "@eve:there");
            message["content"]["n"].as_u64().unwrap()
        });
        assert_eq!(numbers.collect::<Vec<_>>(), [1, 2]);
        assert_eq!(two.all_pending(two.desk).await.len(), 1);
    }

    #[tokio::test]
    async fn too_large_or_too_many_messages_are_refused() {
        let two = two_devices().await;

        let large = json!({"@bob:localhost": {"*": {"x": "x".repeat(MAX_MESSAGE_BYTES)}}});
        let refused = two.send("1", large).await;
        assert!(matches!(refused, Err(Error::TooLarge(_))));
        let many: BTreeMap<String, Value> = (0..=MAX_TARGET_DEVICES)
            .map(|n| (format!("D{n}"), json!({})))
            .collect();
        let refused = two.send("2", json!({"@bob:localhost": many})).await;
        assert!(matches!(refused, Err(Error::InvalidParam(_))));
        let servers: BTreeMap<String, Value> = (0..=MAX_TARGET_SERVERS)
            .map(|n| (format!("@a:s{n}.example"), json!({"*": {}})))
            .collect();
        let refused = two.send("3", json!(servers)).await;
        assert!(matches!(refused, Err(Error::InvalidParam(_))));
    }

    #[tokio::test]
    async fn too_many_messages_for_a_server_remove_the_oldest() {
        let two = two_devices().await;
        let there = ruma::owned_server_name!("there");
        let mut tx = two.test.db.write().await.unwrap();
        let first = tx.next_position();
        let message = |position| outbox::NewServerMessage {
            position,
            server: "there",
            edu: "{}",
            created_ts: 1_000,
        };
        outbox::insert_message(&mut tx, message(first))
            .await
            .unwrap();
        for _ in 1..10_000 {
            let position = tx.next_position();
            outbox::insert_message(&mut tx, message(position))
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();

        two.send("1", json!({"@eve:there": {"*": {}}}))
            .await
            .unwrap();

        let waiting = two.service.messages_for_server(&there, 1_000, 20_000).await;
        let waiting = waiting.unwrap();
        assert_eq!(waiting.len(), 10_000);
        assert_eq!(waiting[0].0, first + 1);
        let later = 1_001 + 30 * 24 * 60 * 60 * 1000;
        let expired = two
            .service
            .messages_for_server(&there, later, 9)
            .await
            .unwrap();
        assert!(expired.is_empty());
        two.service.remove_expired_messages(later).await.unwrap();
        let left = two
            .service
            .messages_for_server(&there, 1_000, 9)
            .await
            .unwrap();
        assert!(left.is_empty());
    }

    #[tokio::test]
    async fn messages_survive_a_restart() {
        let two = two_devices().await;
        let messages = json!({"@bob:localhost": {"PHONE": {}}});
        two.send("1", messages.clone()).await.unwrap();

        let test = two.test.reopen().await;
        let service = Devices::new(&test.db, &Config::default());
        let two = TwoDevices {
            test,
            service,
            ..two
        };
        two.send("1", messages).await.unwrap();

        assert_eq!(two.all_pending(two.phone).await.len(), 1);
    }
}
