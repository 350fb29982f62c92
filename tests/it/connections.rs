//! Unused connections are closed, and none of them blocks other clients. The time-outs here are one second.

use futures_util::{SinkExt, StreamExt};
use parlour::config::Config;
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    harness::{Client, Server},
    media::upload_media,
};

/// The first bytes of an HTTP/2 connection.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty `SETTINGS` frame.
const HTTP2_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// A `SETTINGS` frame that forbids the server to send data before the client opens the window.
const HTTP2_NO_WINDOW: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];

/// A size larger than the buffers of the operating system on both sides.
const FILE_BYTES: usize = 30 * 1024 * 1024;

fn shorten_timeouts(config: &mut Config) {
    config.connections.head_timeout_seconds = 1;
    config.connections.idle_timeout_seconds = 1;
    config.connections.body_timeout_seconds = 1;
    config.connections.write_timeout_seconds = 1;
    config.registration.shared_secret = Some(parlour::config::SecretString::new("secret"));
}

async fn connect(server: &Server) -> TcpStream {
    let address = server.running.addresses()[0];
    TcpStream::connect(address)
        .await
        .expect("the server listens")
}

/// Sends bytes, and returns everything that the server sends before it closes the connection.
async fn answer_until_closed(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server).await;
    stream.write_all(bytes).await.expect("the server reads");
    let mut answer = Vec::new();
    // A reset connection counts as closed.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// `GET` in the static table of HPACK, and the flags of a frame without a following body.
const HTTP2_GET: (u8, u8) = (0x82, 0x05);
/// `POST` in the static table of HPACK, and the flags of a frame with a following body.
const HTTP2_POST: (u8, u8) = (0x83, 0x04);

/// Returns the `HEADERS` frame of a request over HTTP/2.
fn http2_headers_frame((method, flags): (u8, u8), path: &str) -> Vec<u8> {
    let literal = |index: u8, text: &str| {
        let length = u8::try_from(text.len()).expect("is short");
        [&[index, length], text.as_bytes()].concat()
    };
    // `:method` and `:scheme: http` take one byte each.
    let block = [
        vec![method, 0x86],
        literal(4, path),
        literal(1, "localhost"),
    ]
    .concat();
    let length = u8::try_from(block.len()).expect("is short");
    // The frame belongs to stream 1.
    [vec![0, 0, length, 1, flags, 0, 0, 0, 1], block].concat()
}

#[tokio::test]
async fn an_incomplete_request_head_closes_the_connection() {
    let server = Server::with_config(shorten_timeouts).await;

    for head in [
        "",
        "GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\nX-A: ",
    ] {
        assert_eq!(answer_until_closed(&server, head.as_bytes()).await, "");
    }
}

