//! Profiles of users of other servers.

use axum::{Json, Router, extract::Query, http::StatusCode, routing::get};
use serde_json::{Value, json};

use super::{Network, Peer};
use crate::{chat::percent_encoded, harness::Server};

const PROFILE_QUERY_PATH: &str = "/_matrix/federation/v1/query/profile";

async fn server_with_alice(network: &Network) -> Server {
    let server = network.server().await;
    let alice = server.register("alice").await;
    let name = format!("/_matrix/client/v3/profile/{}/displayname", alice.id);
    let set = alice
        .client
        .put(&name, json!({ "displayname": "Alice" }))
        .await;
    set.expect_ok();
    server
}

#[tokio::test]
async fn the_profile_of_a_user_of_another_server_is_shown() {
    let network = Network::new();
    let (home, away) = (server_with_alice(&network).await, network.server().await);
    let profile = format!("/_matrix/client/v3/profile/@alice:{}", home.name());

    let whole = away.get(&profile).await.expect_ok();
    let name = away
        .get(&format!("{profile}/displayname"))
        .await
        .expect_ok();
    let avatar = away.get(&format!("{profile}/avatar_url")).await;

    assert_eq!(whole, json!({ "displayname": "Alice" }));
    assert_eq!(name, json!({ "displayname": "Alice" }));
    avatar.expect_error(404, "M_NOT_FOUND");
    let nobody = format!("/_matrix/client/v3/profile/@nobody:{}", home.name());
    away.get(&nobody).await.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn profile_queries_carry_the_whole_user_id() {
    let network = Network::new();
    let answer =
        async |Query(asked): Query<Value>| Json(json!({ "displayname": asked["user_id"] }));
    let peer = network
        .peer(Router::new().route(PROFILE_QUERY_PATH, get(answer)))
        .await;
    let server = network.server().await;
    let user_id = format!("@a/b=c:{}", peer.name);

    let path = format!("/_matrix/client/v3/profile/{}", percent_encoded(&user_id));
    let profile = server.get(&path).await.expect_ok();

    assert_eq!(profile["displayname"], user_id.as_str());
}

#[tokio::test]
async fn a_server_that_answers_nonsense_is_a_bad_gateway() {
    let network = Network::new();
    for answer in [
        "nonsense".to_owned(),
        "[1]".to_owned(),
        "x".repeat(2_000_000),
    ] {
        let router = Router::new().route(PROFILE_QUERY_PATH, get(async || answer));
        let peer = network.peer(router).await;
        let server = network.server().await;

        let path = format!("/_matrix/client/v3/profile/@a:{}", peer.name);
        server.get(&path).await.expect_error(502, "M_UNKNOWN");
    }
}

#[tokio::test]
async fn a_remote_unknown_token_error_is_not_passed_on() {
    let network = Network::new();
    let refusal = json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "go away" });
    let answer = async || (StatusCode::UNAUTHORIZED, Json(refusal));
    let peer = network
        .peer(Router::new().route(PROFILE_QUERY_PATH, get(answer)))
        .await;
    let server = network.server().await;

    let path = format!("/_matrix/client/v3/profile/@a:{}", peer.name);
    server.get(&path).await.expect_error(502, "M_UNKNOWN");
}

#[tokio::test]
async fn other_servers_get_the_requested_profile_fields() {
    let network = Network::new();
    let server = server_with_alice(&network).await;
    let peer = network.peer(Router::new()).await;
    let query = |user: &str| format!("{PROFILE_QUERY_PATH}?user_id={}", percent_encoded(user));
    let alice = query(&format!("@alice:{}", server.name()));

    let whole = peer.gets(&server, &alice).await.expect_ok();
    let name = peer
        .gets(&server, &format!("{alice}&field=displayname"))
        .await;
    let avatar = peer
        .gets(&server, &format!("{alice}&field=avatar_url"))
        .await;

    assert_eq!(whole, json!({ "displayname": "Alice" }));
    assert_eq!(name.expect_ok(), json!({ "displayname": "Alice" }));
    assert_eq!(avatar.expect_ok(), json!({}));
    let nobody = query(&format!("@nobody:{}", server.name()));
    peer.gets(&server, &nobody)
        .await
        .expect_error(404, "M_NOT_FOUND");
    let elsewhere = peer.gets(&server, &query("@a:example.org")).await;
    elsewhere.expect_error(400, "M_INVALID_PARAM");
    let no_port = peer.gets(&server, &query("@a:example.org:http")).await;
    no_port.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn servers_at_private_addresses_are_not_contacted() {
    let network = Network::new();
    let home = server_with_alice(&network).await;
    let away = network
        .server_with_config(|config| config.federation.allow_private_addresses = false)
        .await;

    let path = format!("/_matrix/client/v3/profile/@alice:{}", home.name());
    away.get(&path).await.expect_error(502, "M_UNKNOWN");
}

#[tokio::test]
async fn a_server_with_an_untrusted_certificate_is_not_contacted() {
    let (network, strangers) = (Network::new(), Network::new());
    let stranger = server_with_alice(&strangers).await;
    let path = format!("/_matrix/client/v3/profile/@alice:{}", stranger.name());

    let careful = network.server().await;
    let careless = network
        .server_with_config(|config| config.federation.verify_certificates = false)
        .await;

    careful.get(&path).await.expect_error(502, "M_UNKNOWN");
    // The stranger does not trust this server either, and cannot get its keys.
    careless.get(&path).await.expect_error(502, "M_UNKNOWN");
    let keys = format!("/_matrix/key/v2/query/{}", stranger.name());
    let known = careless.get(&keys).await.expect_ok();
    assert_eq!(known["server_keys"][0]["server_name"], stranger.name());
}

#[tokio::test]
async fn an_unreachable_server_is_not_contacted_after_some_attempts() {
    let network = Network::new();
    let server = network.server().await;
    let nobody = Peer::new(&super::unused_address().to_string());
    let path = format!("/_matrix/client/v3/profile/@a:{}", nobody.name);

    for _ in 0..3 {
        server.get(&path).await.expect_error(502, "M_UNKNOWN");
    }
    let refused = server.get(&path).await.expect_error(502, "M_UNKNOWN");

    let text = refused["error"].as_str().expect("a text");
    assert!(text.contains("recently failed to answer"), "{text}");
}
