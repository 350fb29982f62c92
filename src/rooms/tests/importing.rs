//! Importing rooms of other servers.

use std::collections::HashMap;

use super::{
    remote::{EventLine, RemoteRoom, RemoteServer, text_content},
    *,
};
use crate::{matrix::VerifiedEvent, numbers::Position};

/// A room on another server that a user of this server is about to join.
pub(crate) struct ImportFixture {
    pub(crate) server: TestServer,
    pub(crate) there: RemoteServer,
    pub(crate) room: RemoteRoom,
    version: RoomVersionId,
    pub(crate) line: EventLine,
    pub(crate) events: Vec<VerifiedEvent>,
}

impl ImportFixture {
    pub(crate) async fn new(version: &str) -> Self {
        let (server, there) = (TestServer::new().await, RemoteServer::new("there"));
        let (room, line, events) = there.create_room(version);
        Self {
            server,
            there,
            room,
            version: RoomVersionId::try_from(version).unwrap(),
            line,
            events,
        }
    }

    pub(crate) fn id(&self) -> OwnedRoomId {
        self.room.id.clone().unwrap()
    }

    fn carol(&self) -> OwnedUserId {
        self.there.user("carol")
    }

    pub(crate) fn add_event(
        &mut self,
        kind: &str,
        key: Option<&str>,
        content: serde_json::Value,
    ) -> VerifiedEvent {
        let carol = self.carol();
        let event = (&*carol, kind, key);
        let event = self
            .there
            .make_event(&self.room, &self.line, event, content);
        self.line = self.line.after(&event);
        self.events.push(event.clone());
        event
    }

    fn add_message(&mut self, body: &str) -> VerifiedEvent {
        self.add_event("m.room.message", None, text_content(body))
    }

    /// Returns the join of a user of this server, signed by this server.
    pub(crate) fn signed_join(&self, user_id: &UserId) -> VerifiedEvent {
        let event = (user_id, "m.room.member", Some(user_id.as_str()));
        let content = json!({"membership": "join"});
        let draft = self
            .there
            .draft_event(&self.room, &self.line, event, content);
        let mut object = serde_json::from_value(draft).unwrap();
        let rules = &self.room.rules;
        self.server.key.hash_and_sign(&mut object, rules).unwrap();
        VerifiedEvent::verify(object, rules, &self.server.keys()).unwrap()
    }

    pub(crate) fn join_answer(&self, join: VerifiedEvent) -> RoomImport {
        let is_state = |event: &&VerifiedEvent| {
            let pdu = event.pdu();
            let held = pdu.state_key.as_deref();
            let held = held.and_then(|key| self.line.state.get(&pdu.state_type(), key));
            held.is_some_and(|held| held.event_id == pdu.event_id)
        };
        let (state, others): (Vec<_>, Vec<_>) = self.events.iter().partition(is_state);
        let auth_chain = others
            .into_iter()
            .filter(|event| event.pdu().state_key.is_some());
        RoomImport {
            origin: self.there.name.clone(),
            version: self.version.clone(),
            join,
            state: state.into_iter().cloned().collect(),
            auth_chain: auth_chain.cloned().collect(),
        }
    }

    async fn import_join(&mut self, user_id: &UserId) -> Result<ImportOutcome> {
        let join = self.signed_join(user_id);
        let import = self.join_answer(join.clone());
        let imported = self.server.rooms.join_import.import(import).await;
        self.line = self.line.after(&join);
        self.events.push(join);
        imported
    }

    /// Lets a user of this server leave, and adds the leave to the line of the other server.
    async fn leave_room(&mut self, user_id: &UserId) {
        let (id, user_id) = (self.id(), user_id.to_owned());
        let leaving = self.server.change_membership(
            &id,
            user_id.clone(),
            user_id.clone(),
            MembershipAction::Leave,
        );
        leaving.await.unwrap();
        let here = self.server.event_line(&id).await;
        let leave = here.state.member(&user_id).unwrap().clone();
        self.line.state.insert(leave);
        self.line.prev_events = here.prev_events;
        self.line.depth = here.depth;
    }

    async fn visible_bodies(&self, user_id: &UserId) -> Vec<String> {
        self.server.visible_bodies(&self.id(), user_id).await
    }
}

