//! Users sign in and register with an identity provider.

use parlour::config::Config;
use serde_json::{Value, json};

use super::{
    ClientApp, WHOAMI_PATH,
    identity_provider::{BEGIN_PATH, TestProvider, alice},
    signed_in_browser, text,
};
use crate::{
    browser::Browser,
    harness::{HttpAnswer, password_of},
};

const ACCOUNT_PATH: &str = "/_parlour/account";
const LOGIN_PATH: &str = "/_matrix/client/v3/login";

/// Checks that a page says what went wrong, and that nobody is signed in.
async fn expect_refusal(browser: &Browser, page: &HttpAnswer, status: u16, reason: &str) {
    assert_eq!(page.status, status, "{}", page.text);
    assert!(page.text.contains("role=\"alert\""), "{}", page.text);
    assert!(page.text.contains(reason), "{}", page.text);
    assert_eq!(browser.open(ACCOUNT_PATH).await.status, 303);
}

#[tokio::test]
async fn a_person_registers_and_signs_in_again_without_a_password() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let browser = Browser::new(&server);

    let form = browser.open("/_parlour/sign-in").await;
    assert!(
        form.text.contains("Continue with Test &amp; co"),
        "{}",
        form.text
    );
    let unknown = provider.visit(&browser, BEGIN_PATH).await;
    let page = unknown.header("location").to_owned();
    let welcome = browser.open(&page).await;
    for shown in ["alice@example.org", "value=\"alice\"", "Test &amp; co"] {
        assert!(welcome.text.contains(shown), "{}", welcome.text);
    }
    let fields = [("change", "create"), ("user", "alice")];
    let registered = browser.submit(&page, &fields).await;
    assert_eq!(registered.header("location"), ACCOUNT_PATH);

    let account = browser.open(ACCOUNT_PATH).await;
    assert!(
        account.text.contains("@alice:localhost"),
        "{}",
        account.text
    );
    let profile = server
        .get("/_matrix/client/v3/profile/@alice:localhost")
        .await;
    assert_eq!(profile.expect_ok()["displayname"], "Alice Liddell");
    let other = Browser::new(&server);
    let known = provider.visit(&other, BEGIN_PATH).await;
    assert_eq!(known.header("location"), ACCOUNT_PATH);
    let account = other.open(ACCOUNT_PATH).await;
    assert!(
        account.text.contains("@alice:localhost"),
        "{}",
        account.text
    );
    // There is no password that anyone could know.
    let login = server.post(LOGIN_PATH, password_of("alice")).await;
    login.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_registered_person_has_the_verified_email_address() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let app = ClientApp::register(&server).await;
    let browser = provider.registered_browser(&server, "alice").await;
    provider.signs_in(json!({
        "sub": "other", "preferred_username": "bob", "name": "Bob",
        "email": "bob@example.org", "email_verified": false,
    }));
    let bobs_browser = provider.registered_browser(&server, "bob").await;

    let mut addresses = Vec::new();
    for browser in [&browser, &bobs_browser] {
        let tokens = app.sign_in(browser, "PHONE").await;
        let phone = server.client().with_token(&text(&tokens, "access_token"));
        let listed = phone.get("/_matrix/client/v3/account/3pid").await;
        addresses.push(listed.expect_ok()["threepids"].clone());
    }

    assert_eq!(addresses[0][0]["address"], "alice@example.org");
    assert_eq!(addresses[1], json!([]));
}

#[tokio::test]
async fn claims_are_also_read_from_the_user_info() {
    let provider = TestProvider::start().await;
    let server = provider
        .server_with(|config| {
            config.oauth.providers[0].user_name_claim = "nick".to_owned();
        })
        .await;
    let mut person = alice();
    person["nick"] = json!("lis");
    provider.signs_in(person);
    provider.keeps_for_user_info(&["nick", "email", "email_verified"]);
    let browser = Browser::new(&server);

    let unknown = provider.visit(&browser, BEGIN_PATH).await;

    let page = browser.open(unknown.header("location")).await;
    assert!(page.text.contains("value=\"lis\""), "{}", page.text);
    assert!(page.text.contains("alice@example.org"), "{}", page.text);
}

#[tokio::test]
async fn a_taken_user_name_can_be_changed_or_linked_with_the_password() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    server.register("alice").await;
    let browser = Browser::new(&server);
    let unknown = provider.visit(&browser, BEGIN_PATH).await;
    let page = unknown.header("location").to_owned();

    let taken = browser
        .submit(&page, &[("change", "create"), ("user", "alice")])
        .await;
    assert_eq!(taken.status, 400);
    assert!(taken.text.contains("The user name is taken."));
    let invalid = browser
        .submit(&page, &[("change", "create"), ("user", "a b")])
        .await;
    assert_eq!(invalid.status, 400, "{}", invalid.text);
    let link = |password| {
        [
            ("change", "link"),
            ("user", "alice"),
            ("password", password),
        ]
    };
    let wrong = browser.submit(&page, &link("wrong")).await;
    assert_eq!(wrong.status, 403, "{}", wrong.text);
    let linked = browser.submit(&page, &link("password")).await;
    assert_eq!(linked.header("location"), ACCOUNT_PATH);

    let other = Browser::new(&server);
    provider.visit(&other, BEGIN_PATH).await;
    let account = other.open(ACCOUNT_PATH).await;
    assert!(
        account.text.contains("@alice:localhost"),
        "{}",
        account.text
    );
    // The page is over.
    let again = browser.submit(&page, &link("password")).await;
    assert_eq!(again.status, 403);
}

