//! Receiving events of other servers.

mod forks;

use super::{
    remote::{EventLine, RemoteRoom, RemoteServer, text_content},
    *,
};
use crate::{matrix::VerifiedEvent, numbers::Position};

const MESSAGE_TYPE: &str = "m.room.message";

/// This server and another one, which share a room.
struct ReceivingFixture {
    server: TestServer,
    there: RemoteServer,
    room: RemoteRoom,
    dora: OwnedUserId,
}

impl ReceivingFixture {
    async fn new() -> Self {
        Self::in_version("11").await
    }

    async fn in_version(version: &str) -> Self {
        let (server, there) = (TestServer::new().await, RemoteServer::new("there"));
        let (room, dora) = server.create_shared_room(&there, version).await;
        Self {
            server,
            there,
            room,
            dora,
        }
    }

    fn id(&self) -> OwnedRoomId {
        self.room.id.clone().unwrap()
    }

    async fn event_line(&self) -> EventLine {
        self.server.event_line(&self.id()).await
    }

    fn make_message(&self, line: &EventLine, body: &str) -> VerifiedEvent {
        self.there.make_event(
            &self.room,
            line,
            (&self.dora, MESSAGE_TYPE, None),
            text_content(body),
        )
    }

    fn make_state_event(
        &self,
        line: &EventLine,
        kind: &str,
        key: &str,
        content: serde_json::Value,
    ) -> VerifiedEvent {
        self.there
            .make_event(&self.room, line, (&self.dora, kind, Some(key)), content)
    }

    async fn receive_event(&self, event: &VerifiedEvent) -> ReceiveOutcome {
        self.server.receive_event(&self.there, event).await
    }

    async fn visible_bodies(&self) -> Vec<String> {
        self.server.visible_bodies(&self.id(), &alice()).await
    }

    async fn state_field(&self, kind: &StateEventType, field: &str) -> Option<String> {
        let room = self.server.rooms.memory.room(&self.id()).await.unwrap();
        let view = room.view();
        view.state.get(kind, "")?.content_str(field)
    }

    async fn room_name(&self) -> String {
        let name = self.state_field(&StateEventType::RoomName, "name");
        name.await.unwrap_or_default()
    }

    /// Gives Dora a power level.
    async fn set_level_of_dora(&self, level: i64) {
        let levels = json!({"users": {"@alice:here": 100, &self.dora: level}});
        self.send_state(&StateEventType::RoomPowerLevels, levels)
            .await;
    }

    async fn send_state(&self, kind: &StateEventType, content: serde_json::Value) {
        let event = EventToSend::state(alice(), kind, "", to_raw_value(&content).unwrap());
        self.server
            .rooms
            .sender
            .send(&self.id(), event)
            .await
            .unwrap();
    }

    async fn extremities(&self) -> Vec<OwnedEventId> {
        self.event_line().await.prev_events
    }
}

#[tokio::test]
async fn a_valid_event_is_accepted_once_in_every_version() {
    for version in ["3", "6", "8", "10", "11", "12"] {
        let shared = ReceivingFixture::in_version(version).await;
        let hello = shared.make_message(&shared.event_line().await, "hello");

        assert_eq!(shared.receive_event(&hello).await, ReceiveOutcome::Accepted);
        assert_eq!(
            shared.receive_event(&hello).await,
            ReceiveOutcome::Duplicate
        );
        assert_eq!(
            shared.visible_bodies().await.last().unwrap(),
            "hello",
            "in {version}"
        );

        let restarted = ReceivingFixture {
            server: shared.server.restart().await,
            ..shared
        };
        assert_eq!(
            restarted.receive_event(&hello).await,
            ReceiveOutcome::Duplicate
        );
        assert_eq!(restarted.visible_bodies().await.last().unwrap(), "hello");
    }
}

#[tokio::test]
async fn a_message_of_another_server_counts_as_unread() {
    let shared = ReceivingFixture::new().await;

    let hello = shared.make_message(&shared.event_line().await, "hello");
    shared.receive_event(&hello).await;

    assert_eq!(
        shared.server.unread_counts(&shared.id(), &alice()).await,
        (1, 0)
    );
}

#[tokio::test]
async fn an_unauthorized_event_and_events_citing_it_are_rejected() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let stranger = shared.there.user("stranger");
    let event = (&*stranger, "m.room.member", Some(shared.dora.as_str()));
    let kick = shared
        .there
        .make_event(&shared.room, &line, event, json!({"membership": "leave"}));
    let mut next = shared.there.draft_event(
        &shared.room,
        &line,
        (&shared.dora, MESSAGE_TYPE, None),
        text_content("no"),
    );
    next["auth_events"]
        .as_array_mut()
        .unwrap()
        .retain(|id| *id != line.state.member(&shared.dora).unwrap().event_id.as_str());
    next["auth_events"]
        .as_array_mut()
        .unwrap()
        .push(json!(kick.pdu().event_id));
    let next = shared.there.sign_and_verify(next, &shared.room);

    let first = shared.receive_event(&kick).await;
    let second = shared.receive_event(&next).await;

    assert!(matches!(first, ReceiveOutcome::Rejected(_)), "{first:?}");
    assert!(matches!(second, ReceiveOutcome::Rejected(reason) if reason.contains("rejected")));
    assert!(!shared.visible_bodies().await.contains(&"no".to_owned()));
}

