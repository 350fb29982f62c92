//! Events that do not follow all forward extremities of their room.

use super::*;

#[tokio::test]
async fn the_next_event_merges_two_lines_of_events() {
    let shared = ReceivingFixture::new().await;
    shared.set_level_of_dora(50).await;
    let line = shared.event_line().await;
    let topic = shared.make_state_event(&line, "m.room.topic", "", json!({"topic": "theirs"}));
    shared
        .send_state(&StateEventType::RoomName, json!({"name": "ours"}))
        .await;

    assert_eq!(shared.receive_event(&topic).await, ReceiveOutcome::Accepted);

    assert_eq!(shared.extremities().await.len(), 2);
    let field = |kind, field| shared.state_field(kind, field);
    assert_eq!(
        field(&StateEventType::RoomTopic, "topic").await.unwrap(),
        "theirs"
    );
    let name = shared.state_field(&StateEventType::RoomName, "name").await;
    assert_eq!(name.unwrap(), "ours");
    let id = shared.id();
    shared
        .server
        .send_message(&id, alice(), "both", None)
        .await
        .unwrap();
    assert_eq!(shared.extremities().await.len(), 1);
    let shared = ReceivingFixture {
        server: shared.server.restart().await,
        ..shared
    };
    let topic = shared
        .state_field(&StateEventType::RoomTopic, "topic")
        .await;
    assert_eq!(topic.unwrap(), "theirs");
}

#[tokio::test]
async fn many_lines_from_an_old_event_do_not_restore_old_state() {
    let shared = ReceivingFixture::new().await;
    let then = shared.event_line().await;
    let name = json!({"name": "new"});
    shared.send_state(&StateEventType::RoomName, name).await;

    for n in 0..30 {
        let hello = shared.make_message(&then, &n.to_string());
        assert_eq!(shared.receive_event(&hello).await, ReceiveOutcome::Accepted);
    }

    assert!(shared.extremities().await.len() <= 20);
    assert_eq!(shared.room_name().await, "new");
    let id = shared.id();
    shared
        .server
        .send_message(&id, alice(), "all", None)
        .await
        .unwrap();
    assert_eq!(shared.extremities().await.len(), 1);
    let shared = ReceivingFixture {
        server: shared.server.restart().await,
        ..shared
    };
    let last = shared.make_message(&then, "last");
    assert_eq!(shared.receive_event(&last).await, ReceiveOutcome::Accepted);
    assert_eq!(shared.room_name().await, "new");
}

#[tokio::test]
async fn lines_of_events_beyond_the_limit_soft_fail() {
    let shared = ReceivingFixture::new().await;
    let then = shared.event_line().await;
    let name = json!({"name": "new"});
    shared.send_state(&StateEventType::RoomName, name).await;

    let mut accepted = 0;
    for n in 0..60 {
        let content = json!({"membership": "join", "displayname": n.to_string()});
        let event = shared.make_state_event(&then, "m.room.member", shared.dora.as_str(), content);
        accepted += usize::from(shared.receive_event(&event).await == ReceiveOutcome::Accepted);
    }

    assert!((20..60).contains(&accepted), "{accepted}");
    assert_eq!(shared.room_name().await, "new");
    // Each event that is sent from here follows as many extremities as it can name, until one is left.
    let id = shared.id();
    for _ in 0..4 {
        shared
            .server
            .send_message(&id, alice(), "all", None)
            .await
            .unwrap();
    }
    assert_eq!(shared.extremities().await.len(), 1);
    assert_eq!(shared.room_name().await, "new");
}

#[tokio::test]
async fn a_join_concurrent_with_closing_the_room_is_undone() {
    let shared = ReceivingFixture::new().await;
    shared.set_level_of_dora(100).await;
    let then = shared.event_line().await;
    let id = shared.id();
    let join = shared
        .server
        .change_membership(&id, bob(), bob(), MembershipAction::Join);
    join.await.unwrap();
    let closed = json!({"join_rule": "invite"});

    let closed = shared.make_state_event(&then, "m.room.join_rules", "", closed);
    assert_eq!(
        shared.receive_event(&closed).await,
        ReceiveOutcome::Accepted
    );

    for server in [None, Some(())] {
        let rooms = match server {
            None => shared.server.rooms.clone(),
            Some(()) => open_rooms(&shared.server.test, &shared.server.key).await,
        };
        let room = rooms.memory.room(&id).await.unwrap();
        assert!(!room.view().local_members.values().any(|id| *id == bob()));
        let user = rooms.memory.user_number(&bob()).await.unwrap().unwrap();
        let mine = rooms.memory.rooms_of_user(user).await.unwrap();
        assert_eq!(mine.membership(room.num), MembershipState::Leave);
    }
}

#[tokio::test]
async fn a_ban_wins_over_concurrent_events_of_the_banned_user() {
    for version in ["11", "12"] {
        let shared = ReceivingFixture::in_version(version).await;
        if version == "11" {
            shared.set_level_of_dora(50).await;
        } else {
            let levels = json!({"users": {&shared.dora: 50}});
            shared
                .send_state(&StateEventType::RoomPowerLevels, levels)
                .await;
        }
        let line = shared.event_line().await;
        let topic = shared.make_state_event(&line, "m.room.topic", "", json!({"topic": "mine"}));
        let after = line.after(&topic);
        assert_eq!(shared.receive_event(&topic).await, ReceiveOutcome::Accepted);
        let ban = EventToSend::state(
            alice(),
            &StateEventType::RoomMember,
            shared.dora.as_str(),
            to_raw_value(&json!({"membership": "ban"})).unwrap(),
        );
        shared
            .server
            .rooms
            .sender
            .send(&shared.id(), ban)
            .await
            .unwrap();
        // The banned user continues on a line of events without the ban.
        let more = shared.make_state_event(&after, "m.room.topic", "", json!({"topic": "more"}));
        let received = shared.receive_event(&more).await;

        assert!(
            matches!(received, ReceiveOutcome::SoftFailed(_)),
            "{received:?}"
        );
        let topic = shared
            .state_field(&StateEventType::RoomTopic, "topic")
            .await;
        assert_eq!(topic.unwrap(), "mine", "in {version}");
    }
}
