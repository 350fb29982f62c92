//! Tests the creation of rooms.

use serde_json::{Value, json};

use crate::{
    chat::{event_types, find_event, percent_encoded, room_path, texts_at},
    harness::{Server, User},
};

/// Room versions in which a test creates a room and sends a message.
const TESTED_ROOM_VERSIONS: [&str; 7] = ["6", "7", "8", "9", "10", "11", "12"];

#[tokio::test]
async fn a_new_room_has_its_events_in_specification_order() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let request = json!({
        "name": "Pub", "topic": "Hours", "room_alias_name": "pub", "invite": [bob.id],
        "initial_state": [{ "type": "org.example", "state_key": "key", "content": { "a": 1 } }],
    });

    let room = alice.creates(request).await;

    let page = alice.messages(&room, "dir=f&limit=20").await;
    let expected = [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.canonical_alias",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "org.example",
        "m.room.name",
        "m.room.topic",
        "m.room.member",
    ];
    assert_eq!(event_types(&page["chunk"]), expected);
    assert_eq!(texts_at(&page["chunk"], "/sender"), [&*alice.id; 11]);
}

#[tokio::test]
async fn rooms_of_every_version_can_be_created_and_used() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for version in TESTED_ROOM_VERSIONS {
        let room = alice.creates(json!({ "room_version": version })).await;
        alice.says(&room, "hello").await;

        let create = alice.state(&room, "m.room.create").await;
        assert_eq!(create["room_version"], version);
    }
}

#[tokio::test]
async fn version_12_is_the_default_and_omits_the_creator_field() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let new = alice.creates(json!({})).await;
    let old = alice.creates(json!({ "room_version": "10" })).await;

    let create = alice.state(&new, "m.room.create").await;
    assert_eq!(create, json!({ "room_version": "12" }));
    assert!(!new.contains(':'), "{new} has no server name");
    let create = alice.state(&old, "m.room.create").await;
    assert_eq!(create, json!({ "room_version": "10", "creator": alice.id }));
    assert!(old.ends_with(":localhost"), "{old} has a server name");
}

#[tokio::test]
async fn presets_decide_who_may_join_and_read() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let cases = [
        (json!({}), "invite", "can_join"),
        (json!({ "visibility": "private" }), "invite", "can_join"),
        (json!({ "visibility": "public" }), "public", "forbidden"),
        (json!({ "preset": "private_chat" }), "invite", "can_join"),
        (
            json!({ "preset": "trusted_private_chat" }),
            "invite",
            "can_join",
        ),
        (json!({ "preset": "public_chat" }), "public", "forbidden"),
        (
            json!({ "preset": "private_chat", "visibility": "public" }),
            "invite",
            "can_join",
        ),
    ];

    for (request, join_rule, guest_access) in cases {
        let room = alice.creates(request).await;

        let rules = alice.state(&room, "m.room.join_rules").await;
        assert_eq!(rules, json!({ "join_rule": join_rule }));
        // A room without the event forbids guests.
        let guests = alice.gets_in_room(&room, "state/m.room.guest_access").await;
        let guests = guests.body["guest_access"].as_str();
        assert_eq!(guests.unwrap_or("forbidden"), guest_access);
        let history = alice.state(&room, "m.room.history_visibility").await;
        assert_eq!(history, json!({ "history_visibility": "shared" }));
    }
}

#[tokio::test]
async fn the_name_overrides_initial_state_which_overrides_the_preset() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let request = json!({
        "preset": "private_chat", "name": "Name", "topic": "Topic",
        "initial_state": [
            { "type": "m.room.join_rules", "content": { "join_rule": "public" } },
            { "type": "m.room.name", "state_key": "", "content": { "name": "other" } },
            { "type": "m.room.topic", "state_key": "", "content": { "topic": "other" } },
        ],
    });

    let room = alice.creates(request).await;

    let rules = alice.state(&room, "m.room.join_rules").await;
    assert_eq!(rules["join_rule"], "public");
    let name = alice.state(&room, "m.room.name").await;
    assert_eq!(name, json!({ "name": "Name" }));
    let topic = alice.state(&room, "m.room.topic").await;
    let text = json!({ "m.text": [{ "body": "Topic" }] });
    assert_eq!(topic, json!({ "topic": "Topic", "m.topic": text }));
}

#[tokio::test]
async fn a_topic_in_initial_state_is_not_changed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let topic = json!({ "type": "m.room.topic", "state_key": "", "content": { "topic": "Topic" } });

    let room = alice.creates(json!({ "initial_state": [topic] })).await;

    let topic = alice.state(&room, "m.room.topic").await;
    assert_eq!(topic, json!({ "topic": "Topic" }));
}

