//! The events and the state that other servers can read.

use super::{
    remote::{RemoteRoom, RemoteServer, text_content},
    *,
};
use crate::rooms::MissingEventsQuery;

struct ServingFixture {
    server: TestServer,
    there: RemoteServer,
    room: RemoteRoom,
}

impl ServingFixture {
    async fn new() -> Self {
        let (server, there) = (TestServer::new().await, RemoteServer::new("there"));
        let (room, _) = server.create_shared_room(&there, "11").await;
        Self {
            server,
            there,
            room,
        }
    }

    fn id(&self) -> OwnedRoomId {
        self.room.id.clone().unwrap()
    }

    async fn send_message(&self, body: &str) -> OwnedEventId {
        self.server
            .send_message(&self.id(), alice(), body, None)
            .await
            .unwrap()
    }

    async fn room(&self) -> Arc<Room> {
        self.server.rooms.memory.room(&self.id()).await.unwrap()
    }

    async fn set_visibility(&self, visibility: &str) {
        let event = EventToSend::state(
            alice(),
            &StateEventType::RoomHistoryVisibility,
            "",
            to_raw_value(&json!({"history_visibility": visibility})).unwrap(),
        );
        self.server
            .rooms
            .sender
            .send(&self.id(), event)
            .await
            .unwrap();
    }

    fn rooms(&self) -> &Rooms {
        &self.server.rooms
    }
}

