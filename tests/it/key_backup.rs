//! Backups of room keys.

use serde_json::{Value, json};

use crate::harness::{HttpAnswer, Server, User, password_of};

const VERSION_PATH: &str = "/_matrix/client/v3/room_keys/version";
const KEYS_PATH: &str = "/_matrix/client/v3/room_keys/keys";

fn backup_definition(public_key: &str) -> Value {
    json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": { "public_key": public_key } })
}

fn room_key(is_verified: bool, first: u64, forwarded: u64) -> Value {
    json!({
        "first_message_index": first, "forwarded_count": forwarded, "is_verified": is_verified,
        "session_data": { "ciphertext": "c" },
    })
}

impl User {
    /// Creates a backup and returns its version.
    async fn creates_backup(&self) -> String {
        let made = self
            .client
            .post(VERSION_PATH, backup_definition("a"))
            .await
            .expect_ok();
        made["version"].as_str().expect("a version").to_owned()
    }

    async fn puts_room_keys(&self, path: &str, version: &str, body: Value) -> HttpAnswer {
        let path = format!("{KEYS_PATH}{path}?version={version}");
        self.client.put(&path, body).await
    }

    async fn gets_room_keys(&self, path: &str, version: &str) -> HttpAnswer {
        let path = format!("{KEYS_PATH}{path}?version={version}");
        self.client.get(&path).await
    }
}

#[tokio::test]
async fn backup_versions_can_be_created_updated_and_deleted() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let get = async |path: &str| alice.client.get(&format!("{VERSION_PATH}{path}")).await;

    get("").await.expect_error(404, "M_NOT_FOUND");
    let first = alice.creates_backup().await;
    let second = alice.creates_backup().await;
    assert_ne!(first, second);
    let latest = get("").await.expect_ok();
    let mut expected = backup_definition("a");
    expected["version"] = json!(second);
    expected["etag"] = json!("0");
    expected["count"] = json!(0);
    assert_eq!(latest, expected);

    let path = format!("{VERSION_PATH}/{first}");
    alice
        .client
        .put(&path, backup_definition("b"))
        .await
        .expect_ok();
    let changed = get(&format!("/{first}")).await.expect_ok();
    assert_eq!(changed["auth_data"], json!({ "public_key": "b" }));

    alice.client.delete(&path).await.expect_ok();
    alice.client.delete(&path).await.expect_ok();
    get(&format!("/{first}"))
        .await
        .expect_error(404, "M_NOT_FOUND");
    let gone = alice.client.put(&path, backup_definition("c")).await;
    gone.expect_error(404, "M_NOT_FOUND");
    for unknown in ["99", "x"] {
        let never = alice
            .client
            .delete(&format!("{VERSION_PATH}/{unknown}"))
            .await;
        never.expect_error(404, "M_NOT_FOUND");
    }
    alice
        .client
        .delete(&format!("{VERSION_PATH}/{second}"))
        .await
        .expect_ok();
    let third = alice.creates_backup().await;
    assert!(
        third != first && third != second,
        "a version is never reused"
    );
}

#[tokio::test]
async fn only_the_auth_data_of_a_version_can_change() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let version = alice.creates_backup().await;
    let path = format!("{VERSION_PATH}/{version}");

    let mut other = backup_definition("b");
    other["algorithm"] = json!("org.example");
    let refused = alice.client.put(&path, other).await;
    refused.expect_error(400, "M_INVALID_PARAM");
    let mut other = backup_definition("b");
    other["version"] = json!("99");
    let refused = alice.client.put(&path, other).await;
    refused.expect_error(400, "M_INVALID_PARAM");
    let refused = alice
        .client
        .post(VERSION_PATH, json!({ "algorithm": "a" }))
        .await;
    refused.expect_error(400, "M_BAD_JSON");
    let mut large = backup_definition("b");
    large["auth_data"]["padding"] = json!("x".repeat(100_000));
    let refused = alice.client.post(VERSION_PATH, large).await;
    refused.expect_error(413, "M_TOO_LARGE");
    let refused = server.post(VERSION_PATH, backup_definition("a")).await;
    refused.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn keys_are_stored_and_deleted_by_room_and_session() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let version = alice.creates_backup().await;
    let session = |key: &Value| json!({ "sessions": { "s": key } });
    let one = room_key(true, 1, 0);

    let rooms = json!({ "rooms": { "!a:b": session(&one), "!c:d": session(&one) } });
    let stored = alice
        .puts_room_keys("", &version, rooms.clone())
        .await
        .expect_ok();
    assert_eq!(stored["count"], 2);
    let other = json!({ "sessions": { "t": one } });
    alice
        .puts_room_keys("/!a:b", &version, other)
        .await
        .expect_ok();
    let stored = alice
        .puts_room_keys("/!a:b/u", &version, one.clone())
        .await
        .expect_ok();
    assert_eq!(stored["count"], 4);

    let all = alice.gets_room_keys("", &version).await.expect_ok();
    assert_eq!(all["rooms"]["!c:d"], session(&one));
    let room = alice.gets_room_keys("/!a:b", &version).await.expect_ok();
    assert_eq!(
        room,
        json!({ "sessions": { "s": one, "t": one, "u": one } })
    );
    assert_eq!(
        alice.gets_room_keys("/!a:b/t", &version).await.expect_ok(),
        one
    );

    let delete = async |path: &str| {
        let path = format!("{KEYS_PATH}{path}?version={version}");
        alice.client.delete(&path).await.expect_ok()
    };
    assert_eq!(delete("/!a:b/t").await["count"], 3);
    assert_eq!(delete("/!a:b").await["count"], 1);
    let gone = alice.gets_room_keys("/!a:b/s", &version).await;
    gone.expect_error(404, "M_NOT_FOUND");
    let empty = alice.gets_room_keys("/!a:b", &version).await.expect_ok();
    assert_eq!(empty, json!({ "sessions": {} }));
    assert_eq!(delete("").await["count"], 0);
    assert_eq!(
        alice.gets_room_keys("", &version).await.expect_ok(),
        json!({ "rooms": {} })
    );
}