#[tokio::test]
async fn power_levels_omit_the_creator_since_version_12() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let new = alice.creates(json!({})).await;
    let old = alice.creates(json!({ "room_version": "11" })).await;

    let events = |tombstone: i64| {
        json!({
            "m.room.name": 50, "m.room.power_levels": 100, "m.room.history_visibility": 100,
            "m.room.canonical_alias": 50, "m.room.avatar": 50, "m.room.server_acl": 100,
            "m.room.encryption": 100, "m.room.tombstone": tombstone,
        })
    };
    let levels = |users: Value, events: Value| {
        json!({
            "ban": 50, "kick": 50, "redact": 50, "invite": 0, "state_default": 50,
            "events_default": 0, "users_default": 0, "notifications": { "room": 50 },
            "users": users, "events": events,
        })
    };
    let found = alice.state(&new, "m.room.power_levels").await;
    assert_eq!(found, levels(json!({}), events(150)));
    let found = alice.state(&old, "m.room.power_levels").await;
    assert_eq!(found, levels(json!({ &*alice.id: 100 }), events(100)));
}

#[tokio::test]
async fn an_override_replaces_the_power_levels_that_it_names() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let request = |version: &str, users: Value| {
        let levels = json!({ "users": users, "invite": 50, "events": {} });
        json!({ "room_version": version, "power_level_content_override": levels })
    };

    let users = json!({ &*bob.id: 100 });
    let new = alice.creates(request("12", users.clone())).await;
    let both = json!({ &*alice.id: 100, &*bob.id: 100 });
    let old = alice.creates(request("11", both.clone())).await;

    for (room, users) in [(new, users), (old, both)] {
        let levels = alice.state(&room, "m.room.power_levels").await;
        assert_eq!(levels["users"], users);
        assert_eq!(levels["events"], json!({}));
        assert_eq!(
            (&levels["invite"], &levels["ban"]),
            (&json!(50), &json!(50))
        );
    }
}

#[tokio::test]
async fn power_levels_against_the_room_rules_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let creator_named = json!({ "users": { &*alice.id: 100 } });
    let too_large = json!({ "users": { &*bob.id: 9_007_199_254_740_992_i64 } });
    let no_power_left = json!({ "users": { &*bob.id: 100 } });
    let cases = [
        ("12", creator_named, "M_BAD_JSON"),
        ("12", too_large, "M_BAD_JSON"),
        ("11", no_power_left, "M_INVALID_ROOM_STATE"),
    ];

    for (version, levels, errcode) in cases {
        let request = json!({ "room_version": version, "power_level_content_override": levels });
        let refused = alice.tries_to_create(request).await;
        refused.expect_error(400, errcode);
    }
}

#[tokio::test]
async fn creation_content_is_kept_except_for_server_fields() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let content = json!({
        "m.federate": false, "type": "m.space", "org.example": 1,
        "room_version": "1", "creator": "@eve:localhost",
    });

    let new = alice.creates(json!({ "creation_content": content })).await;
    let request = json!({ "creation_content": content, "room_version": "9" });
    let old = alice.creates(request).await;

    let create = alice.state(&new, "m.room.create").await;
    let mut expected = json!({
        "m.federate": false, "type": "m.space", "org.example": 1, "room_version": "12",
    });
    assert_eq!(create, expected);
    let create = alice.state(&old, "m.room.create").await;
    expected["creator"] = json!(alice.id);
    expected["room_version"] = json!("9");
    assert_eq!(create, expected);
}

#[tokio::test]
async fn invited_users_receive_invitations_and_the_direct_flag() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    let direct = json!({ "invite": [bob.id], "is_direct": true });
    let direct = alice.creates(direct).await;
    let usual = alice.creates(json!({ "invite": [bob.id] })).await;

    let sync = bob.syncs().await;
    let invitation = |room: &str| {
        let events = &sync["rooms"]["invite"][room]["invite_state"]["events"];
        find_event(events, "m.room.member", &bob.id)["content"].clone()
    };
    assert_eq!(invitation(&direct)["membership"], "invite");
    assert_eq!(invitation(&direct)["is_direct"], true);
    assert_eq!(invitation(&usual)["is_direct"], Value::Null);
}