#[tokio::test]
async fn only_servers_in_the_room_can_read_its_events() {
    let shared = ServingFixture::new().await;
    let hello = shared.send_message("hello").await;

    let answer_events = shared
        .rooms()
        .federation
        .event_for_server(&shared.there.name, &hello)
        .await;
    let elsewhere = ruma::server_name!("elsewhere");
    let refused = shared
        .rooms()
        .federation
        .event_for_server(elsewhere, &hello)
        .await;
    let room = shared
        .rooms()
        .federation
        .shared_room(elsewhere, &shared.id())
        .await;
    let unknown = ruma::event_id!("$unknown");
    let unknown = shared
        .rooms()
        .federation
        .event_for_server(&shared.there.name, unknown)
        .await;

    assert!(answer_events.unwrap().get().contains("hello"));
    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    assert!(matches!(room, Err(Error::Forbidden(_))));
    assert!(matches!(unknown, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn messages_from_before_a_server_joined_are_redacted() {
    let (server, there) = (TestServer::new().await, RemoteServer::new("there"));
    let id = server
        .create_room(json!({"room_version": "11"}))
        .await
        .unwrap();
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
        let event = EventToSend::state(alice(), &kind, "", to_raw_value(&content).unwrap());
        server.rooms.sender.send(&id, event).await.unwrap();
    }
    let secret = server
        .send_message(&id, alice(), "secret", None)
        .await
        .unwrap();
    let room = RemoteRoom::from_room(&server.rooms.memory.room(&id).await.unwrap());
    let eve = there.user("eve");
    let line = server.event_line(&id).await;
    let event = (&*eve, "m.room.member", Some(eve.as_str()));
    let join = there.make_event(&room, &line, event, json!({"membership": "join"}));
    server.receive_event(&there, &join).await;
    let open = server
        .send_message(&id, alice(), "open", None)
        .await
        .unwrap();
    let room = server.rooms.memory.room(&id).await.unwrap();

    let from = [open.clone()];
    let history = server
        .rooms
        .federation
        .backfill_for_server(&room, &there.name, &from, 3)
        .await
        .unwrap();
    let alone = server
        .rooms
        .federation
        .event_for_server(&there.name, &secret)
        .await
        .unwrap();
    let (at_time, _) = server
        .rooms
        .federation
        .event_at_time_for_server(&room, &there.name, 1_000, Direction::Forward)
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
async fn missing_events_are_those_between_earliest_and_latest() {
    let shared = ServingFixture::new().await;
    let first = shared.send_message("one").await;
    for body in ["two", "three", "four"] {
        shared.send_message(body).await;
    }
    let last = shared.send_message("five").await;
    let room = shared.room().await;
    let bodies = async |limit| {
        let (earliest, latest) = ([first.clone()], [last.clone()]);
        let query = MissingEventsQuery {
            earliest: &earliest,
            latest: &latest,
            min_depth: 0,
            limit,
        };
        let rooms = shared.rooms();
        let answer_events =
            rooms
                .federation
                .missing_events_for_server(&room, &shared.there.name, query);
        let body = |json: &serde_json::value::RawValue| {
            let event: serde_json::Value = serde_json::from_str(json.get()).unwrap();
            event["content"]["body"].as_str().unwrap().to_owned()
        };
        let answer_events = answer_events.await.unwrap();
        answer_events
            .iter()
            .map(|json| body(json))
            .collect::<Vec<_>>()
    };

    assert_eq!(bodies(10).await, ["two", "three", "four"]);
    assert_eq!(bodies(2).await, ["three", "four"]);
}

#[tokio::test]
async fn the_state_before_an_event_includes_its_auth_chain() {
    let shared = ServingFixture::new().await;
    shared.set_visibility("shared").await;
    let hello = shared.send_message("hello").await;
    shared.set_visibility("joined").await;
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
    let server_name = shared.rooms().memory.server_name();
    let jsons = shared
        .rooms()
        .federation
        .load_events_for_server(server_name, &answer.state)
        .await
        .unwrap();

    let answer_events: Vec<&str> = jsons.iter().map(|json| json.get()).collect();
    assert_eq!(answer_events.len(), answer.state.len());
    assert!(
        answer_events
            .iter()
            .any(|json| json.contains(r#""history_visibility":"shared""#))
    );
    assert!(
        !answer_events
            .iter()
            .any(|json| json.contains(r#""history_visibility":"joined""#))
    );
    let line = shared.server.event_line(&shared.id()).await;
    let create = line.state.get(&StateEventType::RoomCreate, "").unwrap();
    assert!(answer.auth_chain.contains(&create.event_id));
    assert!(chain.contains(&create.event_id));
    let unknown = ruma::event_id!("$unknown");
    let unknown = shared.rooms().federation.state_answer(&room, unknown).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_rejected_event_is_not_served() {
    let shared = ServingFixture::new().await;
    let line = shared.server.event_line(&shared.id()).await;
    let dora = shared.there.user("dora");
    let event = (&*dora, "m.room.topic", Some(""));
    let content = json!({"topic": "mine"});
    let topic = shared.there.make_event(&shared.room, &line, event, content);
    shared.server.receive_event(&shared.there, &topic).await;

    let answer_events = shared
        .rooms()
        .federation
        .event_for_server(&shared.there.name, &topic.pdu().event_id)
        .await;

    assert!(
        matches!(answer_events, Err(Error::NotFound(_))),
        "{answer_events:?}"
    );
}

#[tokio::test]
async fn a_space_is_served_only_to_servers_with_access() {
    let shared = ServingFixture::new().await;
    let private = shared.server.create_room(json!({})).await.unwrap();

    let open = shared
        .rooms()
        .previews
        .load_server_hierarchy(&shared.there.name, &shared.id(), false)
        .await;
    let closed = shared
        .rooms()
        .previews
        .load_server_hierarchy(&shared.there.name, &private, false)
        .await;

    let open = serde_json::to_value(open.unwrap()).unwrap();
    assert_eq!(open["room"]["room_id"], json!(shared.id()));
    assert!(matches!(closed, Err(Error::NotFound(_))), "{closed:?}");
    let hidden = text_content("nothing");
    assert!(hidden.is_object());
}

#[tokio::test]
async fn each_server_gets_three_large_answers_at_once() {
    let server = TestServer::new().await;
    let turn = async |name| server.rooms.federation.wait_for_answer_turn(name).await;
    let (there, elsewhere) = (ruma::server_name!("there"), ruma::server_name!("elsewhere"));
    let mut answer_turns = Vec::new();
    for _ in 0..3 {
        answer_turns.push(turn(there).await.unwrap());
    }

    let mut next = Box::pin(turn(there));
    assert!(futures_util::poll!(next.as_mut()).is_pending());
    assert!(turn(elsewhere).await.is_ok());
    answer_turns.pop();

    assert!(next.await.is_ok());
}