#[tokio::test]
async fn a_provider_registers_people_only_if_it_may() {
    let provider = TestProvider::start().await;
    let closed = |config: &mut Config| config.registration.open = false;
    let server = provider.server_with(closed).await;
    provider.registered_browser(&server, "alice").await;

    let server = provider
        .server_with(|config| config.oauth.providers[0].allow_registration = false)
        .await;
    let browser = Browser::new(&server);
    let unknown = provider.visit(&browser, BEGIN_PATH).await;
    let page = unknown.header("location").to_owned();
    let fields = [("change", "create"), ("user", "alice")];
    let refused = browser.submit(&page, &fields).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert_eq!(browser.open(ACCOUNT_PATH).await.status, 303);
}

#[tokio::test]
async fn a_token_with_a_wrong_claim_signs_nobody_in() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let wrong: [(&str, Value); 6] = [
        ("nonce", json!("other")),
        ("iss", json!("https://other.example.org")),
        ("aud", json!("other")),
        ("aud", json!(["parlour", "other"])),
        ("exp", json!(1_699_999_999)),
        ("sub", json!("")),
    ];

    for (claim, value) in wrong {
        provider.changes_claims(move |claims| claims[claim] = value.clone());
        let browser = Browser::new(&server);
        let page = provider.visit(&browser, BEGIN_PATH).await;
        let reason = "The answer of Test &amp; co is not valid";
        expect_refusal(&browser, &page, 403, reason).await;
    }
    provider.changes_claims(|_| {});
    provider.signs_with_wrong_key();
    let browser = Browser::new(&server);
    let page = provider.visit(&browser, BEGIN_PATH).await;
    expect_refusal(&browser, &page, 403, "is not valid").await;
}

#[tokio::test]
async fn a_new_key_of_the_provider_is_fetched() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    provider.registered_browser(&server, "alice").await;

    provider.rotates_key();
    let browser = Browser::new(&server);
    let early = provider.visit(&browser, BEGIN_PATH).await;
    expect_refusal(&browser, &early, 403, "is not valid").await;
    provider.clock.advance(std::time::Duration::from_mins(1));

    let later = provider.visit(&browser, BEGIN_PATH).await;
    assert_eq!(later.header("location"), ACCOUNT_PATH);
}

#[tokio::test]
async fn a_sign_in_is_completed_once_and_in_the_browser_that_began_it() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    provider.registered_browser(&server, "alice").await;
    let browser = Browser::new(&server);
    let sent = browser.open(BEGIN_PATH).await;
    let cookie = sent.header("set-cookie").to_owned();
    assert!(
        cookie.starts_with("__Host-parlour-provider=") && cookie.contains("; SameSite=Lax"),
        "{cookie}"
    );
    let back = provider.way_back(&sent).await;

    let victim = Browser::new(&server);
    let stolen = victim.open(&back).await;
    expect_refusal(&victim, &stolen, 403, "begun in another browser").await;
    victim.open(BEGIN_PATH).await;
    let stolen = victim.open(&back).await;
    expect_refusal(&victim, &stolen, 403, "begun in another browser").await;
    let done = browser.open(&back).await;
    assert_eq!(done.header("location"), ACCOUNT_PATH);
    assert_eq!(browser.open(&back).await.status, 403);
    let sent = browser.open(BEGIN_PATH).await;
    let back = provider.way_back(&sent).await;
    provider.clock.advance(std::time::Duration::from_mins(16));
    assert_eq!(browser.open(&back).await.status, 403);
}