#[tokio::test]
async fn a_room_is_imported_with_its_state_in_every_version() {
    for version in ["3", "6", "9", "10", "11", "12"] {
        let mut fixture = ImportFixture::new(version).await;
        fixture.add_event("m.room.name", Some(""), json!({"name": "old"}));
        fixture.add_event("m.room.name", Some(""), json!({"name": "tea"}));
        fixture.add_message("before");

        let imported = fixture.import_join(&bob()).await.unwrap();

        assert_eq!(imported, ImportOutcome::NewRoom);
        let room = fixture
            .server
            .rooms
            .memory
            .room(&fixture.id())
            .await
            .unwrap();
        {
            let view = room.view();
            let name = view.state.get(&StateEventType::RoomName, "").unwrap();
            assert_eq!(name.content_str("name").unwrap(), "tea", "in {version}");
            assert_eq!(view.joined_members, 2);
            assert_eq!(view.local_members.len(), 1);
            let servers: Vec<String> = view.servers.keys().map(ToString::to_string).collect();
            assert_eq!(servers, ["here", "there"]);
        }
        let id = fixture.id();
        fixture
            .server
            .send_message(&id, bob(), "hello", None)
            .await
            .unwrap();
        let line = fixture.server.event_line(&id).await;
        let carol = fixture.carol();
        let event = (&*carol, "m.room.message", None);
        let hi = fixture
            .there
            .make_event(&fixture.room, &line, event, text_content("hi"));
        assert_eq!(
            fixture.server.receive_event(&fixture.there, &hi).await,
            ReceiveOutcome::Accepted
        );
        let seen = fixture.visible_bodies(&bob()).await;
        assert_eq!(seen, ["m.room.member", "hello", "hi"], "in {version}");
    }
}

#[tokio::test]
async fn an_imported_room_is_the_same_after_a_restart() {
    let mut fixture = ImportFixture::new("11").await;
    fixture.add_event("m.room.name", Some(""), json!({"name": "tea"}));
    fixture.import_join(&bob()).await.unwrap();
    let before = fixture.server.event_line(&fixture.id()).await;

    let fixture = ImportFixture {
        server: fixture.server.restart().await,
        ..fixture
    };

    let after = fixture.server.event_line(&fixture.id()).await;
    assert_eq!(before.prev_events, after.prev_events);
    assert!(before.state.differing_keys(&after.state).is_empty());
    assert_eq!(fixture.visible_bodies(&bob()).await, ["m.room.member"]);
}

#[tokio::test]
async fn a_join_answer_about_another_room_is_refused() {
    let mut fixture = ImportFixture::new("11").await;
    fixture.add_message("before");
    let (_, _, other) = fixture.there.create_room("11");
    let join = fixture.signed_join(&bob());
    let mut import = fixture.join_answer(join);
    import.state = other;

    let refused = fixture.server.rooms.join_import.import(import).await;

    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
}

