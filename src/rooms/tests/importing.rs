//! Importing rooms of other servers.

use std::collections::HashMap;

use super::{
    remote::{Line, Remote, RemoteRoom, text},
    *,
};
use crate::matrix::Verified;

/// A room on another server that a user of this server is about to join.
pub(crate) struct Abroad {
    pub(crate) house: House,
    pub(crate) there: Remote,
    pub(crate) room: RemoteRoom,
    version: RoomVersionId,
    pub(crate) line: Line,
    pub(crate) events: Vec<Verified>,
}

impl Abroad {
    pub(crate) async fn new(version: &str) -> Self {
        let (house, there) = (House::new().await, Remote::new("there"));
        let (room, line, events) = there.creates(version);
        Self {
            house,
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

    pub(crate) fn happens(
        &mut self,
        kind: &str,
        key: Option<&str>,
        content: serde_json::Value,
    ) -> Verified {
        let carol = self.carol();
        let event = (&*carol, kind, key);
        let event = self.there.makes(&self.room, &self.line, event, content);
        self.line = self.line.after(&event);
        self.events.push(event.clone());
        event
    }

    fn says(&mut self, body: &str) -> Verified {
        self.happens("m.room.message", None, text(body))
    }

    /// Returns the join of a user of this server, signed by this server.
    pub(crate) fn join_of(&self, user_id: &UserId) -> Verified {
        let event = (user_id, "m.room.member", Some(user_id.as_str()));
        let content = json!({"membership": "join"});
        let draft = self.there.drafts(&self.room, &self.line, event, content);
        let mut object = serde_json::from_value(draft).unwrap();
        let rules = &self.room.rules;
        self.house.key.hash_and_sign(&mut object, rules).unwrap();
        Verified::check(object, rules, &self.house.keys()).unwrap()
    }

    pub(crate) fn answer(&self, join: Verified) -> Import {
        let is_state = |event: &&Verified| {
            let pdu = event.pdu();
            let held = pdu.state_key.as_deref();
            let held = held.and_then(|key| self.line.state.get(&pdu.state_type(), key));
            held.is_some_and(|held| held.event_id == pdu.event_id)
        };
        let (state, others): (Vec<_>, Vec<_>) = self.events.iter().partition(is_state);
        let auth_chain = others
            .into_iter()
            .filter(|event| event.pdu().state_key.is_some());
        Import {
            origin: self.there.name.clone(),
            version: self.version.clone(),
            join,
            state: state.into_iter().cloned().collect(),
            auth_chain: auth_chain.cloned().collect(),
        }
    }

    async fn joins(&mut self, user_id: &UserId) -> Result<Imported> {
        let join = self.join_of(user_id);
        let import = self.answer(join.clone());
        let imported = self.house.rooms.join_import.import(import).await;
        self.line = self.line.after(&join);
        self.events.push(join);
        imported
    }

    /// Lets a user of this server leave, and adds the leave to the line of the other server.
    async fn leaves(&mut self, user_id: &UserId) {
        let (id, user_id) = (self.id(), user_id.to_owned());
        let leaving = self
            .house
            .becomes(&id, user_id.clone(), user_id.clone(), Action::Leave);
        leaving.await.unwrap();
        let here = self.house.line(&id).await;
        let leave = here.state.member(&user_id).unwrap().clone();
        self.line.state.insert(leave);
        self.line.prev_events = here.prev_events;
        self.line.depth = here.depth;
    }

    async fn sees(&self, user_id: &UserId) -> Vec<String> {
        self.house.sees(&self.id(), user_id).await
    }
}

#[tokio::test]
async fn a_room_is_taken_over_with_its_state_in_every_version() {
    for version in ["3", "6", "9", "10", "11", "12"] {
        let mut abroad = Abroad::new(version).await;
        abroad.happens("m.room.name", Some(""), json!({"name": "old"}));
        abroad.happens("m.room.name", Some(""), json!({"name": "tea"}));
        abroad.says("before");

        let imported = abroad.joins(&bob()).await.unwrap();

        assert_eq!(imported, Imported::New);
        let room = abroad.house.rooms.memory.room(&abroad.id()).await.unwrap();
        {
            let view = room.view();
            let name = view.state.get(&StateEventType::RoomName, "").unwrap();
            assert_eq!(name.content_str("name").unwrap(), "tea", "in {version}");
            assert_eq!(view.joined_members, 2);
            assert_eq!(view.local_members.len(), 1);
            let servers: Vec<String> = view.servers.keys().map(ToString::to_string).collect();
            assert_eq!(servers, ["here", "there"]);
        }
        let id = abroad.id();
        abroad.house.says(&id, bob(), "hello", None).await.unwrap();
        let line = abroad.house.line(&id).await;
        let carol = abroad.carol();
        let event = (&*carol, "m.room.message", None);
        let hi = abroad.there.makes(&abroad.room, &line, event, text("hi"));
        assert_eq!(
            abroad.house.receives(&abroad.there, &hi).await,
            Received::Accepted
        );
        let seen = abroad.sees(&bob()).await;
        assert_eq!(seen, ["m.room.member", "hello", "hi"], "in {version}");
    }
}

#[tokio::test]
async fn a_room_that_was_taken_over_is_the_same_after_a_restart() {
    let mut abroad = Abroad::new("11").await;
    abroad.happens("m.room.name", Some(""), json!({"name": "tea"}));
    abroad.joins(&bob()).await.unwrap();
    let before = abroad.house.line(&abroad.id()).await;

    let abroad = Abroad {
        house: abroad.house.restart().await,
        ..abroad
    };

    let after = abroad.house.line(&abroad.id()).await;
    assert_eq!(before.prev_events, after.prev_events);
    assert!(before.state.differences(&after.state).is_empty());
    assert_eq!(abroad.sees(&bob()).await, ["m.room.member"]);
}

#[tokio::test]
async fn an_answer_that_is_not_about_the_room_is_refused() {
    let mut abroad = Abroad::new("11").await;
    abroad.says("before");
    let (_, _, other) = abroad.there.creates("11");
    let join = abroad.join_of(&bob());
    let mut import = abroad.answer(join);
    import.state = other;

    let refused = abroad.house.rooms.join_import.import(import).await;

    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
}

#[tokio::test]
async fn an_answer_with_another_version_or_without_what_allows_the_join_is_refused() {
    let abroad = Abroad::new("11").await;
    let join = abroad.join_of(&bob());

    let mut other = abroad.answer(join.clone());
    other.version = RoomVersionId::V10;
    let mut bare = abroad.answer(join.clone());
    bare.state
        .retain(|event| event.pdu().kind != TimelineEventType::RoomJoinRules);
    let mut stranger = abroad.answer(join);
    stranger.join = abroad.there.makes(
        &abroad.room,
        &abroad.line,
        (
            &abroad.there.user("eve"),
            "m.room.member",
            Some("@eve:there"),
        ),
        json!({"membership": "join"}),
    );

    for import in [other, bare, stranger] {
        let refused = abroad.house.rooms.join_import.import(import).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn what_was_said_wrongly_about_the_version_of_a_room_keeps_nobody_out() {
    let mut abroad = Abroad::new("11").await;
    let mut other = abroad.answer(abroad.join_of(&bob()));
    other.version = RoomVersionId::V10;
    let refused = abroad.house.rooms.join_import.import(other).await;
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");

    assert_eq!(abroad.joins(&bob()).await.unwrap(), Imported::New);

    let room = abroad.house.rooms.memory.room(&abroad.id()).await.unwrap();
    assert_eq!(room.version, RoomVersionId::V11);
    let house = abroad.house.restart().await;
    let room = house
        .rooms
        .memory
        .room(abroad.room.id.as_ref().unwrap())
        .await;
    assert_eq!(room.unwrap().version, RoomVersionId::V11);
}

#[tokio::test]
async fn a_redaction_that_comes_as_history_takes_effect() {
    let mut abroad = Abroad::new("11").await;
    abroad.joins(&bob()).await.unwrap();
    let id = abroad.id();
    let secret = abroad.says("secret");
    let received = abroad.house.receives(&abroad.there, &secret).await;
    assert_eq!(received, Received::Accepted);
    abroad.leaves(&bob()).await;
    let redacts = json!({"redacts": secret.pdu().event_id});
    let redaction = abroad.happens("m.room.redaction", None, redacts);
    abroad.joins(&bob()).await.unwrap();
    assert!(abroad.sees(&bob()).await.contains(&"secret".to_owned()));

    let room = abroad.house.rooms.memory.room(&id).await.unwrap();
    let rooms = &abroad.house.rooms;
    let (name, none) = (&abroad.there.name, HashMap::new());
    let filled = rooms
        .receiver
        .backfill(&room, name, vec![redaction], &none)
        .await;

    assert_eq!(filled.unwrap().stored, 1);
    assert!(!abroad.sees(&bob()).await.contains(&"secret".to_owned()));
}

#[tokio::test]
async fn state_that_nothing_allows_is_left_out() {
    let mut abroad = Abroad::new("11").await;
    let eve = abroad.there.user("eve");
    let event = (&*eve, "m.room.topic", Some(""));
    let content = json!({"topic": "mine"});
    let topic = abroad
        .there
        .makes(&abroad.room, &abroad.line, event, content);
    abroad.events.push(topic.clone());
    let join = abroad.join_of(&bob());
    let mut import = abroad.answer(join);
    import.state.push(topic);

    abroad.house.rooms.join_import.import(import).await.unwrap();

    let line = abroad.house.line(&abroad.id()).await;
    assert!(line.state.get(&StateEventType::RoomTopic, "").is_none());
}

#[tokio::test]
async fn a_second_user_joins_a_room_that_is_known_already() {
    let mut abroad = Abroad::new("11").await;
    abroad.joins(&bob()).await.unwrap();

    let imported = abroad.joins(&alice()).await.unwrap();

    assert_eq!(imported, Imported::Known);
    let room = abroad.house.rooms.memory.room(&abroad.id()).await.unwrap();
    assert_eq!(room.view().local_members.len(), 2);
}

#[tokio::test]
async fn who_comes_back_after_a_while_finds_the_room_as_it_is_now() {
    let mut abroad = Abroad::new("11").await;
    abroad.joins(&bob()).await.unwrap();
    let id = abroad.id();
    abroad.leaves(&bob()).await;
    abroad.says("while you were away");
    abroad.happens("m.room.name", Some(""), json!({"name": "new"}));

    let imported = abroad.joins(&bob()).await.unwrap();

    assert_eq!(imported, Imported::New);
    let room = abroad.house.rooms.memory.room(&id).await.unwrap();
    let name = room
        .view()
        .state
        .get(&StateEventType::RoomName, "")
        .cloned();
    assert_eq!(name.unwrap().content_str("name").unwrap(), "new");
    assert_eq!(room.view().joined_members, 2);
    let gaps = abroad
        .house
        .rooms
        .receiver
        .gaps(&room, i64::MIN, i64::MAX)
        .await;
    assert_eq!(gaps.unwrap().len(), 2);
    let seen = abroad.sees(&bob()).await;
    assert_eq!(seen, ["m.room.member", "m.room.member", "m.room.member"]);
}

#[tokio::test]
async fn history_stands_before_the_join_in_its_order() {
    let mut abroad = Abroad::new("11").await;
    for n in 1..=6 {
        abroad.says(&format!("event {n}"));
    }
    abroad.joins(&bob()).await.unwrap();
    let room = abroad.house.rooms.memory.room(&abroad.id()).await.unwrap();
    let before_join = abroad.events.len() - 1;
    let state: Vec<OwnedEventId> = abroad.events[..4]
        .iter()
        .map(|event| event.pdu().event_id.clone())
        .collect();
    let backfills = async |from: usize, to: usize| {
        let events = abroad.events[from..to].to_vec();
        let first = events[0].pdu().event_id.clone();
        let states = HashMap::from([(first, state.clone())]);
        let rooms = &abroad.house.rooms;
        rooms
            .receiver
            .backfill(&room, &abroad.there.name, events, &states)
            .await
            .unwrap()
    };

    let newer = backfills(before_join - 3, before_join).await;
    let older = backfills(4, before_join - 3).await;

    assert_eq!((newer.stored, older.stored), (3, 3));
    let seen = abroad.sees(&bob()).await;
    let wanted: Vec<String> = (1..=6).map(|n| format!("event {n}")).collect();
    assert_eq!(seen[..6], wanted);
    assert_eq!(seen[6..], ["m.room.member"]);
    let gaps = abroad
        .house
        .rooms
        .receiver
        .gaps(&room, i64::MIN, i64::MAX)
        .await;
    assert_eq!(gaps.unwrap()[0].missing, [state[3].clone()]);
    let (first, none) = (abroad.events[..4].to_vec(), HashMap::new());
    let rooms = &abroad.house.rooms;
    let whole = rooms
        .receiver
        .backfill(&room, &abroad.there.name, first, &none)
        .await;
    assert_eq!(whole.unwrap().stored, 4);
    assert_eq!(abroad.sees(&bob()).await[0], "m.room.create");
}

#[tokio::test]
async fn a_room_with_many_members_is_taken_over_at_once() {
    const MEMBERS: i64 = 1_200;
    let mut abroad = Abroad::new("11").await;
    for n in 0..MEMBERS {
        let member = abroad.there.user(&format!("member{n}"));
        let event = (&*member, "m.room.member", Some(member.as_str()));
        let content = json!({"membership": "join"});
        let join = abroad
            .there
            .makes(&abroad.room, &abroad.line, event, content);
        abroad.line = abroad.line.after(&join);
        abroad.events.push(join);
    }

    abroad.joins(&bob()).await.unwrap();

    let room = abroad.house.rooms.memory.room(&abroad.id()).await.unwrap();
    assert_eq!(room.view().joined_members, 2 + MEMBERS);
    assert_eq!(room.view().servers.len(), 2);
    let member = abroad.there.user("member7");
    let number = abroad.house.number_of(&member).await;
    let rooms = abroad.house.rooms.memory.of_user(number).await.unwrap();
    assert_eq!(rooms.membership(room.num), MembershipState::Join);
    let id = abroad.id();
    abroad.house.says(&id, bob(), "hello", None).await.unwrap();
}

#[tokio::test]
async fn the_join_by_which_a_room_was_taken_over_is_for_the_other_server_to_tell() {
    let mut abroad = Abroad::new("11").await;
    let start = abroad.house.test.db.journal().published();

    abroad.joins(&alice()).await.unwrap();
    let id = abroad.id();
    let hello = abroad.house.says(&id, alice(), "hello", None).await;

    let page = abroad.house.rooms.federation.outgoing(start).await.unwrap();
    let sent: Vec<_> = page.events.iter().map(|sent| &sent.event_id).collect();
    assert_eq!(sent, [&hello.unwrap()]);
    let came: Vec<_> = page.arrivals.iter().map(|came| &came.user_id).collect();
    assert_eq!(came, [&alice()], "this server sends the device lists of the user");
}
