//! Tests uploads, downloads, thumbnails and the headers that keep browsers from running files.

use std::io::Cursor;

use bytes::Bytes;
use futures_util::stream;
use image::{DynamicImage, ImageFormat, RgbImage};
use parlour::{
    config::LegacyMedia,
    storage::{Db, ReadAccess},
    tasks::Tasks,
};
use reqwest::{Body, Method};
use serde_json::json;

use crate::harness::{Client, HttpAnswer, Server};

pub(crate) const DOWNLOAD_PATH: &str = "/_matrix/client/v1/media/download";
pub(crate) const LEGACY_DOWNLOAD_PATH: &str = "/_matrix/media/v3/download";
pub(crate) const THUMBNAIL_PATH: &str = "/_matrix/client/v1/media/thumbnail";

async fn post_upload(
    client: &Client,
    query: &str,
    content_type: &str,
    file: impl Into<Body>,
) -> HttpAnswer {
    let path = format!("/_matrix/media/v3/upload{query}");
    let headers = [("content-type", content_type)];
    client.send_bytes(Method::POST, &path, file, &headers).await
}

/// Uploads a file and returns its server name and media ID as `server/id`.
pub(crate) async fn upload_media(
    client: &Client,
    query: &str,
    content_type: &str,
    file: &[u8],
) -> String {
    let answer = post_upload(client, query, content_type, file.to_vec()).await;
    let answer = answer.expect_ok();
    let uri = answer["content_uri"].as_str().expect("a string");
    uri.strip_prefix("mxc://").expect("an mxc URI").to_owned()
}

async fn content_disposition(client: &Client, path: &str) -> String {
    let answer = client.get(path).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.header("content-disposition").to_owned()
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| {
        let shade = |n: u32| u8::try_from(n % 256).expect("a byte");
        [shade(x), shade(y), 90].into()
    });
    let mut bytes = Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("the image is written");
    bytes.into_inner()
}

pub(crate) fn decode_image(answer: &HttpAnswer) -> DynamicImage {
    image::load_from_memory(&answer.bytes).expect("an image")
}

/// Returns a body without a `Content-Length` header.
fn chunked_body(count: usize, size: usize) -> Body {
    let chunks = (0..count).map(move |_| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; size])));
    Body::wrap_stream(stream::iter(chunks))
}

#[tokio::test]
async fn a_download_returns_the_uploaded_bytes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let file: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();

    let place = upload_media(&alice.client, "", "application/x-own", &file).await;

    for path in [DOWNLOAD_PATH, LEGACY_DOWNLOAD_PATH] {
        let answer = bob.client.get(&format!("{path}/{place}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/x-own");
        assert!(answer.bytes == file, "{path} answered another file");
    }
}

#[tokio::test]
async fn a_file_without_a_type_is_an_octet_stream() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let answer = alice
        .client
        .send_bytes(Method::POST, "/_matrix/media/r0/upload", "text", &[])
        .await;
    let uri = answer.expect_ok()["content_uri"].clone();
    let place = uri.as_str().and_then(|uri| uri.strip_prefix("mxc://"));

    let path = format!("{DOWNLOAD_PATH}/{}", place.expect("an mxc URI"));
    let answer = alice.client.get(&path).await;
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(answer.header("content-disposition"), "attachment");
}

#[tokio::test]
async fn an_empty_file_can_be_uploaded() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let place = upload_media(&alice.client, "", "text/plain", b"").await;

    let answer = alice.client.get(&format!("{DOWNLOAD_PATH}/{place}")).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    assert_eq!(answer.header("content-length"), "0");
}

#[tokio::test]
async fn downloads_have_security_and_cache_headers() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let place = upload_media(&alice.client, "", "text/plain", b"text").await;

    let answer = alice.client.get(&format!("{DOWNLOAD_PATH}/{place}")).await;
    let open =
        Server::with_config(|config| config.media.legacy_unauthenticated = LegacyMedia::All).await;
    let bob = open.register("bob").await;
    let open_place = upload_media(&bob.client, "", "text/plain", b"text").await;
    let legacy = open
        .get(&format!("{LEGACY_DOWNLOAD_PATH}/{open_place}"))
        .await;

    assert_eq!(
        answer.header("content-security-policy"),
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
         style-src 'unsafe-inline'; object-src 'self';"
    );
    assert_eq!(
        answer.header("cross-origin-resource-policy"),
        "cross-origin"
    );
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("content-length"), "4");
    let kept = |whose| format!("{whose}, max-age=31536000, immutable");
    assert_eq!(answer.header("cache-control"), kept("private"));
    assert_eq!(legacy.header("cache-control"), kept("public"));
}

