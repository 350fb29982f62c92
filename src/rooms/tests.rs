//! Tests of the rooms, each on a database of its own.

mod converging;
mod handshakes;
mod importing;
mod outside;
mod receiving;
mod remote;
mod serving;

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::{Direction, client::room::create_room::v3::Request},
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_alias_id,
    signatures::Ed25519KeyPair,
    user_id,
};
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{
    error::Error,
    matrix::{NotificationCounters, Pdu},
    storage::{DeviceNum, UserNum, testing::TestDb},
};

struct TestServer {
    test: TestDb,
    rooms: Rooms,
    key: Arc<SigningKey>,
    public_key: Vec<u8>,
}

fn alice() -> OwnedUserId {
    user_id!("@alice:here").to_owned()
}

fn bob() -> OwnedUserId {
    user_id!("@bob:here").to_owned()
}

async fn open_rooms(test: &TestDb, key: &Arc<SigningKey>) -> Rooms {
    let clock = Clock::manual(1_000);
    Rooms::open(
        test.db.clone(),
        clock,
        key.clone(),
        test.tasks.clone(),
        RoomVersionId::V12,
    )
    .await
    .unwrap()
}

impl TestServer {
    async fn new() -> Self {
        Self::named("here").await
    }

    async fn named(name: &str) -> Self {
        let document = Ed25519KeyPair::generate();
        let name = ruma::OwnedServerName::try_from(name).unwrap();
        let pair = Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap();
        let key = SigningKey::from_der(name, &document, "1").unwrap();
        let (test, key) = (TestDb::new().await, Arc::new(key));
        Self {
            rooms: open_rooms(&test, &key).await,
            test,
            key,
            public_key: pair.public_key().to_vec(),
        }
    }

    /// Returns the same server with an empty database.
    async fn with_empty_database(&self) -> Self {
        let test = TestDb::new().await;
        Self {
            rooms: open_rooms(&test, &self.key).await,
            test,
            key: self.key.clone(),
            public_key: self.public_key.clone(),
        }
    }

    async fn restart(self) -> Self {
        let test = self.test.reopen().await;
        Self {
            rooms: open_rooms(&test, &self.key).await,
            test,
            key: self.key,
            public_key: self.public_key,
        }
    }

    async fn create_room(&self, request: serde_json::Value) -> Result<OwnedRoomId> {
        let mut typed = Request::new();
        let version = request
            .get("room_version")
            .and_then(|version| version.as_str());
        typed.room_version = version.map(|version| RoomVersionId::try_from(version).unwrap());
        typed.room_alias_name = request
            .get("room_alias_name")
            .map(|name| name.as_str().unwrap().to_owned());
        typed.name = request
            .get("name")
            .map(|name| name.as_str().unwrap().to_owned());
        let create = CreateRoom {
            creator: alice(),
            request: typed,
            profiles: HashMap::new(),
        };
        self.rooms.creation.create_room(create).await
    }

    async fn send_message(
        &self,
        room_id: &RoomId,
        who: OwnedUserId,
        body: &str,
        txn: Option<&str>,
    ) -> Result<OwnedEventId> {
        let transaction = txn.map(|txn_id| ClientTransaction {
            device: DeviceNum::new(7),
            txn_id: txn_id.to_owned(),
        });
        let event = EventToSend {
            sender: who,
            kind: TimelineEventType::RoomMessage,
            state_key: None,
            content: to_raw_value(&json!({"msgtype": "m.text", "body": body})).unwrap(),
            redacts: None,
            transaction,
        };
        self.rooms.sender.send(room_id, event).await
    }

    async fn change_membership(
        &self,
        room_id: &RoomId,
        by: OwnedUserId,
        who: OwnedUserId,
        what: MembershipAction,
    ) -> Result<()> {
        let change = MemberChange {
            sender: by,
            target: who,
            action: what,
            profile: MemberProfile::default(),
            reason: None,
            is_direct: false,
            extra: serde_json::Map::new(),
        };
        self.rooms
            .memberships
            .change_membership(room_id, change)
            .await
    }

    async fn user_number(&self, who: &UserId) -> UserNum {
        self.rooms.memory.user_number(who).await.unwrap().unwrap()
    }

