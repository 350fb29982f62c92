//! Tests URL previews, and the addresses that this server does not request.

use std::{
    io::Cursor,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    http::{HeaderName, header::CONTENT_TYPE},
    response::Redirect,
    routing::get,
};
use image::{ImageFormat, RgbImage};
use parlour::config::Config;
use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::{Answer, Server, User};

const PAGE: &str = r#"<html><head><title>No</title><meta property="og:title" content="The title">
    <meta property="og:image" content="picture.png"></head></html>"#;

fn everywhere(config: &mut Config) {
    config.url_previews.enabled = true;
    config.url_previews.allow_private_addresses = true;
}

fn picture() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let written = RgbImage::new(30, 20).write_to(&mut bytes, ImageFormat::Png);
    written.expect("the image is written");
    bytes.into_inner()
}

fn html() -> [(HeaderName, &'static str); 1] {
    [(CONTENT_TYPE, "text/html; charset=utf-8")]
}

/// Serves pages on this machine and returns their address.
#[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
async fn web_server() -> String {
    let endless = "<title>Long</title>".to_owned() + &"x".repeat(3 * 1024 * 1024);
    let pages = Router::new()
        .route("/page.html", get(async || (html(), PAGE)))
        .route(
            "/latin",
            get(async || {
                (
                    [(CONTENT_TYPE, "text/html; charset=iso-8859-1")],
                    b"<title>Caf\xe9</title>".to_vec(),
                )
            }),
        )
        .route("/endless", get(async move || (html(), endless)))
        .route(
            "/picture.png",
            get(async || ([(CONTENT_TYPE, "image/png")], picture())),
        )
        .route(
            "/visits",
            get({
                let visits = Arc::new(AtomicUsize::new(0));
                async move || {
                    let visit = visits.fetch_add(1, Ordering::Relaxed) + 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    (html(), format!("<title>{visit}</title>"))
                }
            }),
        )
        .route("/text", get(async || "text"))
        .route("/elsewhere", get(async || Redirect::to("/page.html")))
        .route("/for-ever", get(async || Redirect::to("/for-ever")));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("the listener is bound");
    tokio::spawn(async move { axum::serve(listener, pages).await });
    format!("http://{address}")
}

async fn previews(user: &User, url: &str) -> Answer {
    let path = format!("/_matrix/client/v1/media/preview_url?url={url}");
    user.client.get(&path).await
}

#[tokio::test]
async fn a_page_is_shown_with_its_title_and_its_image() {
    let web = web_server().await;
    let server = Server::with(everywhere).await;
    let alice = server.register("alice").await;

    let mut shown = previews(&alice, &format!("{web}/elsewhere"))
        .await
        .expect_ok();

    let image = shown["og:image"].take();
    let expected = json!({
        "og:title": "The title", "og:image": null, "og:image:type": "image/png",
        "og:image:width": 30, "og:image:height": 20, "matrix:image:size": picture().len(),
    });
    assert_eq!(shown, expected);
    let image = image
        .as_str()
        .and_then(|image| image.strip_prefix("mxc://"));
    let path = format!(
        "/_matrix/client/v1/media/download/{}",
        image.expect("an mxc URI")
    );
    assert_eq!(alice.client.get(&path).await.bytes, picture());
}

#[tokio::test]
async fn pages_come_in_every_encoding_and_size() {
    let web = web_server().await;
    let server = Server::with(everywhere).await;
    let alice = server.register("alice").await;

    for (page, shown) in [
        ("latin", json!({ "og:title": "Café" })),
        ("endless", json!({ "og:title": "Long" })),
        ("text", json!({})),
    ] {
        let answer = previews(&alice, &format!("{web}/{page}")).await;
        assert_eq!(answer.expect_ok(), shown, "{page}");
    }
    let picture = previews(&alice, &format!("{web}/picture.png")).await;
    assert_eq!(picture.expect_ok()["og:image:width"], 30);
}

#[tokio::test]
async fn private_addresses_are_not_gone_to() {
    let web = web_server().await;
    let server = Server::with(|config| config.url_previews.enabled = true).await;
    let alice = server.register("alice").await;

    let literal = previews(&alice, &format!("{web}/page.html")).await;
    let named = web.replace("127.0.0.1", "localhost");
    let named = previews(&alice, &format!("{named}/page.html")).await;
    let file = previews(&alice, "file:///etc/passwd").await;

    literal.expect_error(403, "M_FORBIDDEN");
    named.expect_error(502, "M_UNKNOWN");
    file.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn what_cannot_be_shown_is_an_error() {
    let web = web_server().await;
    let server = Server::with(everywhere).await;
    let alice = server.register("alice").await;

    for page in ["missing", "for-ever"] {
        let answer = previews(&alice, &format!("{web}/{page}")).await;
        answer.expect_error(502, "M_UNKNOWN");
    }
    let nothing = previews(&alice, "nothing").await;
    nothing.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn previews_are_off_unless_the_configuration_wants_them() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let answer = previews(&alice, "https://example.org/").await;

    answer.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn who_waited_while_others_looked_is_shown_what_they_saw() {
    let web = web_server().await;
    let server = Server::with(everywhere).await;
    let alice = server.register("alice").await;
    let url = format!("{web}/visits");

    let shown = (0..20).map(|_| previews(&alice, &url));
    let shown = futures_util::future::join_all(shown).await;

    for answer in shown {
        let shown = answer.expect_ok();
        let visit = shown["og:title"].as_str().and_then(|n| n.parse().ok());
        let visit: usize = visit.expect("a number");
        assert!(visit <= 8, "{visit} looked");
    }
}
