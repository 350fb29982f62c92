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

use crate::harness::{HttpAnswer, Server, User};

const PAGE_HTML: &str = r#"<html><head><title>No</title><meta property="og:title" content="The title">
    <meta property="og:image" content="picture.png"></head></html>"#;

fn enable_previews(config: &mut Config) {
    config.url_previews.enabled = true;
    config.url_previews.allow_private_addresses = true;
}

fn picture_png() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let written = RgbImage::new(30, 20).write_to(&mut bytes, ImageFormat::Png);
    written.expect("the image is written");
    bytes.into_inner()
}

fn html_content_type() -> [(HeaderName, &'static str); 1] {
    [(CONTENT_TYPE, "text/html; charset=utf-8")]
}

/// Serves pages on this machine and returns their address.
#[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
async fn start_web_server() -> String {
    let endless = "<title>Long</title>".to_owned() + &"x".repeat(3 * 1024 * 1024);
    let pages = Router::new()
        .route("/page.html", get(async || (html_content_type(), PAGE_HTML)))
        .route(
            "/latin",
            get(async || {
                (
                    [(CONTENT_TYPE, "text/html; charset=iso-8859-1")],
                    b"<title>Caf\xe9</title>".to_vec(),
                )
            }),
        )
        .route(
            "/endless",
            get(async move || (html_content_type(), endless)),
        )
        .route(
            "/picture.png",
            get(async || ([(CONTENT_TYPE, "image/png")], picture_png())),
        )
        .route(
            "/visits",
            get({
                let visits = Arc::new(AtomicUsize::new(0));
                async move || {
                    let visit = visits.fetch_add(1, Ordering::Relaxed) + 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    (html_content_type(), format!("<title>{visit}</title>"))
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

async fn preview_url_of(user: &User, url: &str) -> HttpAnswer {
    let path = format!("/_matrix/client/v1/media/preview_url?url={url}");
    user.client.get(&path).await
}

#[tokio::test]
async fn a_preview_has_the_title_and_image_of_the_page() {
    let web = start_web_server().await;
    let server = Server::with_config(enable_previews).await;
    let alice = server.register("alice").await;

    let mut shown = preview_url_of(&alice, &format!("{web}/elsewhere"))
        .await
        .expect_ok();

    let image = shown["og:image"].take();
    let expected = json!({
        "og:title": "The title", "og:image": null, "og:image:type": "image/png",
        "og:image:width": 30, "og:image:height": 20, "matrix:image:size": picture_png().len(),
    });
    assert_eq!(shown, expected);
    let image = image
        .as_str()
        .and_then(|image| image.strip_prefix("mxc://"));
    let path = format!(
        "/_matrix/client/v1/media/download/{}",
        image.expect("an mxc URI")
    );
    assert_eq!(alice.client.get(&path).await.bytes, picture_png());
}

#[tokio::test]
async fn previews_handle_every_encoding_and_size() {
    let web = start_web_server().await;
    let server = Server::with_config(enable_previews).await;
    let alice = server.register("alice").await;

    for (page, shown) in [
        ("latin", json!({ "og:title": "Café" })),
        ("endless", json!({ "og:title": "Long" })),
        ("text", json!({})),
    ] {
        let answer = preview_url_of(&alice, &format!("{web}/{page}")).await;
        assert_eq!(answer.expect_ok(), shown, "{page}");
    }
    let picture = preview_url_of(&alice, &format!("{web}/picture.png")).await;
    assert_eq!(picture.expect_ok()["og:image:width"], 30);
}

#[tokio::test]
async fn private_addresses_are_not_requested() {
    let web = start_web_server().await;
    let server = Server::with_config(|config| config.url_previews.enabled = true).await;
    let alice = server.register("alice").await;

    let literal = preview_url_of(&alice, &format!("{web}/page.html")).await;
    let named = web.replace("127.0.0.1", "localhost");
    let named = preview_url_of(&alice, &format!("{named}/page.html")).await;
    let file = preview_url_of(&alice, "file:///etc/passwd").await;

    literal.expect_error(403, "M_FORBIDDEN");
    named.expect_error(502, "M_UNKNOWN");
    file.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn an_unavailable_page_is_an_error() {
    let web = start_web_server().await;
    let server = Server::with_config(enable_previews).await;
    let alice = server.register("alice").await;

    for page in ["missing", "for-ever"] {
        let answer = preview_url_of(&alice, &format!("{web}/{page}")).await;
        answer.expect_error(502, "M_UNKNOWN");
    }
    let nothing = preview_url_of(&alice, "nothing").await;
    nothing.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn previews_are_disabled_by_default() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let answer = preview_url_of(&alice, "https://example.org/").await;

    answer.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn concurrent_previews_share_one_request() {
    let web = start_web_server().await;
    let server = Server::with_config(enable_previews).await;
    let alice = server.register("alice").await;
    let url = format!("{web}/visits");

    let shown = (0..20).map(|_| preview_url_of(&alice, &url));
    let shown = futures_util::future::join_all(shown).await;

    for answer in shown {
        let shown = answer.expect_ok();
        let visit = shown["og:title"].as_str().and_then(|n| n.parse().ok());
        let visit: usize = visit.expect("a number");
        assert!(visit <= 8, "{visit} looked");
    }
}
