//! Knocking, and restricted rooms, which members of another room may join.

use serde_json::{Value, json};

use crate::{
    chat::{encoded, find, timeline, types},
    harness::{Answer, Server, User},
};

/// Creates a room with this join rule.
async fn room_with_rule(user: &User, version: &str, rule: Value) -> String {
    let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": rule });
    let request = json!({
        "preset": "private_chat", "name": "Den", "room_version": version, "initial_state": [rule],
    });
    user.creates(request).await
}

async fn knocks(user: &User, room: &str, reason: &str) -> Answer {
    let path = format!("/_matrix/client/v3/knock/{}", encoded(room));
    user.client.post(&path, json!({ "reason": reason })).await
}

fn only_members_of(room: &str, kind: &str) -> Value {
    let allow = json!([{ "type": "m.room_membership", "room_id": room, "via": ["localhost"] }]);
    json!({ "join_rule": kind, "allow": allow })
}

#[tokio::test]
async fn whoever_knocks_is_seen_by_the_members_and_sees_what_they_knocked_on() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = room_with_rule(&alice, "11", json!({ "join_rule": "knock" })).await;

    let answer = knocks(&bob, &room, "please").await.expect_ok();

    assert_eq!(answer["room_id"], room);
    let member = alice.member(&room, &bob).await;
    assert_eq!(
        (&member["membership"], &member["reason"]),
        (&json!("knock"), &json!("please"))
    );
    let sync = bob.syncs().await;
    let state = &sync["rooms"]["knock"][&room]["knock_state"]["events"];
    assert_eq!(find(state, "m.room.name", "")["content"]["name"], "Den");
    assert_eq!(
        find(state, "m.room.member", &bob.id)["content"]["membership"],
        "knock"
    );
    assert_eq!(sync["rooms"]["join"], Value::Null);
}

#[tokio::test]
async fn a_knock_can_be_taken_back_and_answered() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = room_with_rule(&alice, "11", json!({ "join_rule": "knock" })).await;
    knocks(&bob, &room, "").await.expect_ok();
    let before = bob.syncs().await;

    bob.leaves(&room).await;
    let after = bob.syncs_after(&before).await;
    let left = &after["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(
        find(left, "m.room.member", &bob.id)["content"]["membership"],
        "leave"
    );

    knocks(&bob, &room, "again").await.expect_ok();
    alice.kicks(&room, &bob).await;
    knocks(&bob, &room, "once more").await.expect_ok();
    alice.invites(&room, &bob).await;
    knocks(&bob, &room, "late")
        .await
        .expect_error(403, "M_FORBIDDEN");
    bob.joins(&room).await;
    knocks(&bob, &room, "inside")
        .await
        .expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn only_a_room_that_allows_it_can_be_knocked_on() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let closed = room_with_rule(&alice, "11", json!({ "join_rule": "invite" })).await;
    let old = room_with_rule(&alice, "6", json!({ "join_rule": "knock" })).await;
    let open = room_with_rule(&alice, "11", json!({ "join_rule": "knock" })).await;
    alice.bans(&open, &bob).await;

    for room in [&closed, &old, &open] {
        knocks(&bob, room, "")
            .await
            .expect_error(403, "M_FORBIDDEN");
    }
    knocks(&bob, "!unknown:localhost", "")
        .await
        .expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn members_of_the_named_room_join_a_restricted_one() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = alice.creates_open_room().await;
    for (version, kind) in [
        ("8", "restricted"),
        ("10", "knock_restricted"),
        ("12", "restricted"),
    ] {
        let room = room_with_rule(&alice, version, only_members_of(&club, kind)).await;

        bob.tries(&room, "join", json!({}))
            .await
            .expect_error(403, "M_FORBIDDEN");
        bob.joins(&club).await;
        bob.joins(&room).await;

        let member = alice.member(&room, &bob).await;
        assert_eq!(member["join_authorised_via_users_server"], alice.id);
        let renamed = json!({
            "membership": "join", "displayname": "B", "join_authorised_via_users_server": "unused",
        });
        bob.sets(&room, &format!("m.room.member/{}", bob.id), renamed)
            .await;
        let member = alice.member(&room, &bob).await;
        assert_eq!(member["join_authorised_via_users_server"], Value::Null);
        bob.leaves(&room).await;
        bob.leaves(&club).await;
        bob.tries(&room, "join", json!({}))
            .await
            .expect_error(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn whoever_knocks_on_a_restricted_room_needs_no_other() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = alice.creates_open_room().await;
    let room = room_with_rule(&alice, "10", only_members_of(&club, "knock_restricted")).await;

    knocks(&bob, &room, "").await.expect_ok();
    alice.invites(&room, &bob).await;
    bob.joins(&room).await;

    let sync = alice.syncs().await;
    assert!(types(timeline(&sync, &room)).contains(&"m.room.member"));
}

#[tokio::test]
async fn nobody_is_let_in_where_no_member_may_invite() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = alice.creates_open_room().await;
    bob.joins(&club).await;
    let room = room_with_rule(&alice, "11", only_members_of(&club, "restricted")).await;
    let levels = json!({ "invite": 101, "users": { &alice.id: 100 } });
    alice
        .tries_to_set(&room, "m.room.power_levels", levels)
        .await
        .expect_error(403, "M_FORBIDDEN");
    alice.leaves(&room).await;

    bob.tries(&room, "join", json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_mangled_condition_lets_nobody_in() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for allow in [json!("invalid"), json!(["invalid"]), json!([])] {
        let rule = json!({ "join_rule": "restricted", "allow": allow });
        let room = room_with_rule(&alice, "9", rule).await;

        bob.tries(&room, "join", json!({}))
            .await
            .expect_error(403, "M_FORBIDDEN");
    }
}
