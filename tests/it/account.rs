//! A user's own account: identity, password changes, deactivation, and capabilities.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Server, password_of};

const LOGIN_PATH: &str = "/_matrix/client/v3/login";
const PASSWORD_PATH: &str = "/_matrix/client/v3/account/password";
const DEACTIVATE_PATH: &str = "/_matrix/client/v3/account/deactivate";
const WHOAMI_PATH: &str = "/_matrix/client/v3/account/whoami";

#[tokio::test]
async fn changing_the_password_requires_the_old_one() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let other = server.log_in("alice").await;

    let asked = alice
        .client
        .post(PASSWORD_PATH, json!({ "new_password": "second" }))
        .await;
    assert_eq!(asked.status, 401);
    assert_eq!(
        asked.body["flows"],
        json!([{ "stages": ["m.login.password"] }])
    );
    let mut auth = password_of("alice");
    auth["session"] = asked.body["session"].clone();
    let body = json!({ "new_password": "second", "auth": auth });
    alice.client.post(PASSWORD_PATH, body).await.expect_ok();

    alice.client.get(WHOAMI_PATH).await.expect_ok();
    other
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
    let old = server.post(LOGIN_PATH, password_of("alice")).await;
    old.expect_error(403, "M_FORBIDDEN");
    let mut new = password_of("alice");
    new["password"] = json!("second");
    server.post(LOGIN_PATH, new).await.expect_ok();
}

#[tokio::test]
async fn a_password_change_can_keep_other_devices_logged_in() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let other = server.log_in("alice").await;

    let body = json!({
        "new_password": "second", "logout_devices": false, "auth": password_of("alice"),
    });
    alice.client.post(PASSWORD_PATH, body).await.expect_ok();

    other.client.get(WHOAMI_PATH).await.expect_ok();
}

#[tokio::test]
async fn an_auth_session_refuses_a_different_request() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let asked = alice
        .client
        .post(PASSWORD_PATH, json!({ "new_password": "second" }))
        .await;

    let mut auth = password_of("alice");
    auth["session"] = asked.body["session"].clone();
    let other = json!({ "new_password": "third", "auth": auth });
    let refused = alice.client.post(PASSWORD_PATH, other).await;

    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn an_auth_session_remembers_its_first_request() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let body = json!({ "new_password": "second", "logout_devices": false });
    let asked = alice.client.post(PASSWORD_PATH, body).await;
    let (mut auth, mut of_bob) = (password_of("alice"), password_of("bob"));
    auth["session"] = asked.body["session"].clone();
    of_bob["session"] = asked.body["session"].clone();

    let stolen = bob
        .client
        .post(PASSWORD_PATH, json!({ "auth": of_bob }))
        .await;
    let set = alice
        .client
        .post(PASSWORD_PATH, json!({ "auth": auth }))
        .await;
    let repeated = alice
        .client
        .post(PASSWORD_PATH, json!({ "auth": auth }))
        .await;

    stolen.expect_error(400, "M_BAD_JSON");
    set.expect_ok();
    repeated.expect_ok();
    let mut new = password_of("alice");
    new["password"] = json!("second");
    server.post(LOGIN_PATH, new).await.expect_ok();
}

#[tokio::test]
async fn account_changes_require_an_access_token() {
    let server = Server::start().await;

    let password = server
        .post(PASSWORD_PATH, json!({ "new_password": "x" }))
        .await;
    password.expect_error(401, "M_MISSING_TOKEN");
    let deactivated = server.post(DEACTIVATE_PATH, json!({})).await;
    deactivated.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn a_deactivated_account_is_permanently_unusable() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let mut wrong = password_of("alice");
    wrong["password"] = json!("wrong");
    let refused = alice
        .client
        .post(DEACTIVATE_PATH, json!({ "auth": wrong }))
        .await;
    refused.expect_error(401, "M_FORBIDDEN");

    let body = json!({ "auth": password_of("alice"), "erase": true });
    let answer = alice.client.post(DEACTIVATE_PATH, body).await.expect_ok();

    assert_eq!(answer["id_server_unbind_result"], "success");
    alice
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
    let login = server.post(LOGIN_PATH, password_of("alice")).await;
    login.expect_error(403, "M_USER_DEACTIVATED");
    let profile = server
        .get("/_matrix/client/v3/profile/@alice:localhost")
        .await;
    profile.expect_error(404, "M_NOT_FOUND");
    let name = server
        .get("/_matrix/client/v3/register/available?username=alice")
        .await;
    name.expect_error(400, "M_USER_IN_USE");
}

#[tokio::test]
async fn capabilities_require_an_access_token() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v3/capabilities";

    let capabilities = alice.client.get(path).await.expect_ok()["capabilities"].clone();

    assert_eq!(capabilities["m.change_password"]["enabled"], true);
    assert_eq!(capabilities["m.3pid_changes"]["enabled"], false);
    assert_eq!(capabilities["m.room_versions"]["default"], "12");
    assert_eq!(capabilities["m.room_versions"]["available"]["6"], "stable");
    server.get(path).await.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn an_account_has_no_third_party_ids() {
    let server = Server::start().await;
    let alice = server.register("alice").await;

    let answer = alice.client.get("/_matrix/client/v3/account/3pid").await;

    assert_eq!(answer.expect_ok(), json!({ "threepids": [] }));
}

#[tokio::test]
async fn interactive_authentication_accepts_the_legacy_user_field() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let other = server.log_in("alice").await;
    let auth = |user: &str, password: &str| {
        json!({
            "type": "m.login.password", "user": user, "password": password,
        })
    };
    let path = format!("/_matrix/client/v3/devices/{}", other.device_id);
    let delete = async |auth: Value| {
        let body = json!({ "auth": auth }).to_string();
        alice.client.send(Method::DELETE, &path, &body).await
    };

    assert_eq!(delete(auth(&alice.id, "wrong")).await.status, 401);
    delete(auth(&alice.id, "password")).await.expect_ok();

    other
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
}
