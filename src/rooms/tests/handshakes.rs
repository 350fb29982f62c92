//! Joins, leaves and knocks of users of other servers.

mod restricted_joins;

use ruma::{canonical_json::CanonicalJsonObject, signatures::PublicKeyMap};

use super::{
    remote::{RemoteRoom, RemoteServer, text_content},
    *,
};
use crate::matrix::{StateMap, VerifiedEvent};

/// A server with a room, and another server whose user joins, leaves or knocks.
struct HandshakeFixture {
    server: TestServer,
    there: RemoteServer,
    room: RemoteRoom,
}

impl HandshakeFixture {
    async fn new(version: &str, rule: serde_json::Value) -> Self {
        let (server, there) = (TestServer::new().await, RemoteServer::new("there"));
        let id = server
            .create_room(json!({"room_version": version}))
            .await
            .unwrap();
        let rules = EventToSend::state(
            alice(),
            &StateEventType::RoomJoinRules,
            "",
            to_raw_value(&rule).unwrap(),
        );
        server.rooms.sender.send(&id, rules).await.unwrap();
        let room = RemoteRoom::from_room(&server.rooms.memory.room(&id).await.unwrap());
        Self {
            server,
            there,
            room,
        }
    }

    fn id(&self) -> OwnedRoomId {
        self.room.id.clone().unwrap()
    }

    fn eve(&self) -> RemoteApplicant {
        RemoteApplicant {
            origin: self.there.name.clone(),
            user_id: self.there.user("eve"),
            room_id: self.id(),
        }
    }

    fn keys(&self) -> PublicKeyMap {
        self.there
            .keys()
            .into_iter()
            .chain(self.server.keys())
            .collect()
    }

    async fn make_event(&self, handshake: MembershipHandshake) -> Result<MembershipDraft> {
        self.server
            .rooms
            .resident
            .make_membership_event(handshake, &self.eve(), &[])
            .await
    }

    fn sign_offer(&self, offer: &MembershipDraft) -> CanonicalJsonObject {
        let mut event: serde_json::Value = serde_json::from_str(offer.event.get()).unwrap();
        if self.room.rules.event_format.require_event_id {
            event["event_id"] = json!("$made:there");
        }
        self.there.sign_event(event, &self.room.rules)
    }

    async fn send_signed(
        &self,
        handshake: MembershipHandshake,
        signed: CanonicalJsonObject,
    ) -> Result<(StateMap, VerifiedEvent)> {
        let rooms = &self.server.rooms;
        let signed = rooms
            .resident
            .countersign(handshake, &self.eve(), signed)
            .await?;
        let event = VerifiedEvent::verify(signed, &self.room.rules, &self.keys())?;
        let before = rooms
            .resident
            .accept_signed_event(handshake, &self.eve(), event.clone())
            .await?;
        Ok((before, event))
    }

    async fn complete_handshake(
        &self,
        handshake: MembershipHandshake,
    ) -> Result<(StateMap, VerifiedEvent)> {
        let offer = self.make_event(handshake).await?;
        self.send_signed(handshake, self.sign_offer(&offer)).await
    }

    async fn membership(&self) -> MembershipState {
        let room = self.server.rooms.memory.room(&self.id()).await.unwrap();
        room.view().state.membership(&self.eve().user_id)
    }
}

fn public_join_rule() -> serde_json::Value {
    json!({"join_rule": "public"})
}

#[tokio::test]
async fn a_user_of_another_server_joins_and_leaves_in_every_version() {
    for version in ["3", "6", "9", "10", "11", "12"] {
        let fixture = HandshakeFixture::new(version, public_join_rule()).await;

        let (before, _) = fixture
            .complete_handshake(MembershipHandshake::Join)
            .await
            .unwrap();
        assert_eq!(
            before.membership(&fixture.eve().user_id),
            MembershipState::Leave
        );
        assert_eq!(
            fixture.membership().await,
            MembershipState::Join,
            "in {version}"
        );
        let servers = fixture
            .server
            .rooms
            .federation
            .servers_in_room(&fixture.id())
            .await
            .unwrap();
        assert_eq!(servers, ["here", "there"]);

        if version != "3" {
            fixture
                .complete_handshake(MembershipHandshake::Leave)
                .await
                .unwrap();
            assert_eq!(fixture.membership().await, MembershipState::Leave);
            let servers = fixture
                .server
                .rooms
                .federation
                .servers_in_room(&fixture.id())
                .await
                .unwrap();
            assert_eq!(servers, ["here"]);
        }
    }
}

#[tokio::test]
async fn a_repeated_join_gets_the_same_answer() {
    let fixture = HandshakeFixture::new("11", public_join_rule()).await;
    let offer = fixture.make_event(MembershipHandshake::Join).await.unwrap();
    let signed = fixture.sign_offer(&offer);

    let (first, _) = fixture
        .send_signed(MembershipHandshake::Join, signed.clone())
        .await
        .unwrap();
    let (again, _) = fixture
        .send_signed(MembershipHandshake::Join, signed)
        .await
        .unwrap();

    assert!(first.differing_keys(&again).is_empty());
}

