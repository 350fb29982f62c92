//! Tests joining, inviting, leaving, kicking, banning and forgetting.

use serde_json::{Value, json};

use crate::{
    chat::{event_ids, find_event, message_bodies, percent_encoded, texts_at},
    harness::Server,
};

#[tokio::test]
async fn a_room_is_joined_by_its_id_and_by_an_alias() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let request = json!({ "preset": "public_chat", "room_alias_name": "pub" });
    let room = alice.creates(request).await;
    let paths = [
        format!("/_matrix/client/v3/rooms/{room}/join"),
        format!("/_matrix/client/v3/join/{room}"),
        format!(
            "/_matrix/client/v3/join/{}",
            percent_encoded("#pub:localhost")
        ),
    ];

    for path in paths {
        let joined = bob.client.post(&path, json!({})).await;
        assert_eq!(joined.expect_ok(), json!({ "room_id": room }));
        let rooms = bob.client.get("/_matrix/client/v3/joined_rooms").await;
        assert_eq!(rooms.expect_ok(), json!({ "joined_rooms": [room] }));
        bob.leaves(&room).await;
    }
}

#[tokio::test]
async fn a_join_needs_no_body() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;

    let path = format!("/_matrix/client/v3/join/{room}");
    let joined = bob.client.send(reqwest::Method::POST, &path, "").await;

    assert_eq!(joined.expect_ok(), json!({ "room_id": room }));
}

#[tokio::test]
async fn joining_twice_changes_nothing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let member = format!("state/m.room.member/{}?format=event", bob.id);

    bob.joins(&room).await;
    let first = bob.gets_in_room(&room, &member).await.expect_ok();
    bob.joins(&room).await;
    let second = bob.gets_in_room(&room, &member).await.expect_ok();

    assert_eq!(first["event_id"], second["event_id"]);
}

#[tokio::test]
async fn a_join_event_has_the_profile_reason_and_custom_fields() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let name = json!({ "displayname": "Bob" });
    let profile = format!("/_matrix/client/v3/profile/{}/displayname", bob.id);
    bob.client.put(&profile, name).await.expect_ok();
    let room = alice.creates_open_room().await;

    let body = json!({
        "reason": "hello", "org.example": "more", "membership": "ban", "displayname": "Eve",
    });
    bob.posts_in_room(&room, "join", body).await.expect_ok();

    let member = alice.member(&room, &bob).await;
    let expected = json!({
        "membership": "join", "displayname": "Bob", "reason": "hello", "org.example": "more",
    });
    assert_eq!(member, expected);
}

#[tokio::test]
async fn only_invited_users_join_a_private_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;

    let uninvited = bob.posts_in_room(&room, "join", json!({})).await;
    alice.invites(&room, &bob).await;
    bob.joins(&room).await;

    uninvited.expect_error(403, "M_FORBIDDEN");
    let members = alice
        .gets_in_room(&room, "joined_members")
        .await
        .expect_ok();
    let unnamed = json!({ "display_name": null, "avatar_url": null });
    let expected = json!({ "joined": { &*alice.id: unnamed, &*bob.id: unnamed } });
    assert_eq!(members, expected);
}

#[tokio::test]
async fn invitations_against_the_rules_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let levels = json!({ "invite": 50 });
    alice.sets_state(&room, "m.room.power_levels", levels).await;
    let invitation = |user_id: &str| json!({ "user_id": user_id });

    let oneself = alice
        .posts_in_room(&room, "invite", invitation(&alice.id))
        .await;
    let member = alice
        .posts_in_room(&room, "invite", invitation(&bob.id))
        .await;
    let powerless = bob
        .posts_in_room(&room, "invite", invitation(&carol.id))
        .await;
    let outside = carol
        .posts_in_room(&room, "invite", invitation(&carol.id))
        .await;
    alice.bans(&room, &carol).await;
    let banned = alice
        .posts_in_room(&room, "invite", invitation(&carol.id))
        .await;

    for refused in [oneself, member, powerless, outside, banned] {
        refused.expect_error(403, "M_FORBIDDEN");
    }
    let nobody = alice.posts_in_room(&room, "invite", json!({})).await;
    nobody.expect_error(400, "M_BAD_JSON");
    let no_id = alice
        .posts_in_room(&room, "invite", invitation("carol"))
        .await;
    no_id.expect_error(400, "M_BAD_JSON");
}

