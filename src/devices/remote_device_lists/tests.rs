//! Tests of the device lists that other servers report.

use std::sync::Mutex;

use ruma::{DeviceId, user_id};

use super::*;
use crate::{
    config::Config,
    devices::{
        Devices, RemoteDevice,
        remote_list_updater::{MAX_DEVICES_PER_USER, MAX_LIST_BYTES},
    },
    numbers::{Position, StreamId},
    storage::{JournalChange, JournalFollower, testing::TestDb},
};

/// Counts the notifications of clients that a list changed.
#[derive(Default)]
struct NotificationCounter(Mutex<usize>);

impl JournalFollower for NotificationCounter {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        let lists = changes.iter().filter(|(_, change)| {
            matches!(change, JournalChange::DeviceList { watcher: None, .. })
        });
        *self.0.lock().unwrap() += lists.count();
    }
    fn failed(&self) {}
}

struct DeviceListTest {
    test: TestDb,
    devices: Devices,
    notifications: Arc<NotificationCounter>,
    bob: UserNum,
}

fn bob() -> &'static UserId {
    user_id!("@bob:there")
}

/// Returns a device whose keys contain a number.
fn device(device_id: &str, keys: Option<u32>) -> RemoteDevice {
    let keys = keys.map(|n| {
        json!({
            "user_id": bob(), "device_id": device_id, "algorithms": [],
            "keys": { format!("ed25519:{device_id}"): format!("key{n}") }, "signatures": {},
        })
        .to_string()
    });
    RemoteDevice::read(bob(), device_id.into(), keys.as_deref(), None).unwrap()
}

fn list(
    stream_id: Option<i64>,
    devices: Vec<RemoteDevice>,
) -> Vec<(OwnedUserId, RemoteDeviceList)> {
    let list = RemoteDeviceList {
        stream_id: stream_id.map(StreamId::new),
        devices,
        ..RemoteDeviceList::default()
    };
    vec![(bob().to_owned(), list)]
}

fn update(stream_id: i64, prev_ids: &[i64], device: RemoteDevice) -> RemoteListUpdate {
    RemoteListUpdate {
        user_id: bob().to_owned(),
        stream_id: StreamId::new(stream_id),
        prev_ids: prev_ids.iter().copied().map(StreamId::new).collect(),
        device,
        deleted: false,
    }
}

impl DeviceListTest {
    async fn new() -> Self {
        let test = TestDb::new().await;
        let devices = Devices::new(&test.db, &Config::default());
        let notifications = Arc::new(NotificationCounter::default());
        devices.add_follower(notifications.clone());
        let mut tx = test.db.write().await.unwrap();
        let bob = tx.intern_user(bob().as_str()).await.unwrap();
        tx.commit().await.unwrap();
        Self {
            test,
            devices,
            notifications,
            bob,
        }
    }

    /// Returns a test in which the list is stored.
    async fn with_list(stream_id: i64, devices: Vec<RemoteDevice>) -> Self {
        let test = Self::new().await;
        test.start_sharing().await;
        assert!(
            test.answer_request(Some(stream_id), devices)
                .await
                .is_empty()
        );
        test
    }

    async fn start_sharing(&self) {
        let started = SharingChange::Started(vec![self.bob]);
        self.devices
            .remote_lists
            .apply_sharing_changes(&[started])
            .await
            .unwrap();
    }

    /// Lets the server answer immediately.
    async fn answer_request(
        &self,
        stream_id: Option<i64>,
        devices: Vec<RemoteDevice>,
    ) -> Vec<OwnedUserId> {
        let ticket = self.devices.remote_lists.begin_list_request([bob()]);
        let lists = list(stream_id, devices);
        self.devices
            .remote_lists
            .store_lists(&ticket, lists)
            .await
            .unwrap()
    }

    /// Applies updates; returns whether the list must be requested.
    async fn apply_updates(&self, updates: &[RemoteListUpdate]) -> bool {
        !self
            .devices
            .remote_lists
            .update_lists(updates)
            .await
            .unwrap()
            .is_empty()
    }

