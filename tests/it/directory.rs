//! Aliases and the public room directory.

use serde_json::{Value, json};

use crate::{
    chat::{event_types, percent_encoded, room_path, texts_at, timeline},
    harness::{HttpAnswer, Server, User},
};

const PUBLIC_ROOMS_PATH: &str = "/_matrix/client/v3/publicRooms";

fn alias_path(alias: &str) -> String {
    format!(
        "/_matrix/client/v3/directory/room/{}",
        percent_encoded(alias)
    )
}

fn list_path(room: &str) -> String {
    format!("/_matrix/client/v3/directory/list/room/{room}")
}

impl User {
    async fn tries_to_create_alias(&self, room: &str, alias: &str) -> HttpAnswer {
        let body = json!({ "room_id": room });
        self.client.put(&alias_path(alias), body).await
    }

    async fn creates_alias(&self, room: &str, alias: &str) {
        self.tries_to_create_alias(room, alias).await.expect_ok();
    }

    async fn tries_to_set_canonical_alias(&self, room: &str, content: Value) -> HttpAnswer {
        self.tries_to_set_state(room, "m.room.canonical_alias", content)
            .await
    }

    async fn searches_directory(&self, request: Value) -> Value {
        self.client
            .post(PUBLIC_ROOMS_PATH, request)
            .await
            .expect_ok()
    }
}

#[tokio::test]
async fn an_alias_can_be_created_found_and_removed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;

    for alias in ["#pub:localhost", "#老虎Â£я🤨👉ඞ:localhost"] {
        alice.creates_alias(&room, alias).await;
        let found = bob.client.get(&alias_path(alias)).await;
        let listed = alice.gets_in_room(&room, "aliases").await;
        let removed = alice.client.delete(&alias_path(alias)).await;
        let gone = bob.client.get(&alias_path(alias)).await;

        let expected = json!({ "room_id": room, "servers": ["localhost"] });
        assert_eq!(found.expect_ok(), expected);
        assert_eq!(listed.expect_ok(), json!({ "aliases": [alias] }));
        assert_eq!(removed.expect_ok(), json!({}));
        gone.expect_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn invalid_alias_creations_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    let other = bob.creates(json!({})).await;
    alice.creates_alias(&room, "#taken:localhost").await;

    let taken = bob.tries_to_create_alias(&other, "#taken:localhost").await;
    let not_inside = bob.tries_to_create_alias(&room, "#mine:localhost").await;
    let unknown = bob
        .tries_to_create_alias("!unknown:localhost", "#x:localhost")
        .await;
    let elsewhere = alice
        .tries_to_create_alias(&room, "#pub:elsewhere.org")
        .await;
    let malformed = alice.tries_to_create_alias(&room, "pub").await;
    let no_room = alice
        .client
        .put(&alias_path("#x:localhost"), json!({}))
        .await;

    taken.expect_error(409, "M_UNKNOWN");
    not_inside.expect_error(403, "M_FORBIDDEN");
    unknown.expect_error(403, "M_FORBIDDEN");
    elsewhere.expect_error(400, "M_INVALID_PARAM");
    malformed.expect_error(400, "M_INVALID_PARAM");
    no_room.expect_error(400, "M_BAD_JSON");
}

#[tokio::test]
async fn only_creators_or_powerful_members_can_remove_an_alias() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    alice.creates_alias(&room, "#of-alice:localhost").await;
    bob.creates_alias(&room, "#of-bob:localhost").await;
    bob.creates_alias(&room, "#of-bob-too:localhost").await;

    let not_his = bob.client.delete(&alias_path("#of-alice:localhost")).await;
    let his = bob.client.delete(&alias_path("#of-bob:localhost")).await;
    let by_power = alias_path("#of-bob-too:localhost");
    let by_power = alice.client.delete(&by_power).await;
    let unknown = bob.client.delete(&alias_path("#unknown:localhost")).await;

    not_his.expect_error(403, "M_FORBIDDEN");
    his.expect_ok();
    by_power.expect_ok();
    unknown.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn removing_an_alias_updates_the_canonical_alias_event() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "room_alias_name": "one" })).await;
    alice.creates_alias(&room, "#two:localhost").await;
    let both = json!({ "alias": "#one:localhost", "alt_aliases": ["#two:localhost"] });
    alice
        .sets_state(&room, "m.room.canonical_alias", both)
        .await;
    let before = alice.syncs().await;

    for alias in ["#two:localhost", "#one:localhost"] {
        let removed = alice.client.delete(&alias_path(alias)).await;
        removed.expect_ok();
    }

    let sync = alice.syncs_after(&before).await;
    let events = timeline(&sync, &room);
    assert_eq!(event_types(events), ["m.room.canonical_alias"; 2]);
    assert_eq!(events[0]["content"], json!({ "alias": "#one:localhost" }));
    assert_eq!(events[1]["content"], json!({}));
}

