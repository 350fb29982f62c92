//! The signing keys of servers.

use axum::{Json, Router, http::StatusCode, routing::post};
use parlour::matrix::SigningKey;
use ruma::{
    canonical_json::CanonicalJsonObject,
    serde::Base64,
    signatures::{Ed25519KeyPair, verify_json},
};
use serde_json::{Value, json};

use super::{FAR_FUTURE_MS, Network, Peer};
use crate::harness::Server;

const PROFILE_QUERY_PATH: &str = "/_matrix/federation/v1/query/profile?user_id=@a:b";

/// Asserts that a server signed a list of keys with a key of its own.
fn assert_signed(document: &Value, server: &str, keys: &Value) {
    let object: CanonicalJsonObject = serde_json::from_value(document.clone()).expect("canonical");
    let signatures = document["signatures"][server].as_object();
    let key_id = signatures.expect("an object").keys().next().expect("a key");
    let key = keys["verify_keys"][key_id]["key"].as_str().expect("a key");
    let key = Base64::parse(key).expect("base64");
    let mut only = object.clone();
    let of_server = document["signatures"][server].clone();
    let of_server = json!({ server: of_server });
    let of_server = serde_json::from_value(of_server).expect("canonical");
    only.insert("signatures".to_owned(), of_server);
    let set = [(key_id.clone(), key)].into_iter().collect();
    let map = [(server.to_owned(), set)].into_iter().collect();
    verify_json(&map, &only).expect("the signature is good");
}

#[tokio::test]
async fn a_server_publishes_its_keys_signed() {
    let server = Network::new().server().await;

    let keys = server.get("/_matrix/key/v2/server").await.expect_ok();

    assert_eq!(keys["server_name"], server.name());
    assert_eq!(keys["old_verify_keys"], json!({}));
    assert!(keys["valid_until_ts"].as_i64().expect("a time") > 1_700_000_000_000);
    assert_signed(&keys, server.name(), &keys);
}

