//! The events and the state that other servers can read.

use super::{
    remote::{Remote, RemoteRoom, text},
    *,
};

struct Shared {
    house: House,
    there: Remote,
    room: RemoteRoom,
}

impl Shared {
    async fn new() -> Self {
        let (house, there) = (House::new().await, Remote::new("there"));
        let (room, _) = house.shares_a_room(&there, "11").await;
        Self { house, there, room }
    }

    fn id(&self) -> OwnedRoomId {
        self.room.id.clone().unwrap()
    }

    async fn says(&self, body: &str) -> OwnedEventId {
        self.house
            .says(&self.id(), alice(), body, None)
            .await
            .unwrap()
    }

    async fn room(&self) -> Arc<Room> {
        self.house.rooms.memory.room(&self.id()).await.unwrap()
    }

    async fn sets_visibility(&self, visibility: &str) {
        let event = NewEvent::state(
            alice(),
            &StateEventType::RoomHistoryVisibility,
            "",
            to_raw_value(&json!({"history_visibility": visibility})).unwrap(),
        );
        self.house
            .rooms
            .sender
            .send(&self.id(), event)
            .await
            .unwrap();
    }

    fn rooms(&self) -> &Rooms {
        &self.house.rooms
    }
}

#[tokio::test]
async fn a_server_in_the_room_is_told_its_events_and_no_other_server_is() {
    let shared = Shared::new().await;
    let hello = shared.says("hello").await;

    let told = shared
        .rooms()
        .federation
        .event_for(&shared.there.name, &hello)
        .await;
    let elsewhere = ruma::server_name!("elsewhere");
    let refused = shared.rooms().federation.event_for(elsewhere, &hello).await;
    let room = shared
        .rooms()
        .federation
        .shared_room(elsewhere, &shared.id())
        .await;
    let unknown = ruma::event_id!("$unknown");
    let unknown = shared
        .rooms()
        .federation
        .event_for(&shared.there.name, unknown)
        .await;

    assert!(told.unwrap().get().contains("hello"));
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    assert!(matches!(room, Err(Error::Forbidden(_))));
    assert!(matches!(unknown, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn what_was_said_before_the_server_came_is_told_without_its_words() {
    let (house, there) = (House::new().await, Remote::new("there"));
    let id = house.creates(json!({"room_version": "11"})).await.unwrap();
    for (kind, content) in [
        (
            StateEventType::RoomHistoryVisibility,
            json!({"history_visibility": "joined"}),
        ),
        (
            StateEventType::RoomJoinRules,
            json!({"join_rule": "public"}),
        ),
    ] {
        let event = NewEvent::state(alice(), &kind, "", to_raw_value(&content).unwrap());
        house.rooms.sender.send(&id, event).await.unwrap();
    }
    let secret = house.says(&id, alice(), "secret", None).await.unwrap();
    let room = RemoteRoom::of(&house.rooms.memory.room(&id).await.unwrap());
    let eve = there.user("eve");
    let line = house.line(&id).await;
    let event = (&*eve, "m.room.member", Some(eve.as_str()));
    let join = there.makes(&room, &line, event, json!({"membership": "join"}));
    house.receives(&there, &join).await;
    let open = house.says(&id, alice(), "open", None).await.unwrap();
    let room = house.rooms.memory.room(&id).await.unwrap();

    let from = [open.clone()];
    let history = house
        .rooms
        .federation
        .backfill_for(&room, &there.name, &from, 3)
        .await
        .unwrap();
    let alone = house
        .rooms
        .federation
        .event_for(&there.name, &secret)
        .await
        .unwrap();
    let (at_time, _) = house
        .rooms
        .federation
        .event_at_time_for(&room, &there.name, 1_000, Direction::Forward)
        .await
        .unwrap();

    assert_eq!(history.len(), 3);
    assert!(history[0].get().contains("open"));
    assert!(history[1].get().contains("@eve:there"));
    assert!(!history[2].get().contains("secret"), "{}", history[2]);
    assert!(!alone.get().contains("secret"));
    assert_ne!(at_time, secret);
}

#[tokio::test]
async fn missing_events_are_told_between_what_a_server_has_and_what_it_saw() {
    let shared = Shared::new().await;
    let first = shared.says("one").await;
    for body in ["two", "three", "four"] {
        shared.says(body).await;
    }
    let last = shared.says("five").await;
    let room = shared.room().await;
    let bodies = async |limit| {
        let (earliest, latest) = ([first.clone()], [last.clone()]);
        let span = (&earliest[..], &latest[..]);
        let rooms = shared.rooms();
        let told = rooms
            .federation
            .missing_events_for(&room, &shared.there.name, span, (0, limit));
        let body = |json: &serde_json::value::RawValue| {
            let event: serde_json::Value = serde_json::from_str(json.get()).unwrap();
            event["content"]["body"].as_str().unwrap().to_owned()
        };
        let told = told.await.unwrap();
        told.iter().map(|json| body(json)).collect::<Vec<_>>()
    };

    assert_eq!(bodies(10).await, ["two", "three", "four"]);
    assert_eq!(bodies(2).await, ["three", "four"]);
}

#[tokio::test]
async fn the_state_before_an_event_is_told_with_all_that_it_rests_on() {
    let shared = Shared::new().await;
    shared.sets_visibility("shared").await;
    let hello = shared.says("hello").await;
    shared.sets_visibility("joined").await;
    let room = shared.room().await;

    let answer = shared
        .rooms()
        .federation
        .state_answer(&room, &hello)
        .await
        .unwrap();
    let chain = shared
        .rooms()
        .federation
        .auth_chain_of(&room, &hello)
        .await
        .unwrap();
    let server = shared.rooms().memory.server_name();
    let jsons = shared
        .rooms()
        .federation
        .jsons(server, &answer.state)
        .await
        .unwrap();

    let told: Vec<&str> = jsons.iter().map(|json| json.get()).collect();
    assert_eq!(told.len(), answer.state.len());
    assert!(
        told.iter()
            .any(|json| json.contains(r#""history_visibility":"shared""#))
    );
    assert!(
        !told
            .iter()
            .any(|json| json.contains(r#""history_visibility":"joined""#))
    );
    let line = shared.house.line(&shared.id()).await;
    let create = line.state.get(&StateEventType::RoomCreate, "").unwrap();
    assert!(answer.auth_chain.contains(&create.event_id));
    assert!(chain.contains(&create.event_id));
    let unknown = ruma::event_id!("$unknown");
    let unknown = shared.rooms().federation.state_answer(&room, unknown).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_rejected_event_is_told_to_nobody() {
    let shared = Shared::new().await;
    let line = shared.house.line(&shared.id()).await;
    let dora = shared.there.user("dora");
    let event = (&*dora, "m.room.topic", Some(""));
    let content = json!({"topic": "mine"});
    let topic = shared.there.makes(&shared.room, &line, event, content);
    shared.house.receives(&shared.there, &topic).await;

    let told = shared
        .rooms()
        .federation
        .event_for(&shared.there.name, &topic.pdu().event_id)
        .await;

    assert!(matches!(told, Err(Error::NotFound(_))), "{told:?}");
}

#[tokio::test]
async fn a_space_is_told_to_servers_that_may_know_it() {
    let shared = Shared::new().await;
    let private = shared.house.creates(json!({})).await.unwrap();

    let open = shared
        .rooms()
        .previews
        .hierarchy_for(&shared.there.name, &shared.id(), false)
        .await;
    let closed = shared
        .rooms()
        .previews
        .hierarchy_for(&shared.there.name, &private, false)
        .await;

    let open = serde_json::to_value(open.unwrap()).unwrap();
    assert_eq!(open["room"]["room_id"], json!(shared.id()));
    assert!(matches!(closed, Err(Error::NotFound(_))), "{closed:?}");
    let hidden = text("nothing");
    assert!(hidden.is_object());
}

#[tokio::test]
async fn one_server_is_told_much_three_times_at_once_and_keeps_nobody_else_waiting() {
    let house = House::new().await;
    let turn = async |name| house.rooms.federation.turn_to_be_told(name).await;
    let (there, elsewhere) = (ruma::server_name!("there"), ruma::server_name!("elsewhere"));
    let mut telling = Vec::new();
    for _ in 0..3 {
        telling.push(turn(there).await.unwrap());
    }

    let mut next = Box::pin(turn(there));
    assert!(futures_util::poll!(next.as_mut()).is_pending());
    assert!(turn(elsewhere).await.is_ok());
    telling.pop();

    assert!(next.await.is_ok());
}
