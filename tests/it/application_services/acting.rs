//! Tests requests that application services make as their users, and names that are reserved for them.

use serde_json::{Value, json};

use super::{ShortPaths, TestService, as_user, bridge, client_path, join, register_ghost};
use crate::harness::Server;

#[tokio::test]
async fn a_service_registers_and_acts_as_its_users() {
    let service = TestService::start("").await;
    let server = service.server().await;

    let ghost = register_ghost(&server, "_bridge_bob").await;

    let whoami = bridge(&server)
        .get(&as_user("account/whoami", &ghost))
        .await;
    assert_eq!(whoami.expect_ok(), json!({ "user_id": ghost }));
    let own = bridge(&server)
        .get("/_matrix/client/v3/account/whoami")
        .await
        .expect_ok();
    assert_eq!(own["user_id"], "@_bridge_bot:localhost");
}

#[tokio::test]
async fn a_service_does_not_act_as_users_of_others() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;

    let bridge = bridge(&server);
    for user in [&*alice.id, "@_bridge_unknown:localhost"] {
        let refused = bridge.get(&as_user("account/whoami", user)).await;
        refused.expect_error(403, "M_FORBIDDEN");
    }
    let body = json!({ "type": "m.login.application_service", "username": "carol" });
    let path = "/_matrix/client/v3/register";
    bridge
        .post(path, body.clone())
        .await
        .expect_error(400, "M_EXCLUSIVE");
    let client = server.client();
    client
        .post(path, body.clone())
        .await
        .expect_error(401, "M_MISSING_TOKEN");
    client
        .with_token("wrong")
        .post(path, body)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn others_cannot_take_exclusive_names() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;

    for name in ["_bridge_bob", "_bridge_bot"] {
        let body = json!({
            "username": name, "password": "password", "auth": { "type": "m.login.dummy" },
        });
        let path = "/_matrix/client/v3/register";
        let refused = server.client().post(path, body).await;
        refused.expect_error(400, "M_EXCLUSIVE");
    }
    let room = alice.creates_open_room().await;
    let alias = "directory/room/%23_bridge_rust:localhost";
    let refused = alice.put(alias, json!({ "room_id": room })).await;
    refused.expect_error(400, "M_EXCLUSIVE");
    let body = json!({ "room_alias_name": "_bridge_rust" });
    let refused = alice.post("createRoom", body).await;
    refused.expect_error(400, "M_EXCLUSIVE");
    // The service may create its aliases, and no others.
    join(&server, "@_bridge_bot:localhost", &room).await;
    let bridge = bridge(&server);
    let body = json!({ "room_id": room });
    let created = bridge.put(&client_path(alias), body.clone()).await;
    created.expect_ok();
    let other = "/_matrix/client/v3/directory/room/%23rust:localhost";
    bridge
        .put(other, body)
        .await
        .expect_error(400, "M_EXCLUSIVE");
}

#[tokio::test]
async fn a_service_logs_in_its_users() {
    let service = TestService::start("").await;
    let server = service.server().await;
    register_ghost(&server, "_bridge_bob").await;
    server.register("alice").await;

    let body = |user: &str| {
        json!({
            "type": "m.login.application_service",
            "identifier": { "type": "m.id.user", "user": user },
            "device_id": "BRIDGE",
        })
    };
    let path = "/_matrix/client/v3/login";
    let login = bridge(&server).post(path, body("_bridge_bob")).await;
    let login = login.expect_ok();
    let ghost = server.user_from_login(&login);

    let whoami = ghost.get("account/whoami").await.expect_ok();
    assert_eq!(whoami["device_id"], "BRIDGE");
    let refused = bridge(&server).post(path, body("alice")).await;
    refused.expect_error(400, "M_EXCLUSIVE");
    let types = server.client().get(path).await.expect_ok();
    let types = types["flows"].to_string();
    assert!(types.contains("m.login.application_service"), "{types}");
}