#[tokio::test]
async fn a_download_has_the_file_name_of_the_upload() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for (name, expected) in [
        ("ascii", "inline; filename=ascii"),
        (
            "name%20with%20spaces",
            r#"inline; filename="name with spaces""#,
        ),
        (
            "name;with;semicolons",
            r#"inline; filename="name;with;semicolons""#,
        ),
        ("%22quoted%22%5C", r#"inline; filename="\"quoted\"\\""#),
        ("%F0%9F%90%94", "inline; filename*=utf-8''%F0%9F%90%94"),
        ("a%0D%0Ab", "inline; filename=ab"),
        ("", "inline"),
    ] {
        let query = format!("?filename={name}");
        let place = upload_media(&alice.client, &query, "image/png", b"png").await;

        for path in [DOWNLOAD_PATH, LEGACY_DOWNLOAD_PATH] {
            let found = content_disposition(&alice.client, &format!("{path}/{place}")).await;
            assert_eq!(found, expected, "{name} at {path}");
        }
    }
}

#[tokio::test]
async fn a_file_name_in_the_path_replaces_the_uploaded_name() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let place = upload_media(&alice.client, "?filename=old", "image/png", b"png").await;

    for path in [DOWNLOAD_PATH, LEGACY_DOWNLOAD_PATH] {
        let ascii = content_disposition(&alice.client, &format!("{path}/{place}/file.png")).await;
        let other = content_disposition(&alice.client, &format!("{path}/{place}/%E2%98%95")).await;

        assert_eq!(ascii, "inline; filename=file.png");
        assert_eq!(other, "inline; filename*=utf-8''%E2%98%95");
    }
}

#[tokio::test]
async fn only_content_without_scripts_is_shown_inline() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for (content_type, expected) in [
        ("image/png", "inline"),
        ("Text/Plain; charset=utf-8", "inline"),
        ("text/html", "attachment"),
        ("image/svg+xml", "attachment"),
        ("application/pdf", "attachment"),
    ] {
        let place = upload_media(&alice.client, "", content_type, b"<script>").await;

        let answer = alice.client.get(&format!("{DOWNLOAD_PATH}/{place}")).await;
        assert_eq!(answer.header("content-type"), content_type);
        assert_eq!(
            answer.header("content-disposition"),
            expected,
            "{content_type}"
        );
    }
}

#[tokio::test]
async fn a_file_over_the_size_limit_is_refused() {
    let server = Server::with_config(|config| config.media.max_upload_bytes = 100_000).await;
    let alice = server.register("alice").await;

    let largest = post_upload(&alice.client, "", "text/plain", chunked_body(10, 10_000)).await;
    let announced = post_upload(&alice.client, "", "text/plain", vec![b'x'; 100_001]).await;
    let unannounced = post_upload(&alice.client, "", "text/plain", chunked_body(50, 10_000)).await;

    largest.expect_ok();
    announced.expect_error(413, "M_TOO_LARGE");
    unannounced.expect_error(413, "M_TOO_LARGE");
}

#[tokio::test]
async fn the_media_configuration_returns_the_upload_limit() {
    let server = Server::with_config(|config| config.media.max_upload_bytes = 12_345).await;
    let alice = server.register("alice").await;

    for path in [
        "/_matrix/client/v1/media/config",
        "/_matrix/media/v3/config",
        "/_matrix/media/r0/config",
    ] {
        let config = alice.client.get(path).await.expect_ok();
        assert_eq!(config, json!({ "m.upload.size": 12_345 }), "{path}");
        server.get(path).await.expect_error(401, "M_MISSING_TOKEN");
    }
}

