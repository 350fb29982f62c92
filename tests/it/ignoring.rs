//! Ignored users, and blocked invitations.

use serde_json::{Value, json};

use crate::{
    chat::{event_ids, event_types, message_bodies, timeline, unread_counts},
    harness::{Server, User},
};

async fn set_account_data(user: &User, kind: &str, content: Value) {
    let path = format!("/_matrix/client/v3/user/{}/account_data/{kind}", user.id);
    user.client.put(&path, content).await.expect_ok();
}

async fn ignore_users(user: &User, ignored: &[&User]) {
    let ignored: Value = ignored
        .iter()
        .map(|user| (user.id.clone(), json!({})))
        .collect();
    let content = json!({ "ignored_users": ignored });
    set_account_data(user, "m.ignored_user_list", content).await;
}

/// Sends a message that relates to an event and returns its id.
async fn send_relation(user: &User, room: &str, rel_type: &str, parent: &str) -> String {
    let content = json!({
        "msgtype": "m.text", "body": "related", "m.new_content": { "msgtype": "m.text", "body": "new" },
        "m.relates_to": { "rel_type": rel_type, "event_id": parent },
    });
    let sent = user.tries_to_send(room, "m.room.message", content).await;
    let sent = sent.expect_ok();
    sent["event_id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn ignoring_a_user_hides_their_messages_but_not_state() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignore_users(&alice, &[&bob]).await;
    let before = alice.syncs().await;

    let hidden = bob.says(&room, "hidden").await;
    let name = json!({ "membership": "join", "displayname": "Rob" });
    bob.sets_state(&room, &format!("m.room.member/{}", bob.id), name)
        .await;
    let shown = alice.says(&room, "shown").await;

    let after = alice.syncs_after(&before).await;
    assert_eq!(
        event_types(timeline(&after, &room)),
        ["m.room.member", "m.room.message"]
    );
    assert_eq!(message_bodies(timeline(&after, &room)), ["shown"]);
    assert_eq!(
        message_bodies(timeline(&alice.syncs().await, &room)),
        ["shown"]
    );
    let page = alice.messages(&room, "dir=b&limit=50").await;
    assert_eq!(message_bodies(&page["chunk"]), ["shown"]);
    let context = alice
        .gets_in_room(&room, &format!("context/{shown}?limit=50"))
        .await
        .expect_ok();
    assert!(message_bodies(&context["events_before"]).is_empty());
    alice
        .event(&room, &hidden)
        .await
        .expect_error(404, "M_NOT_FOUND");
    bob.event(&room, &hidden).await.expect_ok();
}

#[tokio::test]
async fn users_cannot_ignore_themselves() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        alice.id
    );

    let both = json!({ "ignored_users": { &bob.id: {}, &alice.id: {} } });
    let refused = alice.client.put(&path, both).await;

    refused.expect_error(400, "M_INVALID_PARAM");
    alice.says(&room, "hello").await;
    assert_eq!(
        message_bodies(timeline(&alice.syncs().await, &room)),
        ["hello"]
    );
}

#[tokio::test]
async fn messages_of_ignored_users_do_not_count_as_unread() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignore_users(&alice, &[&bob]).await;

    bob.says(&room, "one").await;
    let mention = json!({ "body": "alice", "m.mentions": { "user_ids": [&alice.id] } });
    bob.tries_to_send(&room, "m.room.message", mention)
        .await
        .expect_ok();

    assert_eq!(unread_counts(&alice.syncs().await, &room), (0, 0));
}

#[tokio::test]
async fn unignoring_a_user_shows_their_messages_again() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignore_users(&alice, &[&bob]).await;
    bob.says(&room, "missed").await;
    let before = alice.syncs().await;

    ignore_users(&alice, &[]).await;
    bob.says(&room, "heard").await;

    let after = alice.syncs_after(&before).await;
    assert_eq!(message_bodies(timeline(&after, &room)), ["heard"]);
    assert_eq!(
        message_bodies(timeline(&alice.syncs().await, &room)),
        ["missed", "heard"]
    );
}

#[tokio::test]
async fn relations_by_ignored_users_are_hidden() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    ignore_users(&alice, &[&bob]).await;
    let before = alice.syncs().await;

    let message = alice.says(&room, "message").await;
    let reply = send_relation(&carol, &room, "m.thread", &message).await;
    let hidden_reply = send_relation(&bob, &room, "m.thread", &message).await;
    let reference = send_relation(&carol, &room, "m.reference", &message).await;
    let hidden_reference = send_relation(&bob, &room, "m.reference", &message).await;

    let path = format!("/_matrix/client/v1/rooms/{room}/relations/{message}");
    let of_alice = alice.client.get(&path).await.expect_ok();
    let of_carol = carol.client.get(&path).await.expect_ok();
    assert_eq!(event_ids(&of_alice["chunk"]), [&reference, &reply]);
    let all = [&hidden_reference, &reference, &hidden_reply, &reply];
    assert_eq!(event_ids(&of_carol["chunk"]), all);
    let event = alice.event(&room, &message).await.expect_ok();
    let sync = alice.syncs_after(&before).await;
    for event in [&event, &timeline(&sync, &room)[0]] {
        let told = &event["unsigned"]["m.relations"];
        assert_eq!(event["event_id"], message);
        assert_eq!(told["m.thread"]["count"], 1);
        assert_eq!(told["m.thread"]["latest_event"]["event_id"], reply);
        let chunk = json!([{ "event_id": reference }]);
        assert_eq!(told["m.reference"]["chunk"], chunk);
    }
    let event = carol.event(&room, &message).await.expect_ok();
    let told = &event["unsigned"]["m.relations"];
    assert_eq!(told["m.thread"]["count"], 2);
    assert_eq!(told["m.thread"]["latest_event"]["event_id"], hidden_reply);
}

