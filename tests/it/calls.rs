//! Calls with MatrixRTC through a LiveKit server (MSC4143, MSC4195).

use std::time::Duration;

use parlour::{
    clock::Clock,
    config::{BaseUrl, LiveKitUrl},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{HttpAnswer, Server, User},
    livekit_server::{TestLiveKit, verified_claims},
};

const TRANSPORTS_PATHS: [&str; 2] = [
    "/_matrix/client/v1/rtc/transports",
    "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports",
];
const GET_TOKEN_PATH: &str = "/_parlour/livekit/get_token";
const GET_DEVICE_TOKEN_PATH: &str = "/_parlour/livekit/sfu/get";
const NOW_S: u64 = 1_700_000_000;

impl User {
    /// Returns an `OpenID` token.
    pub(crate) async fn openid_token(&self) -> Value {
        let path = format!("/_matrix/client/v3/user/{}/openid/request_token", self.id);
        self.client.post(&path, json!({})).await.expect_ok()
    }

    /// Asks a server for a token for a slot.
    pub(crate) async fn tries_to_get_call_token(&self, server: &Server, room: &str) -> HttpAnswer {
        let body = self.token_request(room).await;
        server.post(GET_TOKEN_PATH, body).await
    }

    async fn token_request(&self, room: &str) -> Value {
        let member = json!({
            "id": "member", "claimed_user_id": self.id, "claimed_device_id": "PHONE",
        });
        json!({
            "room_id": room, "slot_id": "m.call#ROOM", "member": member,
            "openid_token": self.openid_token().await,
        })
    }
}

/// A server with a LiveKit server, and a room of Alice.
struct CallTest {
    server: Server,
    clock: Clock,
    livekit: TestLiveKit,
    alice: User,
    room: String,
}

impl CallTest {
    async fn start() -> Self {
        let clock = Clock::manual(NOW_S * 1_000);
        let livekit = TestLiveKit::start().await;
        let server = Server::with_clock(clock.clone(), |config| livekit.configure(config)).await;
        let alice = server.register("alice").await;
        let room = alice.creates_open_room().await;
        Self {
            server,
            clock,
            livekit,
            alice,
            room,
        }
    }
}

#[tokio::test]
async fn the_transports_list_the_livekit_server() {
    let livekit = TestLiveKit::start().await;
    let server = Server::with_config(|config| {
        livekit.configure(config);
        config.server.public_url = BaseUrl::parse("https://matrix.example.org");
    })
    .await;
    let alice = server.register("alice").await;
    let transport = |kind: &str| json!({ "type": kind, "livekit_service_url": "https://matrix.example.org/_parlour/livekit" });

    for path in TRANSPORTS_PATHS {
        let found = alice.client.get(path).await.expect_ok();

        let transports = [transport("livekit"), transport("livekit_multi_sfu")];
        assert_eq!(found, json!({ "rtc_transports": transports }));
        let anonymous = server.get(path).await;
        anonymous.expect_error(401, "M_MISSING_TOKEN");
    }
    let well_known = server.get("/.well-known/matrix/client").await.expect_ok();
    let foci = &well_known["org.matrix.msc4143.rtc_foci"];
    assert_eq!(*foci, json!([transport("livekit")]));
    let versions = server.get("/_matrix/client/versions").await.expect_ok();
    assert_eq!(versions["unstable_features"]["org.matrix.msc4143"], true);
}

#[tokio::test]
async fn a_server_without_a_livekit_server_has_no_transports_and_no_tokens() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;

    for path in TRANSPORTS_PATHS {
        let found = alice.client.get(path).await.expect_ok();
        assert_eq!(found, json!({ "rtc_transports": [] }));
    }
    let answer = alice.tries_to_get_call_token(&server, &room).await;
    answer.expect_error(404, "M_UNRECOGNIZED");
    let answer = server.post(GET_DEVICE_TOKEN_PATH, json!({})).await;
    answer.expect_error(404, "M_UNRECOGNIZED");
    let well_known = server.get("/.well-known/matrix/client").await.expect_ok();
    assert!(well_known.get("org.matrix.msc4143.rtc_foci").is_none());
}

#[tokio::test]
async fn a_member_gets_a_token_for_the_slot_of_a_room() {
    let test = CallTest::start().await;

    let answer = test.alice.tries_to_get_call_token(&test.server, &test.room);
    let answer = answer.await.expect_ok();

    assert_eq!(answer["url"], test.livekit.url());
    let claims = verified_claims(answer["jwt"].as_str().expect("a token"));
    let claims = claims.expect("it is signed with the secret");
    let room = &claims["video"]["room"];
    let expected = json!({
        "iss": "parlour", "sub": claims["sub"], "nbf": NOW_S, "exp": NOW_S + 3_600,
        "video": {
            "room": room, "roomJoin": true, "roomCreate": false,
            "canPublish": true, "canSubscribe": true, "canUpdateOwnMetadata": true,
        },
    });
    assert_eq!(claims, expected);
    // Both are hashes, which name neither the room nor the user.
    for hash in [room, &claims["sub"]] {
        assert_eq!(hash.as_str().expect("a text").len(), 43);
    }
}

#[tokio::test]
async fn the_room_of_a_call_is_created_at_the_livekit_server() {
    let test = CallTest::start().await;

    let answer = test.alice.tries_to_get_call_token(&test.server, &test.room);
    let answer = answer.await.expect_ok();

    let claims = verified_claims(answer["jwt"].as_str().expect("a token"));
    let requests = test.livekit.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].method, "CreateRoom");
    let room = &claims.expect("it is signed")["video"]["room"];
    assert_eq!(requests[0].body, json!({ "name": room }));
    assert_eq!(requests[0].claims["video"], json!({ "roomCreate": true }));
    assert_eq!(requests[0].claims["exp"], NOW_S + 60);
}