#[tokio::test]
async fn an_invitation_to_an_empty_room_can_be_declined() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    alice.invites(&room, &bob).await;
    let invited = bob.syncs().await;
    alice.leaves(&room).await;

    bob.leaves(&room).await;

    let declined = bob.syncs_after(&invited).await;
    let left = &declined["rooms"]["leave"][&room];
    let own = find_event(&left["timeline"]["events"], "m.room.member", &bob.id);
    assert_eq!(own["content"]["membership"], "leave");
    assert_eq!(declined["rooms"]["invite"], Value::Null);
    let later = bob.syncs_after(&declined).await;
    assert_eq!(later["rooms"], Value::Null);
}

#[tokio::test]
async fn only_members_leave_and_leaving_twice_changes_nothing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;

    let outside = bob.posts_in_room(&room, "leave", json!({})).await;
    bob.joins(&room).await;
    let body = json!({ "reason": "bye" });
    bob.posts_in_room(&room, "leave", body).await.expect_ok();
    bob.leaves(&room).await;

    outside.expect_error(403, "M_FORBIDDEN");
    let member = alice.member(&room, &bob).await;
    let expected = json!({ "membership": "leave", "reason": "bye" });
    assert_eq!(member, expected);
    let unknown = bob
        .posts_in_room("!unknown:localhost", "leave", json!({}))
        .await;
    unknown.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_creator_can_leave_and_be_invited_again() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({ "invite": [bob.id] })).await;
    bob.joins(&room).await;
    let levels = json!({ "invite": 100, "users": { &*bob.id: 100 } });
    alice.sets_state(&room, "m.room.power_levels", levels).await;

    alice.leaves(&room).await;
    bob.invites(&room, &alice).await;
    alice.joins(&room).await;

    let member = bob.member(&room, &alice).await;
    assert_eq!(member["membership"], "join");
}

#[tokio::test]
async fn a_kick_requires_power_and_a_present_target() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    let kick = |user_id: &str| json!({ "user_id": user_id, "reason": "rude" });

    let absent = alice.posts_in_room(&room, "kick", kick(&bob.id)).await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    let powerless = bob.posts_in_room(&room, "kick", kick(&carol.id)).await;
    bob.leaves(&room).await;
    let gone = alice.posts_in_room(&room, "kick", kick(&bob.id)).await;
    let outside = bob.posts_in_room(&room, "kick", kick(&carol.id)).await;
    alice
        .posts_in_room(&room, "kick", kick(&carol.id))
        .await
        .expect_ok();

    for refused in [absent, powerless, gone, outside] {
        refused.expect_error(403, "M_FORBIDDEN");
    }
    let member = alice.member(&room, &carol).await;
    let expected = json!({ "membership": "leave", "reason": "rude" });
    assert_eq!(member, expected);
    carol.joins(&room).await;
}

#[tokio::test]
async fn an_invitation_is_withdrawn_by_a_kick() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({ "invite": [bob.id] })).await;
    let invited = bob.syncs().await;

    alice.kicks(&room, &bob).await;

    let sync = bob.syncs_after(&invited).await;
    let events = &sync["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(
        find_event(events, "m.room.member", &bob.id)["sender"],
        alice.id
    );
    let uninvited = bob.posts_in_room(&room, "join", json!({})).await;
    uninvited.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_banned_user_cannot_join_until_unbanned() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let ban = json!({ "user_id": bob.id, "reason": "rude" });
    alice.posts_in_room(&room, "ban", ban).await.expect_ok();

    let join = bob.posts_in_room(&room, "join", json!({})).await;
    let leave = bob.posts_in_room(&room, "leave", json!({})).await;
    let member = alice.member(&room, &bob).await;
    let target = json!({ "user_id": bob.id });
    let unban = alice.posts_in_room(&room, "unban", target).await;
    bob.joins(&room).await;

    join.expect_error(403, "M_FORBIDDEN");
    leave.expect_error(403, "M_FORBIDDEN");
    assert_eq!(member, json!({ "membership": "ban", "reason": "rude" }));
    assert_eq!(unban.expect_ok(), json!({}));
}

