//! Invitations to rooms without members of this server.

use super::{
    remote::{EventLine, RemoteRoom, RemoteServer},
    *,
};
use crate::matrix::VerifiedEvent;

struct InvitationFixture {
    server: TestServer,
    there: RemoteServer,
    room: RemoteRoom,
    line: EventLine,
}

impl InvitationFixture {
    async fn new(version: &str) -> Self {
        let (server, there) = (TestServer::new().await, RemoteServer::new("there"));
        let (room, line, _) = there.create_room(version);
        Self {
            server,
            there,
            room,
            line,
        }
    }

    fn id(&self) -> OwnedRoomId {
        self.room.id.clone().unwrap()
    }

    fn make_member_event(&self, by: &str, whom: &UserId, membership: &str) -> VerifiedEvent {
        let by = self.there.user(by);
        let event = (&*by, "m.room.member", Some(whom.as_str()));
        let content = json!({"membership": membership});
        self.there
            .make_event(&self.room, &self.line, event, content)
    }

    /// Returns the event with which carol retracts an invitation.
    fn make_retraction(&self, whom: &UserId, invitation: &VerifiedEvent) -> VerifiedEvent {
        let mut line = self.line.clone();
        line.state
            .insert(std::sync::Arc::new(invitation.pdu().clone()));
        let event = (
            &*self.there.user("carol"),
            "m.room.member",
            Some(whom.as_str()),
        );
        let content = json!({"membership": "leave"});
        self.there.make_event(&self.room, &line, event, content)
    }

    fn with_stripped_state(&self, event: VerifiedEvent) -> RemoteMembershipEvent {
        let name = json!({
            "type": "m.room.name", "sender": "@carol:there", "state_key": "", "content": {"name": "tea"},
            "event_id": "$name", "origin_server_ts": 7,
        });
        RemoteMembershipEvent {
            version: self.room.version(),
            event,
            stripped_state: vec![to_raw_value(&name).unwrap()],
        }
    }

    async fn receive_invitation(&self, whom: &UserId) -> Result<VerifiedEvent> {
        let invitation = self.make_member_event("carol", whom, "invite");
        let brought = self.with_stripped_state(invitation.clone());
        let signed = self
            .server
            .rooms
            .remote_memberships
            .receive_invitation(&self.there.name, brought)
            .await?;
        assert!(signed.get().contains(r#""here":{"ed25519:1""#), "{signed}");
        Ok(invitation)
    }

    async fn user_room(&self, whom: &UserId) -> UserRoom {
        let user = self.server.user_number(whom).await;
        let num = self
            .server
            .rooms
            .memory
            .room_number(&self.id())
            .await
            .unwrap();
        self.server
            .rooms
            .memory
            .rooms_of_user(user)
            .await
            .unwrap()
            .get(num)
            .unwrap()
    }
}

impl RemoteRoom {
    fn version(&self) -> RoomVersionId {
        let named = self.rules.event_format.require_room_create_room_id;
        if named {
            RoomVersionId::V11
        } else {
            RoomVersionId::V12
        }
    }
}

#[tokio::test]
async fn an_invitation_is_stored_with_stripped_state() {
    for version in ["11", "12"] {
        let fixture = InvitationFixture::new(version).await;

        fixture.receive_invitation(&bob()).await.unwrap();

        let mine = fixture.user_room(&bob()).await;
        assert_eq!(mine.membership, MembershipState::Invite);
        let stripped = mine.stripped_state.unwrap();
        assert!(stripped.contains("tea") && stripped.contains("invite"));
        assert!(!stripped.contains("$name"), "{stripped}");
        let fixture = InvitationFixture {
            server: fixture.server.restart().await,
            ..fixture
        };
        assert_eq!(
            fixture.user_room(&bob()).await.membership,
            MembershipState::Invite
        );
        let refused = fixture
            .server
            .rooms
            .memory
            .resident_room(&fixture.id())
            .await;
        assert!(matches!(refused, Err(Error::NotFound(_))));
    }
}

#[tokio::test]
async fn only_invitations_of_local_users_are_signed() {
    let fixture = InvitationFixture::new("11").await;
    let stranger = user_id!("@x:elsewhere");
    let rooms = &fixture.server.rooms;

    let join = fixture.with_stripped_state(fixture.make_member_event("carol", &bob(), "join"));
    let other = fixture.with_stripped_state(fixture.make_member_event("carol", stranger, "invite"));
    let invite = fixture.with_stripped_state(fixture.make_member_event("carol", &bob(), "invite"));
    let elsewhere = ruma::server_name!("elsewhere");

    for (origin, event) in [
        (&*fixture.there.name, join),
        (&*fixture.there.name, other),
        (elsewhere, invite),
    ] {
        let refused = rooms
            .remote_memberships
            .receive_invitation(origin, event)
            .await;
        assert!(
            matches!(refused, Err(Error::InvalidParam(_))),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn an_invitation_can_be_rejected_without_the_other_server() {
    let fixture = InvitationFixture::new("11").await;
    fixture.receive_invitation(&bob()).await.unwrap();
    let rooms = &fixture.server.rooms;

    let left = rooms
        .remote_memberships
        .leave_remote_room(&fixture.id(), &bob(), None)
        .await;
    let again = rooms
        .remote_memberships
        .leave_remote_room(&fixture.id(), &bob(), None)
        .await;

    left.unwrap();
    assert!(matches!(again, Err(Error::Forbidden(_))), "{again:?}");
    let mine = fixture.user_room(&bob()).await;
    assert_eq!(mine.membership, MembershipState::Leave);
    assert_eq!(mine.stripped_state, None);
}

#[tokio::test]
async fn only_the_inviting_side_can_retract_an_invitation() {
    let fixture = InvitationFixture::new("11").await;
    let invitation = fixture.receive_invitation(&bob()).await.unwrap();
    let elsewhere = RemoteServer::new("elsewhere");
    let mallory = elsewhere.user("mallory");
    let event = (&*mallory, "m.room.member", Some("@bob:here"));
    let content = json!({"membership": "leave"});
    let forged = elsewhere.make_event(&fixture.room, &fixture.line, event, content);
    let kick = fixture.make_retraction(&bob(), &invitation);

    let forged = fixture
        .server
        .receive_with_hints(&elsewhere, &forged, ReceiveHints::default())
        .await;
    assert!(matches!(forged, Err(Error::NotFound(_))), "{forged:?}");
    assert_eq!(
        fixture.user_room(&bob()).await.membership,
        MembershipState::Invite
    );
    fixture.server.receive_event(&fixture.there, &kick).await;

    assert_eq!(
        fixture.user_room(&bob()).await.membership,
        MembershipState::Leave
    );
}

#[tokio::test]
async fn a_knock_is_stored_with_stripped_state() {
    let fixture = InvitationFixture::new("11").await;
    let event = (&*bob(), "m.room.member", Some("@bob:here"));
    let content = json!({"membership": "knock"});
    let draft = fixture
        .there
        .draft_event(&fixture.room, &fixture.line, event, content);
    let mut object = serde_json::from_value(draft).unwrap();
    let rules = &fixture.room.rules;
    fixture
        .server
        .key
        .hash_and_sign(&mut object, rules)
        .unwrap();
    let knock = VerifiedEvent::verify(object, rules, &fixture.server.keys()).unwrap();

    fixture
        .server
        .rooms
        .remote_memberships
        .store_knock(fixture.with_stripped_state(knock))
        .await
        .unwrap();

    let mine = fixture.user_room(&bob()).await;
    assert_eq!(mine.membership, MembershipState::Knock);
    assert!(mine.stripped_state.unwrap().contains("tea"));
}
