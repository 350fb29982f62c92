//! Device keys: uploading, querying and claiming them, and the key counts in syncs.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::harness::{HttpAnswer, Server, User};

pub(crate) const UPLOAD_PATH: &str = "/_matrix/client/v3/keys/upload";
pub(crate) const QUERY_PATH: &str = "/_matrix/client/v3/keys/query";
pub(crate) const CLAIM_PATH: &str = "/_matrix/client/v3/keys/claim";
const DEVICES_PATH: &str = "/_matrix/client/v3/devices";
const LOGOUT_PATH: &str = "/_matrix/client/v3/logout";

/// Returns keys of a user's device; `n` distinguishes one set from another.
pub(crate) fn device_keys(user: &User, n: u32) -> Value {
    let id = &user.device_id;
    json!({
        "user_id": user.id, "device_id": id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("ed25519:{id}"): format!("key{n}") }, "signatures": {},
    })
}

impl User {
    /// Uploads identity keys of the device.
    pub(crate) async fn uploads_device_keys(&self, n: u32) {
        let body = json!({ "device_keys": device_keys(self, n) });
        self.client.post(UPLOAD_PATH, body).await.expect_ok();
    }

    /// Uploads one-time keys with these ids, each in its own request.
    pub(crate) async fn uploads_one_time_keys(&self, ids: &[&str]) {
        for id in ids {
            self.uploads_one_time_key(id, "k").await.expect_ok();
        }
    }

    async fn uploads_one_time_key(&self, id: &str, key: &str) -> HttpAnswer {
        let keys = json!({ format!("signed_curve25519:{id}"): { "key": key, "signatures": {} } });
        let body = json!({ "one_time_keys": keys });
        self.client.post(UPLOAD_PATH, body).await
    }

    async fn uploads_fallback_key(&self, id: &str) {
        let key = json!({ "key": "f", "fallback": true, "signatures": {} });
        let body = json!({ "fallback_keys": { format!("signed_curve25519:{id}"): key } });
        self.client.post(UPLOAD_PATH, body).await.expect_ok();
    }

    /// Returns the known keys of a user.
    pub(crate) async fn queries_keys(&self, user_id: &str) -> Value {
        let body = json!({ "device_keys": { user_id: [] } });
        self.client.post(QUERY_PATH, body).await.expect_ok()
    }

    /// Claims a key of a device and returns its id.
    pub(crate) async fn claims_key(&self, user: &User) -> Option<String> {
        let wanted = json!({ &*user.id: { &*user.device_id: "signed_curve25519" } });
        let body = json!({ "one_time_keys": wanted });
        let claimed = self.client.post(CLAIM_PATH, body).await.expect_ok();
        let keys = &claimed["one_time_keys"][&user.id][&user.device_id];
        keys.as_object().map(Map::keys)?.next().cloned()
    }
}

fn remaining_keys(sync: &Value) -> (u64, &Value) {
    let count = &sync["device_one_time_keys_count"]["signed_curve25519"];
    let count = count.as_u64().expect("a count");
    (count, &sync["device_unused_fallback_key_types"])
}

#[tokio::test]
async fn queried_keys_include_the_device_display_name() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let silent = server.log_in("alice").await;

    alice.uploads_device_keys(1).await;
    let path = format!("{DEVICES_PATH}/{}", alice.device_id);
    let name = json!({ "display_name": "Phone" });
    alice.client.put(&path, name).await.expect_ok();
    let told = bob.queries_keys(&alice.id).await;

    let mut expected = device_keys(&alice, 1);
    expected["unsigned"] = json!({ "device_display_name": "Phone" });
    assert_eq!(
        told["device_keys"],
        json!({ &*alice.id: { &*alice.device_id: expected } })
    );
    let of_another = json!({ "device_keys": { &*alice.id: [silent.device_id] } });
    let told = bob.client.post(QUERY_PATH, of_another).await.expect_ok();
    assert_eq!(told["device_keys"], json!({ &*alice.id: {} }));
}