#[tokio::test]
async fn a_service_acts_with_a_device_of_its_user() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let ghost = register_ghost(&server, "_bridge_bob").await;
    let bridge = bridge(&server);
    let path = as_user("devices/CRYPTO", &ghost);
    let created = bridge.put(&path, json!({ "display_name": "Bridge" })).await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(bridge.put(&path, json!({})).await.status, 200);

    for name in ["device_id", "org.matrix.msc3202.device_id"] {
        let path = as_user(&format!("account/whoami?{name}=CRYPTO"), &ghost);
        let whoami = bridge.get(&path).await.expect_ok();
        assert_eq!(whoami["device_id"], "CRYPTO");
    }
    let unknown = as_user("account/whoami?device_id=OTHER", &ghost);
    let refused = bridge.get(&unknown).await;
    refused.expect_error(400, "M_UNKNOWN_DEVICE");
    let no_device = as_user("keys/upload", &ghost);
    let refused = bridge.post(&no_device, json!({})).await;
    refused.expect_error(400, "M_MISSING_PARAM");
    // A service needs no interactive authentication to delete a device.
    let deleted = bridge.delete(&path).await;
    deleted.expect_ok();
    let gone = bridge.get(&path).await;
    gone.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn requests_without_device_have_transaction_ids() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let (bob, carol) = (
        register_ghost(&server, "_bridge_bob").await,
        register_ghost(&server, "_bridge_carol").await,
    );
    for ghost in [&bob, &carol] {
        join(&server, ghost, &room).await;
    }
    let bridge = bridge(&server);
    let path = format!("rooms/{room}/send/m.room.message/1");
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let send = async |ghost: &str| {
        let sent = bridge.put(&as_user(&path, ghost), body.clone()).await;
        sent.expect_ok()["event_id"].clone()
    };

    let first = send(&bob).await;

    assert_eq!(send(&bob).await, first);
    assert_ne!(send(&carol).await, first);
    let path = as_user("sendToDevice/org.example/1", &bob);
    let content = json!({ "messages": { &*alice.id: { "*": {} } } });
    for _ in 0..2 {
        bridge.put(&path, content.clone()).await.expect_ok();
    }
    let sync = alice.get("sync").await.expect_ok();
    let messages = sync["to_device"]["events"].as_array().expect("a list");
    assert_eq!(messages.len(), 1);
}

#[tokio::test]
async fn only_a_service_chooses_the_time_of_an_event() {
    let service = TestService::start("").await;
    let server = service.server().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    let bridge = bridge(&server);
    let body = json!({ "msgtype": "m.text", "body": "old" });
    let path = format!("rooms/{room}/send/m.room.message/1?ts=1000");
    let full = format!("/_matrix/client/v3/{path}");

    let old = bridge.put(&full, body.clone()).await.expect_ok();
    let new = alice.put(&path, body).await.expect_ok();
    let path = format!("/_matrix/client/v3/rooms/{room}/state/org.example/?ts=2000");
    let power = json!({ "users": { "@_bridge_bot:localhost": 50 } });
    let levels = format!("rooms/{room}/state/m.room.power_levels/");
    alice.put(&levels, power).await.expect_ok();
    let state = bridge.put(&path, json!({})).await.expect_ok();

    let time_of = async |event: &Value| {
        let event_id = event["event_id"].as_str().expect("an event id");
        let path = format!("rooms/{room}/event/{event_id}");
        let event = alice.get(&path).await.expect_ok();
        event["origin_server_ts"].as_i64().expect("a time")
    };
    assert_eq!(time_of(&old).await, 1000);
    assert_eq!(time_of(&state).await, 2000);
    assert!(time_of(&new).await > 2000);
}

#[tokio::test]
async fn a_service_can_be_exempt_from_rate_limits() {
    let service = TestService::start("rate_limited: false").await;
    let server = Server::with_config(|config| {
        service.register(config);
        config.limits.enabled = true;
    })
    .await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    join(&server, "@_bridge_bot:localhost", &room).await;
    let bridge = bridge(&server);

    for number in 0..100 {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
        let body = json!({ "msgtype": "m.text", "body": "hello" });
        bridge.put(&path, body).await.expect_ok();
    }
}