#[tokio::test]
async fn strangers_and_guests_cannot_upload() {
    let server = Server::with_config(|config| config.registration.guests = true).await;
    let guest = server.register_guest().await;

    let stranger = post_upload(&server.client(), "", "text/plain", "text").await;
    let unknown = server.client().with_token("unknown");
    let unknown = post_upload(&unknown, "", "text/plain", "text").await;
    let guest = post_upload(&guest.client, "", "text/plain", "text").await;

    stranger.expect_error(401, "M_MISSING_TOKEN");
    unknown.expect_error(401, "M_UNKNOWN_TOKEN");
    guest.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
}

#[tokio::test]
async fn the_current_paths_always_require_a_token() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let place = upload_media(&alice.client, "", "image/png", &png(8, 8)).await;

    for path in [
        format!("{DOWNLOAD_PATH}/{place}"),
        format!("{DOWNLOAD_PATH}/{place}/file.png"),
        format!("{THUMBNAIL_PATH}/{place}?width=32&height=32"),
    ] {
        server.get(&path).await.expect_error(401, "M_MISSING_TOKEN");
    }
}

/// Returns the deprecated paths of an image.
fn legacy_media_paths(place: &str) -> Vec<String> {
    let paths = ["r0", "v1", "v3"].map(|version| {
        let media = format!("/_matrix/media/{version}");
        [
            format!("{media}/download/{place}"),
            format!("{media}/download/{place}/file.png"),
            format!("{media}/thumbnail/{place}?width=32&height=32"),
        ]
    });
    paths.concat()
}