    async fn visible_bodies(&self, room_id: &RoomId, who: &UserId) -> Vec<String> {
        let room = self.rooms.memory.room(room_id).await.unwrap();
        let access = self
            .rooms
            .access
            .load_access(&room, self.user_number(who).await, who)
            .await
            .unwrap();
        let request = PageRequest {
            from: i64::MAX - 1,
            to: None,
            dir: Direction::Backward,
            limit: 100,
        };
        let page = self
            .rooms
            .timeline
            .load_page(&room, &access, request, &|_| true)
            .await
            .unwrap();
        let body = |pdu: &Pdu| {
            pdu.content_str("body")
                .unwrap_or_else(|| pdu.kind.to_string())
        };
        page.events
            .iter()
            .rev()
            .map(|event| body(&event.pdu))
            .collect()
    }

    async fn unread_counts(&self, room_id: &RoomId, who: &UserId) -> (u64, u64) {
        let room = self.rooms.memory.room(room_id).await.unwrap();
        let rooms = self
            .rooms
            .memory
            .rooms_of_user(self.user_number(who).await)
            .await
            .unwrap();
        let view = room.view();
        let counters = NotificationCounters {
            notified: view.notified,
            mentioned: view.mentioned,
        };
        rooms.get(room.num).unwrap().unread_counts(counters)
    }
}

#[tokio::test]
async fn a_room_of_every_version_can_be_created_and_written_to() {
    let house = TestServer::new().await;

    for version in ["6", "7", "8", "9", "10", "11", "12"] {
        let room_id = house
            .create_room(json!({"room_version": version}))
            .await
            .unwrap();
        house
            .send_message(&room_id, alice(), "hello", None)
            .await
            .unwrap();

        assert_eq!(
            house
                .visible_bodies(&room_id, &alice())
                .await
                .last()
                .unwrap(),
            "hello",
            "in version {version}"
        );
    }
}

#[tokio::test]
async fn an_unknown_version_is_refused() {
    let house = TestServer::new().await;

    for version in ["13", "99"] {
        let refused = house.create_room(json!({"room_version": version})).await;
        assert!(matches!(refused, Err(Error::UnsupportedRoomVersion(_))));
    }
}

#[tokio::test]
async fn a_room_is_the_same_after_a_restart() {
    let house = TestServer::new().await;
    let room_id = house.create_room(json!({"name": "tea"})).await.unwrap();
    house
        .send_message(&room_id, alice(), "one", Some("t1"))
        .await
        .unwrap();
    let before = house.visible_bodies(&room_id, &alice()).await;

    let house = house.restart().await;
    let after = house.visible_bodies(&room_id, &alice()).await;
    house
        .send_message(&room_id, alice(), "two", None)
        .await
        .unwrap();

    assert_eq!(before, after);
    let room = house.rooms.memory.room(&room_id).await.unwrap();
    let name = room
        .view()
        .state
        .get(&StateEventType::RoomName, "")
        .unwrap()
        .content_str("name");
    assert_eq!(name.unwrap(), "tea");
    assert_eq!(
        house.visible_bodies(&room_id, &alice()).await.len(),
        before.len() + 1
    );
}

#[tokio::test]
async fn a_retried_transaction_returns_the_same_event_also_after_a_restart() {
    let house = TestServer::new().await;
    let room_id = house.create_room(json!({})).await.unwrap();

    let first = house
        .send_message(&room_id, alice(), "one", Some("t1"))
        .await
        .unwrap();
    let again = house
        .send_message(&room_id, alice(), "other", Some("t1"))
        .await
        .unwrap();
    let house = house.restart().await;
    let later = house
        .send_message(&room_id, alice(), "one", Some("t1"))
        .await
        .unwrap();
    let next = house
        .send_message(&room_id, alice(), "two", Some("t2"))
        .await
        .unwrap();

    assert_eq!(first, again);
    assert_eq!(first, later);
    assert_ne!(first, next);
}