#[tokio::test]
async fn key_queries_list_only_existing_users() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let wanted = json!({ &*alice.id: [], "@nobody:localhost": [], "@bob:elsewhere.org": [] });

    let query = json!({ "device_keys": wanted });
    let told = alice.client.post(QUERY_PATH, query).await.expect_ok();

    assert_eq!(told["device_keys"], json!({ &*alice.id: {} }));
    assert!(told["failures"]["elsewhere.org"]["error"].is_string());
    let claim = json!({ "one_time_keys": { "@bob:elsewhere.org": { "A": "signed_curve25519" } } });
    let claimed = alice.client.post(CLAIM_PATH, claim).await.expect_ok();
    assert_eq!(claimed["one_time_keys"], json!({}));
    assert!(claimed["failures"]["elsewhere.org"].is_object());
}

#[tokio::test]
async fn keys_of_another_user_and_malformed_keys_are_refused() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let upload = async |body: Value| bob.client.post(UPLOAD_PATH, body).await;

    let of_another = json!({ "device_keys": device_keys(&alice, 1) });
    upload(of_another)
        .await
        .expect_error(400, "M_INVALID_PARAM");
    let mut other_device = device_keys(&bob, 1);
    other_device["device_id"] = json!("OTHER");
    let other_device = upload(json!({ "device_keys": other_device })).await;
    other_device.expect_error(400, "M_INVALID_PARAM");
    let bare = json!({ "device_keys": { "user_id": bob.id, "device_id": bob.device_id } });
    upload(bare).await.expect_error(400, "M_BAD_JSON");
    let mut large = device_keys(&bob, 1);
    large["padding"] = json!("x".repeat(20_000));
    let large = upload(json!({ "device_keys": large })).await;
    large.expect_error(413, "M_TOO_LARGE");
    let crowd: serde_json::Map<String, Value> = (0..10_001)
        .map(|n| (format!("@{n}:localhost"), json!([])))
        .collect();
    let crowd = bob
        .client
        .post(QUERY_PATH, json!({ "device_keys": crowd }))
        .await;
    crowd.expect_error(413, "M_TOO_LARGE");
    let nameless = json!({ "one_time_keys": { "signed_curve25519": {} } });
    upload(nameless).await.expect_error(400, "M_BAD_JSON");
    for kind in ["one_time_keys", "fallback_keys"] {
        for no_key in [json!(5), json!({}), json!({ "key": "k", "signatures": 5 })] {
            let upload = upload(json!({ kind: { "signed_curve25519:A": no_key } })).await;
            upload.expect_error(400, "M_BAD_JSON");
        }
    }
    let objects = json!({ "device_keys": { &*alice.id: { "A": true } } });
    let query = bob.client.post(QUERY_PATH, objects).await;
    query.expect_error(400, "M_BAD_JSON");
    assert_eq!(
        bob.queries_keys(&bob.id).await["device_keys"][&bob.id],
        json!({})
    );
}

#[tokio::test]
async fn key_endpoints_require_an_access_token() {
    let server = Server::start().await;

    for path in [UPLOAD_PATH, QUERY_PATH, CLAIM_PATH] {
        let refused = server.post(path, json!({})).await;
        refused.expect_error(401, "M_MISSING_TOKEN");
    }
}