#[tokio::test]
async fn bans_require_a_powerful_member_and_unbans_a_ban() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let levels = json!({ "users": { &*carol.id: 100 } });
    alice.sets_state(&room, "m.room.power_levels", levels).await;
    let target = |user_id: &str| json!({ "user_id": user_id });

    let not_present = carol.posts_in_room(&room, "ban", target(&bob.id)).await;
    let powerless = bob.posts_in_room(&room, "ban", target(&alice.id)).await;
    let not_banned = alice.posts_in_room(&room, "unban", target(&bob.id)).await;
    alice.bans(&room, &bob).await;
    let banned_already = carol.posts_in_room(&room, "ban", target(&bob.id)).await;
    let own_unban = bob.posts_in_room(&room, "unban", target(&bob.id)).await;

    for refused in [
        not_present,
        powerless,
        not_banned,
        banned_already,
        own_unban,
    ] {
        refused.expect_error(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn a_member_cannot_forget_the_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({ "invite": [bob.id] })).await;

    let inside = alice.posts_in_room(&room, "forget", json!({})).await;
    let invited = bob.posts_in_room(&room, "forget", json!({})).await;
    let unknown = alice
        .posts_in_room("!unknown:localhost", "forget", json!({}))
        .await;

    inside.expect_error(400, "M_UNKNOWN");
    invited.expect_error(400, "M_UNKNOWN");
    unknown.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_forgotten_room_is_hidden_from_the_user() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let message = alice.says(&room, "hello").await;
    bob.leaves(&room).await;

    bob.forgets(&room).await;
    bob.forgets(&room).await;
    alice.says(&room, "gone").await;

    for what in ["messages?dir=b", "state", "members", "joined_members"] {
        let asked = bob.gets_in_room(&room, what).await;
        asked.expect_error(403, "M_FORBIDDEN");
    }
    let event = bob.event(&room, &message).await;
    event.expect_error(404, "M_NOT_FOUND");
    let with_left = "filter=%7B%22room%22%3A%7B%22include_leave%22%3Atrue%7D%7D";
    let sync = bob.syncs_with(with_left).await;
    assert_eq!(sync["rooms"], Value::Null);
}

#[tokio::test]
async fn a_later_sync_shows_the_leave_of_a_forgotten_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let before = bob.syncs().await;
    alice.says(&room, "hello").await;
    bob.leaves(&room).await;
    bob.forgets(&room).await;

    let sync = bob.syncs_after(&before).await;

    let events = &sync["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(texts_at(events, "/content/membership"), ["leave"]);
    assert_eq!(message_bodies(events), Vec::<&str>::new());
}

#[tokio::test]
async fn rejoining_a_forgotten_room_restores_its_history() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({ "invite": [bob.id] })).await;
    bob.joins(&room).await;
    let before = alice.says(&room, "before").await;
    bob.leaves(&room).await;
    bob.forgets(&room).await;

    let uninvited = bob.posts_in_room(&room, "join", json!({})).await;
    alice.invites(&room, &bob).await;
    bob.joins(&room).await;
    let after = alice.says(&room, "after").await;

    uninvited.expect_error(403, "M_FORBIDDEN");
    let page = bob.messages(&room, "dir=b&limit=100").await;
    assert_eq!(message_bodies(&page["chunk"]), ["after", "before"]);
    assert!(event_ids(&page["chunk"]).contains(&&*after));
    assert!(event_ids(&page["chunk"]).contains(&&*before));
}

#[tokio::test]
async fn kicked_and_declining_users_can_forget_a_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates(json!({ "invite": [bob.id, carol.id] })).await;
    bob.joins(&room).await;

    alice.kicks(&room, &bob).await;
    carol.leaves(&room).await;
    alice.leaves(&room).await;

    for user in [alice, bob, carol] {
        user.forgets(&room).await;
    }
}

#[tokio::test]
async fn members_are_listed_by_membership_and_at_a_point() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let before = alice.syncs().await;
    bob.joins(&room).await;
    bob.leaves(&room).await;
    let prev_batch = &before["rooms"]["join"][&room]["timeline"]["prev_batch"];
    assert!(prev_batch.is_string());
    let at = before["next_batch"].as_str().expect("a token");

    let cases = [
        ("", vec![&*alice.id, &*bob.id]),
        ("?membership=join", vec![&*alice.id]),
        ("?membership=leave", vec![&*bob.id]),
        ("?not_membership=leave", vec![&*alice.id]),
        (&format!("?at={at}"), vec![&*alice.id]),
    ];

    for (query, expected) in cases {
        let members = alice.gets_in_room(&room, &format!("members{query}")).await;
        let members = members.expect_ok();
        let mut found = texts_at(&members["chunk"], "/state_key");
        found.sort_unstable();
        assert_eq!(found, expected, "{query}");
        let rooms = texts_at(&members["chunk"], "/room_id");
        assert!(rooms.iter().all(|found| *found == room));
    }
}

