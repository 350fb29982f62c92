//! A server whose rooms are tested, with the requests of its users.

use super::*;

/// A server with a database of its own.
pub(super) struct TestServer {
    pub(super) test: TestDb,
    pub(super) rooms: Rooms,
    pub(super) key: Arc<SigningKey>,
    pub(super) public_key: Vec<u8>,
}

pub(super) fn alice() -> OwnedUserId {
    user_id!("@alice:here").to_owned()
}

pub(super) fn bob() -> OwnedUserId {
    user_id!("@bob:here").to_owned()
}

pub(super) async fn open_rooms(test: &TestDb, key: &Arc<SigningKey>) -> Rooms {
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
    pub(super) async fn new() -> Self {
        Self::named("here").await
    }

    pub(super) async fn named(name: &str) -> Self {
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
    pub(super) async fn with_empty_database(&self) -> Self {
        let test = TestDb::new().await;
        Self {
            rooms: open_rooms(&test, &self.key).await,
            test,
            key: self.key.clone(),
            public_key: self.public_key.clone(),
        }
    }

    pub(super) async fn restart(self) -> Self {
        let test = self.test.reopen().await;
        Self {
            rooms: open_rooms(&test, &self.key).await,
            test,
            key: self.key,
            public_key: self.public_key,
        }
    }

    pub(super) async fn create_room(&self, request: serde_json::Value) -> Result<OwnedRoomId> {
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

    pub(super) async fn send_message(
        &self,
        room_id: &RoomId,
        who: OwnedUserId,
        body: &str,
        txn: Option<&str>,
    ) -> Result<OwnedEventId> {
        let transaction = txn.map(|txn_id| ClientTransaction {
            device: crate::numbers::DeviceNum::new(7),
            txn_id: txn_id.to_owned(),
        });
        let event = EventToSend {
            sender: who,
            kind: TimelineEventType::RoomMessage,
            state_key: None,
            content: to_raw_value(&json!({"msgtype": "m.text", "body": body})).unwrap(),
            redacts: None,
            transaction,
            timestamp: None,
            sticky: None,
        };
        self.rooms.sender.send(room_id, event).await
    }

    pub(super) async fn change_membership(
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

    pub(super) async fn user_number(&self, who: &UserId) -> UserNum {
        self.rooms.memory.user_number(who).await.unwrap().unwrap()
    }

    pub(super) async fn visible_bodies(&self, room_id: &RoomId, who: &UserId) -> Vec<String> {
        let room = self.rooms.memory.room(room_id).await.unwrap();
        let access = self
            .rooms
            .access
            .load_access(&room, self.user_number(who).await, who)
            .await
            .unwrap();
        let request = PageRequest {
            from: Position::MAX.previous(),
            to: None,
            dir: Direction::Backward,
            limit: 100,
        };
        let selection = TimelineSelection::all(&room, &access);
        let page = self
            .rooms
            .timeline
            .load_page(selection, request)
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

    pub(super) async fn unread_counts(&self, room_id: &RoomId, who: &UserId) -> (u64, u64) {
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
        let unread = rooms.get(room.num).unwrap().unread_counts(counters);
        (unread.notification_count, unread.highlight_count)
    }
}
