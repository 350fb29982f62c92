//! Account data that clients store about a user. Unit tests cover the account data of rooms.

use serde_json::json;

use crate::harness::Server;

fn account_data_path(user_id: &str, kind: &str) -> String {
    format!("/_matrix/client/v3/user/{user_id}/account_data/{kind}")
}

#[tokio::test]
async fn account_data_is_set_and_replaced() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let path = account_data_path(&alice.id, "org.example");

    for content in [json!({ "value": "first" }), json!({ "value": "second" })] {
        alice.client.put(&path, content.clone()).await.expect_ok();
        assert_eq!(alice.client.get(&path).await.expect_ok(), content);
    }
}

#[tokio::test]
async fn server_managed_account_data_is_read_only() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for kind in ["m.fully_read", "m.push_rules"] {
        let refused = alice
            .client
            .put(&account_data_path(&alice.id, kind), json!({}))
            .await;
        refused.expect_error(405, "M_BAD_JSON");
    }
    let rules = alice
        .client
        .get(&account_data_path(&alice.id, "m.push_rules"))
        .await;
    assert!(rules.expect_ok()["global"]["override"].is_array());
}

#[tokio::test]
async fn account_data_is_private_to_its_user() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = account_data_path(&alice.id, "org.example");

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
async fn room_account_data_and_tags_require_a_known_room() {
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

#[tokio::test]
async fn removed_account_data_syncs_once_as_empty() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let unstable = format!(
        "/_matrix/client/unstable/org.matrix.msc3391/user/{}",
        alice.id
    );
    let of_room = format!("rooms/{room}/account_data/org.example");
    for (place, removal) in [
        ("account_data/org.example", None),
        ("account_data/org.example", Some(json!({}))),
        (of_room.as_str(), None),
    ] {
        let path = format!("/_matrix/client/v3/user/{}/{place}", alice.id);
        alice.client.put(&path, json!({ "a": 1 })).await.expect_ok();
        let first = alice.syncs().await;

        match removal {
            Some(empty) => alice.client.put(&path, empty).await.expect_ok(),
            None => alice
                .client
                .delete(&format!("{unstable}/{place}"))
                .await
                .expect_ok(),
        };

        let told = alice.syncs_after(&first).await.to_string();
        assert!(
            told.contains(r#"{"content":{},"type":"org.example"}"#),
            "{told}"
        );
        alice
            .client
            .get(&path)
            .await
            .expect_error(404, "M_NOT_FOUND");
        let anew = alice.syncs().await.to_string();
        assert!(!anew.contains("org.example"), "{anew}");
    }
}

#[tokio::test]
async fn users_cannot_remove_account_data_of_others() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;

    let path = format!(
        "/_matrix/client/unstable/org.matrix.msc3391/user/{}/account_data/org.example",
        bob.id
    );
    alice
        .client
        .delete(&path)
        .await
        .expect_error(403, "M_FORBIDDEN");
    server
        .delete(&path)
        .await
        .expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn total_account_data_of_a_user_is_limited() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let content = json!({ "value": "x".repeat(1_000_000) });

    for number in 0..10 {
        let path = account_data_path(&alice.id, &format!("org.example.{number}"));
        alice.client.put(&path, content.clone()).await.expect_ok();
    }
    let path_of_one_more = account_data_path(&alice.id, "org.example.more");
    let refused = alice.client.put(&path_of_one_more, content.clone()).await;

    refused.expect_error(413, "M_TOO_LARGE");
    let others = account_data_path(&bob.id, "org.example");
    bob.client.put(&others, content.clone()).await.expect_ok();
    // Replaced content no longer counts.
    let smaller = account_data_path(&alice.id, "org.example.0");
    alice
        .client
        .put(&smaller, json!({ "value": "x" }))
        .await
        .expect_ok();
    alice
        .client
        .put(&path_of_one_more, content)
        .await
        .expect_ok();
}

#[tokio::test]
async fn storing_account_data_is_rate_limited() {
    let server = Server::with_config(|config| config.limits.enabled = true).await;
    let alice = server.register("alice").await;
    let path = account_data_path(&alice.id, "org.example");

    let mut stored = 0;
    let refused = loop {
        let answer = alice.client.put(&path, json!({ "n": stored })).await;
        if answer.status != 200 || stored > 5_000 {
            break answer;
        }
        stored += 1;
    };

    refused.expect_error(429, "M_LIMIT_EXCEEDED");
    assert!(stored >= 500, "{stored}");
    alice.client.get(&path).await.expect_ok();
}

#[tokio::test]
async fn room_data_set_outside_the_room_are_sent_when_the_user_joins() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = bob.creates_open_room().await;
    let path = format!(
        "/_matrix/client/v3/user/{}/rooms/{room}/account_data/org.example.note",
        alice.id
    );
    let before = alice.syncs().await;
    alice.client.put(&path, json!({ "n": 1 })).await.expect_ok();
    let outside = alice.syncs_after(&before).await;
    assert!(outside["rooms"]["join"].is_null(), "{outside}");

    alice.joins(&room).await;
    let joined = alice.syncs_after(&outside).await;

    let data = &joined["rooms"]["join"][&room]["account_data"]["events"];
    let expected = json!([{ "type": "org.example.note", "content": { "n": 1 } }]);
    assert_eq!(*data, expected);
}
