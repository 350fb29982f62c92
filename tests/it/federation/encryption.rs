//! Keys of end-to-end encryption across servers.

use axum::{Json, Router, routing::post};
use serde_json::{Value, json};

use super::{Network, unused_address};
use crate::{
    cross_signing::CrossSigningKeySet,
    harness::{Server, User},
    keys::{CLAIM_PATH, QUERY_PATH, device_keys},
};

/// Starts two servers with a user each.
async fn two_servers_with_users(network: &Network) -> (Server, User, Server, User) {
    let (home, away) = (network.server().await, network.server().await);
    let (alice, bob) = (home.register("alice").await, away.register("bob").await);
    (home, alice, away, bob)
}

#[tokio::test]
async fn device_keys_of_users_on_another_server_are_returned() {
    let network = Network::new();
    let (_home, alice, _away, bob) = two_servers_with_users(&network).await;
    alice.uploads_device_keys(1).await;

    let told = bob.queries_keys(&alice.id).await;
    let none = json!({ "device_keys": { &*alice.id: ["OTHER"] } });
    let none = bob.client.post(QUERY_PATH, none).await.expect_ok();

    let keys = &told["device_keys"][&alice.id][&alice.device_id];
    assert_eq!(keys["keys"], device_keys(&alice, 1)["keys"]);
    assert_eq!(told["failures"], json!({}));
    assert_eq!(none["device_keys"], json!({ &*alice.id: {} }));
}

#[tokio::test]
async fn a_one_time_key_of_another_server_is_claimed_once() {
    let network = Network::new();
    let (_home, alice, _away, bob) = two_servers_with_users(&network).await;
    alice.uploads_one_time_keys(&["one", "two"]).await;

    let claimed = [
        bob.claims_key(&alice).await,
        bob.claims_key(&alice).await,
        bob.claims_key(&alice).await,
    ];

    let key = |id: &str| Some(format!("signed_curve25519:{id}"));
    assert_eq!(claimed, [key("one"), key("two"), None]);
}

#[tokio::test]
async fn silent_servers_are_reported_as_failures_without_delaying_other_keys() {
    let network = Network::new();
    let (_home, alice, _away, bob) = two_servers_with_users(&network).await;
    alice.uploads_device_keys(1).await;
    alice.uploads_one_time_keys(&["one"]).await;
    let silent = Router::new()
        .route(
            "/_matrix/federation/v1/user/keys/query",
            post(std::future::pending::<()>),
        )
        .route(
            "/_matrix/federation/v1/user/keys/claim",
            post(std::future::pending::<()>),
        );
    let silent = network.peer(silent).await;
    let gone = unused_address().to_string();
    let (of_silent, of_gone) = (format!("@a:{}", silent.name), format!("@b:{gone}"));

    let query = json!({
        "timeout": 500,
        "device_keys": { &*alice.id: [], &*bob.id: [], &*of_silent: [], &*of_gone: [] },
    });
    let told = bob.client.post(QUERY_PATH, query).await.expect_ok();
    let wanted = json!({ "A": "signed_curve25519" });
    let claim = json!({
        "timeout": 500,
        "one_time_keys": {
            &*alice.id: { &*alice.device_id: "signed_curve25519" },
            &*of_silent: wanted, &*of_gone: wanted,
        },
    });
    let claimed = bob.client.post(CLAIM_PATH, claim).await.expect_ok();

    let users = told["device_keys"].as_object().expect("users").len();
    assert_eq!(users, 2, "{told}");
    assert!(claimed["one_time_keys"][&alice.id].is_object(), "{claimed}");
    for failures in [&told["failures"], &claimed["failures"]] {
        assert!(failures[&silent.name]["error"].is_string(), "{failures}");
        assert!(failures[&gone]["error"].is_string(), "{failures}");
    }
}

#[tokio::test]
async fn claimed_keys_of_another_server_must_be_valid_keys() {
    let network = Network::new();
    let server = network.server().await;
    let alice = server.register("alice").await;
    let peer = network
        .peer_with(|peer| {
            let (good, bad) = (json!({ "key": "k", "signatures": {} }), json!(5));
            let devices = json!({
                "A": { "signed_curve25519:1": good }, "B": { "signed_curve25519:2": bad },
            });
            let given = json!({ "one_time_keys": { format!("@carol:{}", peer.name): devices } });
            let claim = "/_matrix/federation/v1/user/keys/claim";
            Router::new().route(claim, post(async move || Json(given)))
        })
        .await;
    let carol = format!("@carol:{}", peer.name);

    let wanted = json!({ "A": "signed_curve25519", "B": "signed_curve25519" });
    let claim = json!({ "one_time_keys": { &*carol: wanted } });
    let claimed = alice.client.post(CLAIM_PATH, claim).await.expect_ok();

    let devices = claimed["one_time_keys"][&carol].as_object();
    let devices: Vec<&String> = devices.expect("devices").keys().collect();
    assert_eq!(devices, ["A"]);
}

