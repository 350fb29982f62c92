//! Tests the requests with which the server asks application services for users, aliases and networks.

use axum::http::StatusCode;
use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{ShortPaths, TestService, bridge, client_path, join};

#[tokio::test]
async fn a_service_creates_an_alias_when_someone_asks_for_it() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    let client = bridge(&server);
    service.sends_before_answering(
        "/_matrix/app/v1/rooms/%23_bridge_rust:localhost",
        move || {
            let (client, body) = (client.clone(), json!({ "room_id": room }));
            let path = client_path("directory/room/%23_bridge_rust:localhost");
            async move { client.put(&path, body).await }.boxed()
        },
    );

    let joined = alice
        .post("join/%23_bridge_rust:localhost", json!({}))
        .await;

    joined.expect_ok();
    let unknown = alice.get("directory/room/%23_bridge_other:localhost").await;
    unknown.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_service_creates_a_user_when_someone_invites_them() {
    let mut service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let client = bridge(&server);
    service.sends_before_answering("/_matrix/app/v1/users/@_bridge_bob:localhost", move || {
        let client = client.clone();
        let body = json!({ "type": "m.login.application_service", "username": "_bridge_bob" });
        async move { client.post(&client_path("register"), body).await }.boxed()
    });

    let ghost = "@_bridge_bob:localhost";
    let path = format!("rooms/{room}/invite");
    alice
        .post(&path, json!({ "user_id": ghost }))
        .await
        .expect_ok();

    let invitation = service
        .next_event(|event| event["state_key"] == ghost)
        .await;
    assert_eq!(invitation["content"]["membership"], "invite");
    let profile = alice.get(&format!("profile/{ghost}")).await;
    profile.expect_ok();
}

#[tokio::test]
async fn a_ping_says_whether_the_service_answers() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v1/appservice/bridge/ping";
    let bridge = bridge(&server);

    let refused = bridge.post(path, json!({})).await;
    let refused = refused.expect_error(502, "M_BAD_STATUS");
    assert_eq!(refused["status"], 404);
    service.on_request(|request| {
        (request.path == "/_matrix/app/v1/ping" && request.body["transaction_id"] == "meow")
            .then(|| (StatusCode::OK, json!({})))
    });
    let answered = bridge.post(path, json!({ "transaction_id": "meow" })).await;
    assert!(answered.expect_ok()["duration_ms"].is_u64());
    let other = "/_matrix/client/v1/appservice/other/ping";
    let refused = bridge.post(other, json!({})).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let refused = alice.client.post(path, json!({})).await;
    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn networks_are_looked_up_at_the_service() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let protocol = json!({
        "user_fields": [], "location_fields": [], "icon": "mxc://a/b", "field_types": {},
        "instances": [{ "desc": "Example", "network_id": "net", "fields": {} }],
    });
    let location =
        json!([{ "alias": "#_bridge_rust:localhost", "protocol": "example", "fields": {} }]);
    let (answer, found) = (protocol.clone(), location.clone());
    service.on_request(move |request| match &*request.path {
        "/_matrix/app/v1/thirdparty/protocol/example" => Some((StatusCode::OK, answer.clone())),
        "/_matrix/app/v1/thirdparty/location/example" if request.query == "channel=%23rust" => {
            Some((StatusCode::OK, found.clone()))
        }
        "/_matrix/app/v1/thirdparty/location" => Some((StatusCode::OK, found.clone())),
        _ => None,
    });

    let protocols = alice.get("thirdparty/protocols").await.expect_ok();
    assert_eq!(protocols["example"]["icon"], protocol["icon"]);
    assert_eq!(
        protocols["example"]["instances"][0]["instance_id"],
        "bridge|net"
    );
    let one = alice.get("thirdparty/protocol/example").await.expect_ok();
    assert_eq!(one, protocols["example"]);
    for path in [
        "thirdparty/location/example?channel=%23rust",
        "thirdparty/location?alias=%23_bridge_rust:localhost",
    ] {
        assert_eq!(alice.get(path).await.expect_ok(), location, "{path}");
    }
    for path in [
        "thirdparty/protocol/other",
        "thirdparty/user/example?nick=bob",
    ] {
        alice.get(path).await.expect_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_service_lists_rooms_in_its_network() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let path = format!("directory/list/appservice/net/{room}");
    let list = async |visibility: &str| {
        let path = format!("/_matrix/client/v3/{path}");
        let body = json!({ "visibility": visibility });
        bridge(&server).put(&path, body).await.expect_ok();
    };
    let listed = async |body: Value| {
        let page = alice.post("publicRooms", body).await.expect_ok();
        page["chunk"].as_array().expect("a list").len()
    };

    list("public").await;

    assert_eq!(listed(json!({})).await, 0);
    for id in ["net", "bridge|net"] {
        assert_eq!(listed(json!({ "third_party_instance_id": id })).await, 1);
    }
    assert_eq!(
        listed(json!({ "third_party_instance_id": "other" })).await,
        0
    );
    assert_eq!(listed(json!({ "include_all_networks": true })).await, 1);
    list("private").await;
    assert_eq!(listed(json!({ "include_all_networks": true })).await, 0);
    let refused = alice.put(&path, json!({ "visibility": "public" })).await;
    refused.expect_error(403, "M_FORBIDDEN");
}
