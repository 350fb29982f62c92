//! Joins to rooms that only members of other rooms may join.

use super::*;

#[tokio::test]
async fn only_members_of_an_allowed_room_join_a_restricted_room() {
    for version in ["8", "10", "12"] {
        let club = HandshakeFixture::new(version, public_join_rule()).await;
        let rule = json!({
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": club.id()}],
        });
        let rules = EventToSend::state(
            alice(),
            &StateEventType::RoomJoinRules,
            "",
            to_raw_value(&rule).unwrap(),
        );
        let id = club
            .server
            .create_room(json!({"room_version": version}))
            .await
            .unwrap();
        club.server.rooms.sender.send(&id, rules).await.unwrap();
        let rooms = club.server.rooms.clone();
        let eve = RemoteApplicant {
            room_id: id.clone(),
            ..club.eve()
        };

        let stranger = rooms
            .resident
            .make_membership_event(MembershipHandshake::Join, &eve, &[])
            .await;
        club.complete_handshake(MembershipHandshake::Join)
            .await
            .unwrap();
        let offer = rooms
            .resident
            .make_membership_event(MembershipHandshake::Join, &eve, &[])
            .await
            .unwrap();
        let signed = club.sign_offer(&offer);
        let unsigned = VerifiedEvent::verify(signed.clone(), &club.room.rules, &club.keys());
        let signed = rooms
            .resident
            .countersign(MembershipHandshake::Join, &eve, signed)
            .await
            .unwrap();
        let event = VerifiedEvent::verify(signed, &club.room.rules, &club.keys()).unwrap();
        rooms
            .resident
            .accept_signed_event(MembershipHandshake::Join, &eve, event)
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
async fn an_unverifiable_restricted_join_returns_unable_to_authorise() {
    let rule = json!({
        "join_rule": "restricted",
        "allow": [{"type": "m.room_membership", "room_id": "!elsewhere:there"}],
    });
    let door = HandshakeFixture::new("10", rule).await;

    let refused = door.make_event(MembershipHandshake::Join).await;

    assert!(
        matches!(refused, Err(Error::UnableToAuthoriseJoin(_))),
        "{refused:?}"
    );
}