    fn notification_count(&self) -> usize {
        *self.notifications.0.lock().unwrap()
    }

    /// Returns whether the list is fresh, and the keys that clients see.
    async fn stored_keys(&self) -> Option<(bool, Vec<String>)> {
        let mut known = self
            .devices
            .remote_lists
            .stored_lists(&[bob()])
            .await
            .unwrap();
        let list = known.remove(bob())?;
        let keys = list.devices.values().map(|keys| {
            let keys: Value = serde_json::from_str(keys.json().get()).unwrap();
            let key = keys["keys"].as_object().unwrap().values().next().cloned();
            key.unwrap().as_str().unwrap().to_owned()
        });
        Some((list.is_fresh, keys.collect()))
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it is compared with what is known, if anything is"
)]
fn keys(is_fresh: bool, keys: &[&str]) -> Option<(bool, Vec<String>)> {
    Some((is_fresh, keys.iter().map(ToString::to_string).collect()))
}

#[tokio::test]
async fn a_new_users_list_is_requested_without_notifying_clients() {
    let test = DeviceListTest::new().await;

    test.start_sharing().await;
    assert_eq!(test.stored_keys().await, keys(false, &[]));
    let to_request = test
        .devices
        .remote_lists
        .lists_to_request(UserNum::new(0), 10)
        .await
        .unwrap();
    assert_eq!(to_request.len(), 1);
    assert_eq!(to_request[0].user, test.bob);
    let phone = device("PHONE", Some(1));
    assert!(test.answer_request(Some(5), vec![phone]).await.is_empty());

    assert_eq!(test.stored_keys().await, keys(true, &["key1"]));
    assert_eq!(test.notification_count(), 0);
    assert!(
        test.devices
            .remote_lists
            .users_without_list(&[test.bob])
            .await
            .unwrap()
            .is_empty()
    );
    let ended = SharingChange::Ended(vec![test.bob]);
    test.devices
        .remote_lists
        .apply_sharing_changes(&[ended])
        .await
        .unwrap();
    assert_eq!(test.stored_keys().await, None);
}

#[tokio::test]
async fn consecutive_updates_notify_clients_of_visible_changes() {
    let test = DeviceListTest::with_list(5, vec![device("PHONE", Some(1))]).await;

    let silent = update(6, &[5], device("SILENT", None));
    assert!(!test.apply_updates(&[silent]).await);
    assert_eq!(
        test.notification_count(),
        0,
        "a device without keys is nothing to clients"
    );
    let desk = update(7, &[6], device("DESK", Some(2)));
    let other = update(8, &[7], device("PHONE", Some(3)));
    assert!(!test.apply_updates(&[desk, other]).await);
    assert_eq!(test.stored_keys().await, keys(true, &["key2", "key3"]));
    assert_eq!(
        test.notification_count(),
        1,
        "changes that arrive together cause one notification"
    );
    let gone = RemoteListUpdate {
        deleted: true,
        ..update(9, &[8], device("DESK", None))
    };
    assert!(!test.apply_updates(&[gone]).await);

    assert_eq!(test.stored_keys().await, keys(true, &["key3"]));
    assert_eq!(test.notification_count(), 2);
}

#[tokio::test]
async fn a_repeated_update_does_not_notify_clients() {
    let test = DeviceListTest::with_list(5, vec![device("PHONE", Some(1))]).await;

    let again = update(5, &[], device("PHONE", Some(1)));
    let silent = update(5, &[], device("SILENT", None));
    assert!(!test.apply_updates(&[again, silent]).await);

    assert_eq!(test.stored_keys().await, keys(true, &["key1"]));
    assert_eq!(test.notification_count(), 0);
}