fn expect_file_if_served(answer: HttpAnswer, is_served: bool, file: &[u8]) {
    if is_served {
        assert_eq!(answer.bytes, file, "{}", answer.text);
    } else {
        answer.expect_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn deprecated_paths_require_a_token_unless_configured_otherwise() {
    for (setting, is_served) in [
        (LegacyMedia::Frozen, false),
        (LegacyMedia::None, false),
        (LegacyMedia::All, true),
    ] {
        let server =
            Server::with_config(|config| config.media.legacy_unauthenticated = setting).await;
        let alice = server.register("alice").await;
        let file = png(8, 8);
        let place = upload_media(&alice.client, "", "image/png", &file).await;

        for path in legacy_media_paths(&place) {
            let with_token = alice.client.get(&path).await;
            assert_eq!(with_token.bytes, file, "{path}: {}", with_token.text);
            assert!(with_token.header("cache-control").starts_with("private"));
            let without = server.get(&path).await;
            expect_file_if_served(without, is_served, &file);
        }
    }
}

#[tokio::test]
async fn media_from_before_the_freeze_is_served_without_a_token() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let file = png(8, 8);
    let place = upload_media(&alice.client, "", "image/png", &file).await;

    let server = server
        .restart_after(async |server: &Server| {
            let (url, folder) = server.database_location();
            let db = Db::open(url.expose(), &folder, &Tasks::default()).await;
            let db = db.expect("the database opens");
            let mut tx = db.write().await.expect("a write transaction");
            let freeze = tx.query("UPDATE media SET before_freeze = TRUE");
            freeze.execute().await.expect("the rows are updated");
            tx.commit().await.expect("the transaction is committed");
            db.close().await;
        })
        .await;

    for path in legacy_media_paths(&place) {
        let answer = server.get(&path).await;
        assert_eq!(answer.bytes, file, "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_file_is_not_served_as_a_script_or_frame() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let place = upload_media(&alice.client, "", "text/css", b"* {}").await;
    let paths = [DOWNLOAD_PATH, LEGACY_DOWNLOAD_PATH].map(|path| format!("{path}/{place}"));

    for path in &paths {
        let as_destination = async |destination: &str| {
            let headers = [("sec-fetch-dest", destination)];
            alice
                .client
                .send_with_headers(Method::GET, path, "", &headers)
                .await
        };
        for refused in [
            "script",
            "style",
            "worker",
            "serviceworker",
            "iframe",
            "object",
            "embed",
        ] {
            as_destination(refused)
                .await
                .expect_error(403, "M_FORBIDDEN");
        }
        for shown in ["image", "empty", "video", "audio"] {
            let answer = as_destination(shown).await;
            assert_eq!(answer.header("content-disposition"), "inline", "{shown}");
        }
        let saved = as_destination("document").await;
        assert_eq!(
            (saved.status, saved.header("content-disposition")),
            (200, "attachment")
        );
    }
}

#[tokio::test]
async fn a_script_is_served_as_plain_bytes() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for script in [
        "text/javascript",
        "application/JavaScript; charset=utf-8",
        "text/ecmascript",
    ] {
        let place = upload_media(&alice.client, "", script, b"alert(1)").await;

        let answer = alice.client.get(&format!("{DOWNLOAD_PATH}/{place}")).await;

        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.header("content-disposition"), "attachment");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn unknown_media_is_not_found() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for place in [
        "localhost/unknown",
        "localhost/..%2F..%2Fparlour.db",
        "localhost/%2Fetc%2Fpasswd",
        "localhost/..%5C..%5Cparlour.db",
        "localhost/%00",
    ] {
        let download = alice.client.get(&format!("{DOWNLOAD_PATH}/{place}")).await;
        let path = format!("{THUMBNAIL_PATH}/{place}?width=32&height=32");
        let thumbnail = alice.client.get(&path).await;

        download.expect_error(404, "M_NOT_FOUND");
        thumbnail.expect_error(404, "M_NOT_FOUND");
    }
    let no_server = alice
        .client
        .get(&format!("{DOWNLOAD_PATH}/..%2F..%2Fx/id"))
        .await;
    no_server.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn head_returns_the_headers_without_the_file() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let place = upload_media(&alice.client, "", "text/plain", b"text").await;

    let path = format!("{DOWNLOAD_PATH}/{place}");
    let answer = alice.client.send(Method::HEAD, &path, "").await;

    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    assert_eq!(answer.header("content-length"), "4");
    assert_eq!(answer.header("content-type"), "text/plain");
}

#[tokio::test]
async fn a_range_request_returns_part_of_a_file() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let place = upload_media(&alice.client, "", "video/mp4", b"0123456789").await;
    let path = format!("{DOWNLOAD_PATH}/{place}");
    let get = |name, value: &'static str| {
        let (client, path) = (alice.client.clone(), path.clone());
        async move {
            let headers = [(name, value)];
            client
                .send_with_headers(Method::GET, &path, "", &headers)
                .await
        }
    };

    let part = get("range", "bytes=2-4").await;
    let outside = get("range", "bytes=10-").await;

    assert_eq!((part.status, part.text.as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    assert_eq!(part.header("content-length"), "3");
    assert_eq!(outside.status, 416);
    assert_eq!(outside.header("content-range"), "bytes */10");
}

#[tokio::test]
async fn a_matching_etag_returns_not_modified() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let place = upload_media(&alice.client, "", "text/plain", b"text").await;
    let path = format!("{DOWNLOAD_PATH}/{place}");
    let etag = alice.client.get(&path).await.header("etag").to_owned();

    let headers = [("if-none-match", etag.as_str())];
    let known = alice
        .client
        .send_with_headers(Method::GET, &path, "", &headers)
        .await;
    let headers = [("if-none-match", "\"another\"")];
    let changed = alice
        .client
        .send_with_headers(Method::GET, &path, "", &headers)
        .await;

    assert_eq!((known.status, known.text.as_str()), (304, ""));
    assert_eq!((changed.status, changed.text.as_str()), (200, "text"));
}

#[tokio::test]
async fn a_thumbnail_has_the_next_larger_size() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let place = upload_media(&alice.client, "", "image/png", &png(1000, 500)).await;

    for (query, expected) in [
        ("width=32&height=32&method=scale", (320, 160)),
        ("width=32&height=32", (320, 160)),
        ("width=30&height=30&method=crop", (32, 32)),
        ("width=50&height=40&method=crop&animated=true", (96, 96)),
        ("width=500&height=300", (640, 320)),
        ("width=641&height=1&timeout_ms=1000", (800, 400)),
        ("width=900&height=500", (1000, 500)),
        ("width=99999&height=99999&method=crop", (1000, 500)),
    ] {
        let path = format!("{THUMBNAIL_PATH}/{place}?{query}");
        let answer = alice.client.get(&path).await;

        assert_eq!(answer.status, 200, "{query}: {}", answer.text);
        assert_eq!(answer.header("content-type"), "image/png");
        let name = "inline; filename=thumbnail.png";
        assert_eq!(answer.header("content-disposition"), name);
        let image = decode_image(&answer);
        assert_eq!((image.width(), image.height()), expected, "{query}");
    }
}