#[tokio::test]
async fn a_client_that_does_not_know_slots_meets_the_others() {
    let test = CallTest::start().await;
    let body = json!({
        "room": test.room, "device_id": "PHONE", "openid_token": test.alice.openid_token().await,
    });

    let device = test.server.post(GET_DEVICE_TOKEN_PATH, body).await;
    let slot = test.alice.tries_to_get_call_token(&test.server, &test.room);
    let answers = [device.expect_ok(), slot.await.expect_ok()];

    let [device, slot] = answers.map(|answer| {
        let token = answer["jwt"].as_str().expect("a token").to_owned();
        verified_claims(&token).expect("it is signed with the secret")
    });
    assert_eq!(device["sub"], format!("{}:PHONE", test.alice.id));
    assert_eq!(device["video"], slot["video"]);
}

#[tokio::test]
async fn a_user_who_is_not_in_the_room_gets_no_token() {
    let test = CallTest::start().await;
    let bob = test.server.register("bob").await;

    let stranger = bob.tries_to_get_call_token(&test.server, &test.room).await;
    let stranger = stranger.expect_error(401, "M_UNAUTHORIZED");
    let unknown = bob.tries_to_get_call_token(&test.server, "!x:localhost");
    let unknown = unknown.await.expect_error(401, "M_UNAUTHORIZED");
    assert_eq!(stranger, unknown);
    bob.joins(&test.room).await;
    let member = bob.tries_to_get_call_token(&test.server, &test.room).await;
    member.expect_ok();
    bob.leaves(&test.room).await;
    let former = bob.tries_to_get_call_token(&test.server, &test.room).await;
    former.expect_error(401, "M_UNAUTHORIZED");
}

#[tokio::test]
async fn an_openid_token_must_be_valid_and_of_the_user() {
    let test = CallTest::start().await;
    let bob = test.server.register("bob").await;
    bob.joins(&test.room).await;
    let request = test.alice.token_request(&test.room).await;
    let refused = async |request: Value| {
        let answer = test.server.post(GET_TOKEN_PATH, request).await;
        answer.expect_error(401, "M_UNAUTHORIZED")
    };

    let mut wrong = request.clone();
    wrong["openid_token"]["access_token"] = json!("wrong");
    let first = refused(wrong).await;
    let mut of_another = request.clone();
    of_another["member"]["claimed_user_id"] = json!(bob.id);
    assert_eq!(refused(of_another).await, first);
    let mut of_device = request.clone();
    of_device["openid_token"]["access_token"] = json!(test.alice.token);
    assert_eq!(refused(of_device).await, first);
    // This server does not federate, so it cannot ask another one.
    let mut elsewhere = request.clone();
    elsewhere["openid_token"]["matrix_server_name"] = json!("example.org");
    assert_eq!(refused(elsewhere).await, first);
    test.clock.advance(Duration::from_hours(1));
    assert_eq!(refused(request).await, first);
    assert!(test.livekit.requests().is_empty());
}

#[tokio::test]
async fn a_malformed_token_request_is_refused() {
    let test = CallTest::start().await;
    let request = test.alice.token_request(&test.room).await;
    let without = |field: &str| {
        let mut request = request.clone();
        request.as_object_mut().expect("an object").remove(field);
        request
    };
    let mut long = request.clone();
    long["slot_id"] = json!("x".repeat(256));

    for body in [
        json!({}),
        without("room_id"),
        without("slot_id"),
        without("openid_token"),
        without("member"),
        long,
    ] {
        let answer = test.server.post(GET_TOKEN_PATH, body).await;
        answer.expect_error(400, "M_BAD_JSON");
    }
    let client = test.server.client();
    let not_json = client.send(Method::POST, GET_TOKEN_PATH, "text").await;
    not_json.expect_error(400, "M_NOT_JSON");
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(64 * 1024));
    let large = client.send(Method::POST, GET_TOKEN_PATH, &large).await;
    large.expect_error(413, "M_TOO_LARGE");
}

#[tokio::test]
async fn a_livekit_server_that_does_not_answer_is_an_internal_error() {
    let livekit = TestLiveKit::start().await;
    let server = Server::with_config(|config| {
        livekit.configure(config);
        // Nothing listens there.
        config.rtc.livekit_url = LiveKitUrl::parse("ws://127.0.0.1:1");
    })
    .await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;

    let answer = alice.tries_to_get_call_token(&server, &room).await;

    let error = answer.expect_error(500, "M_UNKNOWN");
    assert_eq!(error["error"], "internal server error");
}

#[tokio::test]
async fn token_requests_of_one_address_are_limited() {
    let livekit = TestLiveKit::start().await;
    let clock = Clock::manual(NOW_S * 1_000);
    let server = Server::with_clock(clock, |config| {
        livekit.configure(config);
        config.limits.enabled = true;
    })
    .await;

    for path in [GET_TOKEN_PATH, GET_DEVICE_TOKEN_PATH] {
        for _ in 0..100 {
            let answer = server.post(path, json!({})).await;
            answer.expect_error(400, "M_BAD_JSON");
        }
    }

    let answer = server.post(GET_TOKEN_PATH, json!({})).await;
    answer.expect_error(429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_web_page_of_any_origin_may_request_a_token() {
    let test = CallTest::start().await;

    let client = test.server.client();
    let answer = client.send(Method::OPTIONS, GET_TOKEN_PATH, "").await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(
        answer
            .header("access-control-allow-headers")
            .contains("Content-Type")
    );
}