#[tokio::test]
async fn a_missing_update_makes_the_list_stale_until_the_response() {
    for prev_ids in [&[][..], &[6], &[5, 6]] {
        let test = DeviceListTest::with_list(5, vec![device("PHONE", Some(1))]).await;

        let late = update(7, prev_ids, device("DESK", Some(2)));
        assert!(test.apply_updates(&[late]).await);
        assert_eq!(test.stored_keys().await, keys(false, &["key1"]));
        assert_eq!(test.notification_count(), 0);
        let devices = vec![device("PHONE", Some(1)), device("DESK", Some(2))];
        assert!(test.answer_request(Some(7), devices).await.is_empty());

        assert_eq!(test.stored_keys().await, keys(true, &["key2", "key1"]));
        assert_eq!(test.notification_count(), 1);
    }
}

#[tokio::test]
async fn a_missing_update_without_changes_does_not_notify_clients() {
    let test = DeviceListTest::with_list(5, vec![device("PHONE", Some(1))]).await;

    let repeated = update(9, &[8], device("PHONE", Some(1)));
    assert!(test.apply_updates(&[repeated]).await);
    test.answer_request(Some(9), vec![device("PHONE", Some(1))])
        .await;

    assert_eq!(test.notification_count(), 0);
    assert!(
        !test
            .apply_updates(&[update(10, &[9], device("PHONE", Some(1)))])
            .await
    );
}

#[tokio::test]
async fn an_update_during_a_request_makes_the_response_unreliable() {
    let test = DeviceListTest::new().await;
    test.start_sharing().await;
    let ticket = test.devices.remote_lists.begin_list_request([bob()]);

    let change = update(6, &[], device("PHONE", Some(2)));
    assert!(test.apply_updates(&[change]).await);
    let first = list(Some(5), vec![device("PHONE", Some(1))]);
    let doubtful = test
        .devices
        .remote_lists
        .store_lists(&ticket, first)
        .await
        .unwrap();
    drop(ticket);

    assert_eq!(doubtful, [bob()]);
    assert_eq!(test.stored_keys().await, keys(false, &["key1"]));
    assert_eq!(
        test.notification_count(),
        0,
        "the join has notified clients"
    );
    test.answer_request(Some(6), vec![device("PHONE", Some(2))])
        .await;
    assert_eq!(test.stored_keys().await, keys(true, &["key2"]));
    assert_eq!(
        test.notification_count(),
        1,
        "a client may know the first answer"
    );
}

#[tokio::test]
async fn a_change_before_the_first_response_notifies_clients() {
    let test = DeviceListTest::new().await;
    test.start_sharing().await;

    assert!(
        test.apply_updates(&[update(6, &[], device("PHONE", Some(2)))])
            .await
    );
    test.answer_request(Some(6), vec![device("PHONE", Some(2))])
        .await;

    assert_eq!(test.notification_count(), 1);
}

#[tokio::test]
async fn clients_are_notified_once_a_failed_request_succeeds() {
    let test = DeviceListTest::new().await;
    test.start_sharing().await;

    test.devices
        .remote_lists
        .record_failed_requests(&[bob()])
        .await
        .unwrap();
    test.answer_request(Some(6), vec![device("PHONE", Some(2))])
        .await;

    assert_eq!(test.notification_count(), 1);
}

#[tokio::test]
async fn every_change_of_an_unstored_list_notifies_clients() {
    let test = DeviceListTest::new().await;

    let change = |stream_id| update(stream_id, &[], device("PHONE", Some(2)));
    assert!(!test.apply_updates(&[change(6)]).await);
    assert!(!test.apply_updates(&[change(7)]).await);
    assert_eq!(test.notification_count(), 2);
    assert!(
        test.answer_request(None, vec![device("PHONE", Some(2))])
            .await
            .is_empty()
    );

    assert_eq!(test.stored_keys().await, keys(true, &["key2"]));
    assert_eq!(test.notification_count(), 2);
    assert!(
        test.apply_updates(&[change(8)]).await,
        "the server gave no version"
    );
}

