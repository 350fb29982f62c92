//! Rooms whose members are all on this server.

use super::*;

/// Returns a server with a private room of Alice's.
async fn server_with_room() -> (TestServer, OwnedRoomId) {
    let server = TestServer::new().await;
    let room_id = server.create_room(json!({})).await.unwrap();
    (server, room_id)
}

/// Lets Alice invite Bob to a room, and Bob join.
async fn add_bob(server: &TestServer, room_id: &RoomId) {
    server
        .change_membership(room_id, alice(), bob(), MembershipAction::Invite)
        .await
        .unwrap();
    server
        .change_membership(room_id, bob(), bob(), MembershipAction::Join)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_room_of_every_version_can_be_created_and_written_to() {
    let server = TestServer::new().await;

    for version in ["6", "7", "8", "9", "10", "11", "12"] {
        let room_id = server
            .create_room(json!({"room_version": version}))
            .await
            .unwrap();
        server
            .send_message(&room_id, alice(), "hello", None)
            .await
            .unwrap();

        assert_eq!(
            server
                .visible_bodies(&room_id, &alice())
                .await
                .last()
                .unwrap(),
            "hello",
            "in version {version}"
        );
    }
}

#[tokio::test]
async fn an_unknown_version_is_refused() {
    let server = TestServer::new().await;

    for version in ["13", "99"] {
        let refused = server.create_room(json!({"room_version": version})).await;
        assert!(matches!(refused, Err(Error::UnsupportedRoomVersion(_))));
    }
}

#[tokio::test]
async fn a_room_is_the_same_after_a_restart() {
    let server = TestServer::new().await;
    let room_id = server.create_room(json!({"name": "tea"})).await.unwrap();
    server
        .send_message(&room_id, alice(), "one", Some("t1"))
        .await
        .unwrap();
    let before = server.visible_bodies(&room_id, &alice()).await;

    let server = server.restart().await;
    let after = server.visible_bodies(&room_id, &alice()).await;
    server
        .send_message(&room_id, alice(), "two", None)
        .await
        .unwrap();

    assert_eq!(before, after);
    let room = server.rooms.memory.room(&room_id).await.unwrap();
    let name = room
        .view()
        .state
        .get(&StateEventType::RoomName, "")
        .unwrap()
        .content_str("name");
    assert_eq!(name.unwrap(), "tea");
    assert_eq!(
        server.visible_bodies(&room_id, &alice()).await.len(),
        before.len() + 1
    );
}

#[tokio::test]
async fn a_retried_transaction_returns_the_same_event_even_after_a_restart() {
    let (server, room_id) = server_with_room().await;

    let first = server
        .send_message(&room_id, alice(), "one", Some("t1"))
        .await
        .unwrap();
    let again = server
        .send_message(&room_id, alice(), "other", Some("t1"))
        .await
        .unwrap();
    let server = server.restart().await;
    let later = server
        .send_message(&room_id, alice(), "one", Some("t1"))
        .await
        .unwrap();
    let next = server
        .send_message(&room_id, alice(), "two", Some("t2"))
        .await
        .unwrap();

    assert_eq!(first, again);
    assert_eq!(first, later);
    assert_ne!(first, next);
}

#[tokio::test]
async fn concurrent_sends_to_one_room_form_a_single_chain() {
    let (server, room_id) = server_with_room().await;

    let sends = (0..50).map(|n| {
        let (server, room_id) = (&server, &room_id);
        async move {
            server
                .send_message(room_id, alice(), &format!("message {n}"), None)
                .await
                .unwrap()
        }
    });
    futures_util::future::join_all(sends).await;

    let room = server.rooms.memory.room(&room_id).await.unwrap();
    let view = room.view();
    for pair in view.ring.iter().collect::<Vec<_>>().windows(2) {
        assert_eq!(pair[1].pdu.prev_events, vec![pair[0].pdu.event_id.clone()]);
    }
    let messages = view
        .ring
        .iter()
        .filter(|event| event.pdu.kind == TimelineEventType::RoomMessage)
        .count();
    assert_eq!(messages, 50);
}

#[tokio::test]
async fn a_stranger_can_neither_write_nor_join_a_private_room() {
    let (server, room_id) = server_with_room().await;

    let wrote = server.send_message(&room_id, bob(), "hi", None).await;
    let joined = server
        .change_membership(&room_id, bob(), bob(), MembershipAction::Join)
        .await;

    assert!(matches!(wrote, Err(Error::Forbidden(_))));
    assert!(matches!(joined, Err(Error::Forbidden(_))));
}

#[tokio::test]
async fn an_invited_user_may_join_and_sees_messages_until_leaving() {
    let (server, room_id) = server_with_room().await;

    add_bob(&server, &room_id).await;
    server
        .send_message(&room_id, alice(), "for bob", None)
        .await
        .unwrap();
    server
        .change_membership(&room_id, bob(), bob(), MembershipAction::Leave)
        .await
        .unwrap();
    server
        .send_message(&room_id, alice(), "not for bob", None)
        .await
        .unwrap();

    let seen = server.visible_bodies(&room_id, &bob()).await;
    assert!(seen.contains(&"for bob".to_owned()));
    assert!(!seen.contains(&"not for bob".to_owned()));
}

#[tokio::test]
async fn a_receipt_or_a_sent_message_clears_unread_counts() {
    let (server, room_id) = server_with_room().await;
    add_bob(&server, &room_id).await;
    let first = server
        .send_message(&room_id, alice(), "one", None)
        .await
        .unwrap();
    server
        .send_message(&room_id, alice(), "two", None)
        .await
        .unwrap();
    assert_eq!(server.unread_counts(&room_id, &bob()).await, (2, 0));

    let room = server.rooms.memory.room(&room_id).await.unwrap();
    let (user, user_id) = (server.user_number(&bob()).await, bob());
    let receipt = ReceiptUpdate {
        ts: None,
        user,
        user_id: &user_id,
        kind: "m.read",
        thread: "",
        event_id: &first,
    };
    server
        .rooms
        .unread
        .receive_receipt(&room, receipt)
        .await
        .unwrap();
    assert_eq!(server.unread_counts(&room_id, &bob()).await, (1, 0));
    drop(room);

    let server = server.restart().await;
    assert_eq!(server.unread_counts(&room_id, &bob()).await, (1, 0));
    server
        .send_message(&room_id, bob(), "three", None)
        .await
        .unwrap();
    assert_eq!(server.unread_counts(&room_id, &bob()).await, (0, 0));
}

#[tokio::test]
async fn a_mention_is_a_highlight_only_for_the_mentioned_user() {
    let (server, room_id) = server_with_room().await;
    add_bob(&server, &room_id).await;

    let mention = EventToSend {
        sender: alice(),
        kind: TimelineEventType::RoomMessage,
        state_key: None,
        content: to_raw_value(&json!({
            "msgtype": "m.text", "body": "bob!", "m.mentions": {"user_ids": ["@bob:here"]},
        }))
        .unwrap(),
        redacts: None,
        transaction: None,
        timestamp: None,
        sticky: None,
    };
    server.rooms.sender.send(&room_id, mention).await.unwrap();

    assert_eq!(server.unread_counts(&room_id, &bob()).await, (1, 1));
    let server = server.restart().await;
    assert_eq!(server.unread_counts(&room_id, &bob()).await, (1, 1));
    assert_eq!(server.unread_counts(&room_id, &alice()).await, (0, 0));
}

#[tokio::test]
async fn a_redaction_removes_content_from_memory_and_disk() {
    let (server, room_id) = server_with_room().await;
    let said = server
        .send_message(&room_id, alice(), "secret", None)
        .await
        .unwrap();

    let redaction = EventToSend {
        sender: alice(),
        kind: TimelineEventType::RoomRedaction,
        state_key: None,
        content: to_raw_value(&json!({"redacts": said})).unwrap(),
        redacts: Some(said),
        transaction: None,
        timestamp: None,
        sticky: None,
    };
    server.rooms.sender.send(&room_id, redaction).await.unwrap();

    assert!(
        !server
            .visible_bodies(&room_id, &alice())
            .await
            .contains(&"secret".to_owned())
    );
    let server = server.restart().await;
    assert!(
        !server
            .visible_bodies(&room_id, &alice())
            .await
            .contains(&"secret".to_owned())
    );
}

#[tokio::test]
async fn an_alias_in_use_leaves_no_partly_created_room() {
    let server = TestServer::new().await;
    let first = server
        .create_room(json!({"room_alias_name": "tea"}))
        .await
        .unwrap();

    let second = server.create_room(json!({"room_alias_name": "tea"})).await;

    assert!(matches!(
        second,
        Err(Error::Refused {
            code: crate::error::RefusalCode::RoomInUse,
            ..
        })
    ));
    assert_eq!(
        server
            .rooms
            .directory
            .resolve_alias(room_alias_id!("#tea:here"))
            .await
            .unwrap(),
        first
    );
    let user = server.user_number(&alice()).await;
    assert_eq!(
        server
            .rooms
            .memory
            .rooms_of_user(user)
            .await
            .unwrap()
            .joined_rooms()
            .len(),
        1
    );
}

#[tokio::test]
async fn missing_relations_are_filled_in_at_startup() {
    let (server, room_id) = server_with_room().await;
    let thread = server
        .send_message(&room_id, alice(), "root", None)
        .await
        .unwrap();
    let content = json!({
        "body": "reply", "m.relates_to": { "rel_type": "m.thread", "event_id": thread },
    });
    let reply = EventToSend::message(
        alice(),
        TimelineEventType::RoomMessage,
        to_raw_value(&content).unwrap(),
        None,
    );
    let reply = server.rooms.sender.send(&room_id, reply).await.unwrap();
    server.test.remove_derived_data().await;

    let server = server.restart().await;

    let (user, user_id) = (server.user_number(&alice()).await, alice());
    let (room, access) = server
        .rooms
        .access
        .load_readable_room(&room_id, user, &user_id)
        .await
        .unwrap();
    let thread_root = server
        .rooms
        .timeline
        .load_event(&room, &access, &thread)
        .await
        .unwrap();
    let viewer = AggregationViewer {
        access: Some(&access),
        user,
        user_id: &user_id,
    };
    let bundles = server
        .rooms
        .relations
        .load_aggregations(&room, viewer, [&thread_root])
        .await
        .unwrap();
    let summary = bundles.get(&thread).unwrap().thread.as_ref().unwrap();
    assert_eq!((summary.count, &summary.latest.pdu.event_id), (1, &reply));
    let in_thread = server
        .rooms
        .timeline
        .load_event(&room, &access, &reply)
        .await
        .unwrap();
    assert_eq!(in_thread.thread.as_ref().unwrap().root, thread);
    let at = server
        .rooms
        .timeline
        .find_event_at_time(&room, &access, 1_000, Direction::Backward)
        .await
        .unwrap();
    assert_eq!(at, (reply, 1_000));
}