#[tokio::test]
async fn a_creator_can_remove_their_alias_even_if_canonical() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    bob.creates_alias(&room, "#pub:localhost").await;
    let alias = json!({ "alias": "#pub:localhost" });
    alice
        .sets_state(&room, "m.room.canonical_alias", alias.clone())
        .await;

    let removed = bob.client.delete(&alias_path("#pub:localhost")).await;

    removed.expect_ok();
    let left = alice.state(&room, "m.room.canonical_alias").await;
    assert_eq!(left, alias);
}

#[tokio::test]
async fn canonical_aliases_must_point_to_the_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let other = alice.creates(json!({})).await;
    alice.creates_alias(&room, "#here:localhost").await;
    alice.creates_alias(&other, "#there:localhost").await;
    let alt = |alias: &str| json!({ "alias": "#here:localhost", "alt_aliases": [alias] });
    let cases = [
        (json!({ "alias": "#missing:localhost" }), "M_BAD_ALIAS"),
        (json!({ "alias": "#there:localhost" }), "M_BAD_ALIAS"),
        (
            json!({ "alias": "%malformed:localhost" }),
            "M_INVALID_PARAM",
        ),
        (json!({ "alias": 1 }), "M_INVALID_PARAM"),
        (alt("#missing:localhost"), "M_BAD_ALIAS"),
        (alt("#there:localhost"), "M_BAD_ALIAS"),
        (alt("%malformed:localhost"), "M_INVALID_PARAM"),
    ];

    for (content, errcode) in cases {
        let refused = alice.tries_to_set_canonical_alias(&room, content).await;
        refused.expect_error(400, errcode);
    }
    let good = alice.tries_to_set_canonical_alias(&room, alt("#here:localhost"));
    good.await.expect_ok();
}

#[tokio::test]
async fn a_removed_alias_can_remain_but_not_become_canonical() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    bob.creates_alias(&room, "#old:localhost").await;
    let old = json!({ "alias": "#old:localhost" });
    alice
        .sets_state(&room, "m.room.canonical_alias", old.clone())
        .await;
    let removed = bob.client.delete(&alias_path("#old:localhost")).await;
    removed.expect_ok();

    let kept = json!({ "alias": "#old:localhost", "org.example": 1 });
    alice
        .sets_state(&room, "m.room.canonical_alias", kept)
        .await;
    alice
        .sets_state(&room, "m.room.canonical_alias", json!({}))
        .await;
    let anew = alice.tries_to_set_canonical_alias(&room, old).await;

    anew.expect_error(400, "M_BAD_ALIAS");
}

