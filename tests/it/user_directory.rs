//! Tests the user directory.

use serde_json::{Value, json};

use crate::harness::{Server, User};

async fn search_users(searcher: &User, term: &str) -> Value {
    let body = json!({ "search_term": term, "limit": 10 });
    let path = "/_matrix/client/v3/user_directory/search";
    searcher.client.post(path, body).await.expect_ok()
}

async fn found_user_ids(searcher: &User, term: &str) -> Vec<String> {
    let found = search_users(searcher, term).await;
    let results = found["results"].as_array().cloned().unwrap_or_default();
    let ids = results.iter().filter_map(|user| user["user_id"].as_str());
    ids.map(ToOwned::to_owned).collect()
}

async fn set_display_name(user: &User, name: &str) {
    let path = format!("/_matrix/client/v3/profile/{}/displayname", user.id);
    let named = user.client.put(&path, json!({ "displayname": name }));
    named.await.expect_ok();
}

#[tokio::test]
async fn people_in_public_rooms_are_found_by_id_and_name() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    set_display_name(&alice, "Ängström Müller").await;
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
        assert_eq!(
            found_user_ids(&bob, term).await,
            [alice.id.as_str()],
            "{term}"
        );
    }
    let found = search_users(&bob, "alice").await;
    let expected = json!({ "user_id": alice.id, "display_name": "Ängström Müller" });
    assert_eq!(found, json!({ "results": [expected], "limited": false }));
    for term in ["carol", "müller carol", "%", "_"] {
        assert!(found_user_ids(&bob, term).await.is_empty(), "{term}");
    }
}

#[tokio::test]
async fn users_find_themselves_only_through_public_rooms() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    alice.creates(json!({})).await;
    assert!(found_user_ids(&alice, "alice").await.is_empty());

    let room = alice.creates_open_room().await;

    assert_eq!(found_user_ids(&alice, "alice").await, [alice.id.as_str()]);
    alice.leaves(&room).await;
    assert!(found_user_ids(&alice, "alice").await.is_empty());
}

#[tokio::test]
async fn search_results_follow_join_rules_visibility_and_names() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    assert!(found_user_ids(&bob, "alice").await.is_empty());

    let rule = |rule: &str| json!({ "join_rule": rule });
    alice
        .sets_state(&room, "m.room.join_rules", rule("public"))
        .await;
    assert_eq!(found_user_ids(&bob, "alice").await, [alice.id.as_str()]);
    alice
        .sets_state(&room, "m.room.join_rules", rule("invite"))
        .await;
    assert!(found_user_ids(&bob, "alice").await.is_empty());
    let history = |visibility: &str| json!({ "history_visibility": visibility });
    let kind = "m.room.history_visibility";
    alice
        .sets_state(&room, kind, history("world_readable"))
        .await;
    assert_eq!(found_user_ids(&bob, "alice").await, [alice.id.as_str()]);
    set_display_name(&alice, "Ms Liddell").await;
    assert_eq!(found_user_ids(&bob, "liddell").await, [alice.id.as_str()]);
    set_display_name(&alice, "Alice").await;
    assert!(found_user_ids(&bob, "liddell").await.is_empty());
    alice.sets_state(&room, kind, history("shared")).await;
    assert!(found_user_ids(&bob, "alice").await.is_empty());
}

#[tokio::test]
async fn strangers_are_not_found_until_a_room_is_shared() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates(json!({})).await;
    assert!(found_user_ids(&bob, "alice").await.is_empty());

    alice.invites(&room, &bob).await;
    bob.joins(&room).await;

    assert_eq!(found_user_ids(&bob, "alice").await, [alice.id.as_str()]);
    assert_eq!(found_user_ids(&alice, "bob").await, [bob.id.as_str()]);
    bob.leaves(&room).await;
    assert!(found_user_ids(&bob, "alice").await.is_empty());
}

#[tokio::test]
async fn all_users_searchable_makes_everyone_findable() {
    let server = Server::with_config(|config| config.directory.all_users_searchable = true).await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    assert_eq!(found_user_ids(&bob, "alice").await, [alice.id.as_str()]);
}

#[tokio::test]
async fn prefix_matches_are_first_and_the_list_is_limited() {
    let server = Server::with_config(|config| config.directory.all_users_searchable = true).await;
    let searcher = server.register("searcher").await;
    let inside = server.register("xann").await;
    let first = server.register("ann").await;

    assert_eq!(
        found_user_ids(&searcher, "ann").await,
        [first.id.as_str(), &inside.id]
    );
    let body = json!({ "search_term": "ann", "limit": 1 });
    let path = "/_matrix/client/v3/user_directory/search";
    let found = searcher.client.post(path, body).await.expect_ok();
    assert_eq!(found["limited"], true);
    assert_eq!(found["results"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_display_name_of_one_room_is_not_found() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;

    let member = json!({ "membership": "join", "displayname": "Secret" });
    let kind = format!("m.room.member/{}", alice.id);
    alice.sets_state(&room, &kind, member).await;

    assert!(found_user_ids(&bob, "secret").await.is_empty());
}
