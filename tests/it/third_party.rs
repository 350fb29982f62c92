//! Tests the answers about e-mail addresses, telephone numbers and bridged networks, which this server does
//! not support, and about TURN servers.

use parlour::config::SecretString;
use serde_json::json;

use crate::harness::Server;

#[tokio::test]
async fn third_party_addresses_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let email = json!({ "client_secret": "secret", "email": "a@example.org", "send_attempt": 1 });

    for path in [
        "/_matrix/client/v3/register/email/requestToken",
        "/_matrix/client/v3/account/password/email/requestToken",
        "/_matrix/client/v3/account/3pid/email/requestToken",
    ] {
        let refused = server.post(path, email.clone()).await;
        refused.expect_error(403, "M_THREEPID_DENIED");
    }
    let add = json!({ "client_secret": "secret", "sid": "abc" });
    let added = alice
        .client
        .post("/_matrix/client/v3/account/3pid/add", add);
    added.await.expect_error(403, "M_THREEPID_DENIED");
    let listed = alice.client.get("/_matrix/client/v3/account/3pid").await;
    assert_eq!(listed.expect_ok(), json!({ "threepids": [] }));
    let address = json!({ "medium": "email", "address": "a@example.org" });
    let removed = alice
        .client
        .post("/_matrix/client/v3/account/3pid/delete", address);
    let expected = json!({ "id_server_unbind_result": "no-support" });
    assert_eq!(removed.await.expect_ok(), expected);
}

#[tokio::test]
async fn no_third_party_networks_are_listed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let protocols = alice.client.get("/_matrix/client/v3/thirdparty/protocols");
    assert_eq!(protocols.await.expect_ok(), json!({}));
    for path in ["protocol/irc", "location/irc", "user/irc"] {
        let path = format!("/_matrix/client/v3/thirdparty/{path}");
        let refused = alice.client.get(&path).await;
        refused.expect_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_configured_turn_server_is_returned() {
    let plain = Server::start().await;
    let alice = plain.register("alice").await;
    let with_relay = Server::with_config(|config| {
        config.turn.uris = vec!["turn:turn.example.org".to_owned()];
        config.turn.shared_secret = Some(SecretString::new("secret"));
    })
    .await;
    let bob = with_relay.register("bob").await;

    let path = "/_matrix/client/v3/voip/turnServer";
    let none = alice.client.get(path).await;
    let one = bob.client.get(path).await.expect_ok();

    none.expect_error(404, "M_NOT_FOUND");
    assert_eq!(one["uris"], json!(["turn:turn.example.org"]));
    assert_eq!(one["ttl"], 86_400);
    assert!(
        one["username"]
            .as_str()
            .is_some_and(|name| name.ends_with(&bob.id))
    );
}