#[tokio::test]
async fn an_event_may_follow_a_rejected_event() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let topic = shared.make_state_event(&line, "m.room.topic", "", json!({"topic": "mine"}));
    let after = EventLine {
        prev_events: vec![topic.pdu().event_id.clone()],
        ..line.clone()
    };
    let hello = shared.make_message(&after, "hello");

    let first = shared.receive_event(&topic).await;
    let second = shared.receive_event(&hello).await;

    assert!(matches!(first, ReceiveOutcome::Rejected(_)), "{first:?}");
    assert_eq!(second, ReceiveOutcome::Accepted);
    assert_eq!(
        shared
            .state_field(&StateEventType::RoomTopic, "topic")
            .await,
        None
    );
    // Through the rejected event it follows the extremities that the room had.
    assert_eq!(
        shared.extremities().await,
        std::slice::from_ref(&hello.pdu().event_id)
    );
}

#[tokio::test]
async fn an_event_with_a_wrong_or_missing_signature_is_refused() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let (room, dora) = (&shared.room, &shared.dora);
    let draft = shared.there.draft_event(
        room,
        &line,
        (dora, MESSAGE_TYPE, None),
        text_content("hello"),
    );
    let stranger = RemoteServer::new("there");

    let forged = stranger.sign_event(draft.clone(), &room.rules);
    let forged = VerifiedEvent::verify(forged, &room.rules, &shared.there.keys());
    let mut unsigned = shared.there.sign_event(draft, &room.rules);
    unsigned.remove("signatures");
    let unsigned = VerifiedEvent::verify(unsigned, &room.rules, &shared.there.keys());

    assert!(matches!(forged, Err(Error::InvalidSignature(_))));
    assert!(matches!(unsigned, Err(Error::InvalidSignature(_))));
}

#[tokio::test]
async fn an_event_with_a_wrong_hash_is_redacted() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let (room, dora) = (&shared.room, &shared.dora);
    let draft = shared.there.draft_event(
        room,
        &line,
        (dora, MESSAGE_TYPE, None),
        text_content("hello"),
    );
    let mut changed = shared.there.sign_event(draft, &room.rules);
    let content = serde_json::from_value(text_content("changed")).unwrap();
    changed.insert("content".to_owned(), content);

    let event = VerifiedEvent::verify(changed, &room.rules, &shared.there.keys()).unwrap();

    assert!(event.is_redacted());
    assert_eq!(shared.receive_event(&event).await, ReceiveOutcome::Accepted);
    assert_eq!(shared.visible_bodies().await.last().unwrap(), MESSAGE_TYPE);
}

#[tokio::test]
async fn an_event_is_accepted_after_its_missing_prev_event() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let one = shared.make_message(&line, "one");
    let two = shared.make_message(&line.after(&one), "two");

    let missing = shared.receive_event(&two).await;
    assert_eq!(
        missing,
        ReceiveOutcome::Missing {
            prev: vec![one.pdu().event_id.clone()],
            auth: Vec::new()
        }
    );
    assert_eq!(shared.receive_event(&one).await, ReceiveOutcome::Accepted);
    assert_eq!(shared.receive_event(&two).await, ReceiveOutcome::Accepted);

    let seen = shared.visible_bodies().await;
    assert!(seen.ends_with(&["one".to_owned(), "two".to_owned()]));
}

#[tokio::test]
async fn a_lost_auth_event_rejects_the_event_until_it_arrives() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let dora = shared.dora.to_string();
    let content = json!({"membership": "join", "displayname": "Dora"});
    let renamed = shared.make_state_event(&line, "m.room.member", &dora, content);
    let mut other = line.clone();
    other.state.insert(Arc::new(renamed.pdu().clone()));
    let hello = shared.make_message(&other, "hello");

    let missing = shared.receive_event(&hello).await;
    let lost = ReceiveHints {
        auth_events_are_lost: true,
        ..ReceiveHints::default()
    };
    let rejected = shared
        .server
        .receive_with_hints(&shared.there, &hello, lost)
        .await
        .unwrap();
    let again = shared.receive_event(&hello).await;

    let auth = vec![renamed.pdu().event_id.clone()];
    let wanted = ReceiveOutcome::Missing {
        prev: Vec::new(),
        auth,
    };
    assert_eq!(missing, wanted);
    assert!(matches!(rejected, ReceiveOutcome::Rejected(_)));
    assert_eq!(again, wanted);
    // The message follows the events before the rename. The member event there also allows it, so it is accepted.
    assert_eq!(
        shared.receive_event(&renamed).await,
        ReceiveOutcome::Accepted
    );
    assert_eq!(shared.receive_event(&hello).await, ReceiveOutcome::Accepted);
}

