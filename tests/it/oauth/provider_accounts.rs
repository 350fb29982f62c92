//! Accounts at identity providers on the page of the account, and users without a password.

use std::time::Duration;

use serde_json::json;

use super::{
    ClientApp, WHOAMI_PATH,
    identity_provider::{BEGIN_PATH, TestProvider, alice},
    signed_in_browser, text,
};
use crate::browser::Browser;

const ACCOUNT_PATH: &str = "/_parlour/account";
const LINK_BEGIN_PATH: &str = "/_parlour/oauth/providers/test/begin?action=link";
const CONFIRM_BEGIN_PATH: &str = "/_parlour/oauth/providers/test/begin?action=confirm";
const UNLINK_PAGE: &str = "/_parlour/account?action=parlour.unlink&provider=test";

#[tokio::test]
async fn a_user_links_and_unlinks_an_account_with_the_password() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let (browser, _) = signed_in_browser(&server, "bob").await;
    let account = browser.open(ACCOUNT_PATH).await;
    assert!(
        account.text.contains("Link an account at Test &amp; co"),
        "{}",
        account.text
    );

    let offered = provider.visit(&browser, LINK_BEGIN_PATH).await;
    let page = offered.header("location").to_owned();
    let question = browser.open(&page).await;
    assert!(
        question.text.contains("@bob:localhost"),
        "{}",
        question.text
    );
    let wrong = browser.submit(&page, &[("password", "wrong")]).await;
    assert_eq!(wrong.status, 403, "{}", wrong.text);
    let linked = browser.submit(&page, &[("password", "password")]).await;
    assert_eq!(linked.header("location"), ACCOUNT_PATH);
    let account = browser.open(ACCOUNT_PATH).await;
    assert!(
        account.text.contains("Test &amp; co: alice@example.org"),
        "{}",
        account.text
    );
    let other = Browser::new(&server);
    let known = provider.visit(&other, BEGIN_PATH).await;
    assert_eq!(known.header("location"), ACCOUNT_PATH);

    let shown = browser.open(UNLINK_PAGE).await;
    assert!(shown.text.contains("Unlink it"), "{}", shown.text);
    let fields = |password| {
        [
            ("change", "unlink"),
            ("provider", "test"),
            ("password", password),
        ]
    };
    let wrong = browser.submit(UNLINK_PAGE, &fields("wrong")).await;
    assert_eq!(wrong.status, 403);
    let unlinked = browser.submit(UNLINK_PAGE, &fields("password")).await;
    assert_eq!(unlinked.status, 303, "{}", unlinked.text);
    let unknown = provider.visit(&Browser::new(&server), BEGIN_PATH).await;
    assert!(unknown.header("location").contains("provider-registration"));
}

#[tokio::test]
async fn an_account_that_is_linked_cannot_be_linked_again() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    provider.registered_browser(&server, "alice").await;
    let (browser, _) = signed_in_browser(&server, "bob").await;

    let refused = provider.visit(&browser, LINK_BEGIN_PATH).await;
    assert_eq!(refused.status, 403);
    assert!(
        refused.text.contains("linked to an account here already"),
        "{}",
        refused.text
    );
    // Nobody else can send the confirmation, and the page belongs to the browser.
    provider.signs_in(json!({ "sub": "bob" }));
    let offered = provider.visit(&browser, LINK_BEGIN_PATH).await;
    let page = offered.header("location").to_owned();
    let form = "password=password";
    let foreign = browser.submit_from_other_site(&page, form).await;
    assert_eq!(foreign.status, 403);
    let (other, _) = signed_in_browser(&server, "carol").await;
    assert_eq!(other.open(&page).await.status, 403);
}