#[tokio::test]
async fn invitees_of_a_trusted_private_chat_have_creator_power() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let request = |version: &str| {
        json!({
            "preset": "trusted_private_chat", "room_version": version, "invite": [bob.id],
            "creation_content": { "additional_creators": [carol.id] },
        })
    };

    let new = alice.creates(request("12")).await;
    let old = alice.creates(request("11")).await;

    let create = alice.state(&new, "m.room.create").await;
    assert_eq!(create["additional_creators"], json!([carol.id, bob.id]));
    let levels = alice.state(&new, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({}));
    let levels = alice.state(&old, "m.room.power_levels").await;
    assert_eq!(levels["users"], json!({ &*alice.id: 100, &*bob.id: 100 }));
}

#[tokio::test]
async fn an_additional_creator_is_as_powerful_as_the_creator() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let content = json!({ "additional_creators": [bob.id] });
    let request = json!({ "preset": "public_chat", "creation_content": content });
    let room = alice.creates(request).await;
    bob.joins(&room).await;

    let name = json!({ "name": "Bob's" });
    bob.sets_state(&room, "m.room.name", name).await;

    let target = json!({ "user_id": bob.id });
    let kick = alice.posts_in_room(&room, "kick", target).await;
    kick.expect_error(403, "M_FORBIDDEN");
    let levels = json!({ "users": { &*bob.id: 100 } });
    let named = alice.tries_to_set_state(&room, "m.room.power_levels", levels);
    named.await.expect_error(400, "M_BAD_JSON");
}

#[tokio::test]
async fn the_creator_has_more_power_than_every_level() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let levels = json!({ "users": { &*bob.id: 9_007_199_254_740_991_i64 } });
    alice.sets_state(&room, "m.room.power_levels", levels).await;

    let target = json!({ "user_id": alice.id });
    let kick = bob.posts_in_room(&room, "kick", target).await;

    kick.expect_error(403, "M_FORBIDDEN");
    alice.kicks(&room, &bob).await;
}

#[tokio::test]
async fn additional_creators_must_be_user_ids() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let cases = [
        json!("not-a-list"),
        json!(["@foo:example.com", 42]),
        json!(["@foo:example.com", "not-a-user-id"]),
        json!(["@invalid:dom$ain$.com"]),
    ];

    for creators in cases {
        let content = json!({ "additional_creators": creators });
        let request = json!({ "preset": "public_chat", "creation_content": content });
        let refused = alice.tries_to_create(request).await;
        refused.expect_error(400, "M_INVALID_ROOM_STATE");
    }
    let content = json!({ "additional_creators": ["@foo:example.com", "@bar:baz.code"] });
    alice.creates(json!({ "creation_content": content })).await;
}

#[tokio::test]
async fn a_taken_alias_prevents_the_creation_of_the_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "room_alias_name": "pub" })).await;

    let taken = json!({ "room_alias_name": "pub" });
    let taken = alice.tries_to_create(taken).await;

    taken.expect_error(400, "M_ROOM_IN_USE");
    let alias = alice.state(&room, "m.room.canonical_alias").await;
    assert_eq!(alias, json!({ "alias": "#pub:localhost" }));
    let resolved = server
        .get("/_matrix/client/v3/directory/room/%23pub%3Alocalhost")
        .await;
    assert_eq!(resolved.expect_ok()["room_id"], room);
    let joined = alice.client.get("/_matrix/client/v3/joined_rooms").await;
    assert_eq!(joined.expect_ok(), json!({ "joined_rooms": [room] }));
}