#[tokio::test]
async fn keys_returned_for_users_of_another_server_are_ignored() {
    let network = Network::new();
    let server = network.server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let stolen = json!({ "A": device_keys(&alice, 7) });
    let keys = json!({ "device_keys": { &*alice.id: stolen.clone() } });
    let answer = Router::new().route(
        "/_matrix/federation/v1/user/keys/query",
        post(async move |Json(asked): Json<Value>| {
            let asked = asked["device_keys"].as_object().expect("users");
            let mut keys = keys;
            for user_id in asked.keys() {
                keys["device_keys"][user_id] = stolen.clone();
            }
            Json(keys)
        }),
    );
    let peer = network.peer(answer).await;

    let mallory = format!("@mallory:{}", peer.name);
    let told = bob.queries_keys(&mallory).await;

    assert_eq!(told["device_keys"], json!({ &*mallory: {} }));
}

#[tokio::test]
async fn a_user_of_another_server_can_be_verified() {
    let network = Network::new();
    let (_home, alice, _away, bob) = two_servers_with_users(&network).await;
    let (alices, bobs) = (
        CrossSigningKeySet::upload_for(&alice).await,
        CrossSigningKeySet::upload_for(&bob).await,
    );
    let master = alices.master.key_object(&alice, "master");
    let told = bob.queries_keys(&alice.id).await;
    assert_eq!(told["master_keys"][&alice.id], master);
    assert!(told["self_signing_keys"][&alice.id].is_object());
    assert_eq!(told["user_signing_keys"], json!({}));

    let by = bobs.user_signing.id();
    let signed = bobs.user_signing.sign_object(&bob, &by, master);
    let failures = bob.publishes_signature(&alice, &alices.master.public, signed.clone());
    assert_eq!(failures.await, json!({ "failures": {} }));

    let told = bob.queries_keys(&alice.id).await;
    assert_eq!(told["master_keys"][&alice.id], signed);
}

#[tokio::test]
async fn another_server_gets_devices_but_no_user_signing_keys() {
    let network = Network::new();
    let server = network.server().await;
    let alice = server.register("alice").await;
    let peer = network.peer(Router::new()).await;
    let path = format!("/_matrix/federation/v1/user/devices/{}", alice.id);
    let before = peer.gets(&server, &path).await.expect_ok();
    alice.uploads_device_keys(1).await;
    let signer = CrossSigningKeySet::upload_for(&alice).await;
    let device = format!("/_matrix/client/v3/devices/{}", alice.device_id);
    let name = json!({ "display_name": "Phone" });
    alice.client.put(&device, name).await.expect_ok();

    let told = peer.gets(&server, &path).await.expect_ok();

    assert_eq!(before["devices"], json!([]));
    assert_eq!(told["user_id"], alice.id);
    assert!(told["stream_id"].as_u64() > before["stream_id"].as_u64());
    assert_eq!(told["devices"][0]["device_id"], alice.device_id);
    assert_eq!(told["devices"][0]["device_display_name"], "Phone");
    assert_eq!(
        told["master_key"],
        signer.master.key_object(&alice, "master")
    );
    assert!(told["self_signing_key"].is_object());
    let query = json!({ "device_keys": { &*alice.id: [], "@b:example.org": [] } });
    let path = "/_matrix/federation/v1/user/keys/query";
    let queried = peer.posts(&server, path, &query).await.expect_ok();
    let users = queried["device_keys"].as_object().expect("users").len();
    assert_eq!(users, 1);
    assert_eq!(queried["user_signing_keys"], Value::Null);
    let elsewhere = "/_matrix/federation/v1/user/devices/@b:example.org";
    let elsewhere = peer.gets(&server, elsewhere).await;
    elsewhere.expect_error(400, "M_INVALID_PARAM");
}

fn device_size(user_id: &str) -> usize {
    if user_id.contains("large") {
        600_000
    } else {
        400_000
    }
}

#[tokio::test]
async fn a_keys_answer_over_the_size_limit_is_a_failure() {
    let network = Network::new();
    let server = network.server().await;
    let alice = server.register("alice").await;
    let answer = post(async |Json(asked): Json<Value>| {
        let users = asked["device_keys"].as_object().expect("users");
        let mut keys = json!({});
        for user_id in users.keys() {
            let size = device_size(user_id);
            let device = json!({
                "user_id": user_id, "device_id": "A", "algorithms": [], "keys": {},
                "signatures": {}, "x": "x".repeat(size),
            });
            keys[user_id] = json!({ "A": device });
        }
        Json(json!({ "device_keys": keys }))
    });
    let path = "/_matrix/federation/v1/user/keys/query";
    let peer = network.peer(Router::new().route(path, answer)).await;

    let (small, large) = (peer.user("small"), peer.user("large"));
    let fits = alice.queries_keys(&small).await;
    let is_too_large = alice.queries_keys(&large).await;

    assert!(fits["device_keys"][&small]["A"].is_object());
    assert_eq!(fits["failures"], json!({}));
    assert_eq!(is_too_large["device_keys"], json!({}));
    assert!(is_too_large["failures"][&peer.name].is_object());
}
