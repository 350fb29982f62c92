//! Errors have the standard body, whatever is asked; and pages of any origin may read them.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Server};

const ANY_METHOD: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS";

#[track_caller]
fn assert_open_to_all_origins(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("access-control-allow-methods"), ANY_METHOD);
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
async fn an_answer_names_its_request() {
    let server = Server::start().await;

    let path = "/_matrix/client/versions";
    let named = [("x-request-id", "proxy-17")];
    let kept = server
        .client()
        .send_with(Method::GET, path, "", &named)
        .await;
    let made = server.get(path).await;

    assert_eq!(kept.header("x-request-id"), "proxy-17");
    assert_eq!(made.header("x-request-id").len(), 16);
}
