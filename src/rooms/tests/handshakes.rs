//! Joins, leaves and knocks of users of other servers.

use ruma::{canonical_json::CanonicalJsonObject, signatures::PublicKeyMap};

use super::{
    remote::{Remote, RemoteRoom, text},
    *,
};
use crate::matrix::{StateMap, Verified};

/// A server with a room, and another server whose user joins, leaves or knocks.
struct Door {
    house: House,
    there: Remote,
    room: RemoteRoom,
}

impl Door {
    async fn new(version: &str, rule: serde_json::Value) -> Self {
        let (house, there) = (House::new().await, Remote::new("there"));
        let id = house
            .creates(json!({"room_version": version}))
            .await
            .unwrap();
        let rules = NewEvent::state(
            alice(),
            &StateEventType::RoomJoinRules,
            "",
            to_raw_value(&rule).unwrap(),
        );
        house.rooms.sender.send(&id, rules).await.unwrap();
        let room = RemoteRoom::of(&house.rooms.memory.room(&id).await.unwrap());
        Self { house, there, room }
    }

    fn id(&self) -> OwnedRoomId {
        self.room.id.clone().unwrap()
    }

    fn eve(&self) -> Applicant {
        Applicant {
            origin: self.there.name.clone(),
            user_id: self.there.user("eve"),
            room_id: self.id(),
        }
    }

    fn keys(&self) -> PublicKeyMap {
        self.there
            .keys()
            .into_iter()
            .chain(self.house.keys())
            .collect()
    }

    async fn makes(&self, handshake: Handshake) -> Result<Offer> {
        self.house
            .rooms
            .resident
            .make_event(handshake, &self.eve(), &[])
            .await
    }

    fn signs(&self, offer: &Offer) -> CanonicalJsonObject {
        let mut event: serde_json::Value = serde_json::from_str(offer.event.get()).unwrap();
        if self.room.rules.event_format.require_event_id {
            event["event_id"] = json!("$made:there");
        }
        self.there.signs(event, &self.room.rules)
    }

    async fn sends(
        &self,
        handshake: Handshake,
        signed: CanonicalJsonObject,
    ) -> Result<(StateMap, Verified)> {
        let rooms = &self.house.rooms;
        let signed = rooms
            .resident
            .countersign(handshake, &self.eve(), signed)
            .await?;
        let event = Verified::check(signed, &self.room.rules, &self.keys())?;
        let before = rooms
            .resident
            .accept_signed(handshake, &self.eve(), event.clone())
            .await?;
        Ok((before, event))
    }

    async fn does(&self, handshake: Handshake) -> Result<(StateMap, Verified)> {
        let offer = self.makes(handshake).await?;
        self.sends(handshake, self.signs(&offer)).await
    }

    async fn membership(&self) -> MembershipState {
        let room = self.house.rooms.memory.room(&self.id()).await.unwrap();
        room.view().state.membership(&self.eve().user_id)
    }
}

fn public() -> serde_json::Value {
    json!({"join_rule": "public"})
}

#[tokio::test]
async fn a_user_of_another_server_joins_and_leaves_in_every_version() {
    for version in ["3", "6", "9", "10", "11", "12"] {
        let door = Door::new(version, public()).await;

        let (before, _) = door.does(Handshake::Join).await.unwrap();
        assert_eq!(
            before.membership(&door.eve().user_id),
            MembershipState::Leave
        );
        assert_eq!(
            door.membership().await,
            MembershipState::Join,
            "in {version}"
        );
        let servers = door
            .house
            .rooms
            .federation
            .servers_in(&door.id())
            .await
            .unwrap();
        assert_eq!(servers, ["here", "there"]);

        if version != "3" {
            door.does(Handshake::Leave).await.unwrap();
            assert_eq!(door.membership().await, MembershipState::Leave);
            let servers = door
                .house
                .rooms
                .federation
                .servers_in(&door.id())
                .await
                .unwrap();
            assert_eq!(servers, ["here"]);
        }
    }
}

#[tokio::test]
async fn whoever_joins_again_with_the_same_event_is_answered_the_same() {
    let door = Door::new("11", public()).await;
    let offer = door.makes(Handshake::Join).await.unwrap();
    let signed = door.signs(&offer);

    let (first, _) = door.sends(Handshake::Join, signed.clone()).await.unwrap();
    let (again, _) = door.sends(Handshake::Join, signed).await.unwrap();

    assert!(first.differences(&again).is_empty());
}