#[tokio::test]
async fn another_server_can_import_the_join_answer() {
    for version in ["6", "11", "12"] {
        let fixture = HandshakeFixture::new(version, public_join_rule()).await;
        let other = TestServer::named("there").await;
        let eve = fixture.eve();
        let offer = fixture.make_event(MembershipHandshake::Join).await.unwrap();
        let mut signed = serde_json::from_str(offer.event.get()).unwrap();
        other
            .key
            .hash_and_sign(&mut signed, &fixture.room.rules)
            .unwrap();
        let keys: PublicKeyMap = other
            .keys()
            .into_iter()
            .chain(fixture.server.keys())
            .collect();
        let check = |object| VerifiedEvent::verify(object, &fixture.room.rules, &keys).unwrap();
        let join = check(signed);
        let rooms = &fixture.server.rooms;
        let before = rooms
            .resident
            .accept_signed_event(MembershipHandshake::Join, &eve, join.clone())
            .await;
        let before = before.unwrap();
        let whole = rooms
            .federation
            .join_answer(join.pdu(), &before, false)
            .await
            .unwrap();
        let read = async |ids: &[OwnedEventId]| -> Vec<VerifiedEvent> {
            let jsons = rooms
                .federation
                .load_events_for_server(rooms.memory.server_name(), ids)
                .await
                .unwrap();
            let events = jsons
                .iter()
                .map(|json| serde_json::from_str(json.get()).unwrap());
            events.map(check).collect()
        };

        let import = RoomImport {
            origin: rooms.memory.server_name().to_owned(),
            version: offer.version,
            state: read(&whole.state).await,
            auth_chain: read(&whole.auth_chain).await,
            join,
        };
        other.rooms.join_import.import(import).await.unwrap();

        let (ours, theirs) = (
            fixture.server.event_line(&fixture.id()).await,
            other.event_line(&fixture.id()).await,
        );
        assert!(ours.state.differing_keys(&theirs.state).is_empty());
        assert_eq!(ours.prev_events, theirs.prev_events);
    }
}

#[tokio::test]
async fn a_join_answer_without_members_keeps_servers_and_heroes() {
    let fixture = HandshakeFixture::new("11", public_join_rule()).await;
    let id = fixture.id();
    let bob_joins = fixture
        .server
        .change_membership(&id, bob(), bob(), MembershipAction::Join);
    bob_joins.await.unwrap();
    let (before, join) = fixture
        .complete_handshake(MembershipHandshake::Join)
        .await
        .unwrap();
    let rooms = &fixture.server.rooms;
    let room = rooms.memory.room(&fixture.id()).await.unwrap();

    let partial = rooms
        .federation
        .join_answer(join.pdu(), &before, true)
        .await
        .unwrap();
    let named = EventToSend::state(
        alice(),
        &StateEventType::RoomName,
        "",
        to_raw_value(&json!({"name": "tea"})).unwrap(),
    );
    rooms.sender.send(&fixture.id(), named).await.unwrap();
    let state = room.view().state.clone();
    let of_named = rooms
        .federation
        .join_answer(join.pdu(), &state, true)
        .await
        .unwrap();

    assert!(partial.members_omitted);
    assert_eq!(partial.servers_in_room, ["here"]);
    let member = |who: &UserId| before.member(who).unwrap().event_id.clone();
    assert!(
        partial.state.contains(&member(&bob())),
        "the members that name the room are kept"
    );
    assert!(!of_named.state.contains(&member(&bob())));
    assert!(of_named.auth_chain.contains(&member(&alice())));
    assert!(
        partial
            .auth_chain
            .iter()
            .all(|id| !partial.state.contains(id))
    );
}

#[tokio::test]
async fn users_who_may_not_join_get_no_event_to_sign() {
    let fixture = HandshakeFixture::new("11", json!({"join_rule": "invite"})).await;
    let rooms = &fixture.server.rooms;

    let private = fixture.make_event(MembershipHandshake::Join).await;
    let knock = fixture.make_event(MembershipHandshake::Knock).await;
    let stranger = RemoteApplicant {
        user_id: user_id!("@eve:elsewhere").to_owned(),
        ..fixture.eve()
    };
    let stranger = rooms
        .resident
        .make_membership_event(MembershipHandshake::Join, &stranger, &[])
        .await;
    let unknown = RemoteApplicant {
        room_id: OwnedRoomId::try_from("!nowhere:there").unwrap(),
        ..fixture.eve()
    };
    let unknown = rooms
        .resident
        .make_membership_event(MembershipHandshake::Join, &unknown, &[])
        .await;

    for refused in [private, knock, stranger] {
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    }
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
}

#[tokio::test]
async fn an_unsupported_room_version_is_named_in_the_error() {
    let fixture = HandshakeFixture::new("11", public_join_rule()).await;

    let versions = [RoomVersionId::V9, RoomVersionId::V10];
    let rooms = &fixture.server.rooms;
    let refused = rooms
        .resident
        .make_membership_event(MembershipHandshake::Join, &fixture.eve(), &versions)
        .await;

    assert!(matches!(
        refused,
        Err(Error::IncompatibleRoomVersion(RoomVersionId::V11))
    ));
}

