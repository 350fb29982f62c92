//! Users of other servers in calls through the LiveKit server of this one.

use axum::{Json, Router, extract::Query, routing::get};
use serde_json::{Value, json};

use super::{Network, joining::joins_via};
use crate::{
    harness::{Server, User},
    livekit_server::{TestLiveKit, verified_claims},
};

/// A server with a LiveKit server and a room of Alice, and another server of Bob.
struct FederatedCall {
    network: Network,
    livekit: TestLiveKit,
    home: Server,
    /// Keeps Bob's server and its database.
    _away: Server,
    alice: User,
    bob: User,
    room: String,
}

impl FederatedCall {
    async fn start() -> Self {
        let network = Network::new();
        let livekit = TestLiveKit::start().await;
        let home = network
            .server_with_config(|config| livekit.configure(config))
            .await;
        let away = network.server().await;
        let alice = home.register("alice").await;
        let room = alice.creates_open_room().await;
        let bob = away.register("bob").await;
        Self {
            network,
            livekit,
            home,
            _away: away,
            alice,
            bob,
            room,
        }
    }

    async fn bob_joins(&self) {
        let answer = joins_via(&self.bob, &self.room, &[self.home.name()]).await;
        answer.expect_ok();
    }
}

#[tokio::test]
async fn a_member_of_another_server_gets_a_token_but_no_new_room() {
    let test = FederatedCall::start().await;

    let stranger = test.bob.tries_to_get_call_token(&test.home, &test.room);
    stranger.await.expect_error(401, "M_UNAUTHORIZED");
    test.bob_joins().await;
    let member = test.bob.tries_to_get_call_token(&test.home, &test.room);
    let member = member.await.expect_ok();

    let token = member["jwt"].as_str().expect("a token");
    let claims = verified_claims(token).expect("it is signed with the secret");
    assert_eq!(claims["video"]["roomCreate"], false);
    assert_eq!(claims["video"]["roomJoin"], true);
    // Only users of this server can begin a call.
    assert!(test.livekit.requests().is_empty());
}

#[tokio::test]
async fn a_server_cannot_vouch_for_the_users_of_another() {
    let test = FederatedCall::start().await;
    test.bob_joins().await;
    let bob = test.bob.id.clone();
    let userinfo = async move |Query(query): Query<Value>| {
        assert_eq!(query, json!({ "access_token": "token" }));
        Json(json!({ "sub": bob }))
    };
    let path = "/_matrix/federation/v1/openid/userinfo";
    let liar = Router::new().route(path, get(userinfo));
    let liar = test.network.peer(liar).await;

    let body = json!({
        "room": test.room, "device_id": "PHONE",
        "openid_token": { "access_token": "token", "matrix_server_name": liar.name },
    });
    let answer = test.home.post("/_parlour/livekit/sfu/get", body).await;

    answer.expect_error(401, "M_UNAUTHORIZED");
    assert_eq!(liar.request_count(), 1);
}

#[tokio::test]
async fn a_member_whose_server_the_room_denies_gets_no_token() {
    let test = FederatedCall::start().await;
    test.bob_joins().await;
    let acl = json!({ "allow": [test.home.name()], "allow_ip_literals": true });

    let alice = &test.alice;
    alice.sets_state(&test.room, "m.room.server_acl", acl).await;

    let denied = test.bob.tries_to_get_call_token(&test.home, &test.room);
    denied.await.expect_error(401, "M_UNAUTHORIZED");
    let allowed = alice.tries_to_get_call_token(&test.home, &test.room).await;
    allowed.expect_ok();
}