#[tokio::test]
async fn invalid_creation_requests_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let state = |event: Value| json!({ "initial_state": [event] });
    let create = json!({ "type": "m.room.create", "content": {} });
    let invite =
        json!({ "id_server": "a.b", "id_access_token": "t", "medium": "email", "address": "a@b" });
    let cases = [
        (
            json!({ "room_version": "13" }),
            "M_UNSUPPORTED_ROOM_VERSION",
        ),
        (json!({ "room_version": "x" }), "M_UNSUPPORTED_ROOM_VERSION"),
        (json!({ "room_version": 1 }), "M_BAD_JSON"),
        (json!({ "invite": ["bob"] }), "M_BAD_JSON"),
        (json!({ "invite": [alice.id] }), "M_INVALID_ROOM_STATE"),
        (json!({ "name": 1 }), "M_BAD_JSON"),
        (json!({ "room_alias_name": "a:b" }), "M_INVALID_PARAM"),
        (json!({ "room_alias_name": "a b" }), "M_INVALID_PARAM"),
        (json!({ "creation_content": [] }), "M_BAD_JSON"),
        (json!({ "power_level_content_override": 1 }), "M_BAD_JSON"),
        (state(json!({ "content": {} })), "M_BAD_JSON"),
        (state(json!({ "type": "t" })), "M_BAD_JSON"),
        (state(create), "M_INVALID_ROOM_STATE"),
        (state(json!({ "type": "t", "content": 1 })), "M_BAD_JSON"),
    ];

    for (request, errcode) in cases {
        let refused = alice.tries_to_create(request).await;
        refused.expect_error(400, errcode);
    }
    let by_address = json!({ "invite_3pid": [invite] });
    let refused = alice.tries_to_create(by_address).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let stranger = server.post("/_matrix/client/v3/createRoom", json!({}));
    stranger.await.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn rooms_of_every_supported_version_survive_a_restart() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut rooms = Vec::new();
    for version in 2..=12 {
        let request = json!({ "preset": "public_chat", "room_version": version.to_string() });
        let room = alice.creates(request).await;
        bob.joins(&room).await;
        let said = bob.says(&room, "hello").await;
        alice.redacts(&room, &said).await;
        rooms.push((room, said));
    }

    let server = server.restart().await;
    let (alice, bob) = (alice.on_server(&server), bob.on_server(&server));

    for (room, said) in rooms {
        alice.says(&room, "again").await;
        let event = bob.event(&room, &said).await.expect_ok();
        assert_eq!(event["content"], json!({}));
    }
}

#[tokio::test]
async fn owned_state_gives_each_user_many_state_keys() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let levels = json!({ "events": { "org.example": 0 } });
    let request = json!({
        "preset": "public_chat", "room_version": "org.matrix.msc3757.10",
        "power_level_content_override": levels,
    });
    let room = alice.creates(request).await;
    bob.joins(&room).await;
    let set = async |user: &User, key: &str| {
        let path = format!("org.example/{}", percent_encoded(key));
        user.tries_to_set_state(&room, &path, json!({})).await
    };

    set(&bob, &format!("{}_device", bob.id)).await.expect_ok();
    set(&alice, &format!("{}_device", bob.id)).await.expect_ok();
    let refused = set(&bob, &format!("{}_x", alice.id)).await;
    refused.expect_error(403, "M_FORBIDDEN");
    set(&alice, "@oops").await.expect_error(400, "M_BAD_JSON");
    let long = format!("{}_{}", bob.id, "x".repeat(250));
    set(&bob, &long).await.expect_error(413, "M_TOO_LARGE");
}

#[tokio::test]
async fn unknown_presets_and_visibilities_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for request in [json!({ "preset": "odd" }), json!({ "visibility": "odd" })] {
        let refused = alice.tries_to_create(request).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }

    let joined = alice.client.get("/_matrix/client/v3/joined_rooms").await;
    assert_eq!(joined.expect_ok()["joined_rooms"], json!([]));
}

#[tokio::test]
async fn a_tombstone_must_name_another_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    for replacement in [room.as_str(), "odd", "!\0:x"] {
        let content = json!({ "body": "gone", "replacement_room": replacement });
        let path = room_path(&room, "state/m.room.tombstone");
        let refused = alice.client.put(&path, content).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn malformed_power_levels_are_refused_in_every_version() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    for version in ["6", "9", "11"] {
        let room = alice.creates(json!({ "room_version": version })).await;
        for content in [
            json!({ "ban": "50" }),
            json!({ "users": [] }),
            json!({ "users": { "odd": 1 } }),
            json!({ "notifications": 5 }),
            json!({ "events": { "m.room.name": "50" } }),
        ] {
            let path = room_path(&room, "state/m.room.power_levels");
            let refused = alice.client.put(&path, content.clone()).await;
            refused.expect_error(400, "M_BAD_JSON");
            let request = json!({
                "room_version": version, "power_level_content_override": content,
            });
            let path = "/_matrix/client/v3/createRoom";
            let refused = alice.client.post(path, request).await;
            refused.expect_error(400, "M_BAD_JSON");
        }
    }
}

#[tokio::test]
async fn the_directory_omits_rooms_without_members() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "visibility": "public" })).await;
    let path = "/_matrix/client/v3/publicRooms";
    let listed = async || alice.client.get(path).await.expect_ok();
    assert_eq!(listed().await["total_room_count_estimate"], 1);

    alice.leaves(&room).await;

    let listed = listed().await;
    assert_eq!(listed["chunk"], json!([]));
    assert_eq!(listed["total_room_count_estimate"], 0);
}