#[tokio::test]
async fn the_directory_shows_the_state_of_a_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let request = json!({
        "visibility": "public", "name": "un nom français", "topic": "à la française",
        "room_alias_name": "pub", "creation_content": { "type": "m.space" },
        "initial_state": [
            { "type": "m.room.avatar", "content": { "url": "mxc://localhost/a" } },
            {
                "type": "m.room.history_visibility",
                "content": { "history_visibility": "world_readable" },
            },
        ],
    });
    let room = alice.creates(request).await;
    bob.joins(&room).await;
    alice.creates(json!({ "name": "private" })).await;

    let list = alice.client.get(PUBLIC_ROOMS_PATH).await.expect_ok();

    let expected = json!({
        "room_id": room, "name": "un nom français", "topic": "à la française",
        "canonical_alias": "#pub:localhost", "avatar_url": "mxc://localhost/a",
        "num_joined_members": 2, "room_type": "m.space",
        "world_readable": true, "guest_can_join": false, "join_rule": "public",
    });
    assert_eq!(list["chunk"], json!([expected]));
    assert_eq!(list["total_room_count_estimate"], 1);
    assert_eq!(
        (&list["next_batch"], &list["prev_batch"]),
        (&Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn the_directory_follows_room_state_changes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice
        .creates(json!({ "visibility": "public", "name": "One" }))
        .await;

    alice
        .sets_state(&room, "m.room.name", json!({ "name": "Two" }))
        .await;
    alice
        .sets_state(&room, "m.room.join_rules", json!({ "join_rule": "invite" }))
        .await;

    let list = alice.client.get(PUBLIC_ROOMS_PATH).await.expect_ok();
    assert_eq!(list["chunk"][0]["name"], "Two");
    assert_eq!(list["chunk"][0]["join_rule"], "invite");
    alice.sets_state(&room, "m.room.name", json!({})).await;
    let list = alice.client.get(PUBLIC_ROOMS_PATH).await.expect_ok();
    assert_eq!(list["chunk"][0]["name"], Value::Null);
}

#[tokio::test]
async fn the_directory_is_searchable_by_text_and_room_type() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let requests = [
        json!({ "name": "Kaffee 100%" }),
        json!({ "topic": "All about Wombles" }),
        json!({ "room_alias_name": "teatime" }),
        json!({ "name": "Ünder_score" }),
        json!({ "name": "Space", "creation_content": { "type": "m.space" } }),
    ];
    let mut rooms = Vec::new();
    for mut request in requests {
        request["visibility"] = json!("public");
        rooms.push(alice.creates(request).await);
    }
    let cases = [
        (json!({ "generic_search_term": "kaffee" }), vec![0]),
        (json!({ "generic_search_term": "100%" }), vec![0]),
        (json!({ "generic_search_term": "wombles" }), vec![1]),
        (json!({ "generic_search_term": "TEATIME" }), vec![2]),
        (json!({ "generic_search_term": "r_s" }), vec![3]),
        (json!({ "generic_search_term": "ünder" }), vec![3]),
        (json!({ "generic_search_term": "nothing" }), vec![]),
        (json!({ "room_types": ["m.space"] }), vec![4]),
        (json!({ "room_types": [null] }), vec![0, 1, 2, 3]),
        (
            json!({ "room_types": ["m.space", null] }),
            vec![0, 1, 2, 3, 4],
        ),
    ];

    for (filter, expected) in cases {
        let found = alice.searches_directory(json!({ "filter": filter })).await;

        let expected: Vec<&str> = expected.iter().map(|n: &usize| &*rooms[*n]).collect();
        assert_eq!(texts_at(&found["chunk"], "/room_id"), expected, "{filter}");
    }
}

#[tokio::test]
async fn the_directory_pages_both_ways_largest_rooms_first() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let mut rooms = Vec::new();
    for _ in 0..5 {
        rooms.push(alice.creates(json!({ "visibility": "public" })).await);
    }
    bob.joins(&rooms[3]).await;
    let order = [3, 0, 1, 2, 4].map(|n: usize| &*rooms[n]);

    let first = alice
        .client
        .get(&format!("{PUBLIC_ROOMS_PATH}?limit=2"))
        .await
        .expect_ok();
    let since = |page: &Value, token: &str| {
        let token = page[token].as_str().expect("a token");
        format!("{PUBLIC_ROOMS_PATH}?limit=2&since={token}")
    };
    let second = alice
        .client
        .get(&since(&first, "next_batch"))
        .await
        .expect_ok();
    let third = alice
        .client
        .get(&since(&second, "next_batch"))
        .await
        .expect_ok();
    let back = alice
        .client
        .get(&since(&third, "prev_batch"))
        .await
        .expect_ok();
    let front = alice
        .client
        .get(&since(&back, "prev_batch"))
        .await
        .expect_ok();

    assert_eq!(texts_at(&first["chunk"], "/room_id"), order[0..2]);
    assert_eq!(texts_at(&second["chunk"], "/room_id"), order[2..4]);
    assert_eq!(texts_at(&third["chunk"], "/room_id"), order[4..5]);
    assert_eq!(texts_at(&back["chunk"], "/room_id"), order[2..4]);
    assert_eq!(texts_at(&front["chunk"], "/room_id"), order[0..2]);
    assert_eq!(first["prev_batch"], Value::Null);
    assert_eq!(third["next_batch"], Value::Null);
    assert_eq!(front["prev_batch"], Value::Null);
    assert_eq!(first["total_room_count_estimate"], 5);
}