#[tokio::test]
async fn stored_and_needed_lists_survive_a_restart() {
    let test = DeviceListTest::with_list(5, vec![device("PHONE", Some(1))]).await;
    let late = update(7, &[6], device("DESK", Some(2)));
    assert!(test.apply_updates(&[late]).await);

    let test = test.test.reopen().await;
    let devices = Devices::new(&test.db, &Config::default());

    let to_request = devices
        .remote_lists
        .lists_to_request(UserNum::new(0), 10)
        .await
        .unwrap();
    assert_eq!(to_request.len(), 1);
    assert!(
        devices
            .remote_lists
            .lists_to_request(to_request[0].user, 10)
            .await
            .unwrap()
            .is_empty()
    );
    let known = devices.remote_lists.stored_lists(&[bob()]).await.unwrap();
    assert_eq!(known[bob()].devices.len(), 1);
}

/// Returns a device with large keys.
fn large_device(device_id: &str) -> RemoteDevice {
    let keys = json!({
        "user_id": bob(), "device_id": device_id, "algorithms": [], "keys": {}, "signatures": {},
        "x": "x".repeat(60_000),
    });
    RemoteDevice::read(bob(), device_id.into(), Some(&keys.to_string()), None).unwrap()
}

#[tokio::test]
async fn updates_respect_the_limit_of_devices() {
    let many: Vec<RemoteDevice> = (0..MAX_DEVICES_PER_USER + 5)
        .map(|n| device(&format!("D{n}"), Some(1)))
        .collect();
    let test = DeviceListTest::with_list(5, many).await;
    let count = async || test.stored_keys().await.unwrap().1.len();
    let most = usize::try_from(MAX_DEVICES_PER_USER).unwrap();
    assert_eq!(count().await, most);

    let more = update(6, &[5], device("E1", Some(2)));
    assert!(!test.apply_updates(&[more]).await);
    assert_eq!((count().await, test.notification_count()), (most, 0));
    let gone = RemoteListUpdate {
        deleted: true,
        ..update(7, &[6], device("D1", None))
    };
    let changed = update(8, &[7], device("D2", Some(2)));
    let one = update(9, &[8], device("E2", Some(2)));
    let another = update(10, &[9], device("E3", Some(2)));
    assert!(!test.apply_updates(&[gone, changed, one, another]).await);

    let (is_fresh, known) = test.stored_keys().await.unwrap();
    assert!(is_fresh);
    assert_eq!(known.len(), most);
    assert_eq!(known.iter().filter(|key| *key == "key2").count(), 2);
}

#[tokio::test]
async fn a_list_has_a_maximum_size() {
    let most = usize::try_from(MAX_LIST_BYTES).unwrap() / 60_200;
    let many: Vec<RemoteDevice> = (0..most + 5)
        .map(|n| large_device(&format!("D{n}")))
        .collect();
    let test = DeviceListTest::with_list(5, many).await;
    let known = async || {
        let mut known = test
            .devices
            .remote_lists
            .stored_lists(&[bob()])
            .await
            .unwrap();
        known.remove(bob()).unwrap().devices
    };
    assert_eq!(known().await.len(), most);

    let more = update(6, &[5], large_device("E1"));
    let small = update(7, &[6], device("E2", Some(1)));
    assert!(!test.apply_updates(&[more, small]).await);

    let known = known().await;
    assert_eq!(known.len(), most + 1);
    assert!(known.contains_key(<&DeviceId>::from("E2")));
}

#[tokio::test]
async fn leaving_rooms_makes_every_running_request_unreliable() {
    let test = DeviceListTest::new().await;
    test.start_sharing().await;
    let ticket = test.devices.remote_lists.begin_list_request([bob()]);

    test.devices.remote_lists.record_unseen_changes();

    assert!(ticket.has_changed(bob()));
    let lists = list(Some(5), vec![device("PHONE", Some(1))]);
    let again = test
        .devices
        .remote_lists
        .store_lists(&ticket, lists)
        .await
        .unwrap();
    assert_eq!(again, [bob()]);
}
