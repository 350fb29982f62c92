//! The server serves every endpoint of the client-server API and of the server-server API.
//!
//! The tables list the endpoints of version 1.19 of the specification: method, path, operation, and whether the
//! endpoint is deprecated.

use parlour::config::BaseUrl;
use reqwest::Method;

use crate::{federation::Network, harness::Server};

pub(crate) const CLIENT_ENDPOINTS_TABLE: &str = include_str!("client_server_endpoints.tsv");
pub(crate) const SERVER_ENDPOINTS_TABLE: &str = include_str!("server_server_endpoints.tsv");

/// The client endpoints that are not served, with the reasons.
const UNSERVED_CLIENT_ENDPOINTS: [(&str, &str); 1] =
    [("getWellknownPolicy", "this server is not a policy server")];

/// The endpoints for other servers that are not served, with the reasons.
const UNSERVED_SERVER_ENDPOINTS: [(&str, &str); 1] = [(
    "askPolicyServerToSign",
    "this server is not a policy server",
)];

#[tokio::test]
async fn every_server_endpoint_is_served() {
    let network = Network::new();
    let server = network.server().await;
    let peer = network.peer(axum::Router::new()).await;
    let mut wrong = Vec::new();

    for line in SERVER_ENDPOINTS_TABLE.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let (method, path, operation) = (columns[0], columns[1], columns[2]);
        let method = Method::from_bytes(method.as_bytes()).expect("is a method");
        let answer = peer
            .sends_request(&server, method, &filled_path(path), "{}")
            .await;
        let is_missing = answer.body["errcode"] == "M_UNRECOGNIZED";
        let mut excused = UNSERVED_SERVER_ENDPOINTS.iter();
        let is_excused = excused.any(|(excused, _)| *excused == operation);
        // A wrong signature would hide the endpoint behind an error; one endpoint requires a token.
        let is_refused = answer.status == 401 && operation != "exchangeOpenIdToken";
        if is_missing != is_excused || is_refused || answer.status >= 500 {
            wrong.push(format!("{operation} {path}: {}", answer.text));
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_client_endpoint_is_served() {
    let server = Server::with_config(|config| {
        config.registration.guests = true;
        config.server.public_url = BaseUrl::parse("https://chat.example.org");
    })
    .await;
    let alice = server.register("alice").await;
    let mut missing = Vec::new();
    let mut served_after_all = Vec::new();

    for line in CLIENT_ENDPOINTS_TABLE.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let (method, path, operation) = (columns[0], columns[1], columns[2]);
        let method = Method::from_bytes(method.as_bytes()).expect("is a method");
        // These operations invalidate the token.
        if operation.starts_with("logout") || operation == "deactivateAccount" {
            continue;
        }
        let answer = alice.client.send(method, &filled_path(path), "{}").await;
        let is_missing = answer.body["errcode"] == "M_UNRECOGNIZED";
        let is_excused = UNSERVED_CLIENT_ENDPOINTS
            .iter()
            .any(|(excused, _)| *excused == operation);
        match (is_missing, is_excused) {
            (true, false) => missing.push(format!("{operation} {path}")),
            (false, true) => served_after_all.push(operation.to_owned()),
            _ => {}
        }
        assert!(
            answer.status < 500 || answer.status == 504,
            "{path}: {}",
            answer.text
        );
    }

    assert!(missing.is_empty(), "not served:\n{}", missing.join("\n"));
    assert!(
        served_after_all.is_empty(),
        "excused, but served: {served_after_all:?}"
    );
}

/// Fills the parameters of a path with example values.
pub(crate) fn filled_path(path: &str) -> String {
    let mut filled = String::new();
    for segment in path.split('/').skip(1) {
        let value = match segment {
            "{userId}" => "@alice:localhost",
            "{roomId}" | "{roomIdOrAlias}" => "!room:localhost",
            "{roomAlias}" => "%23room:localhost",
            "{eventId}" => "$event",
            "{serverName}" => "localhost",
            "{kind}" => "override",
            "{keyName}" => "displayname",
            "{relType}" => "m.thread",
            "{receiptType}" => "m.read",
            place if place.starts_with('{') => "one",
            fixed => fixed,
        };
        filled.push('/');
        filled.push_str(value);
    }
    filled
}
