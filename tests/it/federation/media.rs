//! Media of other servers.

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::watch;

use super::Network;
use crate::media::{
    DOWNLOAD_PATH, LEGACY_DOWNLOAD_PATH, THUMBNAIL_PATH, decode_image, png, upload_media,
};

const FEDERATION_MEDIA_PATH: &str = "/_matrix/federation/v1/media";

/// Returns an answer that contains a file as `multipart/mixed`.
fn multipart_answer(headers: &str, file: &str) -> impl IntoResponse + Clone + use<> {
    let body = format!("--b\r\n\r\n{{}}\r\n--b\r\n{headers}\r\n\r\n{file}\r\n--b--");
    ([(CONTENT_TYPE, "multipart/mixed; boundary=b")], body)
}

#[tokio::test]
async fn a_remote_file_keeps_its_type_and_name() {
    let network = Network::new();
    let (home, away) = (network.server().await, network.server().await);
    let (alice, bob) = (home.register("alice").await, away.register("bob").await);
    let place = upload_media(
        &alice.client,
        "?filename=%E2%98%95.txt",
        "text/plain",
        b"tea",
    )
    .await;

    let file = bob.client.get(&format!("{DOWNLOAD_PATH}/{place}")).await;
    home.running.stop().await;
    let again = bob
        .client
        .get(&format!("{LEGACY_DOWNLOAD_PATH}/{place}"))
        .await;

    assert_eq!((file.status, &*file.text), (200, "tea"));
    assert_eq!(file.header("content-type"), "text/plain");
    let disposition = file.header("content-disposition");
    assert_eq!(disposition, "inline; filename*=utf-8''%E2%98%95.txt");
    assert_eq!((again.status, &*again.text), (200, "tea"), "it is stored");
}

#[tokio::test]
async fn a_remote_file_gets_a_local_thumbnail() {
    let network = Network::new();
    let (home, away) = (network.server().await, network.server().await);
    let (alice, bob) = (home.register("alice").await, away.register("bob").await);
    let place = upload_media(&alice.client, "", "image/png", &png(200, 100)).await;

    let path = format!("{THUMBNAIL_PATH}/{place}?width=32&height=32&method=crop");
    let thumbnail = bob.client.get(&path).await;

    assert_eq!(thumbnail.status, 200, "{}", thumbnail.text);
    assert_eq!(decode_image(&thumbnail).width(), 32);
}

#[tokio::test]
async fn other_servers_get_files_and_thumbnails_as_multipart() {
    let network = Network::new();
    let server = network.server().await;
    let alice = server.register("alice").await;
    let place = upload_media(
        &alice.client,
        "?filename=a.png",
        "image/png",
        &png(200, 100),
    )
    .await;
    let (_, id) = place.split_once('/').expect("a server and an id");
    let peer = network.peer(Router::new()).await;

    let file = peer
        .gets(&server, &format!("{FEDERATION_MEDIA_PATH}/download/{id}"))
        .await;
    let path = format!("{FEDERATION_MEDIA_PATH}/thumbnail/{id}?width=32&height=32&method=scale");
    let thumbnail = peer.gets(&server, &path).await;

    for (answer, name) in [(&file, "a.png"), (&thumbnail, "thumbnail.png")] {
        assert_eq!(answer.status, 200, "{}", answer.text);
        let content_type = answer.header("content-type");
        assert!(content_type.starts_with("multipart/mixed; boundary="));
        assert!(answer.text.contains("\r\n\r\n{}\r\n--"), "{}", answer.text);
        assert!(answer.text.contains("Content-Type: image/png\r\n"));
        let disposition = format!("Content-Disposition: inline; filename={name}\r\n");
        assert!(answer.text.contains(&disposition), "{}", answer.text);
    }
    let nothing = peer
        .gets(
            &server,
            &format!("{FEDERATION_MEDIA_PATH}/download/nothing"),
        )
        .await;
    nothing.expect_error(404, "M_NOT_FOUND");
    let stranger = server
        .get(&format!("{FEDERATION_MEDIA_PATH}/download/{id}"))
        .await;
    stranger.expect_error(401, "M_UNAUTHORIZED");
}

#[tokio::test]
async fn the_legacy_download_endpoint_is_used_for_old_servers() {
    let network = Network::new();
    let old = get(async || ([(CONTENT_TYPE, "text/plain")], "old"));
    let path = "/_matrix/media/v3/download/{server}/file";
    let peer = network.peer(Router::new().route(path, old)).await;
    let server = network.server().await;
    let bob = server.register("bob").await;

    let file = bob
        .client
        .get(&format!("{DOWNLOAD_PATH}/{}/file", peer.name))
        .await;

    assert_eq!((file.status, &*file.text), (200, "old"));
    assert_eq!(file.header("content-type"), "text/plain");
}

