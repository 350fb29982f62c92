//! The answers to other servers.

use insta::assert_json_snapshot;
use serde_json::json;

use super::{called, hide_varying_fields, with_names};
use crate::{chat::percent_encoded, federation::Network};

#[tokio::test]
async fn the_version_names_the_software() {
    let network = Network::new();
    let server = network.server().await;

    let answer = server.get("/_matrix/federation/v1/version").await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(answer.expect_ok(), @r#"
    {
      "server": {
        "name": "Parlour",
        "version": "[version]"
      }
    }
    "#);
}

#[tokio::test]
async fn a_queried_profile_has_the_fields_that_were_set() {
    let network = Network::new();
    let server = network.server().await;
    let alice = server.register("alice").await;
    let path = format!("/_matrix/client/v3/profile/{}/displayname", alice.id);
    let name = json!({ "displayname": "Alice" });
    alice.client.put(&path, name).await.expect_ok();
    let peer = network.peer(axum::Router::new()).await;

    let user_id = percent_encoded(&alice.id);
    let path = format!("/_matrix/federation/v1/query/profile?user_id={user_id}");
    let body = peer.gets(&server, &path).await.expect_ok();

    assert_json_snapshot!(body, @r#"
    {
      "displayname": "Alice"
    }
    "#);
}

#[tokio::test]
async fn a_template_of_a_join_names_the_room_version() {
    let network = Network::new();
    let server = network.server().await;
    let alice = server.register("alice").await;
    let request = json!({ "preset": "public_chat", "room_version": "11" });
    let room = alice.creates(request).await;
    let peer = network.peer(axum::Router::new()).await;

    let bob = format!("@bob:{}", peer.name);
    let path = format!("/_matrix/federation/v1/make_join/{room}/{bob}?ver=11");
    let body = peer.gets(&server, &path).await.expect_ok();

    let names = [
        called(&room, "!tea"),
        called(&peer.name, "peer"),
        called(server.name(), "here"),
    ];
    let body = with_names(&body, &names);
    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "event": {
        "auth_events": "[event ids]",
        "content": {
          "membership": "join"
        },
        "depth": 6,
        "origin_server_ts": "[time]",
        "prev_events": "[event ids]",
        "room_id": "!tea",
        "sender": "@bob:peer",
        "state_key": "@bob:peer",
        "type": "m.room.member"
      },
      "room_version": "11"
    }
    "#);
}
