//! Tests the space hierarchy, room summaries and mutual rooms.

use serde_json::{Value, json};

use crate::{
    chat::{event_ids, percent_encoded, texts_at},
    harness::{HttpAnswer, Server, User},
};

async fn create_space(user: &User, name: &str) -> String {
    let content = json!({ "type": "m.space" });
    let request = json!({ "preset": "public_chat", "name": name, "creation_content": content });
    user.creates(request).await
}

async fn link_child(user: &User, space: &str, child: &str, more: Value) {
    let mut content = json!({ "via": ["localhost"] });
    let more = more.as_object().expect("an object").clone();
    content.as_object_mut().expect("an object").extend(more);
    let kind = format!("m.space.child/{}", percent_encoded(child));
    user.sets_state(space, &kind, content).await;
}

async fn try_hierarchy(user: &User, space: &str, query: &str) -> HttpAnswer {
    let path = format!("/_matrix/client/v1/rooms/{space}/hierarchy?{query}");
    user.client.get(&path).await
}

async fn hierarchy(user: &User, space: &str, query: &str) -> Value {
    try_hierarchy(user, space, query).await.expect_ok()
}

fn hierarchy_room_ids(page: &Value) -> Vec<&str> {
    texts_at(&page["rooms"], "/room_id")
}

async fn try_summary(user: &User, room: &str) -> HttpAnswer {
    let path = format!("/_matrix/client/v1/room_summary/{}", percent_encoded(room));
    user.client.get(&path).await
}

#[tokio::test]
async fn the_hierarchy_is_depth_first_in_child_order() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let root = create_space(&alice, "root").await;
    let sub = create_space(&alice, "sub").await;
    let (one, two) = (
        alice.creates_open_room().await,
        alice.creates_open_room().await,
    );
    let inner = alice.creates_open_room().await;
    link_child(&alice, &root, &two, json!({ "suggested": true })).await;
    link_child(&alice, &root, &sub, json!({})).await;
    link_child(&alice, &root, &one, json!({ "order": "a" })).await;
    link_child(&alice, &sub, &inner, json!({})).await;
    link_child(&alice, &sub, &root, json!({})).await;
    link_child(&alice, &one, &inner, json!({})).await;

    let whole = hierarchy(&alice, &root, "").await;
    let shallow = hierarchy(&alice, &root, "max_depth=1").await;
    let suggested = hierarchy(&alice, &root, "suggested_only=true").await;

    assert_eq!(
        hierarchy_room_ids(&whole),
        [&root, &one, &two, &sub, &inner]
    );
    assert_eq!(whole["next_batch"], Value::Null);
    let children = &whole["rooms"][0]["children_state"];
    assert_eq!(texts_at(children, "/state_key"), [&one, &two, &sub]);
    assert!(children[0]["origin_server_ts"].is_u64());
    assert!(event_ids(children).is_empty());
    assert_eq!(whole["rooms"][1]["children_state"], json!([]));
    assert_eq!(whole["rooms"][1]["join_rule"], "public");
    assert_eq!(hierarchy_room_ids(&shallow), [&root, &one, &two, &sub]);
    assert_eq!(
        texts_at(&shallow["rooms"][3]["children_state"], "/state_key").len(),
        2
    );
    assert_eq!(hierarchy_room_ids(&suggested), [&root, &two]);
    assert_eq!(
        texts_at(&suggested["rooms"][0]["children_state"], "/state_key"),
        [&two]
    );
}

#[tokio::test]
async fn the_hierarchy_is_paginated() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let root = create_space(&alice, "root").await;
    let mut expected = vec![root.clone()];
    for _ in 0..4 {
        let child = alice.creates_open_room().await;
        link_child(&alice, &root, &child, json!({})).await;
        expected.push(child);
    }

    let first = hierarchy(&alice, &root, "limit=2").await;
    let token = first["next_batch"].as_str().expect("a token").to_owned();
    let second = hierarchy(&alice, &root, &format!("from={token}")).await;

    let found: Vec<&str> = hierarchy_room_ids(&first)
        .into_iter()
        .chain(hierarchy_room_ids(&second))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(second["next_batch"], Value::Null);
    let changed = try_hierarchy(&alice, &root, &format!("from={token}&max_depth=1")).await;
    changed.expect_error(400, "M_INVALID_PARAM");
    try_hierarchy(&alice, &root, "from=x")
        .await
        .expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn inaccessible_rooms_are_omitted_with_their_children() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let root = create_space(&alice, "root").await;
    let content = json!({ "type": "m.space" });
    let hidden = alice.creates(json!({ "creation_content": content })).await;
    let below = alice.creates_open_room().await;
    let allow = json!([{ "type": "m.room_membership", "room_id": &root }]);
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "restricted", "allow": allow } });
    let restricted = alice.creates(json!({ "initial_state": [rule] })).await;
    let knock = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let knockable = alice.creates(json!({ "initial_state": [knock] })).await;
    for child in [
        &hidden,
        &restricted,
        &knockable,
        &"!unknown:localhost".to_owned(),
    ] {
        link_child(&alice, &root, child, json!({})).await;
    }
    link_child(&alice, &hidden, &below, json!({})).await;

    assert_eq!(
        hierarchy_room_ids(&hierarchy(&bob, &root, "").await),
        [&root, &knockable]
    );
    bob.joins(&root).await;
    let inside = hierarchy(&bob, &root, "").await;
    assert_eq!(
        hierarchy_room_ids(&inside),
        [&root, &restricted, &knockable]
    );
    assert_eq!(inside["rooms"][1]["allowed_room_ids"], json!([&root]));
    alice.invites(&hidden, &bob).await;
    let invited = hierarchy(&bob, &root, "").await;
    assert_eq!(
        hierarchy_room_ids(&invited),
        [&root, &hidden, &below, &restricted, &knockable]
    );
    alice.bans(&knockable, &bob).await;
    assert_eq!(
        hierarchy_room_ids(&hierarchy(&bob, &root, "max_depth=1").await).len(),
        3
    );

    let closed = alice.creates(json!({})).await;
    try_hierarchy(&bob, &closed, "")
        .await
        .expect_error(403, "M_FORBIDDEN");
    try_hierarchy(&bob, "!x:localhost", "")
        .await
        .expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_child_without_via_servers_is_ignored() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let root = create_space(&alice, "root").await;
    let child = alice.creates_open_room().await;
    link_child(&alice, &root, &child, json!({})).await;
    alice
        .sets_state(&root, &format!("m.space.child/{child}"), json!({}))
        .await;

    let page = hierarchy(&alice, &root, "").await;

    assert_eq!(hierarchy_room_ids(&page), [&root]);
    assert_eq!(page["rooms"][0]["children_state"], json!([]));
}

