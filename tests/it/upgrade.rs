//! Tests room upgrades.

use serde_json::{Value, json};

use crate::{
    chat::{percent_encoded, room_path},
    harness::{HttpAnswer, Server, User},
};

async fn upgrade_room(user: &User, room: &str, body: Value) -> HttpAnswer {
    user.client.post(&room_path(room, "upgrade"), body).await
}

async fn upgraded_room_id(user: &User, room: &str, version: &str) -> String {
    let answer = upgrade_room(user, room, json!({ "new_version": version })).await;
    let answer = answer.expect_ok();
    answer["replacement_room"]
        .as_str()
        .expect("an ID")
        .to_owned()
}

async fn account_data(user: &User, rest: &str) -> Value {
    let path = format!("/_matrix/client/v3/user/{}/{rest}", user.id);
    user.client.get(&path).await.expect_ok()
}

async fn set_account_data(user: &User, rest: &str, content: Value) {
    let path = format!("/_matrix/client/v3/user/{}/{rest}", user.id);
    user.client.put(&path, content).await.expect_ok();
}

#[tokio::test]
async fn an_upgrade_copies_the_state_of_the_old_room() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice
        .creates(json!({
            "preset": "public_chat", "room_version": "10", "name": "Name", "topic": "Topic",
            "room_alias_name": "den", "visibility": "public",
            "creation_content": { "type": "m.space", "m.federate": false },
            "initial_state": [
                { "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } },
                { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
                { "type": "m.space.child", "state_key": "!c:b", "content": { "via": ["b"] } },
                { "type": "org.example.own", "content": { "a": 1 } },
            ],
        }))
        .await;
    alice.bans(&old, &bob).await;

    let new = upgraded_room_id(&alice, &old, "11").await;

    let create = alice.state(&new, "m.room.create").await;
    assert_eq!(create["type"], "m.space");
    assert_eq!(create["m.federate"], false);
    assert_eq!(create["predecessor"]["room_id"], old);
    assert!(create["predecessor"]["event_id"].is_string());
    assert_eq!(alice.state(&new, "m.room.name").await["name"], "Name");
    assert_eq!(alice.state(&new, "m.room.topic").await["topic"], "Topic");
    let history = alice.state(&new, "m.room.history_visibility").await;
    assert_eq!(history["history_visibility"], "joined");
    assert_eq!(
        alice.state(&new, "m.room.join_rules").await["join_rule"],
        "public"
    );
    let encryption = alice.state(&new, "m.room.encryption").await;
    assert_eq!(encryption["algorithm"], "m.megolm.v1.aes-sha2");
    assert_eq!(alice.member(&new, &bob).await["membership"], "ban");
    let child = alice.state(&new, "m.space.child/!c:b").await;
    assert_eq!(child["via"], json!(["b"]));
    let own = alice.gets_in_room(&new, "state/org.example.own").await;
    own.expect_error(404, "M_NOT_FOUND");
    let users = &alice.state(&new, "m.room.power_levels").await["users"];
    assert_eq!(*users, json!({ &alice.id: 100 }));
}

#[tokio::test]
async fn an_upgrade_closes_the_old_room_and_moves_aliases() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let request = json!({
        "preset": "public_chat", "room_version": "11", "room_alias_name": "den", "visibility": "public",
    });
    let old = alice.creates(request).await;
    bob.joins(&old).await;

    let new = upgraded_room_id(&alice, &old, "12").await;

    assert_eq!(
        alice.state(&old, "m.room.tombstone").await["replacement_room"],
        new
    );
    assert_eq!(alice.state(&old, "m.room.canonical_alias").await, json!({}));
    let alias = alice.state(&new, "m.room.canonical_alias").await;
    assert_eq!(alias["alias"], "#den:localhost");
    let path = format!(
        "/_matrix/client/v3/directory/room/{}",
        percent_encoded("#den:localhost")
    );
    assert_eq!(bob.client.get(&path).await.expect_ok()["room_id"], new);
    let listed = bob
        .client
        .get("/_matrix/client/v3/publicRooms")
        .await
        .expect_ok();
    assert_eq!(listed["chunk"][0]["room_id"], new);
    assert_eq!(listed["total_room_count_estimate"], 1);
    let refused = bob
        .tries_to_send(&old, "m.room.message", json!({ "body": "x" }))
        .await;
    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn creators_have_no_power_levels_in_version_12() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice
        .creates(json!({ "preset": "public_chat", "room_version": "11" }))
        .await;
    bob.joins(&old).await;
    let levels = json!({ "users": { &alice.id: 100, &bob.id: 100, "@c:d": 50 } });
    alice.sets_state(&old, "m.room.power_levels", levels).await;

    let body = json!({ "new_version": "12", "additional_creators": [&alice.id, &bob.id] });
    let new = upgrade_room(&bob, &old, body).await.expect_ok()["replacement_room"].clone();

    let new = new.as_str().expect("an ID");
    let create = bob.state(new, "m.room.create").await;
    assert_eq!(create["additional_creators"], json!([&alice.id]));
    assert_eq!(create["predecessor"], json!({ "room_id": old }));
    let levels = bob.state(new, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({ "@c:d": 50 }));
    assert_eq!(levels["events"]["m.room.tombstone"], 150);
}