#[tokio::test]
async fn a_join_answer_that_does_not_allow_the_join_is_refused() {
    let fixture = ImportFixture::new("11").await;
    let join = fixture.signed_join(&bob());

    let mut other = fixture.join_answer(join.clone());
    other.version = RoomVersionId::V10;
    let mut bare = fixture.join_answer(join.clone());
    bare.state
        .retain(|event| event.pdu().kind != TimelineEventType::RoomJoinRules);
    let mut stranger = fixture.join_answer(join);
    stranger.join = fixture.there.make_event(
        &fixture.room,
        &fixture.line,
        (
            &fixture.there.user("eve"),
            "m.room.member",
            Some("@eve:there"),
        ),
        json!({"membership": "join"}),
    );

    for import in [other, bare, stranger] {
        let refused = fixture.server.rooms.join_import.import(import).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_join_succeeds_after_an_answer_with_the_wrong_version() {
    let mut fixture = ImportFixture::new("11").await;
    let mut other = fixture.join_answer(fixture.signed_join(&bob()));
    other.version = RoomVersionId::V10;
    let refused = fixture.server.rooms.join_import.import(other).await;
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");

    assert_eq!(
        fixture.import_join(&bob()).await.unwrap(),
        ImportOutcome::NewRoom
    );

    let room = fixture
        .server
        .rooms
        .memory
        .room(&fixture.id())
        .await
        .unwrap();
    assert_eq!(room.version, RoomVersionId::V11);
    let server = fixture.server.restart().await;
    let room = server
        .rooms
        .memory
        .room(fixture.room.id.as_ref().unwrap())
        .await;
    assert_eq!(room.unwrap().version, RoomVersionId::V11);
}

#[tokio::test]
async fn a_backfilled_redaction_takes_effect() {
    let mut fixture = ImportFixture::new("11").await;
    fixture.import_join(&bob()).await.unwrap();
    let id = fixture.id();
    let secret = fixture.add_message("secret");
    let received = fixture.server.receive_event(&fixture.there, &secret).await;
    assert_eq!(received, ReceiveOutcome::Accepted);
    fixture.leave_room(&bob()).await;
    let redacts = json!({"redacts": secret.pdu().event_id});
    let redaction = fixture.add_event("m.room.redaction", None, redacts);
    fixture.import_join(&bob()).await.unwrap();
    assert!(
        fixture
            .visible_bodies(&bob())
            .await
            .contains(&"secret".to_owned())
    );

    let room = fixture.server.rooms.memory.room(&id).await.unwrap();
    let rooms = &fixture.server.rooms;
    let (name, none) = (&fixture.there.name, HashMap::new());
    let filled = rooms
        .receiver
        .backfill(&room, name, vec![redaction], &none)
        .await;

    assert_eq!(filled.unwrap().stored, 1);
    assert!(
        !fixture
            .visible_bodies(&bob())
            .await
            .contains(&"secret".to_owned())
    );
}

#[tokio::test]
async fn unauthorized_state_is_not_imported() {
    let mut fixture = ImportFixture::new("11").await;
    let eve = fixture.there.user("eve");
    let event = (&*eve, "m.room.topic", Some(""));
    let content = json!({"topic": "mine"});
    let topic = fixture
        .there
        .make_event(&fixture.room, &fixture.line, event, content);
    fixture.events.push(topic.clone());
    let join = fixture.signed_join(&bob());
    let mut import = fixture.join_answer(join);
    import.state.push(topic);

    fixture
        .server
        .rooms
        .join_import
        .import(import)
        .await
        .unwrap();

    let line = fixture.server.event_line(&fixture.id()).await;
    assert!(line.state.get(&StateEventType::RoomTopic, "").is_none());
}

#[tokio::test]
async fn a_second_user_joins_an_imported_room() {
    let mut fixture = ImportFixture::new("11").await;
    fixture.import_join(&bob()).await.unwrap();

    let imported = fixture.import_join(&alice()).await.unwrap();

    assert_eq!(imported, ImportOutcome::KnownRoom);
    let room = fixture
        .server
        .rooms
        .memory
        .room(&fixture.id())
        .await
        .unwrap();
    assert_eq!(room.view().local_members.len(), 2);
}

#[tokio::test]
async fn a_user_who_rejoins_finds_the_current_state() {
    let mut fixture = ImportFixture::new("11").await;
    fixture.import_join(&bob()).await.unwrap();
    let id = fixture.id();
    fixture.leave_room(&bob()).await;
    fixture.add_message("while you were away");
    fixture.add_event("m.room.name", Some(""), json!({"name": "new"}));

    let imported = fixture.import_join(&bob()).await.unwrap();

    assert_eq!(imported, ImportOutcome::NewRoom);
    let room = fixture.server.rooms.memory.room(&id).await.unwrap();
    let name = room
        .view()
        .state
        .get(&StateEventType::RoomName, "")
        .cloned();
    assert_eq!(name.unwrap().content_str("name").unwrap(), "new");
    assert_eq!(room.view().joined_members, 2);
    let gaps = fixture
        .server
        .rooms
        .receiver
        .find_gaps(&room, Position::MIN, Position::MAX)
        .await;
    assert_eq!(gaps.unwrap().len(), 2);
    let seen = fixture.visible_bodies(&bob()).await;
    assert_eq!(seen, ["m.room.member", "m.room.member", "m.room.member"]);
}

#[tokio::test]
async fn backfilled_history_is_placed_before_the_join_in_order() {
    let mut fixture = ImportFixture::new("11").await;
    for n in 1..=6 {
        fixture.add_message(&format!("event {n}"));
    }
    fixture.import_join(&bob()).await.unwrap();
    let room = fixture
        .server
        .rooms
        .memory
        .room(&fixture.id())
        .await
        .unwrap();
    let before_join = fixture.events.len() - 1;
    let state: Vec<OwnedEventId> = fixture.events[..4]
        .iter()
        .map(|event| event.pdu().event_id.clone())
        .collect();
    let backfills = async |from: usize, to: usize| {
        let events = fixture.events[from..to].to_vec();
        let first = events[0].pdu().event_id.clone();
        let states = HashMap::from([(first, state.clone())]);
        let rooms = &fixture.server.rooms;
        rooms
            .receiver
            .backfill(&room, &fixture.there.name, events, &states)
            .await
            .unwrap()
    };

    let newer = backfills(before_join - 3, before_join).await;
    let older = backfills(4, before_join - 3).await;

    assert_eq!((newer.stored, older.stored), (3, 3));
    let seen = fixture.visible_bodies(&bob()).await;
    let wanted: Vec<String> = (1..=6).map(|n| format!("event {n}")).collect();
    assert_eq!(seen[..6], wanted);
    assert_eq!(seen[6..], ["m.room.member"]);
    let gaps = fixture
        .server
        .rooms
        .receiver
        .find_gaps(&room, Position::MIN, Position::MAX)
        .await;
    assert_eq!(gaps.unwrap()[0].missing, [state[3].clone()]);
    let (first, none) = (fixture.events[..4].to_vec(), HashMap::new());
    let rooms = &fixture.server.rooms;
    let whole = rooms
        .receiver
        .backfill(&room, &fixture.there.name, first, &none)
        .await;
    assert_eq!(whole.unwrap().stored, 4);
    assert_eq!(fixture.visible_bodies(&bob()).await[0], "m.room.create");
}

#[tokio::test]
async fn a_room_with_many_members_is_imported_at_once() {
    const MEMBER_COUNT: i64 = 1_200;
    let mut fixture = ImportFixture::new("11").await;
    for n in 0..MEMBER_COUNT {
        let member = fixture.there.user(&format!("member{n}"));
        let event = (&*member, "m.room.member", Some(member.as_str()));
        let content = json!({"membership": "join"});
        let join = fixture
            .there
            .make_event(&fixture.room, &fixture.line, event, content);
        fixture.line = fixture.line.after(&join);
        fixture.events.push(join);
    }

    fixture.import_join(&bob()).await.unwrap();

    let room = fixture
        .server
        .rooms
        .memory
        .room(&fixture.id())
        .await
        .unwrap();
    assert_eq!(room.view().joined_members, 2 + MEMBER_COUNT);
    assert_eq!(room.view().servers.len(), 2);
    let member = fixture.there.user("member7");
    let number = fixture.server.user_number(&member).await;
    let rooms = fixture
        .server
        .rooms
        .memory
        .rooms_of_user(number)
        .await
        .unwrap();
    assert_eq!(rooms.membership(room.num), MembershipState::Join);
    let id = fixture.id();
    fixture
        .server
        .send_message(&id, bob(), "hello", None)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_imported_join_is_not_sent_to_other_servers() {
    let mut fixture = ImportFixture::new("11").await;
    let start = fixture.server.test.db.journal().published_position();

    fixture.import_join(&alice()).await.unwrap();
    let id = fixture.id();
    let hello = fixture
        .server
        .send_message(&id, alice(), "hello", None)
        .await;

    let page = fixture
        .server
        .rooms
        .federation
        .outgoing_events(start)
        .await
        .unwrap();
    let sent: Vec<_> = page.events.iter().map(|sent| &sent.event_id).collect();
    assert_eq!(sent, [&hello.unwrap()]);
    let came: Vec<_> = page
        .joined_members
        .iter()
        .map(|came| &came.user_id)
        .collect();
    assert_eq!(
        came,
        [&alice()],
        "this server sends the device lists of the user"
    );
}
