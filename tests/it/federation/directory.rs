//! Aliases and public rooms of other servers.

use axum::Router;
use serde_json::json;

use super::Network;
use crate::{chat::encoded, harness::Server};

/// Creates a public room with an alias, and returns the room's id.
async fn tea_room(server: &Server) -> String {
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
    let room = tea_room(&home).await;
    let bob = away.register("bob").await;
    let directory = |alias: &str| {
        let alias = encoded(&format!("#{alias}:{}", home.name()));
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
    let room = tea_room(&home).await;
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
async fn a_closed_directory_is_not_for_other_servers() {
    let network = Network::new();
    let home = network
        .server_with(|config| config.directory.public_without_login = false)
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
async fn other_servers_learn_the_rooms_of_this_servers_aliases_alone() {
    let network = Network::new();
    let home = network.server().await;
    let room = tea_room(&home).await;
    let peer = network.peer(Router::new()).await;
    let query = |alias: &str| {
        let alias = encoded(alias);
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
