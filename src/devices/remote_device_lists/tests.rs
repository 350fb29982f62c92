//! Tests of the device lists that other servers report.

use std::sync::Mutex;

use ruma::{owned_user_id, user_id};

use super::*;
use crate::{
    config::Config,
    storage::{Change, Follower, Position, testing::TestDb},
};

/// Counts the notifications of clients that a list changed.
#[derive(Default)]
struct Told(Mutex<usize>);

impl Follower for Told {
    fn committed(&self, changes: &[(Position, Change)]) {
        let lists = changes
            .iter()
            .filter(|(_, change)| matches!(change, Change::DeviceList { watcher: None, .. }));
        *self.0.lock().unwrap() += lists.count();
    }
    fn failed(&self) {}
}

struct Scene {
    test: TestDb,
    devices: Devices,
    told: Arc<Told>,
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

fn list(stream_id: Option<i64>, devices: Vec<RemoteDevice>) -> Vec<(OwnedUserId, RemoteList)> {
    let list = RemoteList {
        stream_id,
        devices,
        ..RemoteList::default()
    };
    vec![(bob().to_owned(), list)]
}

fn update(stream_id: i64, prev_ids: &[i64], device: RemoteDevice) -> ListUpdate {
    ListUpdate {
        user_id: bob().to_owned(),
        stream_id,
        prev_ids: prev_ids.to_vec(),
        device,
        deleted: false,
    }
}

impl Scene {
    async fn new() -> Self {
        let test = TestDb::new().await;
        let devices = Devices::new(&test.db, &Config::default());
        let told = Arc::new(Told::default());
        devices.follow(told.clone());
        let mut tx = test.db.write().await.unwrap();
        let bob = tx.intern(bob().as_str()).await.unwrap();
        tx.commit().await.unwrap();
        Self {
            test,
            devices,
            told,
            bob,
        }
    }

    /// Returns a scene in which the list is stored.
    async fn with_list(stream_id: i64, devices: Vec<RemoteDevice>) -> Self {
        let scene = Self::new().await;
        scene.comes().await;
        assert!(scene.answers(Some(stream_id), devices).await.is_empty());
        scene
    }

    async fn comes(&self) {
        let came = Move::Came(vec![self.bob]);
        self.devices.note_moves(&[came]).await.unwrap();
    }

    /// Lets the server answer immediately.
    async fn answers(
        &self,
        stream_id: Option<i64>,
        devices: Vec<RemoteDevice>,
    ) -> Vec<OwnedUserId> {
        let ticket = self.devices.begin_asking([bob()]);
        let lists = list(stream_id, devices);
        self.devices.remember_lists(&ticket, lists).await.unwrap()
    }

    /// Applies updates; returns whether the list must be requested.
    async fn changes(&self, updates: &[ListUpdate]) -> bool {
        !self.devices.update_lists(updates).await.unwrap().is_empty()
    }

    fn told(&self) -> usize {
        *self.told.0.lock().unwrap()
    }

