//! Ignored users, and blocked invitations.

use serde_json::{Value, json};

use crate::{
    chat::{ids, said, timeline, types, unread},
    harness::{Server, User},
};

async fn says_of_itself(user: &User, kind: &str, content: Value) {
    let path = format!("/_matrix/client/v3/user/{}/account_data/{kind}", user.id);
    user.client.put(&path, content).await.expect_ok();
}

async fn ignores(user: &User, ignored: &[&User]) {
    let ignored: Value = ignored
        .iter()
        .map(|user| (user.id.clone(), json!({})))
        .collect();
    let content = json!({ "ignored_users": ignored });
    says_of_itself(user, "m.ignored_user_list", content).await;
}

/// Sends a message that relates to an event and returns its id.
async fn relates(user: &User, room: &str, rel_type: &str, parent: &str) -> String {
    let content = json!({
        "msgtype": "m.text", "body": "related", "m.new_content": { "msgtype": "m.text", "body": "new" },
        "m.relates_to": { "rel_type": rel_type, "event_id": parent },
    });
    let sent = user.tries_to_send(room, "m.room.message", content).await;
    let sent = sent.expect_ok();
    sent["event_id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn messages_of_ignored_users_are_left_out_but_not_their_state() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignores(&alice, &[&bob]).await;
    let before = alice.syncs().await;

    let hidden = bob.says(&room, "hidden").await;
    let name = json!({ "membership": "join", "displayname": "Rob" });
    bob.sets(&room, &format!("m.room.member/{}", bob.id), name)
        .await;
    let shown = alice.says(&room, "shown").await;

    let after = alice.syncs_after(&before).await;
    assert_eq!(
        types(timeline(&after, &room)),
        ["m.room.member", "m.room.message"]
    );
    assert_eq!(said(timeline(&after, &room)), ["shown"]);
    assert_eq!(said(timeline(&alice.syncs().await, &room)), ["shown"]);
    let page = alice.messages(&room, "dir=b&limit=50").await;
    assert_eq!(said(&page["chunk"]), ["shown"]);
    let context = alice
        .asks(&room, &format!("context/{shown}?limit=50"))
        .await
        .expect_ok();
    assert!(said(&context["events_before"]).is_empty());
    alice
        .event(&room, &hidden)
        .await
        .expect_error(404, "M_NOT_FOUND");
    bob.event(&room, &hidden).await.expect_ok();
}

#[tokio::test]
async fn nobody_can_ignore_themselves() {
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
    assert_eq!(said(timeline(&alice.syncs().await, &room)), ["hello"]);
}

#[tokio::test]
async fn the_messages_of_ignored_users_are_not_unread() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignores(&alice, &[&bob]).await;

    bob.says(&room, "one").await;
    let mention = json!({ "body": "alice", "m.mentions": { "user_ids": [&alice.id] } });
    bob.tries_to_send(&room, "m.room.message", mention)
        .await
        .expect_ok();

    assert_eq!(unread(&alice.syncs().await, &room), (0, 0));
}

#[tokio::test]
async fn whoever_is_ignored_no_more_is_heard_from_then_on() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignores(&alice, &[&bob]).await;
    bob.says(&room, "missed").await;
    let before = alice.syncs().await;

    ignores(&alice, &[]).await;
    bob.says(&room, "heard").await;

    let after = alice.syncs_after(&before).await;
    assert_eq!(said(timeline(&after, &room)), ["heard"]);
    assert_eq!(
        said(timeline(&alice.syncs().await, &room)),
        ["missed", "heard"]
    );
}

