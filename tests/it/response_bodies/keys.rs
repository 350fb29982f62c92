//! Device keys.

use insta::assert_json_snapshot;
use serde_json::json;

use super::{called, server_with_alice, with_names};
use crate::{
    harness::User,
    keys::{QUERY_PATH, UPLOAD_PATH, device_keys},
};

#[tokio::test]
async fn an_upload_of_keys_returns_the_counts() {
    let (_server, alice) = server_with_alice().await;

    let body = upload_keys(&alice).await;

    assert_json_snapshot!(body, @r#"
    {
      "one_time_key_counts": {
        "signed_curve25519": 1
      }
    }
    "#);
}

#[tokio::test]
async fn a_query_of_keys_returns_devices_and_failures() {
    let (_server, alice) = server_with_alice().await;
    upload_keys(&alice).await;
    let path = format!("/_matrix/client/v3/devices/{}", alice.device_id);
    let name = json!({ "display_name": "Phone" });
    alice.client.put(&path, name).await.expect_ok();

    let query = json!({ "device_keys": { &*alice.id: [] } });
    let body = alice.client.post(QUERY_PATH, query).await.expect_ok();

    let body = with_names(&body, &[called(&alice.device_id, "PHONE")]);
    assert_json_snapshot!(body, @r#"
    {
      "device_keys": {
        "@alice:localhost": {
          "PHONE": {
            "algorithms": [
              "m.olm.v1.curve25519-aes-sha2"
            ],
            "device_id": "PHONE",
            "keys": {
              "ed25519:PHONE": "key1"
            },
            "signatures": {},
            "unsigned": {
              "device_display_name": "Phone"
            },
            "user_id": "@alice:localhost"
          }
        }
      },
      "failures": {},
      "master_keys": {},
      "self_signing_keys": {},
      "user_signing_keys": {}
    }
    "#);
}

/// Uploads device keys, a one-time key and a fallback key.
async fn upload_keys(user: &User) -> serde_json::Value {
    let key = json!({ "key": "k", "signatures": {} });
    let fallback = json!({ "key": "f", "fallback": true, "signatures": {} });
    let upload = json!({
        "device_keys": device_keys(user, 1),
        "one_time_keys": { "signed_curve25519:AAAA": key },
        "fallback_keys": { "signed_curve25519:BBBB": fallback },
    });
    user.client.post(UPLOAD_PATH, upload).await.expect_ok()
}