#[tokio::test]
async fn a_connection_without_a_second_request_is_closed() {
    let server = Server::with_config(shorten_timeouts).await;
    let request = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n";

    let answer = answer_until_closed(&server, request).await;

    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn an_http_2_connection_without_requests_is_closed() {
    let server = Server::with_config(shorten_timeouts).await;
    let silent = [HTTP2_PREFACE, HTTP2_SETTINGS].concat();
    let used = [
        &silent,
        &*http2_headers_frame(HTTP2_GET, "/_matrix/client/versions"),
    ]
    .concat();

    for bytes in [HTTP2_PREFACE.to_vec(), silent, used] {
        answer_until_closed(&server, &bytes).await;
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_with_408() {
    let server = Server::with_config(shorten_timeouts).await;
    let alice = server.register("alice").await;
    let token = format!("Authorization: Bearer {}\r\n", alice.token);

    for (path, authorization) in [
        ("/_matrix/client/v3/login", ""),
        ("/_matrix/client/v3/register", ""),
        ("/_synapse/admin/v1/register", ""),
        (
            "/_parlour/client/v1/rooms/!a:localhost/invite_links",
            &*token,
        ),
        ("/_matrix/client/v3/createRoom", &*token),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\n{authorization}Content-Length: 100\r\n\r\n{{"
        );

        let answer = answer_until_closed(&server, head.as_bytes()).await;

        assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
        assert!(
            answer.contains("did not arrive in time"),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_over_http_2_is_answered() {
    let server = Server::with_config(shorten_timeouts).await;
    let login = http2_headers_frame(HTTP2_POST, "/_matrix/client/v3/login");

    let bytes = [HTTP2_PREFACE, HTTP2_SETTINGS, &*login].concat();
    let answer = answer_until_closed(&server, &bytes).await;

    assert!(answer.contains("did not arrive in time"), "{answer}");
}

#[tokio::test]
async fn an_upload_that_does_not_arrive_is_refused() {
    let server = Server::with_config(shorten_timeouts).await;
    let alice = server.register("alice").await;
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 100\r\n\r\nabc",
        alice.token
    );

    let answer = answer_until_closed(&server, head.as_bytes()).await;

    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn a_body_that_an_endpoint_does_not_read_closes_the_connection() {
    let server = Server::with_config(shorten_timeouts).await;
    let head = "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{";

    let answer = answer_until_closed(&server, head.as_bytes()).await;

    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_reads_no_answer_loses_its_connection() {
    let server = Server::with_config(|config| {
        shorten_timeouts(config);
        config.connections.max_open_per_address = 1;
        // Otherwise the single connection of the uploading client would be closed as idle.
        config.connections.idle_timeout_seconds = 60;
    })
    .await;
    let address = format!("http://{}", server.running.addresses()[0]);
    let head = {
        let client = Client::for_address(&address);
        let body = json!({ "username": "alice", "auth": { "type": "m.login.dummy" } });
        let registered = client.post("/_matrix/client/v3/register", body).await;
        let token = server.user_from_login(&registered.expect_ok()).token;
        let file = vec![b'a'; FILE_BYTES];
        let place = upload_media(&client.with_token(&token), "", "text/plain", &file).await;
        format!(
            "GET /_matrix/client/v1/media/download/{place} HTTP/1.1\r\nHost: a\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        )
    };
    let mut stream = connect_until_answered(&server, head.as_bytes()).await;

    // Another connection is refused until the server has closed this one.
    let head = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    drop(connect_until_answered(&server, head).await);

    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < FILE_BYTES, "the whole file was sent");
}

/// Connects again and again until the server answers, and returns the connection after the first byte of the answer.
async fn connect_until_answered(server: &Server, head: &[u8]) -> TcpStream {
    loop {
        let mut stream = connect(server).await;
        let mut byte = [0];
        if stream.write_all(head).await.is_ok() && stream.read_exact(&mut byte).await.is_ok() {
            return stream;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_http_2_client_that_reads_no_answer_loses_its_connection() {
    let server = Server::with_config(|config| {
        shorten_timeouts(config);
        config.connections.idle_timeout_seconds = 3600;
    })
    .await;
    let request = http2_headers_frame(HTTP2_GET, "/_matrix/client/versions");

    let bytes = [HTTP2_PREFACE, HTTP2_NO_WINDOW, &*request].concat();
    let answer = answer_until_closed(&server, &bytes).await;

    assert!(!answer.contains("versions"), "{answer}");
}

#[tokio::test]
async fn connections_per_address_are_limited() {
    let server = Server::with_config(|config| config.connections.max_open_per_address = 2).await;
    let request = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n";
    let first = connect_until_answered(&server, request).await;
    let _second = connect_until_answered(&server, request).await;

    assert_eq!(answer_until_closed(&server, request).await, "");

    drop(first);
    drop(connect_until_answered(&server, request).await);
}

#[tokio::test]
async fn a_waiting_sync_outlives_the_timeouts() {
    let server = Server::with_config(shorten_timeouts).await;
    let alice = server.register("alice").await;
    let first = alice
        .client
        .get("/_matrix/client/v3/sync")
        .await
        .expect_ok();
    let since = first["next_batch"].as_str().expect("is a token");
    let path = format!("/_matrix/client/v3/sync?since={since}&timeout=2500");

    let plain = alice.client.get(&path).await;
    let http2 = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    let url = format!("http://{}{path}", server.running.addresses()[0]);
    let http2 = http2.get(url).bearer_auth(&alice.token).send().await;

    assert_eq!(plain.expect_ok()["next_batch"], since);
    let http2 = http2.expect("the server answers");
    assert_eq!(http2.version(), reqwest::Version::HTTP_2);
    assert_eq!(http2.status(), 200);
}

#[tokio::test]
async fn a_websocket_outlives_the_timeouts() {
    let server = Server::with_config(shorten_timeouts).await;
    let alice = server.register("alice").await;
    let address = server.running.addresses()[0];
    let url = format!(
        "ws://{address}/_matrix/client/unstable/stream?access_token={}",
        alice.token
    );
    let (mut socket, _) = connect_async(url).await.expect("connects");

    // This request waits longer than any time-out.
    let first = alice
        .client
        .get("/_matrix/client/v3/sync")
        .await
        .expect_ok();
    let since = first["next_batch"].as_str().expect("is a token");
    let path = format!("/_matrix/client/v3/sync?since={since}&timeout=2500");
    alice.client.get(&path).await.expect_ok();

    let request = json!({ "id": "1", "method": "nothing", "params": {} });
    let sent = socket.send(Message::text(request.to_string())).await;
    sent.expect("the socket is open");
    let answer = loop {
        let frame = socket.next().await.expect("the socket is open");
        let frame = frame.expect("is a frame").into_text().expect("is text");
        if frame.contains(r#""id":"1""#) {
            break frame;
        }
    };
    assert!(answer.contains("error"), "{answer}");
}

#[tokio::test]
async fn a_request_without_host_is_answered_with_400() {
    let server = Server::start().await;
    let line = "GET /_matrix/client/versions";

    let one = |head: String| {
        let server = &server;
        async move { answer_until_closed(server, head.as_bytes()).await }
    };
    let without = one(format!("{line} HTTP/1.1\r\nConnection: close\r\n\r\n")).await;
    let twice = format!("{line} HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n");
    let twice = one(twice).await;
    let old = one(format!("{line} HTTP/1.0\r\n\r\n")).await;

    for refused in [without, twice] {
        assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
        assert!(refused.contains("M_UNKNOWN"), "{refused}");
    }
    assert!(old.starts_with("HTTP/1.0 200 OK"), "{old}");
}

#[tokio::test]
async fn a_login_whose_body_is_too_large_is_answered_with_413() {
    let server = Server::with_config(|config| config.limits.max_request_bytes = 65_536).await;
    let body = json!({ "type": "m.login.password", "password": "a".repeat(100_000) });

    let answer = server
        .client()
        .send(Method::POST, "/_matrix/client/v3/login", &body.to_string())
        .await;

    answer.expect_error(413, "M_TOO_LARGE");
}

/// Writes a whole request with a large body before reading the first byte, as many clients do, and returns the
/// server's answers to this request and to a second one on the same connection.
async fn answers_after_writing(server: &Server, line: &str, token: &str) -> String {
    let mut stream = connect(server).await;
    let head = format!(
        "{line} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: {FILE_BYTES}\r\n\r\n"
    );
    let second = "GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let body = vec![b'x'; FILE_BYTES];
    for bytes in [head.as_bytes(), &body, second.as_bytes()] {
        stream.write_all(bytes).await.expect("the server reads");
    }
    let mut answers = String::new();
    let read = stream.read_to_string(&mut answers).await;
    read.expect("the connection is closed in order");
    answers
}

#[tokio::test]
async fn a_client_that_writes_before_reading_gets_the_early_answer() {
    let server = Server::with_config(|config| {
        config.media.max_upload_bytes = 1024;
        config.federation.enabled = true;
    })
    .await;
    let alice = server.register("alice").await;

    for (line, token, status) in [
        ("POST /_matrix/media/v3/upload", "expired", 401),
        ("POST /_matrix/media/v3/upload", &*alice.token, 413),
        ("POST /_matrix/client/v3/createRoom", "expired", 413),
        ("POST /_matrix/client/v3/nowhere", &*alice.token, 404),
        ("PUT /_matrix/client/v3/login", &*alice.token, 405),
        ("PUT /_matrix/federation/v1/send/one", "", 401),
        ("GET /_matrix/client/v3/events", "expired", 401),
        ("OPTIONS /_matrix/client/v3/login", "", 200),
    ] {
        let answers = answers_after_writing(&server, line, token).await;

        let first = format!("HTTP/1.1 {status} ");
        assert!(answers.starts_with(&first), "{line}: {answers}");
        assert!(answers.contains("\"versions\""), "{line}: {answers}");
    }
}

#[tokio::test]
async fn an_endless_body_closes_the_connection() {
    let server = Server::with_config(|config| config.media.max_upload_bytes = 1024).await;
    let mut stream = connect(&server).await;
    let head = "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1099511627776\r\n\r\n";
    stream
        .write_all(head.as_bytes())
        .await
        .expect("the server reads");

    let chunk = vec![b'x'; 1024 * 1024];
    let mut written = 0_u64;
    while stream.write_all(&chunk).await.is_ok() {
        written += 1;
        assert!(written < 1024, "the server does not stop reading");
    }
}

#[tokio::test]
async fn a_refused_expect_100_request_gets_no_100_continue() {
    let server = Server::start().await;
    let head = "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer expired\r\n\
                Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n";

    let answer = answer_until_closed(&server, head.as_bytes()).await;

    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");
}

#[tokio::test]
async fn a_server_stops_while_it_discards_a_body() {
    let server = Server::start().await;
    let head = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    let _stream = connect_until_answered(&server, head).await;

    assert!(
        server.running.stop().await,
        "the server did not stop cleanly"
    );
}