#[tokio::test]
async fn the_answer_to_a_join_is_a_room_that_can_be_taken_over() {
    for version in ["6", "11", "12"] {
        let door = Door::new(version, public()).await;
        let other = House::named("there").await;
        let eve = door.eve();
        let offer = door.makes(Handshake::Join).await.unwrap();
        let mut signed = serde_json::from_str(offer.event.get()).unwrap();
        other
            .key
            .hash_and_sign(&mut signed, &door.room.rules)
            .unwrap();
        let keys: PublicKeyMap = other.keys().into_iter().chain(door.house.keys()).collect();
        let check = |object| Verified::check(object, &door.room.rules, &keys).unwrap();
        let join = check(signed);
        let rooms = &door.house.rooms;
        let before = rooms
            .resident
            .accept_signed(Handshake::Join, &eve, join.clone())
            .await;
        let before = before.unwrap();
        let whole = rooms
            .federation
            .join_answer((join.pdu(), &before), false)
            .await
            .unwrap();
        let read = async |ids: &[OwnedEventId]| -> Vec<Verified> {
            let jsons = rooms
                .federation
                .jsons(rooms.memory.server_name(), ids)
                .await
                .unwrap();
            let events = jsons
                .iter()
                .map(|json| serde_json::from_str(json.get()).unwrap());
            events.map(check).collect()
        };

        let import = Import {
            origin: rooms.memory.server_name().to_owned(),
            version: offer.version,
            state: read(&whole.state).await,
            auth_chain: read(&whole.auth_chain).await,
            join,
        };
        other.rooms.join_import.import(import).await.unwrap();

        let (ours, theirs) = (
            door.house.line(&door.id()).await,
            other.line(&door.id()).await,
        );
        assert!(ours.state.differences(&theirs.state).is_empty());
        assert_eq!(ours.prev_events, theirs.prev_events);
    }
}

#[tokio::test]
async fn an_answer_without_members_names_the_servers_and_keeps_what_it_rests_on() {
    let door = Door::new("11", public()).await;
    let id = door.id();
    let bob_joins = door.house.becomes(&id, bob(), bob(), Action::Join);
    bob_joins.await.unwrap();
    let (before, join) = door.does(Handshake::Join).await.unwrap();
    let rooms = &door.house.rooms;
    let room = rooms.memory.room(&door.id()).await.unwrap();

    let partial = rooms
        .federation
        .join_answer((join.pdu(), &before), true)
        .await
        .unwrap();
    let named = NewEvent::state(
        alice(),
        &StateEventType::RoomName,
        "",
        to_raw_value(&json!({"name": "tea"})).unwrap(),
    );
    rooms.sender.send(&door.id(), named).await.unwrap();
    let state = room.view().state.clone();
    let of_named = rooms
        .federation
        .join_answer((join.pdu(), &state), true)
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
async fn who_may_not_come_in_is_given_no_event_to_sign() {
    let door = Door::new("11", json!({"join_rule": "invite"})).await;
    let rooms = &door.house.rooms;

    let private = door.makes(Handshake::Join).await;
    let knock = door.makes(Handshake::Knock).await;
    let stranger = Applicant {
        user_id: user_id!("@eve:elsewhere").to_owned(),
        ..door.eve()
    };
    let stranger = rooms
        .resident
        .make_event(Handshake::Join, &stranger, &[])
        .await;
    let unknown = Applicant {
        room_id: OwnedRoomId::try_from("!nowhere:there").unwrap(),
        ..door.eve()
    };
    let unknown = rooms
        .resident
        .make_event(Handshake::Join, &unknown, &[])
        .await;

    for refused in [private, knock, stranger] {
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
    }
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
}

#[tokio::test]
async fn a_server_that_does_not_know_the_version_is_told_which_it_is() {
    let door = Door::new("11", public()).await;

    let versions = [RoomVersionId::V9, RoomVersionId::V10];
    let rooms = &door.house.rooms;
    let refused = rooms
        .resident
        .make_event(Handshake::Join, &door.eve(), &versions)
        .await;

    assert!(matches!(
        refused,
        Err(Error::IncompatibleRoomVersion(RoomVersionId::V11))
    ));
}

#[tokio::test]
async fn a_server_that_is_shut_out_is_given_nothing() {
    let door = Door::new("11", public()).await;
    let acl = NewEvent::state(
        alice(),
        &StateEventType::RoomServerAcl,
        "",
        to_raw_value(&json!({"allow": ["*"], "deny": ["there"]})).unwrap(),
    );
    let offer = door.makes(Handshake::Join).await.unwrap();
    door.house.rooms.sender.send(&door.id(), acl).await.unwrap();

    let made = door.makes(Handshake::Join).await;
    let sent = door.sends(Handshake::Join, door.signs(&offer)).await;

    assert!(matches!(made, Err(Error::Forbidden(_))), "{made:?}");
    assert!(matches!(sent, Err(Error::Forbidden(_))));
}

#[tokio::test]
async fn only_what_was_asked_for_is_taken() {
    let door = Door::new("11", public()).await;
    let offer = door.makes(Handshake::Join).await.unwrap();
    let event: serde_json::Value = serde_json::from_str(offer.event.get()).unwrap();
    let change = |field: &str, value: serde_json::Value| {
        let mut event = event.clone();
        event[field] = value;
        door.there.signs(event, &door.room.rules)
    };

    let other = [
        change("type", json!("m.room.topic")),
        change("content", json!({"membership": "leave"})),
        change("state_key", json!("@mallory:there")),
        change("sender", json!("@alice:here")),
        change("room_id", json!("!other:here")),
    ];

    for event in other {
        let refused = door.sends(Handshake::Join, event).await;
        assert!(matches!(refused, Err(Error::InvalidParam(_))));
    }
}

#[tokio::test]
async fn who_is_banned_meanwhile_does_not_come_in() {
    let door = Door::new("11", public()).await;
    let offer = door.makes(Handshake::Join).await.unwrap();
    let eve = door.eve().user_id;
    let id = door.id();
    let ban = door.house.becomes(&id, alice(), eve, Action::Ban);
    ban.await.unwrap();

    // Sending the refused event again does not help.
    for _ in 0..2 {
        let refused = door.sends(Handshake::Join, door.signs(&offer)).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))));
    }
    assert_eq!(door.membership().await, MembershipState::Ban);
}

