//! Tests the push rules of a user.

use serde_json::json;

use crate::{chat::unread_counts, harness::Server};

const RULES_PATH: &str = "/_matrix/client/v3/pushrules";
const MASTER_RULE_PATH: &str = "/_matrix/client/v3/pushrules/global/override/.m.rule.master";
const CAKE_RULE_PATH: &str = "/_matrix/client/v3/pushrules/global/content/cake";

#[tokio::test]
async fn a_new_user_has_the_default_push_rules() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for path in [RULES_PATH.to_owned(), format!("{RULES_PATH}/")] {
        let rules = alice.client.get(&path).await.expect_ok();
        assert_eq!(rules["global"]["override"][0]["rule_id"], ".m.rule.master");
    }
    let global = alice
        .client
        .get(&format!("{RULES_PATH}/global/"))
        .await
        .expect_ok();
    assert!(global["underride"].is_array());
    let master = alice.client.get(MASTER_RULE_PATH).await.expect_ok();
    assert_eq!(master["enabled"], false);
    server
        .get(RULES_PATH)
        .await
        .expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn a_rule_is_added_changed_and_removed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let rule = json!({ "pattern": "cake", "actions": ["notify"] });
    let (enabled, actions) = (
        format!("{CAKE_RULE_PATH}/enabled"),
        format!("{CAKE_RULE_PATH}/actions"),
    );

    alice.client.put(CAKE_RULE_PATH, rule).await.expect_ok();
    alice
        .client
        .put(&enabled, json!({ "enabled": false }))
        .await
        .expect_ok();
    alice
        .client
        .put(&actions, json!({ "actions": [] }))
        .await
        .expect_ok();

    let stored = alice.client.get(CAKE_RULE_PATH).await.expect_ok();
    assert_eq!(
        (&stored["pattern"], &stored["enabled"]),
        (&json!("cake"), &json!(false))
    );
    let answer = alice.client.get(&enabled).await.expect_ok();
    assert_eq!(answer, json!({ "enabled": false }));
    let answer = alice.client.get(&actions).await.expect_ok();
    assert_eq!(answer, json!({ "actions": [] }));
    alice.client.delete(CAKE_RULE_PATH).await.expect_ok();
    alice
        .client
        .get(CAKE_RULE_PATH)
        .await
        .expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn default_rules_can_be_enabled_but_not_replaced() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let enabled = format!("{MASTER_RULE_PATH}/enabled");
    alice
        .client
        .put(&enabled, json!({ "enabled": true }))
        .await
        .expect_ok();
    assert_eq!(
        alice.client.get(MASTER_RULE_PATH).await.expect_ok()["enabled"],
        true
    );
    let rule = json!({ "conditions": [], "actions": [] });
    alice
        .client
        .put(MASTER_RULE_PATH, rule)
        .await
        .expect_error(400, "M_INVALID_PARAM");
    alice
        .client
        .delete(MASTER_RULE_PATH)
        .await
        .expect_error(400, "M_INVALID_PARAM");
    let unknown = alice
        .client
        .put(
            &format!("{CAKE_RULE_PATH}/enabled"),
            json!({ "enabled": true }),
        )
        .await;
    unknown.expect_error(404, "M_NOT_FOUND");
    let before = json!({ "pattern": "cake", "actions": [] });
    let misplaced = alice
        .client
        .put(&format!("{CAKE_RULE_PATH}?before=unknown"), before)
        .await;
    misplaced.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_existing_rule_is_moved_after_the_named_rule() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let rule = json!({ "pattern": "cake", "actions": ["notify"] });
    let of = |id: &str| format!("{RULES_PATH}/global/content/{id}");
    for id in ["one", "two"] {
        alice.client.put(&of(id), rule.clone()).await.expect_ok();
    }

    let moved = format!("{}?after=one", of("two"));
    alice.client.put(&moved, rule.clone()).await.expect_ok();

    let beside_itself = format!("{}?after=two", of("two"));
    alice
        .client
        .put(&beside_itself, rule)
        .await
        .expect_error(404, "M_NOT_FOUND");
    let rules = alice.client.get(RULES_PATH).await.expect_ok();
    let rules = rules["global"]["content"]
        .as_array()
        .expect("a list")
        .clone();
    let own = rules.iter().filter(|rule| rule["default"] == false);
    let ids: Vec<&str> = own.filter_map(|rule| rule["rule_id"].as_str()).collect();
    assert_eq!(ids, ["one", "two"]);
}

#[tokio::test]
async fn an_expensive_pattern_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for pattern in ["x".repeat(300), "?*".repeat(20)] {
        let rule = json!({ "pattern": pattern, "actions": ["notify"] });
        alice
            .client
            .put(CAKE_RULE_PATH, rule)
            .await
            .expect_error(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn the_rules_of_one_kind_can_be_requested() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let rule = json!({ "pattern": "cake", "actions": ["notify"] });
    alice.client.put(CAKE_RULE_PATH, rule).await.expect_ok();
    let all = alice.client.get(RULES_PATH).await.expect_ok();

    for kind in ["override", "content", "room", "sender", "underride"] {
        for slash in ["", "/"] {
            let path = format!("{RULES_PATH}/global/{kind}{slash}");
            let rules = alice.client.get(&path).await.expect_ok();
            assert_eq!(rules, all["global"][kind], "{path}");
        }
    }
    let odd = alice.client.get(&format!("{RULES_PATH}/global/odd/")).await;
    odd.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_rule_can_require_notification_permission_of_the_sender() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    let rule = json!({
        "conditions": [{ "kind": "sender_notification_permission", "key": "room" }],
        "actions": ["notify", { "set_tweak": "highlight" }],
    });
    let path = format!("{RULES_PATH}/global/override/all");
    bob.client.put(&path, rule).await.expect_ok();

    carol.says(&room, "without power").await;
    let of_carol = unread_counts(&bob.syncs().await, &room);
    alice.says(&room, "with power").await;

    assert_eq!(of_carol.1, 0);
    let of_both = unread_counts(&bob.syncs().await, &room);
    assert_eq!(of_both, (of_carol.0 + 1, 1));
}

#[tokio::test]
async fn a_rule_without_conditions_always_matches() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let before = unread_counts(&bob.syncs().await, &room);

    for kind in ["override", "underride"] {
        let path = format!("{RULES_PATH}/global/{kind}/all");
        let rule = json!({ "actions": ["notify", { "set_tweak": "highlight" }] });
        bob.client.put(&path, rule).await.expect_ok();
        let stored = bob.client.get(&path).await.expect_ok();
        assert_eq!(stored["conditions"], json!([]));
    }
    alice.says(&room, "anything").await;

    let after = unread_counts(&bob.syncs().await, &room);
    assert_eq!(after, (before.0 + 1, before.1 + 1));
}
