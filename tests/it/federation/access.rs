//! Authentication: requests of other servers must prove their sender.

use axum::Router;
use reqwest::Method;
use serde_json::json;

use super::{Network, Peer};

const PROFILE_QUERY_PATH: &str = "/_matrix/federation/v1/query/profile?user_id=@a:b";

#[tokio::test]
async fn a_request_without_a_signature_is_refused() {
    let server = Network::new().server().await;

    server
        .get(PROFILE_QUERY_PATH)
        .await
        .expect_error(401, "M_UNAUTHORIZED");
    for nonsense in ["Bearer token", "X-Matrix", "X-Matrix origin=a,key=b,sig=c"] {
        let headers = [("authorization", nonsense)];
        let client = server.client();
        let answer = client
            .send_with_headers(Method::GET, PROFILE_QUERY_PATH, "", &headers)
            .await;
        answer.expect_error(401, "M_UNAUTHORIZED");
    }
}

#[tokio::test]
async fn an_error_does_not_repeat_the_authorization_of_the_caller() {
    let server = Network::new().server().await;

    for header in [
        "Bearer s3cret",
        "X-Matrix s3cret",
        "X-Matrix a=\"s3cret",
        "s3cret",
        "s3cret=,",
    ] {
        let headers = [("authorization", header)];
        for path in [PROFILE_QUERY_PATH, "/_matrix/client/v3/account/whoami"] {
            let client = server.client();
            let answer = client
                .send_with_headers(Method::GET, path, "", &headers)
                .await;
            assert_eq!(answer.status, 401, "{header}");
            assert!(!answer.text.contains("s3cret"), "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_signature_covers_method_path_body_destination() {
    let network = Network::new();
    let server = network.server().await;
    let peer = network.peer(Router::new()).await;
    let path = "/_matrix/federation/v1/user/keys/query";
    let body = json!({ "device_keys": {} }).to_string();
    let sends = async |method: Method, path: &str, body: &str, proof: &str| {
        let headers = [("authorization", proof)];
        server
            .client()
            .send_with_headers(method, path, body, &headers)
            .await
    };

    let proof = peer.authorization(server.name(), &Method::POST, path, &body);
    sends(Method::POST, path, &body, &proof).await.expect_ok();

    let other_body = json!({ "device_keys": { "@a:b": [] } }).to_string();
    let changed = sends(Method::POST, path, &other_body, &proof).await;
    changed.expect_error(401, "M_UNAUTHORIZED");
    let other_path = "/_matrix/federation/v1/user/keys/claim";
    let changed = sends(Method::POST, other_path, &body, &proof).await;
    changed.expect_error(401, "M_UNAUTHORIZED");
    let for_another = peer.authorization("example.org", &Method::POST, path, &body);
    let answer = sends(Method::POST, path, &body, &for_another).await;
    answer.expect_error(401, "M_UNAUTHORIZED");
}

#[tokio::test]
async fn a_signature_by_another_server_is_refused() {
    let network = Network::new();
    let server = network.server().await;
    let peer = network.peer(Router::new()).await;

    let impostor = Peer::new(&peer.name);
    let answer = impostor.gets(&server, PROFILE_QUERY_PATH).await;
    answer.expect_error(401, "M_UNAUTHORIZED");
    let own = Peer::new(server.name());
    let answer = own.gets(&server, PROFILE_QUERY_PATH).await;
    answer.expect_error(401, "M_UNAUTHORIZED");
}

#[tokio::test]
async fn a_request_from_a_server_without_reachable_keys_is_refused() {
    let server = Network::new().server().await;
    let nobody = Peer::new(&super::unused_address().to_string());

    let answer = nobody.gets(&server, PROFILE_QUERY_PATH).await;

    answer.expect_error(401, "M_UNAUTHORIZED");
}

#[tokio::test]
async fn a_server_without_federation_neither_answers_nor_sends_requests() {
    let network = Network::new();
    let peer = network.peer(Router::new()).await;
    let server = network
        .server_with_config(|config| config.federation.enabled = false)
        .await;

    for path in [
        PROFILE_QUERY_PATH,
        "/_matrix/federation/v1/version",
        "/_matrix/key/v2/server",
    ] {
        let answer = peer.gets(&server, path).await;
        answer.expect_error(404, "M_UNRECOGNIZED");
    }
    let profile = format!("/_matrix/client/v3/profile/@a:{}", peer.name);
    server.get(&profile).await.expect_error(502, "M_UNKNOWN");
    assert_eq!(peer.request_count(), 0);
}

#[tokio::test]
async fn unknown_endpoints_get_404_and_unknown_methods_405() {
    let server = Network::new().server().await;

    for path in [
        "federation/unknown",
        "federation/v1/unknown",
        "key/v2/unknown",
    ] {
        let answer = server.get(&format!("/_matrix/{path}")).await;
        answer.expect_error(404, "M_UNRECOGNIZED");
    }
    for path in ["federation/v1/version", "key/v2/query", "key/v2/server"] {
        let answer = server.put(&format!("/_matrix/{path}"), json!({})).await;
        answer.expect_error(405, "M_UNRECOGNIZED");
    }
}

#[tokio::test]
async fn the_version_endpoint_names_the_server_software() {
    let server = Network::new().server().await;

    let version = server.get("/_matrix/federation/v1/version").await;

    let version = version.expect_ok();
    assert_eq!(version["server"]["name"], "Parlour");
    assert_eq!(version["server"]["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn requests_that_name_unknown_servers_are_rate_limited() {
    let network = Network::new();
    let server = network
        .server_with_config(|config| config.limits.enabled = true)
        .await;
    let peer = network.peer(Router::new()).await;
    let known = peer.gets(&server, PROFILE_QUERY_PATH).await;
    known.expect_error(400, "M_INVALID_PARAM");
    let nobody = Peer::new(&super::unused_address().to_string());

    let mut answer = nobody.gets(&server, PROFILE_QUERY_PATH).await;
    for _ in 0..1_000 {
        if answer.status != 401 {
            break;
        }
        answer = nobody.gets(&server, PROFILE_QUERY_PATH).await;
    }

    answer.expect_error(429, "M_LIMIT_EXCEEDED");
    let known = peer.gets(&server, PROFILE_QUERY_PATH).await;
    known.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn an_event_with_fractions_is_bad_json_in_a_signed_request() {
    let network = Network::new();
    let server = network.server().await;
    let peer = network.peer(Router::new()).await;
    let path = "/_matrix/federation/v2/send_join/!room:elsewhere/$event";
    let sent = r#"{ "type": "m.room.member", "content": { "y": 1.50, "x": [] } }"#;
    let signed = r#"{"content":{"x":[],"y":1.50},"type":"m.room.member"}"#;

    let proof = peer.authorization_for_text((server.name(), &Method::PUT, path), signed);
    let headers = [("authorization", &*proof)];
    let client = server.client();
    let answer = client
        .send_with_headers(Method::PUT, path, sent, &headers)
        .await;

    answer.expect_error(400, "M_BAD_JSON");
}