#[tokio::test]
async fn whoever_knocks_waits_to_be_invited_and_may_take_it_back() {
    let door = Door::new("11", json!({"join_rule": "knock"})).await;

    let (before, _) = door.does(Handshake::Knock).await.unwrap();
    assert_eq!(door.membership().await, MembershipState::Knock);
    assert!(!door.house.rooms.resident.knock_state(&before).is_empty());

    door.does(Handshake::Leave).await.unwrap();
    assert_eq!(door.membership().await, MembershipState::Leave);
}

#[tokio::test]
async fn a_member_of_the_right_room_is_let_into_a_restricted_one_and_no_other() {
    for version in ["8", "10", "12"] {
        let club = Door::new(version, public()).await;
        let rule = json!({
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": club.id()}],
        });
        let rules = NewEvent::state(
            alice(),
            &StateEventType::RoomJoinRules,
            "",
            to_raw_value(&rule).unwrap(),
        );
        let id = club
            .house
            .creates(json!({"room_version": version}))
            .await
            .unwrap();
        club.house.rooms.sender.send(&id, rules).await.unwrap();
        let rooms = club.house.rooms.clone();
        let eve = Applicant {
            room_id: id.clone(),
            ..club.eve()
        };

        let stranger = rooms.resident.make_event(Handshake::Join, &eve, &[]).await;
        club.does(Handshake::Join).await.unwrap();
        let offer = rooms
            .resident
            .make_event(Handshake::Join, &eve, &[])
            .await
            .unwrap();
        let signed = club.signs(&offer);
        let unsigned = Verified::check(signed.clone(), &club.room.rules, &club.keys());
        let signed = rooms
            .resident
            .countersign(Handshake::Join, &eve, signed)
            .await
            .unwrap();
        let event = Verified::check(signed, &club.room.rules, &club.keys()).unwrap();
        rooms
            .resident
            .accept_signed(Handshake::Join, &eve, event)
            .await
            .unwrap();

        assert!(matches!(stranger, Err(Error::Forbidden(_))), "{stranger:?}");
        assert!(matches!(unsigned, Err(Error::InvalidSignature(_))));
        let room = rooms.memory.room(&id).await.unwrap();
        assert_eq!(
            room.view().state.membership(&eve.user_id),
            MembershipState::Join
        );
    }
}

#[tokio::test]
async fn a_condition_that_nobody_here_can_judge_is_for_another_server() {
    let rule = json!({
        "join_rule": "restricted",
        "allow": [{"type": "m.room_membership", "room_id": "!elsewhere:there"}],
    });
    let door = Door::new("10", rule).await;

    let refused = door.makes(Handshake::Join).await;

    assert!(
        matches!(refused, Err(Error::UnableToAuthoriseJoin(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_was_sent_here_and_what_was_signed_for_here_goes_out() {
    let door = Door::new("11", public()).await;
    let id = door.id();
    let start = door.house.test.db.journal().published();
    let (_, join) = door.does(Handshake::Join).await.unwrap();
    let hello = door.house.says(&id, alice(), "hello", None).await.unwrap();
    let line = door.house.line(&id).await;
    let eve = door.eve().user_id;
    let event = (&*eve, "m.room.message", None);
    let hi = door.there.makes(&door.room, &line, event, text("hi"));
    door.house.receives(&door.there, &hi).await;
    let carol = user_id!("@carol:elsewhere").to_owned();
    let invite = door.house.becomes(&id, alice(), carol, Action::Invite);
    invite.await.unwrap();

    let page = door.house.rooms.federation.outgoing(start).await.unwrap();

    let sent: Vec<_> = page.events.iter().map(|sent| &sent.event_id).collect();
    assert_eq!(sent[0], &hello, "the join came from the only other server");
    assert!(!sent.contains(&&hi.pdu().event_id));
    assert!(!sent.contains(&&join.pdu().event_id));
    assert_eq!(page.events[0].servers, ["there"]);
    // The invited user's server has the invitation already, and cannot check it in a transaction.
    assert_eq!(page.events[1].servers, ["there"]);
    assert!(
        door.house
            .rooms
            .federation
            .outgoing(page.up_to)
            .await
            .unwrap()
            .events
            .is_empty()
    );
}
