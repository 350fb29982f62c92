//! The page of the account.

use serde_json::json;

use super::{ClientApp, WHOAMI_PATH, sign_in, signed_in_browser, start_server, text};
use crate::browser::Browser;

const ACCOUNT_PATH: &str = "/_parlour/account";

#[tokio::test]
async fn the_page_shows_the_devices_and_signs_one_out() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let (browser, alice) = signed_in_browser(&server, "alice").await;
    let tokens = app.sign_in(&browser, "PHONE").await;
    let phone = server.client().with_token(&text(&tokens, "access_token"));

    let list = browser
        .open(&format!("{ACCOUNT_PATH}?action=org.matrix.devices_list"))
        .await;
    assert!(list.text.contains("Example App"), "{}", list.text);
    assert!(list.text.contains(&alice.device_id), "{}", list.text);
    for action in [
        "device_view",
        "session_view",
        "device_delete",
        "session_end",
    ] {
        let page = format!("{ACCOUNT_PATH}?action=org.matrix.{action}&device_id=PHONE");
        let page = browser.open(&page).await;
        assert!(page.text.contains("Sign this device out"), "{}", page.text);
    }
    let fields = [("change", "device"), ("device_id", "PHONE")];
    browser.submit(ACCOUNT_PATH, &fields).await;

    let refused = phone.get(WHOAMI_PATH).await;
    refused.expect_error(401, "M_UNKNOWN_TOKEN");
    alice.client.get(WHOAMI_PATH).await.expect_ok();
}

#[tokio::test]
async fn a_device_of_somebody_else_is_not_shown() {
    let server = start_server().await;
    let (browser, _) = signed_in_browser(&server, "alice").await;
    let bob = server.register("bob").await;

    let page = format!(
        "{ACCOUNT_PATH}?action=org.matrix.device_view&device_id={}",
        bob.device_id
    );
    assert_eq!(browser.open(&page).await.status, 404);
    let fields = [("change", "device"), ("device_id", &*bob.device_id)];
    browser.submit(ACCOUNT_PATH, &fields).await;

    bob.client.get(WHOAMI_PATH).await.expect_ok();
}

#[tokio::test]
async fn a_user_changes_the_display_name() {
    let server = start_server().await;
    let (browser, alice) = signed_in_browser(&server, "alice").await;

    let fields = [("change", "profile"), ("display_name", "<Alice> & co")];
    browser.submit(ACCOUNT_PATH, &fields).await;

    let path = format!("/_matrix/client/v3/profile/{}", alice.id);
    let profile = server.get(&path).await.expect_ok();
    assert_eq!(profile["displayname"], "<Alice> & co");
    let page = browser.open(ACCOUNT_PATH).await;
    assert!(
        page.text.contains("&lt;Alice&gt; &amp; co"),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn a_new_password_needs_the_old_one_and_can_sign_out_all_devices() {
    let server = start_server().await;
    let (browser, alice) = signed_in_browser(&server, "alice").await;
    let fields = |old, new| {
        [
            ("change", "password"),
            ("password", old),
            ("new_password", new),
        ]
    };

    let wrong = browser
        .submit(ACCOUNT_PATH, &fields("wrong", "second"))
        .await;
    assert_eq!(wrong.status, 403, "{}", wrong.text);
    let right = browser
        .submit(ACCOUNT_PATH, &fields("password", "second"))
        .await;
    assert_eq!(right.status, 303, "{}", right.text);
    alice.client.get(WHOAMI_PATH).await.expect_ok();
    let mut all = fields("second", "third").to_vec();
    all.push(("also", "yes"));
    browser.submit(ACCOUNT_PATH, &all).await;

    alice
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
    // This browser has a new session.
    assert_eq!(browser.open(ACCOUNT_PATH).await.status, 200);
    let other = Browser::new(&server);
    assert_eq!(sign_in(&other, "alice", "second").await.status, 403);
    assert_eq!(sign_in(&other, "alice", "third").await.status, 303);
}

#[tokio::test]
async fn a_user_deactivates_the_account_with_the_password() {
    let server = start_server().await;
    let (browser, alice) = signed_in_browser(&server, "alice").await;
    let page = format!("{ACCOUNT_PATH}?action=org.matrix.account_deactivate");
    let fields = |password| [("change", "deactivate"), ("password", password)];

    let wrong = browser.submit(&page, &fields("wrong")).await;
    assert_eq!(wrong.status, 403, "{}", wrong.text);
    alice.client.get(WHOAMI_PATH).await.expect_ok();
    let done = browser.submit(&page, &fields("password")).await;

    assert_eq!(done.status, 303, "{}", done.text);
    alice
        .client
        .get(WHOAMI_PATH)
        .await
        .expect_error(401, "M_UNKNOWN_TOKEN");
    let again = sign_in(&browser, "alice", "password").await;
    assert_eq!(again.status, 403, "{}", again.text);
}

#[tokio::test]
async fn an_app_may_reset_cross_signing_after_the_user_has_allowed_it() {
    let server = start_server().await;
    let app = ClientApp::register(&server).await;
    let (browser, alice) = signed_in_browser(&server, "alice").await;
    let tokens = app.sign_in(&browser, "PHONE").await;
    let phone = server.client().with_token(&text(&tokens, "access_token"));
    let keys = |name: &str| {
        json!({ "master_key": {
            "user_id": alice.id, "usage": ["master"],
            "keys": { format!("ed25519:{name}"): name },
        } })
    };
    let path = "/_matrix/client/v3/keys/device_signing/upload";
    let first = "Q0VjnoNYbHNPqRiYxQF7zm5gUdUZcX6dJQMf6OBZVgI";
    let second = "1bFXBNRAs9VUOHTTuBBBBmRgaELRvIdtRMoFEVCTfAE";
    phone.post(path, keys(first)).await.expect_ok();

    let asked = phone.post(path, keys(second)).await;
    assert_eq!(asked.status, 401, "{}", asked.text);
    assert_eq!(asked.body["flows"][0]["stages"], json!(["m.oauth"]));
    let page = text(&asked.body["params"]["m.oauth"], "url");
    let shown = browser.open(&page).await;
    assert!(
        shown.text.contains("cryptographic identity"),
        "{}",
        shown.text
    );
    let session = json!({ "session": asked.body["session"] });
    let mut early = keys(second);
    early["auth"] = session.clone();
    assert_eq!(phone.post(path, early).await.status, 401);
    let fields = [("change", "reset"), ("password", "password")];
    let allowed = browser.submit(&page, &fields).await;
    assert_eq!(allowed.status, 200, "{}", allowed.text);
    let mut again = keys(second);
    again["auth"] = session;
    phone.post(path, again).await.expect_ok();

    // The permission was for one reset.
    assert_eq!(phone.post(path, keys(first)).await.status, 401);
}