#[tokio::test]
async fn an_event_forbidden_by_the_current_state_soft_fails() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let ban = MembershipAction::Ban;
    let (id, dora) = (shared.id(), shared.dora.clone());
    shared
        .server
        .change_membership(&id, alice(), dora, ban)
        .await
        .unwrap();
    let before = shared.extremities().await;

    let hello = shared.make_message(&line, "hello");
    let received = shared.receive_event(&hello).await;

    assert!(
        matches!(received, ReceiveOutcome::SoftFailed(_)),
        "{received:?}"
    );
    assert!(!shared.visible_bodies().await.contains(&"hello".to_owned()));
    assert_eq!(shared.extremities().await, before);
    assert_eq!(
        shared.receive_event(&hello).await,
        ReceiveOutcome::Duplicate
    );
}

#[tokio::test]
async fn an_event_of_a_server_denied_by_acl_is_refused() {
    let shared = ReceivingFixture::new().await;
    let hello = shared.make_message(&shared.event_line().await, "hello");
    let acl = json!({"allow": ["*"], "deny": ["there"]});
    shared.send_state(&StateEventType::RoomServerAcl, acl).await;

    let hints = ReceiveHints::default();
    let refused = shared
        .server
        .receive_with_hints(&shared.there, &hello, hints)
        .await;

    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
}

#[tokio::test]
async fn a_room_without_local_members_receives_no_events() {
    let shared = ReceivingFixture::new().await;
    let id = shared.id();
    let hello = shared.make_message(&shared.event_line().await, "hello");
    shared
        .server
        .change_membership(&id, alice(), alice(), MembershipAction::Leave)
        .await
        .unwrap();

    let hints = ReceiveHints::default();
    let refused = shared
        .server
        .receive_with_hints(&shared.there, &hello, hints)
        .await;

    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
}

#[tokio::test]
async fn a_redaction_takes_effect_when_its_target_arrives() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let hello = shared.make_message(&line, "hello");
    let event = (&*shared.dora, "m.room.redaction", None);
    let content = json!({"redacts": hello.pdu().event_id});
    let redaction = shared.there.make_event(&shared.room, &line, event, content);

    assert_eq!(
        shared.receive_event(&redaction).await,
        ReceiveOutcome::Accepted
    );
    assert_eq!(shared.receive_event(&hello).await, ReceiveOutcome::Accepted);

    assert!(!shared.visible_bodies().await.contains(&"hello".to_owned()));
}

#[tokio::test]
async fn a_redaction_without_enough_power_changes_nothing() {
    let shared = ReceivingFixture::new().await;
    let id = shared.id();
    let mine = shared
        .server
        .send_message(&id, alice(), "mine", None)
        .await
        .unwrap();
    let event = (&*shared.dora, "m.room.redaction", None);
    let content = json!({"redacts": mine});
    let line = shared.event_line().await;
    let redaction = shared.there.make_event(&shared.room, &line, event, content);

    shared.receive_event(&redaction).await;

    assert!(shared.visible_bodies().await.contains(&"mine".to_owned()));
}

#[tokio::test]
async fn an_event_after_a_gap_is_accepted_with_supplied_state() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let lost = shared.make_message(&line, "lost");
    let found = shared.make_message(&line.after(&lost), "found");
    let state = line.state.iter().map(|pdu| pdu.event_id.clone()).collect();
    let hints = ReceiveHints {
        state_before: Some(state),
        ..ReceiveHints::default()
    };

    let received = shared
        .server
        .receive_with_hints(&shared.there, &found, hints)
        .await;

    assert_eq!(received.unwrap(), ReceiveOutcome::Accepted);
    let room = shared.server.rooms.memory.room(&shared.id()).await.unwrap();
    let gaps = shared
        .server
        .rooms
        .receiver
        .find_gaps(&room, Position::MIN, Position::MAX)
        .await
        .unwrap();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].missing, std::slice::from_ref(&lost.pdu().event_id));
    assert_eq!(shared.receive_event(&lost).await, ReceiveOutcome::Accepted);
    let seen = shared.visible_bodies().await;
    assert!(
        seen.ends_with(&["lost".to_owned(), "found".to_owned()]),
        "{seen:?}"
    );
    let gaps = shared
        .server
        .rooms
        .receiver
        .find_gaps(&room, Position::MIN, Position::MAX)
        .await
        .unwrap();
    assert!(gaps.is_empty(), "{gaps:?}");
}

#[tokio::test]
async fn concurrent_duplicate_events_are_accepted_once() {
    let shared = ReceivingFixture::new().await;
    let line = shared.event_line().await;
    let events: Vec<VerifiedEvent> = (0..20)
        .map(|n| shared.make_message(&line, &format!("event {n}")))
        .collect();

    let twice = events.iter().chain(&events);
    let received =
        futures_util::future::join_all(twice.map(|event| shared.receive_event(event))).await;

    let accepted = received
        .iter()
        .filter(|received| **received == ReceiveOutcome::Accepted)
        .count();
    assert_eq!(accepted, 20, "{received:?}");
    let seen = shared.visible_bodies().await;
    let count = seen.iter().filter(|body| body.starts_with("event")).count();
    assert_eq!(count, 20);
}