#[tokio::test]
async fn what_ignored_users_relate_to_an_event_is_neither_listed_nor_told() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    ignores(&alice, &[&bob]).await;
    let before = alice.syncs().await;

    let message = alice.says(&room, "message").await;
    let reply = relates(&carol, &room, "m.thread", &message).await;
    let hidden_reply = relates(&bob, &room, "m.thread", &message).await;
    let reference = relates(&carol, &room, "m.reference", &message).await;
    let hidden_reference = relates(&bob, &room, "m.reference", &message).await;

    let path = format!("/_matrix/client/v1/rooms/{room}/relations/{message}");
    let of_alice = alice.client.get(&path).await.expect_ok();
    let of_carol = carol.client.get(&path).await.expect_ok();
    assert_eq!(ids(&of_alice["chunk"]), [&reference, &reply]);
    let all = [&hidden_reference, &reference, &hidden_reply, &reply];
    assert_eq!(ids(&of_carol["chunk"]), all);
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
async fn a_thread_that_an_ignored_user_began_is_listed_without_what_they_said() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignores(&alice, &[&bob]).await;
    let begun = bob.says(&room, "hidden").await;
    let reply = relates(&alice, &room, "m.thread", &begun).await;
    relates(&bob, &room, "m.replace", &begun).await;
    let unheard = alice.says(&room, "unheard").await;
    relates(&bob, &room, "m.thread", &unheard).await;

    let path = format!("/_matrix/client/v1/rooms/{room}/threads");
    let of_alice = alice.client.get(&path).await.expect_ok();
    let of_bob = bob.client.get(&path).await.expect_ok();

    assert_eq!(ids(&of_alice["chunk"]), [&begun]);
    let event = &of_alice["chunk"][0];
    assert_eq!(event["content"], json!({}));
    let told = &event["unsigned"]["m.relations"];
    assert_eq!(told["m.thread"]["latest_event"]["event_id"], reply);
    assert_eq!(told["m.replace"], Value::Null);
    assert_eq!(ids(&of_bob["chunk"]), [&unheard, &begun]);
    assert_eq!(said(&of_bob["chunk"]), ["unheard", "hidden"]);
}

#[tokio::test]
async fn invitations_by_ignored_users_are_not_shown() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    ignores(&alice, &[&bob]).await;
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
async fn what_users_ignore_outlasts_a_restart() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    ignores(&alice, &[&bob]).await;

    let server = server.restart().await;
    let (alice, bob) = (alice.at(&server), bob.at(&server));
    bob.says(&room, "hidden").await;

    assert!(said(timeline(&alice.syncs().await, &room)).is_empty());
}

#[tokio::test]
async fn whoever_takes_no_invitations_cannot_be_invited() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = bob.creates(json!({})).await;
    let config = "m.invite_permission_config";
    says_of_itself(&alice, config, json!({ "default_action": "block" })).await;

    let invited = bob
        .tries(&room, "invite", json!({ "user_id": alice.id }))
        .await;
    invited.expect_error(403, "M_INVITE_BLOCKED");
    let set = json!({ "membership": "invite" });
    let set = bob
        .tries_to_set(&room, &format!("m.room.member/{}", alice.id), set)
        .await;
    set.expect_error(403, "M_INVITE_BLOCKED");
    let created = bob.tries_to_create(json!({ "invite": [&alice.id] })).await;
    created.expect_error(403, "M_INVITE_BLOCKED");

    says_of_itself(&alice, config, json!({})).await;
    bob.invites(&room, &alice).await;
    says_of_itself(&alice, config, json!({ "default_action": "block" })).await;
    assert_eq!(alice.syncs().await["rooms"], Value::Null);
}

#[tokio::test]
async fn patterns_say_whose_invitations_are_taken() {
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
    says_of_itself(&alice, "org.matrix.msc4155.invite_permission_config", rules).await;
    let invite = json!({ "user_id": alice.id });

    let (by_bob, by_carol) = (bob.creates(json!({})).await, carol.creates(json!({})).await);
    bob.tries(&by_bob, "invite", invite.clone())
        .await
        .expect_ok();
    carol
        .tries(&by_carol, "invite", invite.clone())
        .await
        .expect_ok();
    let by_dave = dave.creates(json!({})).await;
    let refused = dave.tries(&by_dave, "invite", invite).await;
    refused.expect_error(403, "ORG.MATRIX.MSC4155.M_INVITE_BLOCKED");

    let sync = alice.syncs().await;
    let shown: Vec<&String> = sync["rooms"]["invite"]
        .as_object()
        .expect("rooms")
        .keys()
        .collect();
    assert_eq!(shown, [&by_bob]);
}
