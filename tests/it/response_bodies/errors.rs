//! The bodies of errors.

use insta::assert_json_snapshot;
use reqwest::Method;
use serde_json::json;

use super::{hide_varying_fields, server_with_alice};
use crate::harness::Server;

#[tokio::test]
async fn an_unknown_endpoint_is_unrecognized() {
    let server = Server::start().await;

    let path = server.get("/_matrix/client/v3/nothing").await;
    let method = server.delete("/_matrix/client/versions").await;

    assert_json_snapshot!(path.body, @r#"
    {
      "errcode": "M_UNRECOGNIZED",
      "error": "unknown endpoint"
    }
    "#);
    assert_json_snapshot!(method.body, @r#"
    {
      "errcode": "M_UNRECOGNIZED",
      "error": "unknown method for this endpoint"
    }
    "#);
}

#[tokio::test]
async fn a_request_without_a_valid_token_is_refused() {
    let server = Server::start().await;

    let path = "/_matrix/client/v3/account/whoami";
    let missing = server.get(path).await;
    let wrong = server.client().with_token("wrong").get(path).await;

    assert_json_snapshot!(missing.body, @r#"
    {
      "errcode": "M_MISSING_TOKEN",
      "error": "missing access token"
    }
    "#);
    assert_json_snapshot!(wrong.body, @r#"
    {
      "errcode": "M_UNKNOWN_TOKEN",
      "error": "unknown access token",
      "soft_logout": false
    }
    "#);
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused() {
    let (_server, alice) = server_with_alice().await;

    let path = "/_matrix/client/v3/createRoom";
    let not_json = alice.client.send(Method::POST, path, "{").await;
    let bad_json = alice.client.post(path, json!({ "name": 5 })).await;

    assert_json_snapshot!(not_json.body, @r#"
    {
      "errcode": "M_NOT_JSON",
      "error": "the JSON is not complete"
    }
    "#);
    assert_json_snapshot!(bad_json.body, @r#"
    {
      "errcode": "M_BAD_JSON",
      "error": "invalid type: integer `5`, expected a string at line 1 column 9"
    }
    "#);
}

#[tokio::test]
async fn a_wrong_password_is_forbidden() {
    let server = Server::start().await;
    server.register("alice").await;

    let login = json!({
        "type": "m.login.password", "password": "wrong",
        "identifier": { "type": "m.id.user", "user": "alice" },
    });
    let refused = server.post("/_matrix/client/v3/login", login).await;

    assert_json_snapshot!(refused.body, @r#"
    {
      "errcode": "M_FORBIDDEN",
      "error": "the user name or the password is wrong"
    }
    "#);
}

#[tokio::test]
async fn a_taken_user_name_is_refused() {
    let server = Server::start().await;
    server.register("alice").await;

    let path = "/_matrix/client/v3/register/available?username=alice";
    let refused = server.get(path).await;

    assert_json_snapshot!(refused.body, @r#"
    {
      "errcode": "M_USER_IN_USE",
      "error": "the user name is taken"
    }
    "#);
}

#[tokio::test]
async fn an_interactive_authentication_lists_its_flows() {
    let (_server, alice) = server_with_alice().await;

    let path = format!("/_matrix/client/v3/devices/{}", alice.device_id);
    let refused = alice.client.send(Method::DELETE, &path, "{}").await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(refused.body, @r#"
    {
      "flows": [
        {
          "stages": [
            "m.login.password"
          ]
        }
      ],
      "params": {},
      "session": "[token]"
    }
    "#);
}

#[tokio::test]
async fn a_rate_limit_says_when_to_retry() {
    let server = Server::with_config(|config| {
        config.limits.enabled = true;
        config.limits.sending_burst = 1;
        config.limits.sending_per_minute = 1;
    })
    .await;
    let alice = server.register("alice").await;
    alice.creates(json!({})).await;

    let refused = alice.tries_to_create(json!({})).await;

    assert_json_snapshot!(refused.body, {
        ".retry_after_ms" => "[duration]",
    }, @r#"
    {
      "errcode": "M_LIMIT_EXCEEDED",
      "error": "too many requests",
      "retry_after_ms": "[duration]"
    }
    "#);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let (_server, alice) = server_with_alice().await;
    let room = alice.creates(json!({})).await;

    let event = alice.event(&room, "$nothing").await;
    let state = alice.gets_in_room(&room, "state/m.room.topic").await;

    assert_json_snapshot!(event.body, @r#"
    {
      "errcode": "M_NOT_FOUND",
      "error": "there is no such event, or you may not see it"
    }
    "#);
    assert_json_snapshot!(state.body, @r#"
    {
      "errcode": "M_NOT_FOUND",
      "error": "the room has no such state"
    }
    "#);
}