#[tokio::test]
async fn the_only_way_to_sign_in_cannot_be_unlinked() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let browser = provider.registered_browser(&server, "alice").await;

    let fields = [("change", "unlink"), ("provider", "test")];
    let refused = browser.submit(UNLINK_PAGE, &fields).await;

    assert_eq!(refused.status, 403);
    assert!(
        refused.text.contains("You could not sign in any more."),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn a_user_without_a_password_signs_in_again_before_a_dangerous_change() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let browser = provider.registered_browser(&server, "alice").await;
    let page = "/_parlour/account?action=org.matrix.account_deactivate";
    let fields = [("change", "deactivate")];
    provider.clock.advance(Duration::from_mins(5));

    let shown = browser.open(page).await;
    assert!(shown.text.contains("Sign in again first"), "{}", shown.text);
    assert!(shown.text.contains("action=confirm"), "{}", shown.text);
    assert!(!shown.text.contains("value=\"deactivate\""));
    let early = browser.submit(page, &fields).await;
    assert_eq!(early.status, 403, "{}", early.text);

    // Another person at the provider is not the user.
    provider.signs_in(json!({ "sub": "other" }));
    let other = provider.visit(&browser, CONFIRM_BEGIN_PATH).await;
    assert_eq!(other.status, 403, "{}", other.text);
    provider.signs_in(alice());
    provider.changes_claims(|claims| claims["auth_time"] = json!(1_600_000_000));
    let old = provider.visit(&browser, CONFIRM_BEGIN_PATH).await;
    assert_eq!(old.status, 403, "{}", old.text);
    provider.changes_claims(|_| {});
    let again = provider.visit(&browser, CONFIRM_BEGIN_PATH).await;
    assert_eq!(again.status, 303, "{}", again.text);
    assert_eq!(provider.latest_parameter("max_age").as_deref(), Some("0"));
    let done = browser.submit(page, &fields).await;
    assert_eq!(done.status, 303, "{}", done.text);

    // The account at the provider is nobody's, and the name is taken for ever.
    let unknown = provider.visit(&browser, BEGIN_PATH).await;
    let page = unknown.header("location").to_owned();
    let fields = [("change", "create"), ("user", "alice")];
    assert_eq!(browser.submit(&page, &fields).await.status, 400);
}

#[tokio::test]
async fn a_user_without_a_password_confirms_a_request_of_an_app_with_the_provider() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let app = ClientApp::register(&server).await;
    let browser = provider.registered_browser(&server, "alice").await;
    let tokens = app.sign_in(&browser, "PHONE").await;
    app.sign_in(&browser, "TABLET").await;
    let phone = server.client().with_token(&text(&tokens, "access_token"));
    provider.clock.advance(Duration::from_mins(6));

    let path = "/_matrix/client/v3/devices/TABLET";
    let asked = phone.delete(path).await;
    assert_eq!(asked.status, 401, "{}", asked.text);
    assert_eq!(asked.body["flows"], json!([{ "stages": ["m.login.sso"] }]));
    let session = text(&asked.body, "session");
    let page = format!("/_matrix/client/v3/auth/m.login.sso/fallback/web?session={session}");
    let shown = browser.open(&page).await;
    assert!(shown.text.contains("Sign in again as"), "{}", shown.text);
    assert_eq!(browser.submit(&page, &[]).await.status, 403);
    let next: String = url::form_urlencoded::byte_serialize(page.as_bytes()).collect();
    let again = format!("{CONFIRM_BEGIN_PATH}&next={next}");
    let back = provider.visit(&browser, &again).await;
    assert_eq!(back.header("location"), page);
    let question = browser.open(&page).await;
    assert!(
        question.text.contains("<button>Confirm"),
        "{}",
        question.text
    );
    let (bobs_browser, _) = signed_in_browser(&server, "bob").await;
    assert_eq!(bobs_browser.submit(&page, &[]).await.status, 403);
    let early = json!({ "auth": { "session": session } });
    let early = phone
        .send(reqwest::Method::DELETE, path, &early.to_string())
        .await;
    assert_eq!(early.status, 401);
    let done = browser.submit(&page, &[]).await;
    assert_eq!(done.status, 200, "{}", done.text);
    assert!(done.text.contains("onAuthDone"), "{}", done.text);

    let auth = json!({ "auth": { "session": session } });
    let deleted = phone
        .send(reqwest::Method::DELETE, path, &auth.to_string())
        .await;
    assert_eq!(deleted.status, 200, "{}", deleted.text);
    phone.get(WHOAMI_PATH).await.expect_ok();
}