#[tokio::test]
async fn a_thread_by_an_ignored_user_is_listed_without_content() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignore_users(&alice, &[&bob]).await;
    let begun = bob.says(&room, "hidden").await;
    let reply = send_relation(&alice, &room, "m.thread", &begun).await;
    send_relation(&bob, &room, "m.replace", &begun).await;
    let unheard = alice.says(&room, "unheard").await;
    send_relation(&bob, &room, "m.thread", &unheard).await;

    let path = format!("/_matrix/client/v1/rooms/{room}/threads");
    let of_alice = alice.client.get(&path).await.expect_ok();
    let of_bob = bob.client.get(&path).await.expect_ok();

    assert_eq!(event_ids(&of_alice["chunk"]), [&begun]);
    let event = &of_alice["chunk"][0];
    assert_eq!(event["content"], json!({}));
    let told = &event["unsigned"]["m.relations"];
    assert_eq!(told["m.thread"]["latest_event"]["event_id"], reply);
    assert_eq!(told["m.replace"], Value::Null);
    assert_eq!(event_ids(&of_bob["chunk"]), [&unheard, &begun]);
    assert_eq!(message_bodies(&of_bob["chunk"]), ["unheard", "hidden"]);
}

#[tokio::test]
async fn invitations_by_ignored_users_are_not_shown() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    ignore_users(&alice, &[&bob]).await;
    let before = alice.syncs().await;

    let hidden = bob.creates(json!({ "invite": [&alice.id] })).await;
    let shown = carol.creates(json!({ "invite": [&alice.id] })).await;

    for sync in [alice.syncs_after(&before).await, alice.syncs().await] {
        let invitations = &sync["rooms"]["invite"];
        assert_eq!(invitations[&hidden], Value::Null);
        assert!(invitations[&shown].is_object());
    }
    assert_eq!(bob.member(&hidden, &alice).await["membership"], "invite");
}

#[tokio::test]
async fn ignored_users_persist_across_a_restart() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignore_users(&alice, &[&bob]).await;

    let server = server.restart().await;
    let (alice, bob) = (alice.on_server(&server), bob.on_server(&server));
    bob.says(&room, "hidden").await;

    assert!(message_bodies(timeline(&alice.syncs().await, &room)).is_empty());
}

#[tokio::test]
async fn blocking_invitations_refuses_every_invite() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = bob.creates(json!({})).await;
    let config = "m.invite_permission_config";
    set_account_data(&alice, config, json!({ "default_action": "block" })).await;

    let invited = bob
        .posts_in_room(&room, "invite", json!({ "user_id": alice.id }))
        .await;
    invited.expect_error(403, "M_INVITE_BLOCKED");
    let set = json!({ "membership": "invite" });
    let set = bob
        .tries_to_set_state(&room, &format!("m.room.member/{}", alice.id), set)
        .await;
    set.expect_error(403, "M_INVITE_BLOCKED");
    let created = bob.tries_to_create(json!({ "invite": [&alice.id] })).await;
    created.expect_error(403, "M_INVITE_BLOCKED");

    set_account_data(&alice, config, json!({})).await;
    bob.invites(&room, &alice).await;
    set_account_data(&alice, config, json!({ "default_action": "block" })).await;
    assert_eq!(alice.syncs().await["rooms"], Value::Null);
}

#[tokio::test]
async fn invite_permission_patterns_select_the_inviters() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (carol, dave) = (
        server.register("carol").await,
        server.register("dave").await,
    );
    let rules = json!({
        "allowed_users": [&bob.id], "ignored_users": ["@car?l:*"], "blocked_servers": ["local*"],
        "blocked_users": null,
    });
    set_account_data(&alice, "org.matrix.msc4155.invite_permission_config", rules).await;
    let invite = json!({ "user_id": alice.id });

    let (by_bob, by_carol) = (bob.creates(json!({})).await, carol.creates(json!({})).await);
    bob.posts_in_room(&by_bob, "invite", invite.clone())
        .await
        .expect_ok();
    carol
        .posts_in_room(&by_carol, "invite", invite.clone())
        .await
        .expect_ok();
    let by_dave = dave.creates(json!({})).await;
    let refused = dave.posts_in_room(&by_dave, "invite", invite).await;
    refused.expect_error(403, "ORG.MATRIX.MSC4155.M_INVITE_BLOCKED");

    let sync = alice.syncs().await;
    let shown: Vec<&String> = sync["rooms"]["invite"]
        .as_object()
        .expect("rooms")
        .keys()
        .collect();
    assert_eq!(shown, [&by_bob]);
}
