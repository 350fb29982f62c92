//! The discovery endpoints that clients and other servers request first.

use parlour::config::BaseUrl;
use serde_json::json;

use crate::harness::Server;

#[tokio::test]
async fn versions_lists_supported_versions_and_features() {
    let server = Server::start().await;

    let body = server.get("/_matrix/client/versions").await.expect_ok();

    let versions: Vec<String> = (1..=19).map(|minor| format!("v1.{minor}")).collect();
    assert_eq!(body["versions"], json!(versions));
    let features = json!({
        "dev.parlour.websocket_stream": true,
        "io.element.msc4388": true,
        "org.matrix.msc2285.stable": true,
        "org.matrix.msc3030": true,
        "org.matrix.msc3030.stable": true,
        "org.matrix.msc3440.stable": true,
        "org.matrix.msc3715.stable": true,
        "org.matrix.msc3771": true,
        "org.matrix.msc3773": true,
        "org.matrix.msc3856.stable": true,
        "org.matrix.msc3881": true,
        "org.matrix.msc3912": true,
        "org.matrix.msc3916.stable": true,
        "org.matrix.msc3981": true,
        "org.matrix.msc4028": true,
        "org.matrix.msc4108": true,
        "org.matrix.msc3827.stable": true,
        "org.matrix.msc3916.stable": true,
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
        "uk.half-shot.msc2666.query_mutual_rooms.stable": true,
    });
    assert_eq!(body["unstable_features"], features);
}

#[tokio::test]
async fn versions_ignores_an_invalid_token() {
    let server = Server::start().await;

    let stale = server.client().with_token("stale");
    let answer = stale.get("/_matrix/client/versions").await;

    answer.expect_ok();
}

#[tokio::test]
async fn well_known_client_has_the_public_url() {
    let server = Server::with_config(|config| {
        config.server.public_url = BaseUrl::parse("https://matrix.example.org/");
    })
    .await;

    let body = server.get("/.well-known/matrix/client").await.expect_ok();

    let expected = json!({ "m.homeserver": { "base_url": "https://matrix.example.org" } });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn well_known_client_falls_back_to_the_first_listener() {
    let server = Server::start().await;

    let body = server.get("/.well-known/matrix/client").await.expect_ok();

    let address = server.running.addresses()[0];
    let expected = format!("http://{address}");
    assert_eq!(body["m.homeserver"]["base_url"], expected);
}

#[tokio::test]
async fn well_known_server_has_host_and_port() {
    let server = Server::with_config(|config| {
        config.federation.enabled = true;
        config.server.public_url = BaseUrl::parse("https://matrix.example.org");
    })
    .await;

    let body = server.get("/.well-known/matrix/server").await.expect_ok();

    assert_eq!(body, json!({ "m.server": "matrix.example.org:443" }));
}

#[tokio::test]
async fn well_known_server_is_not_found_without_federation() {
    let server = Server::with_config(|config| config.federation.enabled = false).await;

    let answer = server.get("/.well-known/matrix/server").await;

    answer.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn support_names_the_administrator() {
    let server = Server::with_config(|config| {
        config.support.admin_email = Some("admin@example.org".to_owned());
        config.support.page = Some("https://example.org/help".to_owned());
    })
    .await;

    let body = server.get("/.well-known/matrix/support").await.expect_ok();

    let contact = json!({ "role": "m.role.admin", "email_address": "admin@example.org" });
    let expected = json!({ "contacts": [contact], "support_page": "https://example.org/help" });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn support_is_not_found_without_contacts() {
    let server = Server::start().await;

    let answer = server.get("/.well-known/matrix/support").await;

    answer.expect_error(404, "M_NOT_FOUND");
}
