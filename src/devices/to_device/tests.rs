//! Tests of to-device messages.

use std::collections::BTreeMap;

use ruma::{api::IncomingRequestExt, user_id};
use serde_json::{Value, json};

use super::*;
use crate::{
    config::Config,
    devices::{Devices, message_delivery::MAX_MESSAGE_BYTES, remote_messages::MAX_TARGET_SERVERS},
    error::Error,
    storage::{devices::device_table, federation::outbox, testing::TestDb},
};

fn request(txn_id: &str, messages: &Value) -> Request {
    let body = serde_json::to_vec(&json!({"messages": messages})).unwrap();
    let request = axum::http::Request::put("/").body(&body[..]).unwrap();
    Request::try_from_http_request(request, &["org.example", txn_id]).unwrap()
}

struct TwoDevices {
    test: TestDb,
    devices: Devices,
    phone: DeviceNum,
    laptop: DeviceNum,
}

async fn two_devices() -> TwoDevices {
    let test = TestDb::new().await;
    let devices = Devices::new(&test.db, &Config::default());
    let mut tx = test.db.write().await.unwrap();
    let bob = tx.intern_user("@bob:localhost").await.unwrap();
    let phone = device_table::upsert(&mut tx, bob, "PHONE", None, 1)
        .await
        .unwrap();
    let laptop = device_table::upsert(&mut tx, bob, "LAPTOP", None, 1)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    TwoDevices {
        test,
        devices,
        phone,
        laptop,
    }
}

impl TwoDevices {
    async fn send(&self, txn_id: &str, messages: Value) -> Result<()> {
        let alice = user_id!("@alice:localhost");
        let request = request(txn_id, &messages);
        self.devices
            .to_device
            .send(alice, self.laptop, &request, 1_000)
            .await
    }

    async fn all_pending(&self, device: DeviceNum) -> Vec<PendingMessage> {
        let now = self.test.db.journal().published_position();
        self.devices
            .to_device
            .pending(device, Position::ZERO, now, 100)
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
    assert_eq!(two.all_pending(two.laptop).await.len(), 1);
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

    two.devices
        .to_device
        .acknowledge(two.phone, all[1].position)
        .await
        .unwrap();

    assert_eq!(two.all_pending(two.phone).await, all[2..]);
    let after = two
        .devices
        .to_device
        .pending(two.phone, Position::ZERO, all[1].position, 10)
        .await;
    assert!(after.unwrap().is_empty());
}

#[tokio::test]
async fn a_device_without_messages_causes_no_disk_reads() {
    let two = two_devices().await;
    assert!(two.all_pending(two.phone).await.is_empty());
    assert!(two.devices.to_device.empty_queues.is_empty(two.phone));

    let messages = json!({"@bob:localhost": {"PHONE": {}}});
    two.send("1", messages).await.unwrap();

    assert!(!two.devices.to_device.empty_queues.is_empty(two.phone));
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
        let received = two.devices.to_device.receive(origin, messages, 1_000);
        received.await.unwrap();
    };
    receive(&two, &messages).await;
    receive(&two, &messages).await;
    let test = two.test.reopen().await;
    let devices = Devices::new(&test.db, &Config::default());
    let two = TwoDevices {
        test,
        devices,
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
    assert_eq!(two.all_pending(two.laptop).await.len(), 1);
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

fn message_to_there(position: Position) -> outbox::NewServerMessage<'static> {
    outbox::NewServerMessage {
        position,
        server: "there",
        edu: "{}",
        created_ts: 1_000,
    }
}

#[tokio::test]
async fn too_many_messages_for_a_server_remove_the_oldest() {
    let two = two_devices().await;
    let there = ruma::owned_server_name!("there");
    let mut tx = two.test.db.write().await.unwrap();
    let first = tx.next_position();
    outbox::insert_message(&mut tx, message_to_there(first))
        .await
        .unwrap();
    for _ in 1..10_000 {
        let position = tx.next_position();
        outbox::insert_message(&mut tx, message_to_there(position))
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();

    two.send("1", json!({"@eve:there": {"*": {}}}))
        .await
        .unwrap();

    let waiting = two.devices.outgoing.messages(&there, 1_000, 20_000).await;
    let waiting = waiting.unwrap();
    assert_eq!(waiting.len(), 10_000);
    assert_eq!(waiting[0].position, first.next());
    let later = 1_001 + 30 * 24 * 60 * 60 * 1000;
    let expired = two
        .devices
        .outgoing
        .messages(&there, later, 9)
        .await
        .unwrap();
    assert!(expired.is_empty());
    two.devices
        .outgoing
        .remove_expired_messages(later)
        .await
        .unwrap();
    let left = two
        .devices
        .outgoing
        .messages(&there, 1_000, 9)
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
    let devices = Devices::new(&test.db, &Config::default());
    let two = TwoDevices {
        test,
        devices,
        ..two
    };
    two.send("1", messages).await.unwrap();

    assert_eq!(two.all_pending(two.phone).await.len(), 1);
}