#[tokio::test]
async fn a_one_time_key_can_be_uploaded_again_but_not_changed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    alice.uploads_one_time_keys(&["A", "A", "B"]).await;
    let changed = alice.uploads_one_time_key("A", "other").await;

    changed.expect_error(400, "M_INVALID_PARAM");
    let counts = alice.client.post(UPLOAD_PATH, json!({})).await.expect_ok();
    let expected = json!({ "one_time_key_counts": { "signed_curve25519": 2 } });
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn one_time_keys_are_claimed_in_order_before_the_fallback_key() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.uploads_one_time_keys(&["Z", "A"]).await;
    alice.uploads_fallback_key("F").await;

    let mut claimed = Vec::new();
    for _ in 0..4 {
        claimed.push(bob.claims_key(&alice).await.expect("a key"));
    }

    let ids: Vec<&str> = claimed
        .iter()
        .filter_map(|id| id.split(':').nth(1))
        .collect();
    assert_eq!(ids, ["Z", "A", "F", "F"]);
    // A client uploads a key again if the answer to the first upload was lost.
    alice.uploads_one_time_keys(&["Z"]).await;
    assert_eq!(remaining_keys(&alice.syncs().await).0, 0);
}

#[tokio::test]
async fn no_key_is_claimed_twice_at_the_same_time() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let ids: Vec<String> = (0..20).map(|n| format!("K{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    alice.uploads_one_time_keys(&ids).await;

    let claims = (0..25).map(|_| bob.claims_key(&alice));
    let claimed = futures_util::future::join_all(claims).await;

    let claimed: Vec<String> = claimed.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 20);
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), 20);
}

#[tokio::test]
async fn every_sync_reports_the_remaining_keys() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);

    let empty = alice.syncs().await;
    assert_eq!(remaining_keys(&empty), (0, &json!([])));
    alice.uploads_one_time_keys(&["A", "B"]).await;
    alice.uploads_fallback_key("F").await;
    let stocked = alice.syncs_after(&empty).await;
    assert_eq!(remaining_keys(&stocked), (2, &json!(["signed_curve25519"])));
    assert_eq!(remaining_keys(&bob.syncs().await), (0, &json!([])));
    bob.claims_key(&alice).await;
    bob.claims_key(&alice).await;
    bob.claims_key(&alice).await;
    let spent = alice.syncs_after(&stocked).await;
    assert_eq!(remaining_keys(&spent), (0, &json!([])));

    let server = server.restart().await;
    let alice = alice.on_server(&server);
    assert_eq!(
        remaining_keys(&alice.syncs_after(&spent).await),
        (0, &json!([]))
    );
    alice.uploads_fallback_key("G").await;
    let told = alice.syncs_after(&spent).await;
    assert_eq!(remaining_keys(&told).1, &json!(["signed_curve25519"]));
}

#[tokio::test]
async fn a_key_claim_wakes_a_waiting_sync() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.uploads_one_time_keys(&["A"]).await;
    let before = alice.syncs().await;

    let (told, claimed) = tokio::join!(alice.long_polls_after(&before), bob.claims_key(&alice));

    assert!(claimed.is_some());
    assert_eq!(remaining_keys(&told).0, 0);
}

#[tokio::test]
async fn logging_out_removes_the_keys_of_the_device() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let phone = server.log_in("alice").await;
    phone.uploads_device_keys(1).await;
    phone.uploads_one_time_keys(&["A"]).await;

    phone.client.post(LOGOUT_PATH, json!({})).await.expect_ok();

    let told = bob.queries_keys(&alice.id).await;
    assert_eq!(told["device_keys"], json!({ &*alice.id: {} }));
    assert_eq!(bob.claims_key(&phone).await, None);
}

#[tokio::test]
async fn one_time_keys_of_a_device_are_limited_across_algorithms() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let keys = |algorithm: &str| -> Value {
        let key = json!({ "key": "k", "signatures": {} });
        let keys = (0..1_001).map(|n| (format!("{algorithm}:{n}"), key.clone()));
        json!({ "one_time_keys": Value::Object(keys.collect()) })
    };

    let first = alice
        .client
        .post(UPLOAD_PATH, keys("signed_curve25519"))
        .await;
    let second = alice.client.post(UPLOAD_PATH, keys("org.example")).await;

    first.expect_ok();
    second.expect_error(400, "M_INVALID_PARAM");
}
