//! Invitations to rooms without members of this server.

use super::{
    remote::{Line, Remote, RemoteRoom},
    *,
};
use crate::matrix::Verified;

struct Outside {
    house: House,
    there: Remote,
    room: RemoteRoom,
    line: Line,
}

impl Outside {
    async fn new(version: &str) -> Self {
        let (house, there) = (House::new().await, Remote::new("there"));
        let (room, line, _) = there.creates(version);
        Self {
            house,
            there,
            room,
            line,
        }
    }

    fn id(&self) -> OwnedRoomId {
        self.room.id.clone().unwrap()
    }

    fn makes(&self, by: &str, whom: &UserId, membership: &str) -> Verified {
        let by = self.there.user(by);
        let event = (&*by, "m.room.member", Some(whom.as_str()));
        let content = json!({"membership": membership});
        self.there.makes(&self.room, &self.line, event, content)
    }

    /// Returns the event with which carol retracts an invitation.
    fn retracts(&self, whom: &UserId, invitation: &Verified) -> Verified {
        let mut line = self.line.clone();
        line.state
            .insert(std::sync::Arc::new(invitation.pdu().clone()));
        let event = (
            &*self.there.user("carol"),
            "m.room.member",
            Some(whom.as_str()),
        );
        let content = json!({"membership": "leave"});
        self.there.makes(&self.room, &line, event, content)
    }

    fn brings(&self, event: Verified) -> FromOutside {
        let name = json!({
            "type": "m.room.name", "sender": "@carol:there", "state_key": "", "content": {"name": "tea"},
            "event_id": "$name", "origin_server_ts": 7,
        });
        FromOutside {
            version: self.room.version(),
            event,
            stripped_state: vec![to_raw_value(&name).unwrap()],
        }
    }

    async fn invites(&self, whom: &UserId) -> Result<Verified> {
        let invitation = self.makes("carol", whom, "invite");
        let brought = self.brings(invitation.clone());
        let signed = self
            .house
            .rooms
            .remote_memberships
            .receive_invitation(&self.there.name, brought)
            .await?;
        assert!(signed.get().contains(r#""here":{"ed25519:1""#), "{signed}");
        Ok(invitation)
    }

    async fn mine(&self, whom: &UserId) -> UserRoom {
        let user = self.house.number_of(whom).await;
        let num = self.house.rooms.memory.number(&self.id()).await.unwrap();
        self.house
            .rooms
            .memory
            .of_user(user)
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
async fn an_invitation_comes_with_what_may_be_known_of_the_room() {
    for version in ["11", "12"] {
        let outside = Outside::new(version).await;

        outside.invites(&bob()).await.unwrap();

        let mine = outside.mine(&bob()).await;
        assert_eq!(mine.membership, MembershipState::Invite);
        let stripped = mine.stripped_state.unwrap();
        assert!(stripped.contains("tea") && stripped.contains("invite"));
        assert!(!stripped.contains("$name"), "{stripped}");
        let outside = Outside {
            house: outside.house.restart().await,
            ..outside
        };
        assert_eq!(
            outside.mine(&bob()).await.membership,
            MembershipState::Invite
        );
        let refused = outside.house.rooms.memory.resident(&outside.id()).await;
        assert!(matches!(refused, Err(Error::NotFound(_))));
    }
}

#[tokio::test]
async fn what_is_no_invitation_of_a_user_here_is_not_signed() {
    let outside = Outside::new("11").await;
    let stranger = user_id!("@x:elsewhere");
    let rooms = &outside.house.rooms;

    let join = outside.brings(outside.makes("carol", &bob(), "join"));
    let other = outside.brings(outside.makes("carol", stranger, "invite"));
    let invite = outside.brings(outside.makes("carol", &bob(), "invite"));
    let elsewhere = ruma::server_name!("elsewhere");

    for (origin, event) in [
        (&*outside.there.name, join),
        (&*outside.there.name, other),
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
async fn an_invitation_is_turned_down_though_the_other_server_is_gone() {
    let outside = Outside::new("11").await;
    outside.invites(&bob()).await.unwrap();
    let rooms = &outside.house.rooms;

    let left = rooms
        .remote_memberships
        .leave_outside(&outside.id(), &bob(), None)
        .await;
    let again = rooms
        .remote_memberships
        .leave_outside(&outside.id(), &bob(), None)
        .await;

    left.unwrap();
    assert!(matches!(again, Err(Error::Forbidden(_))), "{again:?}");
    let mine = outside.mine(&bob()).await;
    assert_eq!(mine.membership, MembershipState::Leave);
    assert_eq!(mine.stripped_state, None);
}

#[tokio::test]
async fn who_invited_can_take_the_invitation_back_and_nobody_else() {
    let outside = Outside::new("11").await;
    let invitation = outside.invites(&bob()).await.unwrap();
    let elsewhere = Remote::new("elsewhere");
    let mallory = elsewhere.user("mallory");
    let event = (&*mallory, "m.room.member", Some("@bob:here"));
    let content = json!({"membership": "leave"});
    let forged = elsewhere.makes(&outside.room, &outside.line, event, content);
    let kick = outside.retracts(&bob(), &invitation);

    let forged = outside
        .house
        .takes(&elsewhere, &forged, Help::default())
        .await;
    assert!(matches!(forged, Err(Error::NotFound(_))), "{forged:?}");
    assert_eq!(
        outside.mine(&bob()).await.membership,
        MembershipState::Invite
    );
    outside.house.receives(&outside.there, &kick).await;

    assert_eq!(
        outside.mine(&bob()).await.membership,
        MembershipState::Leave
    );
}

#[tokio::test]
async fn a_knock_waits_with_what_may_be_known_of_the_room() {
    let outside = Outside::new("11").await;
    let event = (&*bob(), "m.room.member", Some("@bob:here"));
    let content = json!({"membership": "knock"});
    let draft = outside
        .there
        .drafts(&outside.room, &outside.line, event, content);
    let mut object = serde_json::from_value(draft).unwrap();
    let rules = &outside.room.rules;
    outside.house.key.hash_and_sign(&mut object, rules).unwrap();
    let knock = Verified::check(object, rules, &outside.house.keys()).unwrap();

    outside
        .house
        .rooms
        .remote_memberships
        .store_knock(outside.brings(knock))
        .await
        .unwrap();

    let mine = outside.mine(&bob()).await;
    assert_eq!(mine.membership, MembershipState::Knock);
    assert!(mine.stripped_state.unwrap().contains("tea"));
}