#[tokio::test]
async fn concurrent_sends_to_one_room_form_a_single_chain() {
    let house = TestServer::new().await;
    let room_id = house.create_room(json!({})).await.unwrap();

    let sends = (0..50).map(|n| {
        let (house, room_id) = (&house, &room_id);
        async move {
            house
                .send_message(room_id, alice(), &format!("message {n}"), None)
                .await
                .unwrap()
        }
    });
    futures_util::future::join_all(sends).await;

    let room = house.rooms.memory.room(&room_id).await.unwrap();
    let view = room.view();
    for pair in view.ring.iter().collect::<Vec<_>>().windows(2) {
        assert_eq!(pair[1].pdu.prev_events, vec![pair[0].pdu.event_id.clone()]);
    }
    let messages = view
        .ring
        .iter()
        .filter(|event| event.pdu.kind == TimelineEventType::RoomMessage)
        .count();
    assert_eq!(messages, 50);
}

#[tokio::test]
async fn a_stranger_can_neither_write_nor_join_a_private_room() {
    let house = TestServer::new().await;
    let room_id = house.create_room(json!({})).await.unwrap();

    let wrote = house.send_message(&room_id, bob(), "hi", None).await;
    let joined = house
        .change_membership(&room_id, bob(), bob(), MembershipAction::Join)
        .await;

    assert!(matches!(wrote, Err(Error::Forbidden(_))));
    assert!(matches!(joined, Err(Error::Forbidden(_))));
}

#[tokio::test]
async fn an_invited_user_may_join_and_sees_messages_until_leaving() {
    let house = TestServer::new().await;
    let room_id = house.create_room(json!({})).await.unwrap();

    house
        .change_membership(&room_id, alice(), bob(), MembershipAction::Invite)
        .await
        .unwrap();
    house
        .change_membership(&room_id, bob(), bob(), MembershipAction::Join)
        .await
        .unwrap();
    house
        .send_message(&room_id, alice(), "for bob", None)
        .await
        .unwrap();
    house
        .change_membership(&room_id, bob(), bob(), MembershipAction::Leave)
        .await
        .unwrap();
    house
        .send_message(&room_id, alice(), "not for bob", None)
        .await
        .unwrap();

    let seen = house.visible_bodies(&room_id, &bob()).await;
    assert!(seen.contains(&"for bob".to_owned()));
    assert!(!seen.contains(&"not for bob".to_owned()));
}

#[tokio::test]
async fn a_receipt_or_a_sent_message_clears_unread_counts() {
    let house = TestServer::new().await;
    let room_id = house.create_room(json!({})).await.unwrap();
    house
        .change_membership(&room_id, alice(), bob(), MembershipAction::Invite)
        .await
        .unwrap();
    house
        .change_membership(&room_id, bob(), bob(), MembershipAction::Join)
        .await
        .unwrap();
    let first = house
        .send_message(&room_id, alice(), "one", None)
        .await
        .unwrap();
    house
        .send_message(&room_id, alice(), "two", None)
        .await
        .unwrap();
    assert_eq!(house.unread_counts(&room_id, &bob()).await, (2, 0));

    let room = house.rooms.memory.room(&room_id).await.unwrap();
    let (user, user_id) = (house.user_number(&bob()).await, bob());
    let receipt = ReceiptUpdate {
        ts: None,
        user,
        user_id: &user_id,
        kind: "m.read",
        thread: "",
        event_id: &first,
    };
    house
        .rooms
        .unread
        .receive_receipt(&room, receipt)
        .await
        .unwrap();
    assert_eq!(house.unread_counts(&room_id, &bob()).await, (1, 0));
    drop(room);

    let house = house.restart().await;
    assert_eq!(house.unread_counts(&room_id, &bob()).await, (1, 0));
    house
        .send_message(&room_id, bob(), "three", None)
        .await
        .unwrap();
    assert_eq!(house.unread_counts(&room_id, &bob()).await, (0, 0));
}