#[tokio::test]
async fn a_thumbnail_has_the_type_of_its_image_data() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let file = png(8, 8);
    let place = upload_media(&alice.client, "?filename=a.html", "text/html", &file).await;

    let path = format!("{THUMBNAIL_PATH}/{place}?width=32&height=32");
    let answer = alice.client.get(&path).await;

    assert_eq!(answer.header("content-type"), "image/png");
    assert_eq!(
        answer.header("content-disposition"),
        "inline; filename=thumbnail.png"
    );
    assert_eq!(answer.bytes, file);
}

#[tokio::test]
async fn invalid_images_and_sizes_have_no_thumbnail() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let text = upload_media(&alice.client, "", "image/png", b"not an image").await;
    let image = upload_media(&alice.client, "", "image/png", &png(8, 8)).await;

    for query in [
        format!("{text}?width=32&height=32"),
        format!("{image}?width=0&height=32"),
        format!("{image}?width=32&height=32&method=stretch"),
    ] {
        let answer = alice.client.get(&format!("{THUMBNAIL_PATH}/{query}")).await;
        answer.expect_error(400, "M_UNKNOWN");
    }
    let path = format!("{THUMBNAIL_PATH}/{image}?width=32");
    let answer = alice.client.get(&path).await;
    answer.expect_error(400, "M_MISSING_PARAM");
}

async fn create_media_id(user: &Client) -> String {
    let created = user.post("/_matrix/media/v1/create", json!({})).await;
    let created = created.expect_ok();
    assert!(created["unused_expires_at"].is_u64());
    let uri = created["content_uri"].as_str().expect("a string");
    uri.strip_prefix("mxc://").expect("an mxc URI").to_owned()
}

async fn upload_to_media_id(client: &Client, place: &str, file: &str) -> HttpAnswer {
    let path = format!("/_matrix/media/v3/upload/{place}?filename=a.txt");
    let headers = [("content-type", "text/plain")];
    client
        .send_bytes(Method::PUT, &path, file.to_owned(), &headers)
        .await
}

#[tokio::test]
async fn a_download_waits_for_a_pending_upload() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let place = create_media_id(&alice.client).await;
    let path = format!("{DOWNLOAD_PATH}/{place}");

    let at_once = alice.client.get(&format!("{path}?timeout_ms=0")).await;
    let (waited, uploaded) = tokio::join!(
        alice.client.get(&path),
        upload_to_media_id(&alice.client, &place, "text")
    );
    let later = alice.client.get(&path).await;

    at_once.expect_error(504, "M_NOT_YET_UPLOADED");
    assert_eq!(uploaded.expect_ok(), json!({}));
    assert_eq!(
        (waited.text.as_str(), later.text.as_str()),
        ("text", "text")
    );
    assert_eq!(later.header("content-type"), "text/plain");
    assert!(later.header("content-disposition").contains("a.txt"));
}

#[tokio::test]
async fn a_reserved_media_id_accepts_one_upload_by_its_owner() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let place = create_media_id(&alice.client).await;

    let stranger = upload_to_media_id(&bob.client, &place, "text").await;
    upload_to_media_id(&alice.client, &place, "text")
        .await
        .expect_ok();
    let again = upload_to_media_id(&alice.client, &place, "other").await;
    let unknown = upload_to_media_id(&alice.client, "localhost/unknown", "text").await;

    stranger.expect_error(403, "M_FORBIDDEN");
    again.expect_error(409, "M_CANNOT_OVERWRITE_MEDIA");
    unknown.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_number_of_reserved_media_ids_is_limited() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    for _ in 0..50 {
        create_media_id(&alice.client).await;
    }
    let refused = alice.client.post("/_matrix/media/v1/create", json!({}));

    refused.await.expect_error(429, "M_LIMIT_EXCEEDED");
}