#[tokio::test]
async fn a_server_denied_by_acl_is_refused_both_handshake_steps() {
    let fixture = HandshakeFixture::new("11", public_join_rule()).await;
    let acl = EventToSend::state(
        alice(),
        &StateEventType::RoomServerAcl,
        "",
        to_raw_value(&json!({"allow": ["*"], "deny": ["there"]})).unwrap(),
    );
    let offer = fixture.make_event(MembershipHandshake::Join).await.unwrap();
    fixture
        .server
        .rooms
        .sender
        .send(&fixture.id(), acl)
        .await
        .unwrap();

    let made = fixture.make_event(MembershipHandshake::Join).await;
    let sent = fixture
        .send_signed(MembershipHandshake::Join, fixture.sign_offer(&offer))
        .await;

    assert!(matches!(made, Err(Error::Forbidden(_))), "{made:?}");
    assert!(matches!(sent, Err(Error::Forbidden(_))));
}

#[tokio::test]
async fn a_signed_event_unlike_the_request_is_refused() {
    let fixture = HandshakeFixture::new("11", public_join_rule()).await;
    let offer = fixture.make_event(MembershipHandshake::Join).await.unwrap();
    let event: serde_json::Value = serde_json::from_str(offer.event.get()).unwrap();
    let change = |field: &str, value: serde_json::Value| {
        let mut event = event.clone();
        event[field] = value;
        fixture.there.sign_event(event, &fixture.room.rules)
    };

    let other = [
        change("type", json!("m.room.topic")),
        change("content", json!({"membership": "leave"})),
        change("state_key", json!("@mallory:there")),
        change("sender", json!("@alice:here")),
        change("room_id", json!("!other:here")),
    ];

    for event in other {
        let refused = fixture.send_signed(MembershipHandshake::Join, event).await;
        assert!(matches!(refused, Err(Error::InvalidParam(_))));
    }
}

#[tokio::test]
async fn a_user_banned_during_the_handshake_cannot_join() {
    let fixture = HandshakeFixture::new("11", public_join_rule()).await;
    let offer = fixture.make_event(MembershipHandshake::Join).await.unwrap();
    let eve = fixture.eve().user_id;
    let id = fixture.id();
    let ban = fixture
        .server
        .change_membership(&id, alice(), eve, MembershipAction::Ban);
    ban.await.unwrap();

    // Sending the refused event again does not help.
    for _ in 0..2 {
        let refused = fixture
            .send_signed(MembershipHandshake::Join, fixture.sign_offer(&offer))
            .await;
        assert!(matches!(refused, Err(Error::Forbidden(_))));
    }
    assert_eq!(fixture.membership().await, MembershipState::Ban);
}

#[tokio::test]
async fn a_user_may_knock_and_then_retract_the_knock() {
    let fixture = HandshakeFixture::new("11", json!({"join_rule": "knock"})).await;

    let (before, _) = fixture
        .complete_handshake(MembershipHandshake::Knock)
        .await
        .unwrap();
    assert_eq!(fixture.membership().await, MembershipState::Knock);
    assert!(
        !fixture
            .server
            .rooms
            .resident
            .knock_room_state(&before)
            .is_empty()
    );

    fixture
        .complete_handshake(MembershipHandshake::Leave)
        .await
        .unwrap();
    assert_eq!(fixture.membership().await, MembershipState::Leave);
}

#[tokio::test]
async fn only_events_sent_through_this_server_are_outgoing() {
    let fixture = HandshakeFixture::new("11", public_join_rule()).await;
    let id = fixture.id();
    let start = fixture.server.test.db.journal().published_position();
    let (_, join) = fixture
        .complete_handshake(MembershipHandshake::Join)
        .await
        .unwrap();
    let hello = fixture
        .server
        .send_message(&id, alice(), "hello", None)
        .await
        .unwrap();
    let line = fixture.server.event_line(&id).await;
    let eve = fixture.eve().user_id;
    let event = (&*eve, "m.room.message", None);
    let hi = fixture
        .there
        .make_event(&fixture.room, &line, event, text_content("hi"));
    fixture.server.receive_event(&fixture.there, &hi).await;
    let carol = user_id!("@carol:elsewhere").to_owned();
    let invite = fixture
        .server
        .change_membership(&id, alice(), carol, MembershipAction::Invite);
    invite.await.unwrap();

    let page = fixture
        .server
        .rooms
        .federation
        .outgoing_events(start)
        .await
        .unwrap();

    let sent: Vec<_> = page.events.iter().map(|sent| &sent.event_id).collect();
    assert_eq!(sent[0], &hello, "the join came from the only other server");
    assert!(!sent.contains(&&hi.pdu().event_id));
    assert!(!sent.contains(&&join.pdu().event_id));
    assert_eq!(page.events[0].servers, ["there"]);
    // The invited user's server has the invitation already, and cannot check it in a transaction.
    assert_eq!(page.events[1].servers, ["there"]);
    assert!(
        fixture
            .server
            .rooms
            .federation
            .outgoing_events(page.up_to)
            .await
            .unwrap()
            .events
            .is_empty()
    );
}
