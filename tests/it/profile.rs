//! Tests profiles.

use serde_json::json;

use crate::{chat::percent_encoded, harness::Server};

fn profile_path(user_id: &str, field: &str) -> String {
    format!("/_matrix/client/v3/profile/{user_id}{field}")
}

#[tokio::test]
async fn a_name_and_an_avatar_are_public() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let (name, avatar) = (
        json!({ "displayname": "Alice" }),
        json!({ "avatar_url": "mxc://a.b/c" }),
    );

    let set = alice
        .client
        .put(&profile_path(&alice.id, "/displayname"), name.clone())
        .await;
    set.expect_ok();
    let set = alice
        .client
        .put(&profile_path(&alice.id, "/avatar_url"), avatar)
        .await;
    set.expect_ok();

    let field = server.get(&profile_path(&alice.id, "/displayname")).await;
    assert_eq!(field.expect_ok(), name);
    let whole = server.get(&profile_path(&alice.id, "")).await;
    let expected = json!({ "displayname": "Alice", "avatar_url": "mxc://a.b/c" });
    assert_eq!(whole.expect_ok(), expected);
}

#[tokio::test]
async fn any_field_is_set_and_removed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let field = profile_path(&alice.id, "/org.example.pronouns");
    let value = json!({ "org.example.pronouns": ["she", "her"] });

    alice.client.put(&field, value.clone()).await.expect_ok();
    assert_eq!(server.get(&field).await.expect_ok(), value);
    alice.client.delete(&field).await.expect_ok();
    alice.client.delete(&field).await.expect_ok();

    server.get(&field).await.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn unknown_users_have_no_profile() {
    let server = Server::start().await;

    let nobody = server.get(&profile_path("@nobody:localhost", "")).await;
    let elsewhere = server
        .get(&profile_path("@somebody:elsewhere.org", ""))
        .await;

    nobody.expect_error(404, "M_NOT_FOUND");
    elsewhere.expect_error(502, "M_UNKNOWN");
}

#[tokio::test]
async fn invalid_profile_changes_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let name = json!({ "displayname": "Bob" });

    let others = alice
        .client
        .put(&profile_path(&bob.id, "/displayname"), name.clone())
        .await;
    others.expect_error(403, "M_FORBIDDEN");
    let stranger = server
        .put(&profile_path(&bob.id, "/displayname"), name)
        .await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
    let wrong = alice
        .client
        .put(
            &profile_path(&alice.id, "/displayname"),
            json!({ "displayname": 1 }),
        )
        .await;
    wrong.expect_error(400, "M_BAD_JSON");
    let key = "k".repeat(256);
    let long = alice
        .client
        .put(
            &profile_path(&alice.id, &format!("/{key}")),
            json!({ key: 1 }),
        )
        .await;
    long.expect_error(400, "M_KEY_TOO_LARGE");
    let large = json!({ "org.example": "x".repeat(70_000) });
    let large = alice
        .client
        .put(&profile_path(&alice.id, "/org.example"), large)
        .await;
    large.expect_error(400, "M_PROFILE_TOO_LARGE");
}

#[tokio::test]
async fn profile_requests_are_rate_limited_for_strangers_only() {
    let server = Server::with_config(|config| config.limits.enabled = true).await;
    let alice = server.register("alice").await;
    let path = format!("/_matrix/client/v3/profile/{}", alice.id);

    let mut strangers = Vec::new();
    for _ in 0..150 {
        strangers.push(server.get(&path).await.status);
    }

    assert_eq!(strangers[0], 200);
    assert!(strangers.contains(&429));
    alice.client.get(&path).await.expect_ok();
}

#[tokio::test]
async fn a_name_change_counts_as_one_event_per_room() {
    let server = Server::with_config(|config| {
        config.limits.enabled = true;
        config.limits.sending_burst = 10;
        config.limits.sending_per_minute = 1;
    })
    .await;
    let alice = server.register("alice").await;
    for _ in 0..4 {
        alice.creates_open_room().await;
    }
    let changes = async |field: &str, value: &str| {
        let path = profile_path(&alice.id, &format!("/{field}"));
        alice.client.put(&path, json!({ field: value })).await
    };

    let mut answers = Vec::new();
    for name in ["A", "A", "B", "C", "D"] {
        answers.push(changes("displayname", name).await.status);
    }

    // A change to the same value does not count.
    assert_eq!(answers, [200, 200, 200, 200, 429]);
    changes("avatar_url", "mxc://a.b/c").await.expect_ok();
    changes("org.example", "x").await.expect_ok();
}

#[tokio::test]
async fn field_names_outside_the_grammar_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for name in ["UPPER", "bad key", "1st", ".dot", "m.tz\u{e9}"] {
        let path = format!(
            "/_matrix/client/v3/profile/{}/{}",
            alice.id,
            percent_encoded(name)
        );
        let refused = alice.client.put(&path, json!({ name: "value" })).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
}