#[tokio::test]
async fn the_page_says_that_the_provider_does_not_answer_or_refuses() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    let browser = Browser::new(&server);
    let sent = browser.open(BEGIN_PATH).await;
    let back = provider.way_back(&sent).await;
    let (_, query) = back.split_once("state=").expect("has a state");
    let cancelled =
        format!("/_parlour/oauth/providers/test/callback?error=access_denied&state={query}");
    let page = browser.open(&cancelled).await;
    expect_refusal(&browser, &page, 403, "Test &amp; co did not sign you in").await;

    let sent = browser.open(BEGIN_PATH).await;
    let back = provider.way_back(&sent).await;
    provider.stop();
    let page = browser.open(&back).await;
    assert!(
        page.text.contains("cannot be reached at the moment"),
        "{}",
        page.text
    );
    let unknown = browser.open("/_parlour/oauth/providers/other/begin").await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn an_app_signs_in_a_user_of_a_provider() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    provider.registered_browser(&server, "alice").await;
    let app = ClientApp::register(&server).await;
    let browser = Browser::new(&server);

    let page = app.authorization_address("PHONE");
    let next: String = url::form_urlencoded::byte_serialize(page.as_bytes()).collect();
    let form = browser.follow(&page).await;
    let link = format!("{BEGIN_PATH}?next={next}");
    assert!(form.text.contains(&link), "{}", form.text);
    let signed_in = provider.visit(&browser, &link).await;
    assert_eq!(signed_in.header("location"), page);
    let tokens = app.sign_in(&browser, "PHONE").await;

    let phone = server.client().with_token(&text(&tokens, "access_token"));
    let identity = phone.get(WHOAMI_PATH).await.expect_ok();
    assert_eq!(identity["user_id"], "@alice:localhost");
}

#[tokio::test]
async fn an_older_client_goes_straight_to_a_provider() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    provider.registered_browser(&server, "alice").await;
    let flows = server.get(LOGIN_PATH).await.expect_ok();
    let flows = flows["flows"].as_array().expect("is a list");
    let sso = flows.iter().find(|flow| flow["type"] == "m.login.sso");
    let offered = &sso.expect("is offered")["identity_providers"][0];
    assert_eq!(offered["id"], "test");
    assert_eq!(offered["name"], "Test & co");

    let target = "https://old.example.org/";
    let path = "/_matrix/client/v3/login/sso/redirect";
    let browser = Browser::new(&server);
    let begun = browser
        .open(&format!("{path}/test?redirectUrl={target}"))
        .await;
    let question = provider.visit(&browser, begun.header("location")).await;
    let question = question.header("location").to_owned();
    let allowed = browser.submit(&question, &[("decision", "allow")]).await;
    let address = allowed.header("location");
    let token = address.strip_prefix(&format!("{target}?loginToken="));
    let token = token.unwrap_or_else(|| panic!("{address} has no token"));
    let login = json!({ "type": "m.login.token", "token": token });
    let login = server.post(LOGIN_PATH, login).await;
    assert_eq!(login.expect_ok()["user_id"], "@alice:localhost");

    let unknown = browser
        .open(&format!("{path}/other?redirectUrl={target}"))
        .await;
    assert_eq!(unknown.status, 404);
    let script = browser
        .open(&format!("{path}/test?redirectUrl=javascript:alert(1)"))
        .await;
    assert_eq!(script.status, 400);
}

#[tokio::test]
async fn passwords_can_be_switched_off() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    signed_in_browser(&server, "bob").await;
    let server = server
        .restart_with(|config| config.oauth.password_login = false)
        .await;

    let flows = server.get(LOGIN_PATH).await;
    assert!(!flows.text.contains("m.login.password"), "{}", flows.text);
    assert!(
        flows.text.contains("m.login.application_service"),
        "{}",
        flows.text
    );
    let login = server.post(LOGIN_PATH, password_of("bob")).await;
    login.expect_error(403, "M_FORBIDDEN");
    let browser = Browser::new(&server);
    for page in ["/_parlour/sign-in", "/_parlour/register"] {
        let form = browser.open(page).await;
        assert!(!form.text.contains("name=\"password\""), "{}", form.text);
        assert!(form.text.contains("Continue with"), "{}", form.text);
        let fields = [("user", "bob"), ("password", "password")];
        assert_eq!(browser.submit(page, &fields).await.status, 403);
    }
    provider.registered_browser(&server, "alice").await;
}

#[tokio::test]
async fn the_same_email_address_links_an_account_only_if_the_operator_says_so() {
    let provider = TestProvider::start().await;
    let server = provider.server().await;
    provider.registered_browser(&server, "alice").await;
    let mut twin = alice();
    twin["sub"] = json!("twin");
    provider.signs_in(twin.clone());
    let browser = Browser::new(&server);
    let unknown = provider.visit(&browser, BEGIN_PATH).await;
    assert!(unknown.header("location").contains("provider-registration"));

    let server = server
        .restart_with(|config| {
            let mut other = config.oauth.providers[0].clone();
            "other".clone_into(&mut other.id);
            other.allow_linking_by_email = true;
            config.oauth.providers.push(other);
        })
        .await;
    let begin = "/_parlour/oauth/providers/other/begin";
    let mut unverified = twin.clone();
    unverified["email_verified"] = json!(false);
    provider.signs_in(unverified);
    let browser = Browser::new(&server);
    let unknown = provider.visit(&browser, begin).await;
    assert!(unknown.header("location").contains("provider-registration"));
    provider.signs_in(twin);
    let known = provider.visit(&browser, begin).await;

    assert_eq!(known.header("location"), ACCOUNT_PATH);
    let account = browser.open(ACCOUNT_PATH).await;
    assert!(
        account.text.contains("@alice:localhost"),
        "{}",
        account.text
    );
}