#[tokio::test]
async fn an_upgrade_by_a_moderator_does_not_raise_their_level() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice
        .creates(json!({ "preset": "public_chat", "room_version": "9" }))
        .await;
    bob.joins(&old).await;
    let acl = json!({ "allow": ["*"] });
    alice.sets_state(&old, "m.room.server_acl", acl).await;
    let mut levels = alice.state(&old, "m.room.power_levels").await;
    levels["users"] = json!({ &alice.id: 100, &bob.id: 60 });
    levels["events"]["m.room.tombstone"] = json!(50);
    alice
        .sets_state(&old, "m.room.power_levels", levels.clone())
        .await;

    let new = upgraded_room_id(&bob, &old, "10").await;

    assert_eq!(bob.state(&new, "m.room.power_levels").await, levels);
    assert_eq!(
        bob.state(&new, "m.room.server_acl").await["allow"],
        json!(["*"])
    );
}

#[tokio::test]
async fn an_upgrade_requires_power_to_send_a_tombstone() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice.creates_open_room().await;

    let outside = upgrade_room(&bob, &old, json!({ "new_version": "12" })).await;
    outside.expect_error(403, "M_FORBIDDEN");
    bob.joins(&old).await;
    let inside = upgrade_room(&bob, &old, json!({ "new_version": "12" })).await;
    inside.expect_error(403, "M_FORBIDDEN");
    let unknown = upgrade_room(&alice, &old, json!({ "new_version": "99" })).await;
    unknown.expect_error(400, "M_UNSUPPORTED_ROOM_VERSION");
    let nowhere = upgrade_room(&alice, "!x:localhost", json!({ "new_version": "12" })).await;
    nowhere.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn tags_and_push_rules_follow_a_member_to_the_new_room() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let old = alice.creates_open_room().await;
    bob.joins(&old).await;
    for user in [&alice, &bob] {
        let tags = json!({ "tags": { "m.favourite": { "order": 0.5 } } });
        set_account_data(user, &format!("rooms/{old}/account_data/m.tag"), tags).await;
        let direct = json!({ "@x:y": [&old], "@z:y": ["!other:y"] });
        set_account_data(user, "account_data/m.direct", direct).await;
        for (kind, rule) in [
            ("room", json!({ "actions": ["notify"] })),
            (
                "override",
                json!({
                    "actions": [],
                    "conditions": [{ "kind": "event_match", "key": "room_id", "pattern": &old }],
                }),
            ),
        ] {
            let path = format!(
                "/_matrix/client/v3/pushrules/global/{kind}/{}",
                percent_encoded(&old)
            );
            user.client.put(&path, rule).await.expect_ok();
        }
    }

    let new = upgraded_room_id(&alice, &old, "12").await;
    bob.joins(&new).await;

    for user in [&alice, &bob] {
        let tags = account_data(user, &format!("rooms/{new}/account_data/m.tag")).await;
        assert_eq!(tags["tags"]["m.favourite"]["order"], 0.5);
        let direct = account_data(user, "account_data/m.direct").await;
        assert_eq!(
            direct,
            json!({ "@x:y": [&old, &new], "@z:y": ["!other:y"] })
        );
        let path = format!(
            "/_matrix/client/v3/pushrules/global/room/{}",
            percent_encoded(&new)
        );
        assert_eq!(
            user.client.get(&path).await.expect_ok()["actions"],
            json!(["notify"])
        );
        let path = format!(
            "/_matrix/client/v3/pushrules/global/override/{}",
            percent_encoded(&new)
        );
        let rule = user.client.get(&path).await.expect_ok();
        assert_eq!(rule["conditions"][0]["pattern"], new);
    }
}

#[tokio::test]
async fn a_false_predecessor_receives_no_account_data() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let hidden = alice.creates_open_room().await;
    let tags = json!({ "tags": { "u.x": {} } });
    set_account_data(&bob, &format!("rooms/{hidden}/account_data/m.tag"), tags).await;

    let claim = json!({ "predecessor": { "room_id": hidden } });
    let room = bob.creates(json!({ "creation_content": claim })).await;

    let path = format!(
        "/_matrix/client/v3/user/{}/rooms/{room}/account_data/m.tag",
        bob.id
    );
    bob.client.get(&path).await.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_invalid_version_is_not_supported() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;

    for version in ["", "odd version!", "org.example.odd", &"9".repeat(40)] {
        let refused = upgrade_room(&alice, &room, json!({ "new_version": version })).await;
        refused.expect_error(400, "M_UNSUPPORTED_ROOM_VERSION");
    }
    let number = upgrade_room(&alice, &room, json!({ "new_version": 12 })).await;
    number.expect_error(400, "M_BAD_JSON");
}