#[tokio::test]
async fn a_redirect_in_the_location_header_is_followed() {
    let network = Network::new();
    let elsewhere = get(async || ([(CONTENT_TYPE, "text/plain")], "there"));
    let cdn = network
        .peer(Router::new().route("/cdn/file", elsewhere))
        .await;
    let location = format!("Location: https://{}:8448/cdn/file", cdn.name);
    let to = |location: String| get(async move || multipart_answer(&location, ""));
    let router = Router::new()
        .route(
            &format!("{FEDERATION_MEDIA_PATH}/download/good"),
            to(location),
        )
        .route(
            &format!("{FEDERATION_MEDIA_PATH}/download/bad"),
            to("Location: file:///etc/passwd".to_owned()),
        );
    let peer = network.peer(router).await;
    let server = network.server().await;
    let bob = server.register("bob").await;

    let good = bob
        .client
        .get(&format!("{DOWNLOAD_PATH}/{}/good", peer.name))
        .await;
    let bad = bob
        .client
        .get(&format!("{DOWNLOAD_PATH}/{}/bad", peer.name))
        .await;

    assert_eq!((good.status, &*good.text), (200, "there"));
    bad.expect_error(502, "M_UNKNOWN");
}

#[tokio::test]
async fn missing_too_large_or_truncated_files_are_not_served() {
    let network = Network::new();
    let missing = (
        StatusCode::NOT_FOUND,
        axum::Json(json!({ "errcode": "M_NOT_FOUND", "error": "no" })),
    );
    let large = multipart_answer("", &"x".repeat(2_000));
    let cut = (
        [(CONTENT_TYPE, "multipart/mixed; boundary=b")],
        "--b\r\n\r\n{}\r\n--b\r\n\r\nhal",
    );
    let router = Router::new()
        .route(
            &format!("{FEDERATION_MEDIA_PATH}/download/missing"),
            get(async || missing),
        )
        .route(
            &format!("{FEDERATION_MEDIA_PATH}/download/large"),
            get(async || large),
        )
        .route(
            &format!("{FEDERATION_MEDIA_PATH}/download/cut"),
            get(async move || cut),
        );
    let peer = network.peer(router).await;
    let server = network
        .server_with_config(|config| config.media.max_remote_bytes = 1_000)
        .await;
    let bob = server.register("bob").await;
    let get = async |id: &str| {
        let path = format!("{DOWNLOAD_PATH}/{}/{id}", peer.name);
        bob.client.get(&path).await
    };

    get("missing").await.expect_error(404, "M_NOT_FOUND");
    get("large").await.expect_error(413, "M_TOO_LARGE");
    get("cut").await.expect_error(502, "M_UNKNOWN");
    let requests = peer.request_count();
    get("missing").await.expect_error(404, "M_NOT_FOUND");
    get("large").await.expect_error(413, "M_TOO_LARGE");
    assert_eq!(
        peer.request_count(),
        requests,
        "the failures are remembered"
    );
}

#[tokio::test]
async fn allow_remote_false_prevents_fetching_a_remote_file() {
    let network = Network::new();
    let file = get(async || multipart_answer("Content-Type: text/plain", "file"));
    let router = Router::new().route(&format!("{FEDERATION_MEDIA_PATH}/download/file"), file);
    let peer = network.peer(router).await;
    let server = network.server().await;

    let bob = server.register("bob").await;
    let path = format!("{LEGACY_DOWNLOAD_PATH}/{}/file", peer.name);
    let left = bob.client.get(&format!("{path}?allow_remote=false")).await;
    left.expect_error(404, "M_NOT_FOUND");
    assert_eq!(peer.request_count(), 0);
    let fetched = bob.client.get(&path).await;
    assert_eq!((fetched.status, &*fetched.text), (200, "file"));
    let left = bob.client.get(&format!("{path}?allow_remote=false")).await;
    assert_eq!((left.status, &*left.text), (200, "file"));
}

#[tokio::test]
async fn simultaneous_downloads_of_a_file_fetch_it_once() {
    let network = Network::new();
    let file = get(async || multipart_answer("Content-Type: text/plain", "file"));
    let router = Router::new().route(&format!("{FEDERATION_MEDIA_PATH}/download/file"), file);
    let peer = network.peer(router).await;
    let server = network.server().await;
    let bob = server.register("bob").await;
    let path = format!("{LEGACY_DOWNLOAD_PATH}/{}/file", peer.name);

    let answers = join_all((0..10).map(|_| bob.client.get(&path))).await;

    assert!(answers.iter().all(|answer| answer.text == "file"));
    assert_eq!(peer.request_count(), 1);
}

#[tokio::test]
async fn a_slow_media_server_does_not_delay_other_servers() {
    let network = Network::new();
    let path = format!("{FEDERATION_MEDIA_PATH}/download/{{file}}");
    let asked = watch::Sender::new(0);
    let counter = asked.clone();
    let never = get(async move || {
        counter.send_modify(|count| *count += 1);
        std::future::pending::<()>().await;
    });
    let slow = network.peer(Router::new().route(&path, never)).await;
    let file = get(async || multipart_answer("Content-Type: text/plain", "tea"));
    let quick = network.peer(Router::new().route(&path, file)).await;
    let server = network.server().await;
    let bob = server.register("bob").await;

    let files = (0..40).map(|n| {
        let path = format!("{DOWNLOAD_PATH}/{}/file{n}", slow.name);
        let client = bob.client.clone();
        async move { client.get(&path).await }
    });
    let path = format!("{DOWNLOAD_PATH}/{}/file", quick.name);
    let file = async {
        let mut asked = asked.subscribe();
        drop(asked.wait_for(|count| *count >= 4).await);
        bob.client.get(&path).await
    };
    let file = tokio::select! {
        _ = join_all(files) => panic!("the slow server sent files"),
        file = file => file,
    };

    assert_eq!((file.status, &*file.text), (200, "tea"));
    assert_eq!(*asked.borrow(), 4);
}