#[tokio::test]
async fn the_better_room_key_is_kept() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let version = alice.creates_backup().await;
    let put = async |key: Value| {
        alice
            .puts_room_keys("/!a:b/s", &version, key)
            .await
            .expect_ok()
    };

    let first = put(room_key(false, 10, 5)).await;
    let mut etags = vec![first["etag"].clone()];
    for worse in [
        room_key(false, 11, 0),
        room_key(false, 10, 6),
        room_key(false, 10, 5),
    ] {
        assert_eq!(put(worse).await["etag"], etags[0]);
    }
    for better in [
        room_key(false, 10, 4),
        room_key(false, 9, 9),
        room_key(true, 99, 9),
    ] {
        let stored = put(better.clone()).await;
        assert_eq!(stored["count"], 1);
        assert!(!etags.contains(&stored["etag"]));
        etags.push(stored["etag"].clone());
        assert_eq!(
            alice.gets_room_keys("/!a:b/s", &version).await.expect_ok(),
            better
        );
    }
    let info = alice.client.get(VERSION_PATH).await.expect_ok();
    assert_eq!((&info["etag"], &info["count"]), (&etags[3], &json!(1)));
}

#[tokio::test]
async fn only_the_current_version_accepts_keys() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let old = alice.creates_backup().await;
    alice
        .puts_room_keys("/!a:b/s", &old, room_key(true, 1, 0))
        .await
        .expect_ok();
    let current = alice.creates_backup().await;

    let refused = alice
        .puts_room_keys("/!a:b/s", &old, room_key(true, 0, 0))
        .await;
    let refused = refused.expect_error(403, "M_WRONG_ROOM_KEYS_VERSION");

    assert_eq!(refused["current_version"], json!(current));
    let unknown = alice
        .puts_room_keys("/!a:b/s", "99", room_key(true, 0, 0))
        .await;
    unknown.expect_error(404, "M_NOT_FOUND");
    alice.gets_room_keys("/!a:b/s", &old).await.expect_ok();
    let none = alice.gets_room_keys("/!a:b/s", &current).await;
    none.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn malformed_and_large_keys_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let version = alice.creates_backup().await;
    let put = async |key: Value| alice.puts_room_keys("/!a:b/s", &version, key).await;

    put(json!({})).await.expect_error(400, "M_BAD_JSON");
    let mut negative = room_key(true, 1, 0);
    negative["forwarded_count"] = json!(-1);
    put(negative).await.expect_error(400, "M_BAD_JSON");
    let mut text = room_key(true, 1, 0);
    text["session_data"] = json!("x");
    put(text).await.expect_error(400, "M_BAD_JSON");
    let mut large = room_key(true, 1, 0);
    large["session_data"] = json!({ "x": "x".repeat(100_000) });
    put(large).await.expect_error(413, "M_TOO_LARGE");
    let long = format!("/!a:b/{}", "s".repeat(300));
    let long = alice
        .puts_room_keys(&long, &version, room_key(true, 1, 0))
        .await;
    long.expect_error(400, "M_INVALID_PARAM");
    let missing = alice.client.get(KEYS_PATH).await;
    missing.expect_error(400, "M_MISSING_PARAM");
}

#[tokio::test]
async fn a_backup_is_private_to_its_owner() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let version = alice.creates_backup().await;
    alice
        .puts_room_keys("/!a:b/s", &version, room_key(true, 1, 0))
        .await
        .expect_ok();

    let others = bob.gets_room_keys("", &version).await;
    others.expect_error(404, "M_NOT_FOUND");
    let stranger = server.get(&format!("{KEYS_PATH}?version={version}")).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
    alice.gets_room_keys("", &version).await.expect_ok();
    let body = json!({ "auth": password_of("alice") });
    let path = "/_matrix/client/v3/account/deactivate";
    alice.client.post(path, body).await.expect_ok();
}

#[tokio::test]
async fn uploading_many_worse_keys_changes_nothing() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let version = alice.creates_backup().await;
    let sessions = |first: u64| -> Value {
        let sessions = (0..100).map(|n| (format!("s{n}"), room_key(true, first, 0)));
        json!({ "sessions": Value::Object(sessions.collect()) })
    };
    let rooms =
        |first: u64| json!({ "rooms": { "!a:b": sessions(first), "!c:d": sessions(first) } });

    let stored = alice
        .puts_room_keys("", &version, rooms(1))
        .await
        .expect_ok();
    let worse = alice
        .puts_room_keys("", &version, rooms(2))
        .await
        .expect_ok();

    assert_eq!(stored["count"], 200);
    assert_eq!(worse, stored);
    let all = alice.gets_room_keys("", &version).await.expect_ok();
    assert_eq!(all, rooms(1));
}