#[tokio::test]
async fn a_mention_is_a_highlight_only_for_the_mentioned_user() {
    let house = TestServer::new().await;
    let room_id = house.create_room(json!({})).await.unwrap();
    house
        .change_membership(&room_id, alice(), bob(), MembershipAction::Invite)
        .await
        .unwrap();
    house
        .change_membership(&room_id, bob(), bob(), MembershipAction::Join)
        .await
        .unwrap();

    let mention = EventToSend {
        sender: alice(),
        kind: TimelineEventType::RoomMessage,
        state_key: None,
        content: to_raw_value(&json!({
            "msgtype": "m.text", "body": "bob!", "m.mentions": {"user_ids": ["@bob:here"]},
        }))
        .unwrap(),
        redacts: None,
        transaction: None,
    };
    house.rooms.sender.send(&room_id, mention).await.unwrap();

    assert_eq!(house.unread_counts(&room_id, &bob()).await, (1, 1));
    let house = house.restart().await;
    assert_eq!(house.unread_counts(&room_id, &bob()).await, (1, 1));
    assert_eq!(house.unread_counts(&room_id, &alice()).await, (0, 0));
}

#[tokio::test]
async fn a_redaction_removes_content_from_memory_and_disk() {
    let house = TestServer::new().await;
    let room_id = house.create_room(json!({})).await.unwrap();
    let said = house
        .send_message(&room_id, alice(), "secret", None)
        .await
        .unwrap();

    let redaction = EventToSend {
        sender: alice(),
        kind: TimelineEventType::RoomRedaction,
        state_key: None,
        content: to_raw_value(&json!({"redacts": said})).unwrap(),
        redacts: Some(said),
        transaction: None,
    };
    house.rooms.sender.send(&room_id, redaction).await.unwrap();

    assert!(
        !house
            .visible_bodies(&room_id, &alice())
            .await
            .contains(&"secret".to_owned())
    );
    let house = house.restart().await;
    assert!(
        !house
            .visible_bodies(&room_id, &alice())
            .await
            .contains(&"secret".to_owned())
    );
}

#[tokio::test]
async fn an_alias_in_use_leaves_no_partly_created_room() {
    let house = TestServer::new().await;
    let first = house
        .create_room(json!({"room_alias_name": "tea"}))
        .await
        .unwrap();

    let second = house.create_room(json!({"room_alias_name": "tea"})).await;

    assert!(matches!(second, Err(Error::RoomInUse(_))));
    assert_eq!(
        house
            .rooms
            .directory
            .resolve_alias(room_alias_id!("#tea:here"))
            .await
            .unwrap(),
        first
    );
    let user = house.user_number(&alice()).await;
    assert_eq!(
        house
            .rooms
            .memory
            .rooms_of_user(user)
            .await
            .unwrap()
            .joined_rooms()
            .len(),
        1
    );
}

#[tokio::test]
async fn missing_relations_are_filled_in_at_startup() {
    let house = TestServer::new().await;
    let room_id = house.create_room(json!({})).await.unwrap();
    let thread = house
        .send_message(&room_id, alice(), "root", None)
        .await
        .unwrap();
    let content = json!({
        "body": "reply", "m.relates_to": { "rel_type": "m.thread", "event_id": thread },
    });
    let reply = EventToSend::message(
        alice(),
        TimelineEventType::RoomMessage,
        to_raw_value(&content).unwrap(),
        None,
    );
    let reply = house.rooms.sender.send(&room_id, reply).await.unwrap();
    house.test.remove_derived_data().await;

    let house = house.restart().await;

    let (user, user_id) = (house.user_number(&alice()).await, alice());
    let (room, access) = house
        .rooms
        .access
        .load_readable_room(&room_id, user, &user_id)
        .await
        .unwrap();
    let begun = house
        .rooms
        .timeline
        .load_event(&room, &access, &thread)
        .await
        .unwrap();
    let audience = AggregationViewer {
        access: Some(&access),
        user,
        user_id: &user_id,
    };
    let bundles = house
        .rooms
        .relations
        .load_aggregations(&room, audience, [&begun])
        .await
        .unwrap();
    let summary = bundles.get(&thread).unwrap().thread.as_ref().unwrap();
    assert_eq!((summary.count, &summary.latest.pdu.event_id), (1, &reply));
    let in_thread = house
        .rooms
        .timeline
        .load_event(&room, &access, &reply)
        .await
        .unwrap();
    assert_eq!(in_thread.thread.as_ref().unwrap().root, thread);
    let at = house
        .rooms
        .timeline
        .find_event_at_time(&room, &access, 1_000, Direction::Backward)
        .await
        .unwrap();
    assert_eq!(at, (reply, 1_000));
}
