//! What clients keep about a user. That of rooms is tested beside the code.

use serde_json::json;

use crate::harness::Server;

fn path(user_id: &str, kind: &str) -> String {
    format!("/_matrix/client/v3/user/{user_id}/account_data/{kind}")
}

#[tokio::test]
async fn account_data_is_set_and_replaced() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let path = path(&alice.id, "org.example");

    for content in [json!({ "value": "first" }), json!({ "value": "second" })] {
        alice.client.put(&path, content.clone()).await.expect_ok();
        assert_eq!(alice.client.get(&path).await.expect_ok(), content);
    }
}

#[tokio::test]
async fn what_the_server_keeps_is_read_only() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for kind in ["m.fully_read", "m.push_rules"] {
        let refused = alice.client.put(&path(&alice.id, kind), json!({})).await;
        refused.expect_error(405, "M_BAD_JSON");
    }
    let rules = alice.client.get(&path(&alice.id, "m.push_rules")).await;
    assert!(rules.expect_ok()["global"]["override"].is_array());
}

#[tokio::test]
async fn account_data_is_private_and_must_be_there() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = path(&alice.id, "org.example");

    alice
        .client
        .get(&path)
        .await
        .expect_error(404, "M_NOT_FOUND");
    bob.client.get(&path).await.expect_error(403, "M_FORBIDDEN");
    bob.client
        .put(&path, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    server.get(&path).await.expect_error(401, "M_MISSING_TOKEN");
    alice
        .client
        .put(&path, json!([]))
        .await
        .expect_error(400, "M_BAD_JSON");
}

#[tokio::test]
async fn account_data_and_tags_are_for_rooms_that_are_known() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = format!("/_matrix/client/v3/user/{}/rooms/!a:localhost", alice.id);

    let content = alice
        .client
        .put(&format!("{room}/account_data/k"), json!({}))
        .await;
    content.expect_error(404, "M_NOT_FOUND");
    let tags = alice.client.get(&format!("{room}/tags")).await;
    tags.expect_error(404, "M_NOT_FOUND");
    let tag = alice
        .client
        .put(&format!("{room}/tags/m.favourite"), json!({}))
        .await;
    tag.expect_error(404, "M_NOT_FOUND");
    let removed = alice
        .client
        .delete(&format!("{room}/tags/m.favourite"))
        .await;
    removed.expect_error(404, "M_NOT_FOUND");
}
