//! Two devices exchange messages while one signs the other in with a QR code.

use std::time::Duration;

use parlour::clock::Clock;
use reqwest::Method;
use serde_json::json;

use super::{PUBLIC_URL, start_server, start_server_with, text};
use crate::harness::Server;

const TEXT_PATH: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";
const JSON_PATH: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";
const TEXT: (&str, &str) = ("content-type", "text/plain");

#[tokio::test]
async fn two_devices_exchange_texts() {
    let server = start_server().await;
    let client = server.client();

    let opened = client.send_with_headers(Method::POST, TEXT_PATH, "one", &[TEXT]);
    let opened = opened.await;
    assert_eq!(opened.status, 201, "{}", opened.text);
    let path = text(&opened.body, "url").replace(PUBLIC_URL, "");
    let first = opened.header("etag").to_owned();
    assert!(!opened.header("expires").is_empty());
    assert_eq!(opened.header("access-control-expose-headers"), "ETag");
    let headers = [("if-none-match", &*first)];
    let same = client.send_with_headers(Method::GET, &path, "", &headers);
    assert_eq!(same.await.status, 304);
    let read = client.get(&path).await;
    assert_eq!((read.status, &*read.text), (200, "one"));
    assert_eq!(read.header("content-type"), "text/plain");
    let headers = [TEXT, ("if-match", &*first)];
    let sent = client.send_with_headers(Method::PUT, &path, "two", &headers);
    let sent = sent.await;
    assert_eq!(sent.status, 202, "{}", sent.text);
    let late = client.send_with_headers(Method::PUT, &path, "three", &headers);
    let late = late.await;

    assert_eq!(late.status, 412);
    assert_eq!(late.body["errcode"], "M_CONCURRENT_WRITE");
    assert_eq!(late.header("etag"), sent.header("etag"));
    assert_eq!(client.get(&path).await.text, "two");
    assert_eq!(client.delete(&path).await.status, 204);
    client.get(&path).await.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn two_devices_exchange_json_objects() {
    let server = start_server().await;
    let available = server.get(JSON_PATH).await.expect_ok();
    assert_eq!(available["create_available"], true);

    let opened = server.post(JSON_PATH, json!({ "data": "one" })).await;
    let opened = opened.expect_ok();
    assert_eq!(opened["expires_in_ms"], 300_000);
    let path = format!("{JSON_PATH}/{}", text(&opened, "id"));
    let read = server.get(&path).await.expect_ok();
    assert_eq!(read["data"], "one");
    assert_eq!(read["sequence_token"], opened["sequence_token"]);
    let message = json!({ "sequence_token": read["sequence_token"], "data": "two" });
    let sent = server.put(&path, message.clone()).await.expect_ok();
    let late = server.put(&path, message).await;

    late.expect_error(409, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE");
    let read = server.get(&path).await.expect_ok();
    assert_eq!(read["data"], "two");
    assert_eq!(read["sequence_token"], sent["sequence_token"]);
    server.delete(&path).await.expect_ok();
    server.get(&path).await.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_message_is_not_shown_as_a_page() {
    let server = start_server().await;
    let opened = server.post(JSON_PATH, json!({ "data": "<script>" })).await;
    let id = text(&opened.expect_ok(), "id");

    for path in [TEXT_PATH, JSON_PATH] {
        let headers = [("sec-fetch-mode", "navigate")];
        let path = format!("{path}/{id}");
        let refused = server
            .client()
            .send_with_headers(Method::GET, &path, "", &headers)
            .await;
        refused.expect_error(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn a_large_message_and_a_missing_token_are_refused() {
    let server = start_server().await;
    let opened = server.post(JSON_PATH, json!({ "data": "one" })).await;
    let id = text(&opened.expect_ok(), "id");

    let large = server.post(JSON_PATH, json!({ "data": "x".repeat(4_097) }));
    large.await.expect_error(413, "M_TOO_LARGE");
    let path = format!("{TEXT_PATH}/{id}");
    let blind = server.client().send(Method::PUT, &path, "two").await;
    blind.expect_error(400, "M_MISSING_PARAM");
}

#[tokio::test]
async fn opening_many_sessions_is_limited_and_polling_one_is_not() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = start_server_with(clock.clone(), |config| config.limits.enabled = true).await;
    let opened = server.post(JSON_PATH, json!({ "data": "one" })).await;
    let path = format!("{JSON_PATH}/{}", text(&opened.expect_ok(), "id"));

    // Both devices ask twice a second, until the session expires.
    for _ in 0..290 {
        clock.advance(Duration::from_secs(1));
        for _ in 0..4 {
            server.get(&path).await.expect_ok();
        }
    }

    let mut last = 200;
    for _ in 0..200 {
        last = open_session(&server).await;
        if last == 429 {
            break;
        }
    }
    assert_eq!(last, 429);
}

async fn open_session(server: &Server) -> u16 {
    let opened = server.post(JSON_PATH, json!({ "data": "one" })).await;
    opened.status
}
