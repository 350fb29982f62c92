//! Tests the user directory.

use serde_json::{Value, json};

use crate::harness::{Server, User};

async fn finds(searcher: &User, term: &str) -> Value {
    let body = json!({ "search_term": term, "limit": 10 });
    let path = "/_matrix/client/v3/user_directory/search";
    searcher.client.post(path, body).await.expect_ok()
}

async fn ids(searcher: &User, term: &str) -> Vec<String> {
    let found = finds(searcher, term).await;
    let results = found["results"].as_array().cloned().unwrap_or_default();
    let ids = results.iter().filter_map(|user| user["user_id"].as_str());
    ids.map(ToOwned::to_owned).collect()
}

async fn is_called(user: &User, name: &str) {
    let path = format!("/_matrix/client/v3/profile/{}/displayname", user.id);
    let named = user.client.put(&path, json!({ "displayname": name }));
    named.await.expect_ok();
}

#[tokio::test]
async fn people_in_a_public_room_are_found_by_id_and_name_in_any_case() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    is_called(&alice, "Ängström Müller").await;
    alice.creates_open_room().await;

    for term in [
        "alice",
        "@alice",
        "ALI",
        "äng",
        "ÄNGSTRÖM",
        "müller ängst",
        "lic",
    ] {
        assert_eq!(ids(&bob, term).await, [alice.id.as_str()], "{term}");
    }
    let found = finds(&bob, "alice").await;
    let expected = json!({ "user_id": alice.id, "display_name": "Ängström Müller" });
    assert_eq!(found, json!({ "results": [expected], "limited": false }));
    for term in ["carol", "müller carol", "%", "_"] {
        assert!(ids(&bob, term).await.is_empty(), "{term}");
    }
}

#[tokio::test]
async fn one_finds_oneself_in_public_rooms_alone() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    alice.creates(json!({})).await;
    assert!(ids(&alice, "alice").await.is_empty());

    let room = alice.creates_open_room().await;

    assert_eq!(ids(&alice, "alice").await, [alice.id.as_str()]);
    alice.leaves(&room).await;
    assert!(ids(&alice, "alice").await.is_empty());
}

#[tokio::test]
async fn who_is_found_follows_join_rules_visibility_and_names() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    assert!(ids(&bob, "alice").await.is_empty());

    let rule = |rule: &str| json!({ "join_rule": rule });
    alice.sets(&room, "m.room.join_rules", rule("public")).await;
    assert_eq!(ids(&bob, "alice").await, [alice.id.as_str()]);
    alice.sets(&room, "m.room.join_rules", rule("invite")).await;
    assert!(ids(&bob, "alice").await.is_empty());
    let history = |visibility: &str| json!({ "history_visibility": visibility });
    let kind = "m.room.history_visibility";
    alice.sets(&room, kind, history("world_readable")).await;
    assert_eq!(ids(&bob, "alice").await, [alice.id.as_str()]);
    is_called(&alice, "Ms Liddell").await;
    assert_eq!(ids(&bob, "liddell").await, [alice.id.as_str()]);
    is_called(&alice, "Alice").await;
    assert!(ids(&bob, "liddell").await.is_empty());
    alice.sets(&room, kind, history("shared")).await;
    assert!(ids(&bob, "alice").await.is_empty());
}

#[tokio::test]
async fn strangers_are_not_found_until_a_room_is_shared() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    assert!(ids(&bob, "alice").await.is_empty());

    alice.invites(&room, &bob).await;
    bob.joins(&room).await;

    assert_eq!(ids(&bob, "alice").await, [alice.id.as_str()]);
    assert_eq!(ids(&alice, "bob").await, [bob.id.as_str()]);
    bob.leaves(&room).await;
    assert!(ids(&bob, "alice").await.is_empty());
}

#[tokio::test]
async fn the_configuration_lets_everybody_be_found() {
    let server = Server::with(|config| config.directory.all_users_searchable = true).await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    assert_eq!(ids(&bob, "alice").await, [alice.id.as_str()]);
}

#[tokio::test]
async fn names_that_begin_so_come_first_and_the_list_is_limited() {
    let server = Server::with(|config| config.directory.all_users_searchable = true).await;
    let searcher = server.register("searcher").await;
    let inside = server.register("xann").await;
    let first = server.register("ann").await;

    assert_eq!(ids(&searcher, "ann").await, [first.id.as_str(), &inside.id]);
    let body = json!({ "search_term": "ann", "limit": 1 });
    let path = "/_matrix/client/v3/user_directory/search";
    let found = searcher.client.post(path, body).await.expect_ok();
    assert_eq!(found["limited"], true);
    assert_eq!(found["results"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_name_of_one_room_is_not_found() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;

    let member = json!({ "membership": "join", "displayname": "Secret" });
    let kind = format!("m.room.member/{}", alice.id);
    alice.sets(&room, &kind, member).await;

    assert!(ids(&bob, "secret").await.is_empty());
}
