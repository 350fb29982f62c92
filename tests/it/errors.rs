//! Errors have the standard body for every request, and web pages of any origin may read them.

use reqwest::Method;
use serde_json::json;

use crate::harness::{HttpAnswer, Server};

const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS";

#[track_caller]
fn assert_open_to_all_origins(answer: &HttpAnswer) {
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(
        answer.header("access-control-allow-methods"),
        ALLOWED_METHODS
    );
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "X-Requested-With, Content-Type, Authorization"
    );
}

#[tokio::test]
async fn an_unknown_path_is_unrecognized() {
    let server = Server::start().await;

    for path in ["/_matrix/client/v3/unknown", "/_matrix/nothing", "/other"] {
        let answer = server.get(path).await;
        assert_open_to_all_origins(&answer);
        answer.expect_error(404, "M_UNRECOGNIZED");
    }
    let posted = server.post("/_matrix/client/v3/unknown", json!({})).await;
    posted.expect_error(404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn a_wrong_method_is_unrecognized() {
    let server = Server::start().await;

    let put = server.put("/_matrix/client/versions", json!({})).await;
    let deleted = server.delete("/_matrix/client/versions").await;

    assert_open_to_all_origins(&put);
    put.expect_error(405, "M_UNRECOGNIZED");
    deleted.expect_error(405, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn every_answer_is_open_to_all_origins() {
    let server = Server::start().await;

    let answer = server.get("/_matrix/client/versions").await;

    assert_open_to_all_origins(&answer);
    answer.expect_ok();
}

#[tokio::test]
async fn a_preflight_request_is_answered_for_any_path() {
    let server = Server::start().await;

    for path in ["/_matrix/client/versions", "/_matrix/client/v3/unknown"] {
        let answer = server.client().send(Method::OPTIONS, path, "").await;
        assert_open_to_all_origins(&answer);
        assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    }
}

#[tokio::test]
async fn head_is_answered_as_get_without_its_body() {
    let server = Server::start().await;

    let path = "/_matrix/client/versions";
    let answer = server.client().send(Method::HEAD, path, "").await;

    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test]
async fn answers_carry_a_request_id() {
    let server = Server::start().await;

    let path = "/_matrix/client/versions";
    let named = [("x-request-id", "proxy-17")];
    let kept = server
        .client()
        .send_with_headers(Method::GET, path, "", &named)
        .await;
    let made = server.get(path).await;

    assert_eq!(kept.header("x-request-id"), "proxy-17");
    assert_eq!(made.header("x-request-id").len(), 16);
}

#[tokio::test]
async fn json_answers_forbid_caching_and_content_sniffing() {
    let server = Server::start().await;

    for path in [
        "/_matrix/client/versions",
        "/nowhere",
        "/_matrix/client/v3/account/whoami",
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
}

#[tokio::test]
async fn an_invalid_parameter_error_names_the_allowed_values() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let number = "expected a whole number from 0 to 9007199254740991";

    for (path, name, allowed) in [
        ("sync?timeout=-1", "timeout", number),
        ("sync?since=a&timeout=1.5", "timeout", number),
        (
            "sync?full_state=maybe",
            "full_state",
            "expected `true` or `false`",
        ),
        ("rooms/!a:b/messages?dir=b&limit=many", "limit", number),
        ("rooms/nonsense/members", "room_id", "expected a room id"),
        ("profile/alice", "user_id", "expected a user id"),
        (
            "rooms/!a:b/event/nonsense",
            "event_id",
            "expected an event id",
        ),
        (
            "directory/room/nonsense",
            "room_alias",
            "expected a room alias",
        ),
    ] {
        let answer = alice
            .client
            .get(&format!("/_matrix/client/v3/{path}"))
            .await;

        let body = answer.expect_error(400, "M_INVALID_PARAM");
        let error = body["error"].as_str().unwrap_or_default();
        let expected = format!("invalid parameter `{name}`: {allowed}");
        assert!(error.starts_with(&expected), "{path}: {error}");
    }
}