    /// Returns whether the list is fresh, and the keys that clients see.
    async fn known(&self) -> Option<(bool, Vec<String>)> {
        let mut known = self.devices.known_lists(&[bob()]).await.unwrap();
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
async fn who_comes_is_asked_for_and_clients_are_told_of_that_by_the_join_alone() {
    let scene = Scene::new().await;

    scene.comes().await;
    assert_eq!(scene.known().await, keys(false, &[]));
    let to_ask = scene.devices.lists_to_ask(0, 10).await.unwrap();
    assert_eq!(to_ask, [(scene.bob, bob().to_owned())]);
    let phone = device("PHONE", Some(1));
    assert!(scene.answers(Some(5), vec![phone]).await.is_empty());

    assert_eq!(scene.known().await, keys(true, &["key1"]));
    assert_eq!(scene.told(), 0);
    assert!(
        scene
            .devices
            .without_list(&[scene.bob])
            .await
            .unwrap()
            .is_empty()
    );
    let went = Move::Went(vec![scene.bob]);
    scene.devices.note_moves(&[went]).await.unwrap();
    assert_eq!(scene.known().await, None);
}

#[tokio::test]
async fn updates_that_follow_each_other_are_taken_and_told_where_clients_see_them() {
    let scene = Scene::with_list(5, vec![device("PHONE", Some(1))]).await;

    let silent = update(6, &[5], device("SILENT", None));
    assert!(!scene.changes(&[silent]).await);
    assert_eq!(
        scene.told(),
        0,
        "a device without keys is nothing to clients"
    );
    let desk = update(7, &[6], device("DESK", Some(2)));
    let other = update(8, &[7], device("PHONE", Some(3)));
    assert!(!scene.changes(&[desk, other]).await);
    assert_eq!(scene.known().await, keys(true, &["key2", "key3"]));
    assert_eq!(scene.told(), 1, "what comes together is told together");
    let gone = ListUpdate {
        deleted: true,
        ..update(9, &[8], device("DESK", None))
    };
    assert!(!scene.changes(&[gone]).await);

    assert_eq!(scene.known().await, keys(true, &["key3"]));
    assert_eq!(scene.told(), 2);
}

#[tokio::test]
async fn an_update_that_is_known_says_nothing() {
    let scene = Scene::with_list(5, vec![device("PHONE", Some(1))]).await;

    let again = update(5, &[], device("PHONE", Some(1)));
    let silent = update(5, &[], device("SILENT", None));
    assert!(!scene.changes(&[again, silent]).await);

    assert_eq!(scene.known().await, keys(true, &["key1"]));
    assert_eq!(scene.told(), 0);
}

#[tokio::test]
async fn a_gap_makes_the_list_stale_until_the_answer_says_what_is_new() {
    for prev_ids in [&[][..], &[6], &[5, 6]] {
        let scene = Scene::with_list(5, vec![device("PHONE", Some(1))]).await;

        let late = update(7, prev_ids, device("DESK", Some(2)));
        assert!(scene.changes(&[late]).await);
        assert_eq!(scene.known().await, keys(false, &["key1"]));
        assert_eq!(scene.told(), 0);
        let devices = vec![device("PHONE", Some(1)), device("DESK", Some(2))];
        assert!(scene.answers(Some(7), devices).await.is_empty());

        assert_eq!(scene.known().await, keys(true, &["key2", "key1"]));
        assert_eq!(scene.told(), 1);
    }
}

#[tokio::test]
async fn a_gap_in_which_nothing_happened_is_not_told() {
    let scene = Scene::with_list(5, vec![device("PHONE", Some(1))]).await;

    let repeated = update(9, &[8], device("PHONE", Some(1)));
    assert!(scene.changes(&[repeated]).await);
    scene.answers(Some(9), vec![device("PHONE", Some(1))]).await;

    assert_eq!(scene.told(), 0);
    assert!(
        !scene
            .changes(&[update(10, &[9], device("PHONE", Some(1)))])
            .await
    );
}

#[tokio::test]
async fn an_answer_is_doubtful_if_something_came_meanwhile() {
    let scene = Scene::new().await;
    scene.comes().await;
    let ticket = scene.devices.begin_asking([bob()]);

    let change = update(6, &[], device("PHONE", Some(2)));
    assert!(scene.changes(&[change]).await);
    let first = list(Some(5), vec![device("PHONE", Some(1))]);
    let doubtful = scene.devices.remember_lists(&ticket, first).await.unwrap();
    drop(ticket);

    assert_eq!(doubtful, [bob()]);
    assert_eq!(scene.known().await, keys(false, &["key1"]));
    assert_eq!(scene.told(), 0, "the join has told of it");
    scene.answers(Some(6), vec![device("PHONE", Some(2))]).await;
    assert_eq!(scene.known().await, keys(true, &["key2"]));
    assert_eq!(scene.told(), 1, "a client may know the first answer");
}

#[tokio::test]
async fn a_change_of_a_wanted_list_is_told_though_no_answer_came_before_it() {
    let scene = Scene::new().await;
    scene.comes().await;

    assert!(
        scene
            .changes(&[update(6, &[], device("PHONE", Some(2)))])
            .await
    );
    scene.answers(Some(6), vec![device("PHONE", Some(2))]).await;

    assert_eq!(scene.told(), 1);
}

#[tokio::test]
async fn clients_that_asked_in_vain_are_told_when_the_list_is_there() {
    let scene = Scene::new().await;
    scene.comes().await;

    scene.devices.note_unanswered(&[bob()]).await.unwrap();
    scene.answers(Some(6), vec![device("PHONE", Some(2))]).await;

    assert_eq!(scene.told(), 1);
}

#[tokio::test]
async fn every_change_of_a_list_that_nobody_knows_is_told() {
    let scene = Scene::new().await;

    let change = |stream_id| update(stream_id, &[], device("PHONE", Some(2)));
    assert!(!scene.changes(&[change(6)]).await);
    assert!(!scene.changes(&[change(7)]).await);
    assert_eq!(scene.told(), 2);
    assert!(
        scene
            .answers(None, vec![device("PHONE", Some(2))])
            .await
            .is_empty()
    );

    assert_eq!(scene.known().await, keys(true, &["key2"]));
    assert_eq!(scene.told(), 2);
    assert!(scene.changes(&[change(8)]).await, "no version was told");
}

#[tokio::test]
async fn what_is_known_and_wanted_survives_a_restart() {
    let scene = Scene::with_list(5, vec![device("PHONE", Some(1))]).await;
    let late = update(7, &[6], device("DESK", Some(2)));
    assert!(scene.changes(&[late]).await);

    let test = scene.test.reopen().await;
    let devices = Devices::new(&test.db, &Config::default());

    let to_ask = devices.lists_to_ask(0, 10).await.unwrap();
    assert_eq!(to_ask.len(), 1);
    assert!(
        devices
            .lists_to_ask(to_ask[0].0, 10)
            .await
            .unwrap()
            .is_empty()
    );
    let known = devices.known_lists(&[bob()]).await.unwrap();
    assert_eq!(known[bob()].devices.len(), 1);
}

#[test]
fn devices_that_make_no_sense_are_passed_over() {
    let read = |device_id: &str, keys: &Value| {
        RemoteDevice::read(bob(), device_id.into(), Some(&keys.to_string()), None)
    };
    let good = json!({
        "user_id": bob(), "device_id": "A", "algorithms": [], "keys": {}, "signatures": {},
        "unsigned": { "device_display_name": "Phone" },
    });
    let with = |field: &str, value: Value| {
        let mut keys = good.clone();
        keys[field] = value;
        keys
    };

    let device = read("A", &good).unwrap();
    assert_eq!(device.display_name.as_deref(), Some("Phone"));
    assert!(!device.keys.unwrap().contains("unsigned"));
    assert_eq!(read("B", &good), None);
    let others = owned_user_id!("@eve:there");
    assert_eq!(read("A", &with("user_id", json!(others))), None);
    assert_eq!(read("A", &with("more", json!("\0"))), None);
    assert_eq!(read("A", &with("more", json!("x".repeat(KEY_BYTES)))), None);
    assert_eq!(read("A", &json!("keys")), None);
    assert_eq!(read(&"A".repeat(300), &good), None);
}

/// Returns a device with large keys.
fn large(device_id: &str) -> RemoteDevice {
    let keys = json!({
        "user_id": bob(), "device_id": device_id, "algorithms": [], "keys": {}, "signatures": {},
        "x": "x".repeat(60_000),
    });
    RemoteDevice::read(bob(), device_id.into(), Some(&keys.to_string()), None).unwrap()
}

#[tokio::test]
async fn a_list_grows_to_so_many_devices_by_updates_too() {
    let many: Vec<RemoteDevice> = (0..DEVICES + 5)
        .map(|n| device(&format!("D{n}"), Some(1)))
        .collect();
    let scene = Scene::with_list(5, many).await;
    let count = async || scene.known().await.unwrap().1.len();
    let most = usize::try_from(DEVICES).unwrap();
    assert_eq!(count().await, most);

    let more = update(6, &[5], device("E1", Some(2)));
    assert!(!scene.changes(&[more]).await);
    assert_eq!((count().await, scene.told()), (most, 0));
    let gone = ListUpdate {
        deleted: true,
        ..update(7, &[6], device("D1", None))
    };
    let changed = update(8, &[7], device("D2", Some(2)));
    let one = update(9, &[8], device("E2", Some(2)));
    let another = update(10, &[9], device("E3", Some(2)));
    assert!(!scene.changes(&[gone, changed, one, another]).await);

    let (is_fresh, known) = scene.known().await.unwrap();
    assert!(is_fresh);
    assert_eq!(known.len(), most);
    assert_eq!(known.iter().filter(|key| *key == "key2").count(), 2);
}

#[tokio::test]
async fn a_list_has_so_many_bytes_at_most() {
    let most = usize::try_from(BYTES).unwrap() / 60_200;
    let many: Vec<RemoteDevice> = (0..most + 5).map(|n| large(&format!("D{n}"))).collect();
    let scene = Scene::with_list(5, many).await;
    let known = async || {
        let mut known = scene.devices.known_lists(&[bob()]).await.unwrap();
        known.remove(bob()).unwrap().devices
    };
    assert_eq!(known().await.len(), most);

    let more = update(6, &[5], large("E1"));
    let small = update(7, &[6], device("E2", Some(1)));
    assert!(!scene.changes(&[more, small]).await);

    let known = known().await;
    assert_eq!(known.len(), most + 1);
    assert!(known.contains_key(<&DeviceId>::from("E2")));
}

#[tokio::test]
async fn when_rooms_are_left_every_answer_under_way_is_doubtful() {
    let scene = Scene::new().await;
    scene.comes().await;
    let ticket = scene.devices.begin_asking([bob()]);

    scene.devices.touch_all();

    assert!(ticket.is_doubtful(bob()));
    let lists = list(Some(5), vec![device("PHONE", Some(1))]);
    let again = scene.devices.remember_lists(&ticket, lists).await.unwrap();
    assert_eq!(again, [bob()]);
}
