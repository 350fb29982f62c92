//! The filters that clients store.

use serde_json::json;

use crate::harness::Server;

#[tokio::test]
async fn a_filter_is_stored_once() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let path = format!("/_matrix/client/v3/user/{}/filter", alice.id);
    let filter = json!({ "room": { "timeline": { "limit": 10 } } });

    let first = alice.client.post(&path, filter.clone()).await.expect_ok();
    let again = alice.client.post(&path, filter.clone()).await.expect_ok();

    assert_eq!(first, again);
    let id = first["filter_id"].as_str().expect("an id");
    let stored = alice.client.get(&format!("{path}/{id}")).await.expect_ok();
    assert_eq!(stored, filter);
}

#[tokio::test]
async fn filters_are_private_and_must_make_sense() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = format!("/_matrix/client/v3/user/{}/filter", alice.id);

    alice
        .client
        .get(&format!("{path}/1"))
        .await
        .expect_error(404, "M_NOT_FOUND");
    bob.client
        .get(&format!("{path}/1"))
        .await
        .expect_error(403, "M_FORBIDDEN");
    bob.client
        .post(&path, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    let wrong = json!({ "room": { "timeline": { "limit": "many" } } });
    alice
        .client
        .post(&path, wrong)
        .await
        .expect_error(400, "M_BAD_JSON");
}