#[tokio::test]
async fn former_members_can_read_the_room_until_their_leave() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_room_with_history("joined").await;
    bob.joins(&room).await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "before" }))
        .await;
    alice.says(&room, "one").await;
    bob.leaves(&room).await;
    let left = bob.syncs().await;
    alice
        .sets_state(&room, "m.room.name", json!({ "name": "after" }))
        .await;
    alice.says(&room, "two").await;
    carol.joins(&room).await;

    let name = bob.state(&room, "m.room.name").await;
    let members = bob.gets_in_room(&room, "members").await.expect_ok();
    let from = crate::chat::next_batch(&left);
    let back = format!("dir=b&limit=2&from={from}");
    let back = bob.messages(&room, &back).await;
    let on = bob.messages(&room, &format!("dir=f&from={from}")).await;

    assert_eq!(name, json!({ "name": "before" }));
    let mut found = texts_at(&members["chunk"], "/state_key");
    found.sort_unstable();
    assert_eq!(found, [&*alice.id, &*bob.id]);
    let own = find_event(&members["chunk"], "m.room.member", &bob.id);
    assert_eq!(own["content"]["membership"], "leave");
    assert_eq!(message_bodies(&back["chunk"]), ["one"]);
    assert_eq!(texts_at(&back["chunk"], "/content/membership"), ["leave"]);
    assert_eq!(on["chunk"], json!([]));
    let joined = bob.gets_in_room(&room, "joined_members").await;
    joined.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn joining_an_unknown_room_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let cases = [
        ("!unknown:localhost", 404, "M_NOT_FOUND"),
        ("#unknown:localhost", 404, "M_NOT_FOUND"),
        ("unknown", 400, "M_INVALID_PARAM"),
    ];

    for (room, status, errcode) in cases {
        let path = format!("/_matrix/client/v3/join/{}", percent_encoded(room));
        let refused = alice.client.post(&path, json!({})).await;
        refused.expect_error(status, errcode);
    }
}

#[tokio::test]
async fn the_creator_is_the_only_member_at_the_first_token() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    let sync = alice.syncs().await;
    let token = &sync["rooms"]["join"][&room]["timeline"]["prev_batch"];
    let token = token.as_str().expect("a token");
    bob.joins(&room).await;

    let members = alice
        .gets_in_room(&room, &format!("members?at={token}"))
        .await
        .expect_ok();

    assert_eq!(texts_at(&members["chunk"], "/state_key"), [&alice.id]);
}

#[tokio::test]
async fn repeated_invitations_of_one_user_are_rate_limited() {
    let server = Server::with_config(|config| config.limits.enabled = true).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.creates(json!({})).await;

    let mut invited = 0;
    let refused = loop {
        // An invitation into a new room counts as much as one into an existing room.
        let body = json!({ "invite": [bob.id] });
        let answer = alice
            .client
            .post("/_matrix/client/v3/createRoom", body)
            .await;
        if answer.status != 200 || invited > 50 {
            break answer;
        }
        invited += 1;
    };

    refused.expect_error(429, "M_LIMIT_EXCEEDED");
    assert_eq!(invited, 10);
    let member = json!({ "membership": "invite" });
    let by_state = format!(
        "/_matrix/client/v3/rooms/{room}/state/m.room.member/{}",
        bob.id
    );
    alice
        .client
        .put(&by_state, member)
        .await
        .expect_error(429, "M_LIMIT_EXCEEDED");
    let path = format!("/_matrix/client/v3/rooms/{room}/invite");
    let body = json!({ "user_id": bob.id });
    alice
        .client
        .post(&path, body)
        .await
        .expect_error(429, "M_LIMIT_EXCEEDED");
    // The same inviter can invite other users, and other users can invite the same user.
    let body = json!({ "user_id": carol.id });
    alice.client.post(&path, body).await.expect_ok();
    carol.creates(json!({ "invite": [bob.id] })).await;
}