#[tokio::test]
async fn only_powerful_members_can_change_directory_visibility() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let visibility = |value: &str| json!({ "visibility": value });

    let before = server.get(&list_path(&room)).await;
    let not_his = bob
        .client
        .put(&list_path(&room), visibility("public"))
        .await;
    let set = alice
        .client
        .put(&list_path(&room), visibility("public"))
        .await;
    let after = server.get(&list_path(&room)).await;
    let list = bob.client.get(PUBLIC_ROOMS_PATH).await.expect_ok();
    let unset = alice
        .client
        .put(&list_path(&room), visibility("private"))
        .await;
    let at_last = bob.client.get(PUBLIC_ROOMS_PATH).await.expect_ok();

    assert_eq!(before.expect_ok(), visibility("private"));
    not_his.expect_error(403, "M_FORBIDDEN");
    assert_eq!(set.expect_ok(), json!({}));
    assert_eq!(after.expect_ok(), visibility("public"));
    assert_eq!(texts_at(&list["chunk"], "/room_id"), [room.as_str()]);
    unset.expect_ok();
    assert_eq!(at_last["chunk"], json!([]));
    let unknown = server.get(&list_path("!unknown:localhost")).await;
    unknown.expect_error(404, "M_NOT_FOUND");
    let not_said = alice.client.put(&list_path(&room), json!({})).await;
    not_said.expect_ok();
    let public = server.get(&list_path(&room)).await;
    assert_eq!(public.expect_ok(), visibility("public"));
    let unknown = list_path("!unknown:localhost");
    let unknown = alice.client.put(&unknown, visibility("public")).await;
    unknown.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_directory_requires_login_unless_configured() {
    let closed = Server::start().await;
    let open = Server::with_config(|config| config.directory.public_without_login = true).await;

    let refused = closed.get(PUBLIC_ROOMS_PATH).await;
    let shown = open.get(PUBLIC_ROOMS_PATH).await;

    refused.expect_error(401, "M_MISSING_TOKEN");
    assert_eq!(shown.expect_ok()["chunk"], json!([]));
}

#[tokio::test]
async fn invalid_directory_queries_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let cases = ["since=x", "since=f1", "since=f1_x", "limit=x", "limit=-1"];

    for query in cases {
        let path = format!("{PUBLIC_ROOMS_PATH}?{query}");
        let refused = alice.client.get(&path).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    let elsewhere = format!("{PUBLIC_ROOMS_PATH}?server=elsewhere.org");
    let elsewhere = alice.client.get(&elsewhere).await;
    elsewhere.expect_error(502, "M_UNKNOWN");
    let wrong = alice
        .client
        .post(PUBLIC_ROOMS_PATH, json!({ "filter": 1 }))
        .await;
    wrong.expect_error(400, "M_BAD_JSON");
}

#[tokio::test]
async fn only_members_see_the_aliases_of_a_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    alice.creates_alias(&room, "#pub:localhost").await;

    let by_stranger = bob.gets_in_room(&room, "aliases").await;
    let unnamed = server.get(&room_path(&room, "aliases")).await;

    by_stranger.expect_error(403, "M_FORBIDDEN");
    unnamed.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn an_unknown_visibility_does_not_unpublish_a_room() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let request = json!({ "preset": "public_chat", "visibility": "public" });
    let room = alice.creates(request).await;
    let path = format!("/_matrix/client/v3/directory/list/room/{room}");

    let refused = alice
        .client
        .put(&path, json!({ "visibility": "odd" }))
        .await;

    refused.expect_error(400, "M_INVALID_PARAM");
    let visibility = alice.client.get(&path).await.expect_ok();
    assert_eq!(visibility, json!({ "visibility": "public" }));
}
