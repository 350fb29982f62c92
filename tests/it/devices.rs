//! The devices of a user.

use parlour::config::Config;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{HttpAnswer, Server, User, password_of};

const DEVICES_PATH: &str = "/_matrix/client/v3/devices";
const DELETE_DEVICES_PATH: &str = "/_matrix/client/v3/delete_devices";

async fn delete_device(user: &User, device_id: &str, body: Value) -> HttpAnswer {
    let path = format!("{DEVICES_PATH}/{device_id}");
    user.client
        .send(Method::DELETE, &path, &body.to_string())
        .await
}

#[tokio::test]
async fn devices_are_listed_and_renamed() {
    let server = Server::start().await;
    let phone = server.register("alice").await;
    let desk = server.log_in("alice").await;
    let path = format!("{DEVICES_PATH}/{}", desk.device_id);

    phone
        .client
        .put(&path, json!({ "display_name": "Desk" }))
        .await
        .expect_ok();
    phone.client.put(&path, json!({})).await.expect_ok();

    let device = phone.client.get(&path).await.expect_ok();
    assert_eq!(device["display_name"], "Desk");
    assert_eq!(device["device_id"], desk.device_id);
    let all = phone.client.get(DEVICES_PATH).await.expect_ok();
    assert_eq!(all["devices"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_device_shows_its_address_after_its_first_request() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let all = alice.client.get(DEVICES_PATH).await.expect_ok();

    let device = &all["devices"][0];
    assert_eq!(device["last_seen_ip"], "127.0.0.1", "{all}");
    assert!(device.get("display_name").is_none(), "{all}");
    let whois = format!("/_matrix/client/v3/admin/whois/{}", alice.id);
    let whois = alice.client.get(&whois).await.expect_ok();
    let sessions = &whois["devices"][&alice.device_id]["sessions"];
    assert_eq!(sessions[0]["connections"][0]["ip"], "127.0.0.1", "{whois}");
}

#[tokio::test]
async fn a_device_behind_a_trusted_proxy_shows_the_client_address() {
    let trusted = |config: &mut Config| {
        config.connections.trusted_proxies = vec!["127.0.0.0/8".parse().expect("is a network")];
    };
    let forwarded = [("x-forwarded-for", "203.0.113.9, 198.51.100.7")];
    let list = async |server: &Server| {
        let alice = server.register("alice").await;
        let listed = alice
            .client
            .send_with_headers(Method::GET, DEVICES_PATH, "", &forwarded);
        listed.await.expect_ok()["devices"][0]["last_seen_ip"].clone()
    };

    let behind_proxy = list(&Server::with_config(trusted).await).await;
    let direct = list(&Server::start().await).await;

    assert_eq!(behind_proxy, "198.51.100.7");
    assert_eq!(direct, "127.0.0.1");
}

#[tokio::test]
async fn a_device_of_another_user_is_not_found() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = format!("{DEVICES_PATH}/{}", bob.device_id);

    alice
        .client
        .get(&path)
        .await
        .expect_error(404, "M_NOT_FOUND");
    let renamed = alice
        .client
        .put(&path, json!({ "display_name": "Mine" }))
        .await;
    renamed.expect_error(404, "M_NOT_FOUND");
    server
        .get(DEVICES_PATH)
        .await
        .expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn deleting_a_device_requires_the_password() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let other = server.log_in("alice").await;
    let mut wrong = password_of("alice");
    wrong["password"] = json!("wrong");

    let asked = delete_device(&alice, &other.device_id, json!({})).await;
    assert_eq!(asked.status, 401);
    assert!(asked.body["session"].is_string() && asked.body["params"].is_object());
    let refused = delete_device(&alice, &other.device_id, json!({ "auth": wrong })).await;
    let refused = refused.expect_error(401, "M_FORBIDDEN");
    assert!(refused["session"].is_string() && refused["flows"].is_array());
    let body = json!({ "auth": password_of("alice") });
    delete_device(&alice, &other.device_id, body)
        .await
        .expect_ok();

    let gone = alice
        .client
        .get(&format!("{DEVICES_PATH}/{}", other.device_id))
        .await;
    gone.expect_error(404, "M_NOT_FOUND");
    other
        .client
        .get(DEVICES_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn the_password_of_another_user_deletes_no_device() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let other = server.log_in("alice").await;
    server.register("bob").await;

    let body = json!({ "auth": password_of("bob") });
    let refused = delete_device(&alice, &other.device_id, body).await;

    refused.expect_error(403, "M_FORBIDDEN");
    other.client.get(DEVICES_PATH).await.expect_ok();
}

#[tokio::test]
async fn devices_are_deleted_in_bulk() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let (one, two) = (server.log_in("alice").await, server.log_in("alice").await);
    let devices = json!([one.device_id, two.device_id, "UNKNOWN"]);

    let asked = alice
        .client
        .post(DELETE_DEVICES_PATH, json!({ "devices": devices }))
        .await;
    assert_eq!(asked.status, 401);
    let body = json!({ "devices": devices, "auth": password_of("alice") });
    alice
        .client
        .post(DELETE_DEVICES_PATH, body)
        .await
        .expect_ok();

    let left = alice.client.get(DEVICES_PATH).await.expect_ok();
    assert_eq!(left["devices"].as_array().map(Vec::len), Some(1));
    one.client
        .get(DEVICES_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn logging_out_removes_the_notification_settings_of_the_device() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let (phone, desk) = (server.log_in("alice").await, server.log_in("alice").await);
    let kind = |device: &User| format!("m.local_notification_settings.{}", device.device_id);
    let path = |kind: &str| format!("/_matrix/client/v3/user/{}/account_data/{kind}", alice.id);
    for device in [&phone, &desk] {
        let silent = json!({ "is_silenced": true });
        let set = alice.client.put(&path(&kind(device)), silent).await;
        set.expect_ok();
    }
    let before = alice.syncs().await;

    let logout = "/_matrix/client/v3/logout";
    phone.client.post(logout, json!({})).await.expect_ok();

    let gone = alice.client.get(&path(&kind(&phone))).await;
    gone.expect_error(404, "M_NOT_FOUND");
    alice.client.get(&path(&kind(&desk))).await.expect_ok();
    let told = alice.syncs_after(&before).await;
    let expected = json!([{ "type": kind(&phone), "content": {} }]);
    assert_eq!(told["account_data"]["events"], expected);
    let fresh = alice.syncs().await["account_data"].to_string();
    assert!(!fresh.contains(&kind(&phone)) && fresh.contains(&kind(&desk)));
}