#[tokio::test]
async fn a_summary_describes_a_room() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let encryption = json!({
        "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
    });
    let room = alice
        .creates(json!({
            "preset": "public_chat", "name": "Name", "room_alias_name": "den", "room_version": "11",
            "initial_state": [encryption],
        }))
        .await;

    let mut expected = json!({
        "room_id": room, "canonical_alias": "#den:localhost", "name": "Name", "num_joined_members": 1,
        "join_rule": "public", "world_readable": false, "guest_can_join": false,
        "encryption": "m.megolm.v1.aes-sha2", "room_version": "11",
    });
    let by_stranger = server
        .get(&format!(
            "/_matrix/client/v1/room_summary/{}",
            percent_encoded(&room)
        ))
        .await;
    assert_eq!(by_stranger.expect_ok(), expected);
    expected["membership"] = json!("leave");
    assert_eq!(try_summary(&bob, &room).await.expect_ok(), expected);
    assert_eq!(
        try_summary(&bob, "#den:localhost").await.expect_ok(),
        expected
    );
    for path in ["rooms/{}/summary", "summary/{}"] {
        let path = path.replace("{}", &percent_encoded(&room));
        let path = format!("/_matrix/client/unstable/im.nheko.summary/{path}");
        let summary = alice.client.get(&path).await.expect_ok();
        assert_eq!(summary["im.nheko.summary.version"], "11");
        assert_eq!(summary["membership"], "join");
    }
}

#[tokio::test]
async fn a_closed_room_has_a_summary_only_for_members() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates(json!({})).await;

    try_summary(&bob, &room)
        .await
        .expect_error(404, "M_NOT_FOUND");
    try_summary(&bob, "!x:localhost")
        .await
        .expect_error(404, "M_NOT_FOUND");
    try_summary(&bob, "#x:localhost")
        .await
        .expect_error(404, "M_NOT_FOUND");
    let path = format!("/_matrix/client/v1/room_summary/{}", percent_encoded(&room));
    server.get(&path).await.expect_error(404, "M_NOT_FOUND");
    alice.invites(&room, &bob).await;
    let summary = try_summary(&bob, &room).await.expect_ok();
    assert_eq!(summary["membership"], "invite");
    assert_eq!(summary["allowed_room_ids"], Value::Null);
}

#[tokio::test]
async fn mutual_rooms_lists_shared_rooms() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut shared = Vec::new();
    for _ in 0..2 {
        let room = alice.creates_open_room().await;
        bob.joins(&room).await;
        shared.push(room);
    }
    let left = alice.creates_open_room().await;
    bob.joins(&left).await;
    bob.leaves(&left).await;
    let ask = async |query: &str| {
        let path = format!("/_matrix/client/v1/mutual_rooms?{query}");
        alice.client.get(&path).await
    };

    let found = ask(&format!("user_id={}", percent_encoded(&bob.id)))
        .await
        .expect_ok();
    assert_eq!(found, json!({ "joined": shared, "count": 2 }));
    let nobody = ask("user_id=%40nobody%3Alocalhost").await.expect_ok();
    assert_eq!(nobody, json!({ "joined": [], "count": 0 }));
    let own = ask(&format!("user_id={}", percent_encoded(&alice.id))).await;
    own.expect_error(400, "M_INVALID_PARAM");
    let token = ask(&format!("user_id={}&from=x", percent_encoded(&bob.id))).await;
    token.expect_error(400, "M_INVALID_PARAM");
    ask("").await.expect_error(400, "M_MISSING_PARAM");
}
