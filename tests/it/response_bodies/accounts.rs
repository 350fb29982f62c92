//! Versions, login, and the user's own account.

use insta::assert_json_snapshot;
use serde_json::json;

use super::{hide_varying_fields, server_with_alice};
use crate::harness::{Server, password_of};

#[tokio::test]
async fn versions_list_the_specifications_and_unstable_features() {
    let server = Server::start().await;

    let body = server.get("/_matrix/client/versions").await.expect_ok();

    assert_json_snapshot!(body, @r#"
    {
      "unstable_features": {
        "dev.parlour.websocket_stream": true,
        "io.element.msc4388": true,
        "org.matrix.msc2285.stable": true,
        "org.matrix.msc3030": true,
        "org.matrix.msc3030.stable": true,
        "org.matrix.msc3440.stable": true,
        "org.matrix.msc3715.stable": true,
        "org.matrix.msc3771": true,
        "org.matrix.msc3773": true,
        "org.matrix.msc3827.stable": true,
        "org.matrix.msc3856.stable": true,
        "org.matrix.msc3881": true,
        "org.matrix.msc3912": true,
        "org.matrix.msc3916.stable": true,
        "org.matrix.msc3981": true,
        "org.matrix.msc4028": true,
        "org.matrix.msc4108": true,
        "org.matrix.msc4140": true,
        "org.matrix.msc4155": true,
        "org.matrix.msc4174": true,
        "org.matrix.msc4222": true,
        "org.matrix.msc4354": true,
        "org.matrix.msc4380.stable": true,
        "org.matrix.msc4429": true,
        "org.matrix.msc4445.initial_sync_timeline_stream_ordering": true,
        "org.matrix.simplified_msc3575": true,
        "uk.half-shot.msc2666.query_mutual_rooms": true,
        "uk.half-shot.msc2666.query_mutual_rooms.stable": true
      },
      "versions": [
        "v1.1",
        "v1.2",
        "v1.3",
        "v1.4",
        "v1.5",
        "v1.6",
        "v1.7",
        "v1.8",
        "v1.9",
        "v1.10",
        "v1.11",
        "v1.12",
        "v1.13",
        "v1.14",
        "v1.15",
        "v1.16",
        "v1.17",
        "v1.18",
        "v1.19"
      ]
    }
    "#);
}

#[tokio::test]
async fn capabilities_list_room_versions_and_allowed_changes() {
    let (_server, alice) = server_with_alice().await;

    let body = alice.body_at("/_matrix/client/v3/capabilities").await;

    assert_json_snapshot!(body, {
        r#".capabilities["org.matrix.msc4174.webpush"].vapid"# => "[key]",
    }, @r#"
    {
      "capabilities": {
        "m.3pid_changes": {
          "enabled": false
        },
        "m.account_moderation": {
          "lock": false,
          "suspend": false
        },
        "m.change_password": {
          "enabled": true
        },
        "m.get_login_token": {
          "enabled": true
        },
        "m.profile_fields": {
          "enabled": true
        },
        "m.room_versions": {
          "available": {
            "1": "stable",
            "10": "stable",
            "11": "stable",
            "12": "stable",
            "2": "stable",
            "3": "stable",
            "4": "stable",
            "5": "stable",
            "6": "stable",
            "7": "stable",
            "8": "stable",
            "9": "stable",
            "org.matrix.msc3757.10": "unstable",
            "org.matrix.msc3757.11": "unstable"
          },
          "default": "12"
        },
        "m.set_avatar_url": {
          "enabled": true
        },
        "m.set_displayname": {
          "enabled": true
        },
        "org.matrix.msc4140.delayed_events": {
          "max_delay_ms": 2678400000,
          "max_scheduled": 100
        },
        "org.matrix.msc4174.webpush": {
          "enabled": true,
          "vapid": "[key]"
        }
      }
    }
    "#);
}

#[tokio::test]
async fn login_flows_are_listed() {
    let server = Server::start().await;

    let body = server.get("/_matrix/client/v3/login").await.expect_ok();

    assert_json_snapshot!(body, @r#"
    {
      "flows": [
        {
          "type": "m.login.password"
        },
        {
          "get_login_token": true,
          "type": "m.login.token"
        },
        {
          "type": "m.login.application_service"
        },
        {
          "oauth_aware_preferred": true,
          "type": "m.login.sso"
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn a_login_returns_the_new_session() {
    let server = Server::start().await;
    server.register("alice").await;

    let login = password_of("alice");
    let body = server.post("/_matrix/client/v3/login", login).await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body.expect_ok(), {
        ".well_known.*.base_url" => "[url]",
    }, @r#"
    {
      "access_token": "[token]",
      "device_id": "[device id]",
      "user_id": "@alice:localhost",
      "well_known": {
        "m.homeserver": {
          "base_url": "[url]"
        }
      }
    }
    "#);
}

#[tokio::test]
async fn a_login_with_refresh_tokens_returns_their_lifetime() {
    let server = Server::start().await;
    server.register("alice").await;

    let mut login = password_of("alice");
    login["refresh_token"] = json!(true);
    let body = server.post("/_matrix/client/v3/login", login).await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body.expect_ok(), {
        ".well_known.*.base_url" => "[url]",
    }, @r#"
    {
      "access_token": "[token]",
      "device_id": "[device id]",
      "expires_in_ms": 3600000,
      "refresh_token": "[token]",
      "user_id": "@alice:localhost",
      "well_known": {
        "m.homeserver": {
          "base_url": "[url]"
        }
      }
    }
    "#);
}

#[tokio::test]
async fn a_registration_returns_the_new_session() {
    let server = Server::start().await;

    let auth = json!({ "type": "m.login.dummy" });
    let request = json!({ "username": "alice", "password": "password", "auth": auth });
    let body = server.post("/_matrix/client/v3/register", request).await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body.expect_ok(), @r#"
    {
      "access_token": "[token]",
      "device_id": "[device id]",
      "user_id": "@alice:localhost"
    }
    "#);
}

#[tokio::test]
async fn whoami_names_the_user_and_the_device() {
    let (_server, alice) = server_with_alice().await;

    let body = alice.body_at("/_matrix/client/v3/account/whoami").await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "device_id": "[device id]",
      "user_id": "@alice:localhost"
    }
    "#);
}

#[tokio::test]
async fn a_profile_has_the_fields_that_were_set() {
    let (_server, alice) = server_with_alice().await;
    let path = format!("/_matrix/client/v3/profile/{}", alice.id);
    let fields = [
        ("displayname", json!({ "displayname": "Alice" })),
        ("avatar_url", json!({ "avatar_url": "mxc://localhost/a" })),
        ("m.tz", json!({ "m.tz": "Europe/Berlin" })),
    ];
    for (field, value) in fields {
        let field = format!("{path}/{field}");
        alice.client.put(&field, value).await.expect_ok();
    }

    let body = alice.body_at(&path).await;
    let name = alice.body_at(&format!("{path}/displayname")).await;

    assert_json_snapshot!(body, @r#"
    {
      "avatar_url": "mxc://localhost/a",
      "displayname": "Alice",
      "m.tz": "Europe/Berlin"
    }
    "#);
    assert_json_snapshot!(name, @r#"
    {
      "displayname": "Alice"
    }
    "#);
}

#[tokio::test]
async fn devices_are_listed_with_their_last_use() {
    let (_server, alice) = server_with_alice().await;
    let path = format!("/_matrix/client/v3/devices/{}", alice.device_id);
    let name = json!({ "display_name": "Phone" });
    alice.client.put(&path, name).await.expect_ok();

    let list = alice.body_at("/_matrix/client/v3/devices").await;
    let device = alice.body_at(&path).await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(list, @r#"
    {
      "devices": [
        {
          "device_id": "[device id]",
          "display_name": "Phone",
          "last_seen_ip": "[address]",
          "last_seen_ts": "[time]"
        }
      ]
    }
    "#);
    assert_json_snapshot!(device, @r#"
    {
      "device_id": "[device id]",
      "display_name": "Phone",
      "last_seen_ip": "[address]",
      "last_seen_ts": "[time]"
    }
    "#);
}
