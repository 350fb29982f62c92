//! Aliases and public rooms of other servers.

use axum::Router;
use serde_json::{Value, json};

use super::{Network, joining::joins_via};
use crate::{
    chat::percent_encoded,
    harness::{Server, User},
};

/// Creates a public room with an alias, and returns the room's ID.
async fn create_public_tea_room(server: &Server) -> String {
    let alice = server.register("alice").await;
    let request = json!({
        "preset": "public_chat", "visibility": "public", "name": "Tea", "room_alias_name": "老虎£я🤨",
    });
    alice.creates(request).await
}

#[tokio::test]
async fn an_alias_of_another_server_is_resolved() {
    let network = Network::new();
    let (home, away) = (network.server().await, network.server().await);
    let room = create_public_tea_room(&home).await;
    let bob = away.register("bob").await;
    let directory = |alias: &str| {
        let alias = percent_encoded(&format!("#{alias}:{}", home.name()));
        format!("/_matrix/client/v3/directory/room/{alias}")
    };

    let found = bob.client.get(&directory("老虎£я🤨")).await.expect_ok();
    let nothing = bob.client.get(&directory("nothing")).await;

    assert_eq!(found, json!({ "room_id": room, "servers": [home.name()] }));
    nothing.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_public_rooms_of_another_server_are_listed() {
    let network = Network::new();
    let (home, away) = (network.server().await, network.server().await);
    let room = create_public_tea_room(&home).await;
    let bob = away.register("bob").await;
    let path = format!("/_matrix/client/v3/publicRooms?server={}", home.name());
    let search = |term: &str| json!({ "filter": { "generic_search_term": term } });

    let all = bob.client.get(&path).await.expect_ok();
    let tea = bob.client.post(&path, search("tea")).await.expect_ok();
    let coffee = bob.client.post(&path, search("coffee")).await.expect_ok();

    assert_eq!(all["chunk"][0]["room_id"], room);
    assert_eq!(all["total_room_count_estimate"], 1);
    assert_eq!(tea["chunk"][0]["name"], "Tea");
    assert_eq!(coffee["chunk"], json!([]));
}

#[tokio::test]
async fn a_closed_room_directory_is_refused_to_other_servers() {
    let network = Network::new();
    let home = network
        .server_with_config(|config| config.directory.public_without_login = false)
        .await;
    let peer = network.peer(Router::new()).await;
    let path = "/_matrix/federation/v1/publicRooms";

    peer.gets(&home, path)
        .await
        .expect_error(403, "M_FORBIDDEN");
    let posted = peer.posts(&home, path, &json!({})).await;
    posted.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn other_servers_resolve_only_aliases_of_this_server() {
    let network = Network::new();
    let home = network.server().await;
    let room = create_public_tea_room(&home).await;
    let peer = network.peer(Router::new()).await;
    let query = |alias: &str| {
        let alias = percent_encoded(alias);
        format!("/_matrix/federation/v1/query/directory?room_alias={alias}")
    };

    let own = query(&format!("#老虎£я🤨:{}", home.name()));
    let found = peer.gets(&home, &own).await.expect_ok();

    assert_eq!(found, json!({ "room_id": room, "servers": [home.name()] }));
    let nothing = query(&format!("#nothing:{}", home.name()));
    let nothing = peer.gets(&home, &nothing).await;
    nothing.expect_error(404, "M_NOT_FOUND");
    let elsewhere = peer.gets(&home, &query("#tea:example.org")).await;
    elsewhere.expect_error(400, "M_INVALID_PARAM");
}

async fn search_users(searcher: &User, term: &str) -> Vec<(String, Value)> {
    let path = "/_matrix/client/v3/user_directory/search";
    let found = searcher.client.post(path, json!({ "search_term": term }));
    let found = found.await.expect_ok();
    let results = found["results"].as_array().cloned().unwrap_or_default();
    let found = results.into_iter().map(|user| {
        let user_id = user["user_id"].as_str().expect("an id").to_owned();
        (user_id, user["display_name"].clone())
    });
    found.collect()
}

#[tokio::test]
async fn users_of_other_servers_are_found_in_shared_and_public_rooms() {
    let network = Network::new();
    let (home, away) = (network.server().await, network.server().await);
    let alice = home.register("alice").await;
    let bob = away.register("bob").await;
    let carol = away.register("carol").await;
    let name = async |name: &str| {
        let path = format!("/_matrix/client/v3/profile/{}/displayname", alice.id);
        let named = alice.client.put(&path, json!({ "displayname": name }));
        named.await.expect_ok();
    };
    name("Alice of Home").await;
    let room = alice.creates_open_room().await;
    let path = format!(
        "/_matrix/client/v3/join/{}?via={}",
        percent_encoded(&room),
        home.name()
    );
    assert!(search_users(&bob, "alice").await.is_empty());
    bob.client.post(&path, json!({})).await.expect_ok();

    // Carol shares no room with Alice, but the room is public.
    for searcher in [&bob, &carol] {
        let expected = [(alice.id.clone(), json!("Alice of Home"))];
        assert_eq!(search_users(searcher, "of home").await, expected);
        assert_eq!(search_users(searcher, "@alice").await, expected);
    }
    let since = bob.syncs().await;
    let rules = json!({ "join_rule": "invite" });
    alice.sets_state(&room, "m.room.join_rules", rules).await;
    name("Ms Liddell").await;
    let mut sync = bob.long_polls_after(&since).await;
    while search_users(&bob, "liddell").await.is_empty() {
        sync = bob.long_polls_after(&sync).await;
    }
    assert!(search_users(&carol, "alice").await.is_empty());
    assert!(search_users(&bob, "of home").await.is_empty());
    alice.leaves(&room).await;
    while !search_users(&bob, "alice").await.is_empty() {
        sync = bob.long_polls_after(&sync).await;
    }
}

#[tokio::test]
async fn members_of_rooms_that_this_server_left_are_not_found() {
    let network = Network::new();
    let home = network.server().await;
    let away = network
        .server_with_config(|config| config.directory.all_users_searchable = true)
        .await;
    let alice = home.register("alice").await;
    let (bob, carol) = (away.register("bob").await, away.register("carol").await);
    let room = alice.creates_open_room().await;
    joins_via(&bob, &room, &[home.name()]).await.expect_ok();
    for searcher in [&bob, &carol] {
        assert_eq!(search_users(searcher, "alice").await.len(), 1);
    }

    bob.leaves(&room).await;

    for searcher in [&bob, &carol] {
        assert_eq!(search_users(searcher, "alice").await, []);
    }
}
