//! Joins to rooms that only members of other rooms may join.

use super::*;

#[tokio::test]
async fn only_members_of_an_allowed_room_join_a_restricted_room() {
    for version in ["8", "10", "12"] {
        let fixture = HandshakeFixture::new(version, public_join_rule()).await;
        let rule = json!({
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": fixture.id()}],
        });
        let rules = EventToSend::state(
            alice(),
            &StateEventType::RoomJoinRules,
            "",
            to_raw_value(&rule).unwrap(),
        );
        let id = fixture
            .server
            .create_room(json!({"room_version": version}))
            .await
            .unwrap();
        fixture.server.rooms.sender.send(&id, rules).await.unwrap();
        let rooms = fixture.server.rooms.clone();
        let eve = RemoteApplicant {
            room_id: id.clone(),
            ..fixture.eve()
        };

        let stranger = rooms
            .resident
            .make_membership_event(MembershipHandshake::Join, &eve, &[])
            .await;
        fixture
            .complete_handshake(MembershipHandshake::Join)
            .await
            .unwrap();
        let offer = rooms
            .resident
            .make_membership_event(MembershipHandshake::Join, &eve, &[])
            .await
            .unwrap();
        let signed = fixture.sign_offer(&offer);
        let unsigned = VerifiedEvent::verify(signed.clone(), &fixture.room.rules, &fixture.keys());
        let signed = rooms
            .resident
            .countersign(MembershipHandshake::Join, &eve, signed)
            .await
            .unwrap();
        let event = VerifiedEvent::verify(signed, &fixture.room.rules, &fixture.keys()).unwrap();
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
    let fixture = HandshakeFixture::new("10", rule).await;

    let refused = fixture.make_event(MembershipHandshake::Join).await;

    assert!(
        matches!(refused, Err(Error::UnableToAuthoriseJoin(_))),
        "{refused:?}"
    );
}