#[tokio::test]
async fn a_notary_returns_and_signs_keys_of_other_servers() {
    let network = Network::new();
    let (notary, other) = (network.server().await, network.server().await);
    let own = notary.get("/_matrix/key/v2/server").await.expect_ok();
    let others = other.get("/_matrix/key/v2/server").await.expect_ok();

    let path = format!("/_matrix/key/v2/query/{}", other.name());
    let got = notary.get(&path).await.expect_ok();
    let wanted = json!({ "server_keys": {
        other.name(): {}, notary.name(): {}, "127.0.0.9": {},
    } });
    let posted = notary.post("/_matrix/key/v2/query", wanted).await;
    let posted = posted.expect_ok();

    let told = &got["server_keys"][0];
    assert_eq!(told["server_name"], other.name());
    assert_signed(told, other.name(), &others);
    assert_signed(told, notary.name(), &own);
    let mut names: Vec<&str> = crate::chat::texts_at(&posted["server_keys"], "/server_name");
    names.sort_unstable();
    let mut expected = [notary.name(), other.name()];
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_notary_refetches_only_keys_whose_validity_is_too_short() {
    let network = Network::new();
    let notary = network.server().await;
    let peer = network
        .peer_valid_until(Router::new(), 4_000_000_000_000)
        .await;
    let query = format!("/_matrix/key/v2/query/{}", peer.name);
    let known = async |query: &str| {
        let known = notary.get(query).await.expect_ok();
        known["server_keys"].as_array().expect("a list").len()
    };

    assert_eq!(known(&query).await, 1);
    assert_eq!(known(&query).await, 1);
    assert_eq!(peer.request_count(), 1);
    // Known keys are better than none, and the number of requests is bounded.
    let later = format!("{query}?minimum_valid_until_ts={FAR_FUTURE_MS}");
    assert_eq!(known(&later).await, 1);
    assert_eq!(peer.request_count(), 2);
    for _ in 0..20 {
        assert_eq!(known(&later).await, 1);
    }
    assert!(peer.request_count() <= 6, "{}", peer.request_count());
}

/// Starts a peer that answers each request for its keys with the next of several lists.
async fn peer_with_key_lists(network: &Network, lists: impl Fn(&Peer) -> Vec<Value>) -> Peer {
    let address = super::unused_address();
    let peer = Peer::new(&address.to_string());
    let lists = std::sync::Mutex::new(lists(&peer).into_iter());
    let lists = std::sync::Arc::new(lists);
    let answers = axum::routing::get(async move || {
        let next = lists.lock().expect("no test panics here").next();
        match next {
            Some(list) => (StatusCode::OK, Json(list)),
            None => (StatusCode::BAD_REQUEST, Json(json!({}))),
        }
    });
    let router = Router::new().route("/_matrix/key/v2/server", answers);
    network.serve(address, router, peer.requests.clone()).await;
    peer
}

fn signed_key_list(peer: &Peer, until: i64) -> Value {
    let list = peer.key.published_keys(until).expect("it is signed");
    serde_json::to_value(list).expect("JSON")
}

async fn query_notary(notary: &Server, peer: &Peer, key_id: &str, until: i64) -> Value {
    let wanted = json!({ key_id: { "minimum_valid_until_ts": until } });
    let body = json!({ "server_keys": { &*peer.name: wanted } });
    let told = notary.post("/_matrix/key/v2/query", body).await;
    told.expect_ok()["server_keys"][0].clone()
}

const PAST_VALID_UNTIL: i64 = 1_700_000_000_000;

#[tokio::test]
async fn a_notary_returns_an_expired_key_if_it_has_no_other() {
    let network = Network::new();
    let notary = network.server().await;
    let peer = peer_with_key_lists(&network, |peer| {
        vec![
            signed_key_list(peer, PAST_VALID_UNTIL),
            signed_key_list(peer, PAST_VALID_UNTIL),
        ]
    })
    .await;
    let key_id = peer.key.key_id().to_string();

    // The second answer is the same, and the third is a refusal.
    for until in [
        PAST_VALID_UNTIL,
        PAST_VALID_UNTIL + 1_000,
        PAST_VALID_UNTIL + 1_000,
    ] {
        let told = query_notary(&notary, &peer, &key_id, until).await;
        assert_eq!(told["valid_until_ts"], PAST_VALID_UNTIL);
        assert!(told["verify_keys"].get(&key_id).is_some(), "{told}");
    }
    assert_eq!(peer.request_count(), 3);
}

#[tokio::test]
async fn a_notary_returns_a_key_that_was_renewed_a_moment_ago() {
    let network = Network::new();
    let notary = network.server().await;
    let peer = peer_with_key_lists(&network, |peer| {
        vec![
            signed_key_list(peer, PAST_VALID_UNTIL),
            signed_key_list(peer, FAR_FUTURE_MS),
        ]
    });
    let peer = peer.await;
    let key_id = peer.key.key_id().to_string();
    assert_eq!(
        query_notary(&notary, &peer, &key_id, PAST_VALID_UNTIL).await["valid_until_ts"],
        PAST_VALID_UNTIL
    );

    let told = query_notary(&notary, &peer, &key_id, PAST_VALID_UNTIL + 1_000).await;

    assert_eq!(told["valid_until_ts"], FAR_FUTURE_MS);
}

#[tokio::test]
async fn a_notary_keeps_returning_keys_their_server_no_longer_lists() {
    let network = Network::new();
    let notary = network.server().await;
    let peer = peer_with_key_lists(&network, |peer| {
        let name = peer.key.server_name().to_owned();
        let other = SigningKey::from_der(name, &Ed25519KeyPair::generate(), "other");
        let other = other
            .expect("a key")
            .published_keys(PAST_VALID_UNTIL + 1_000);
        let other = serde_json::to_value(other.expect("it is signed")).expect("JSON");
        vec![signed_key_list(peer, PAST_VALID_UNTIL), other]
    })
    .await;
    let key_id = peer.key.key_id().to_string();
    query_notary(&notary, &peer, &key_id, PAST_VALID_UNTIL).await;

    let told = query_notary(&notary, &peer, &key_id, PAST_VALID_UNTIL + 500).await;
    assert!(told["verify_keys"].get(&key_id).is_some(), "{told}");
    let told = query_notary(&notary, &peer, "ed25519:other", PAST_VALID_UNTIL).await;
    assert!(told["verify_keys"].get("ed25519:other").is_some(), "{told}");
    let notary = notary.restart().await;
    let told = query_notary(&notary, &peer, &key_id, PAST_VALID_UNTIL).await;

    assert!(told["verify_keys"].get(&key_id).is_some(), "{told}");
    assert_eq!(peer.request_count(), 2);
}

#[tokio::test]
async fn keys_can_be_requested_by_id_like_older_servers_do() {
    let network = Network::new();
    let server = network.server().await;
    let peer = network.peer(Router::new()).await;

    for id in ["", "ed25519:1", "*"] {
        let path = format!("/_matrix/key/v2/server/{id}");
        let keys = server.get(&path).await.expect_ok();
        assert_eq!(keys["server_name"], server.name(), "{id}");
    }
    let path = format!("/_matrix/key/v2/query/{}/{}", peer.name, peer.key.key_id());
    let told = server.get(&path).await.expect_ok();
    assert_eq!(told["server_keys"][0]["server_name"], peer.name);
    let odd = format!("{path}?minimum_valid_until_ts=odd");
    server.get(&odd).await.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_key_query_for_too_many_servers_is_refused() {
    let server = Network::new().server().await;
    let many = (0..101).map(|n| (format!("{n}.example"), json!({})));
    let many: serde_json::Map<_, _> = many.collect();

    let answer = server
        .post("/_matrix/key/v2/query", json!({ "server_keys": many }))
        .await;

    answer.expect_error(413, "M_TOO_LARGE");
}

#[tokio::test]
async fn keys_are_fetched_once_and_survive_a_restart() {
    let network = Network::new();
    let peer = network.peer(Router::new()).await;
    let server = network.server().await;

    for _ in 0..3 {
        let answer = peer.gets(&server, PROFILE_QUERY_PATH).await;
        answer.expect_error(400, "M_INVALID_PARAM");
    }
    let server = server.restart().await;
    let answer = peer.gets(&server, PROFILE_QUERY_PATH).await;

    answer.expect_error(400, "M_INVALID_PARAM");
    assert_eq!(peer.request_count(), 1);
}

#[tokio::test]
async fn a_request_signed_with_an_expired_key_is_refused() {
    let network = Network::new();
    let peer = network
        .peer_valid_until(Router::new(), 1_700_000_000_000)
        .await;
    let server = network.server().await;

    let answer = peer.gets(&server, PROFILE_QUERY_PATH).await;

    answer.expect_error(401, "M_UNAUTHORIZED");
}

#[tokio::test]
async fn keys_of_a_silent_server_are_requested_from_a_notary() {
    let network = Network::new();
    let silent = Peer::new(&super::unused_address().to_string());
    let mut told = silent
        .key
        .published_keys(FAR_FUTURE_MS)
        .expect("it is signed");
    let unsigned = told.clone();
    let answers = |document: CanonicalJsonObject| {
        let answer = json!({ "server_keys": [document] });
        Router::new().route("/_matrix/key/v2/query", post(async || Json(answer)))
    };
    let liar = network.peer(answers(unsigned)).await;
    let address = super::unused_address();
    let notary = Peer::new(&address.to_string());
    notary.key.sign(&mut told).expect("it is signed");
    let own = notary
        .key
        .published_keys(FAR_FUTURE_MS)
        .expect("it is signed");
    let keys = axum::routing::get(async || Json(own));
    let router = answers(told).route("/_matrix/key/v2/server", keys);
    network
        .serve(address, router, notary.requests.clone())
        .await;

    let trusts = async |peer: &Peer| {
        let name = peer.name.as_str().try_into().expect("a name");
        network
            .server_with_config(|config| config.federation.notaries = vec![name])
            .await
    };
    let deceived = trusts(&liar).await;
    let answer = silent.gets(&deceived, PROFILE_QUERY_PATH).await;
    answer.expect_error(401, "M_UNAUTHORIZED");
    let helped = trusts(&notary).await;
    let answer = silent.gets(&helped, PROFILE_QUERY_PATH).await;
    answer.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn simultaneous_requests_fetch_the_keys_once() {
    let network = Network::new();
    let peer = network.peer(Router::new()).await;
    let server = network.server().await;

    let requests = (0..20).map(|_| peer.gets(&server, PROFILE_QUERY_PATH));
    for answer in futures_util::future::join_all(requests).await {
        answer.expect_error(400, "M_INVALID_PARAM");
    }

    assert_eq!(peer.request_count(), 1);
}
