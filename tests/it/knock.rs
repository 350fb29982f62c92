//! Knocking, and restricted rooms, which members of another room may join.

use serde_json::{Value, json};

use crate::{
    chat::{event_types, find_event, percent_encoded, timeline},
    harness::{HttpAnswer, Server, User},
};

/// Creates a room with this join rule.
async fn room_with_rule(user: &User, version: &str, rule: Value) -> String {
    let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": rule });
    let request = json!({
        "preset": "private_chat", "name": "Den", "room_version": version, "initial_state": [rule],
    });
    user.creates(request).await
}

async fn knock_on(user: &User, room: &str, reason: &str) -> HttpAnswer {
    let path = format!("/_matrix/client/v3/knock/{}", percent_encoded(room));
    user.client.post(&path, json!({ "reason": reason })).await
}

fn members_only_rule(room: &str, kind: &str) -> Value {
    let allow = json!([{ "type": "m.room_membership", "room_id": room, "via": ["localhost"] }]);
    json!({ "join_rule": kind, "allow": allow })
}

#[tokio::test]
async fn a_knock_is_visible_to_members_and_the_knocker() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = room_with_rule(&alice, "11", json!({ "join_rule": "knock" })).await;

    let answer = knock_on(&bob, &room, "please").await.expect_ok();

    assert_eq!(answer["room_id"], room);
    let member = alice.member(&room, &bob).await;
    assert_eq!(
        (&member["membership"], &member["reason"]),
        (&json!("knock"), &json!("please"))
    );
    let sync = bob.syncs().await;
    let state = &sync["rooms"]["knock"][&room]["knock_state"]["events"];
    assert_eq!(
        find_event(state, "m.room.name", "")["content"]["name"],
        "Den"
    );
    assert_eq!(
        find_event(state, "m.room.member", &bob.id)["content"]["membership"],
        "knock"
    );
    assert_eq!(sync["rooms"]["join"], Value::Null);
}

#[tokio::test]
async fn a_knock_can_be_withdrawn_rejected_or_accepted() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = room_with_rule(&alice, "11", json!({ "join_rule": "knock" })).await;
    knock_on(&bob, &room, "").await.expect_ok();
    let before = bob.syncs().await;

    bob.leaves(&room).await;
    let after = bob.syncs_after(&before).await;
    let left = &after["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(
        find_event(left, "m.room.member", &bob.id)["content"]["membership"],
        "leave"
    );

    knock_on(&bob, &room, "again").await.expect_ok();
    alice.kicks(&room, &bob).await;
    knock_on(&bob, &room, "once more").await.expect_ok();
    alice.invites(&room, &bob).await;
    knock_on(&bob, &room, "late")
        .await
        .expect_error(403, "M_FORBIDDEN");
    bob.joins(&room).await;
    knock_on(&bob, &room, "inside")
        .await
        .expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn knocking_requires_a_room_that_allows_it() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let closed = room_with_rule(&alice, "11", json!({ "join_rule": "invite" })).await;
    let old = room_with_rule(&alice, "6", json!({ "join_rule": "knock" })).await;
    let open = room_with_rule(&alice, "11", json!({ "join_rule": "knock" })).await;
    alice.bans(&open, &bob).await;

    for room in [&closed, &old, &open] {
        knock_on(&bob, room, "")
            .await
            .expect_error(403, "M_FORBIDDEN");
    }
    knock_on(&bob, "!unknown:localhost", "")
        .await
        .expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn members_of_an_allowed_room_can_join_a_restricted_room() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = alice.creates_open_room().await;
    for (version, kind) in [
        ("8", "restricted"),
        ("10", "knock_restricted"),
        ("12", "restricted"),
    ] {
        let room = room_with_rule(&alice, version, members_only_rule(&club, kind)).await;

        bob.posts_in_room(&room, "join", json!({}))
            .await
            .expect_error(403, "M_FORBIDDEN");
        bob.joins(&club).await;
        bob.joins(&room).await;

        let member = alice.member(&room, &bob).await;
        assert_eq!(member["join_authorised_via_users_server"], alice.id);
        let renamed = json!({
            "membership": "join", "displayname": "B", "join_authorised_via_users_server": "unused",
        });
        bob.sets_state(&room, &format!("m.room.member/{}", bob.id), renamed)
            .await;
        let member = alice.member(&room, &bob).await;
        assert_eq!(member["join_authorised_via_users_server"], Value::Null);
        bob.leaves(&room).await;
        bob.leaves(&club).await;
        bob.posts_in_room(&room, "join", json!({}))
            .await
            .expect_error(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn knocking_on_a_restricted_room_needs_no_other_membership() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = alice.creates_open_room().await;
    let room = room_with_rule(&alice, "10", members_only_rule(&club, "knock_restricted")).await;

    knock_on(&bob, &room, "").await.expect_ok();
    alice.invites(&room, &bob).await;
    bob.joins(&room).await;

    let sync = alice.syncs().await;
    assert!(event_types(timeline(&sync, &room)).contains(&"m.room.member"));
}

#[tokio::test]
async fn a_restricted_join_needs_a_member_who_may_invite() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = alice.creates_open_room().await;
    bob.joins(&club).await;
    let room = room_with_rule(&alice, "11", members_only_rule(&club, "restricted")).await;
    let levels = json!({ "invite": 101, "users": { &alice.id: 100 } });
    alice
        .tries_to_set_state(&room, "m.room.power_levels", levels)
        .await
        .expect_error(403, "M_FORBIDDEN");
    alice.leaves(&room).await;

    bob.posts_in_room(&room, "join", json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_malformed_allow_condition_admits_nobody() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for allow in [json!("invalid"), json!(["invalid"]), json!([])] {
        let rule = json!({ "join_rule": "restricted", "allow": allow });
        let room = room_with_rule(&alice, "9", rule).await;

        bob.posts_in_room(&room, "join", json!({}))
            .await
            .expect_error(403, "M_FORBIDDEN");
    }
}
