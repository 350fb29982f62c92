//! The pages for signing in and registering.

use parlour::clock::Clock;

use super::{PUBLIC_URL, sign_in, signed_in_browser, start_server, start_server_with};
use crate::{browser::Browser, smtp_server::SmtpServer};

const REGISTER_PATH: &str = "/_parlour/register";

#[tokio::test]
async fn a_wrong_password_is_said_on_the_page() {
    let server = start_server().await;
    server.register("alice").await;
    let browser = Browser::new(&server);

    for (user, password) in [("alice", "wrong"), ("nobody", "password"), ("a b", "x")] {
        let refused = sign_in(&browser, user, password).await;
        assert_eq!(refused.status, 403, "{}", refused.text);
        assert!(refused.text.contains("role=\"alert\""), "{}", refused.text);
        assert!(refused.text.contains(&format!("value=\"{user}\"")));
        assert_eq!(refused.header("set-cookie"), "");
    }
    let right = sign_in(&browser, "@alice:localhost", "password").await;
    assert_eq!(right.header("location"), "/_parlour/account");
}

#[tokio::test]
async fn the_pages_run_no_script_and_cannot_be_framed() {
    let server = start_server().await;
    let (browser, _) = signed_in_browser(&server, "alice").await;
    let stranger = Browser::new(&server);

    for page in [
        stranger.open("/_parlour/sign-in").await,
        stranger.open(REGISTER_PATH).await,
        browser.open("/_parlour/account").await,
        browser.open("/link").await,
    ] {
        assert_eq!(page.status, 200);
        assert!(!page.text.contains("<script"), "{}", page.text);
        let policy = page.header("content-security-policy");
        assert!(policy.contains("script-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(page.header("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn the_cookie_is_kept_from_scripts_and_other_sites() {
    let server = start_server().await;
    server.register("alice").await;
    let browser = Browser::new(&server);

    let cookie = sign_in(&browser, "alice", "password").await;

    let cookie = cookie.header("set-cookie").to_owned();
    assert!(cookie.starts_with("__Host-parlour="), "{cookie}");
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Secure"] {
        assert!(cookie.contains(part), "{cookie}");
    }
}

#[tokio::test]
async fn forms_on_other_sites_do_nothing() {
    let server = start_server().await;
    let (browser, _) = signed_in_browser(&server, "alice").await;
    let account = "/_parlour/account";

    let form = "change=profile&display_name=Evil";
    let refused = browser.submit_from_other_site(account, form).await;

    assert_eq!(refused.status, 403);
    let page = browser.open(account).await;
    assert!(!page.text.contains("Evil"), "{}", page.text);
}

#[tokio::test]
async fn a_sign_in_does_not_lead_to_another_site() {
    let server = start_server().await;
    server.register("alice").await;
    let browser = Browser::new(&server);
    let fields = [("user", "alice"), ("password", "password")];

    for next in [
        "https://evil.example.org/",
        "//evil.example.org/",
        "/\\evil",
    ] {
        let page = format!("/_parlour/sign-in?next={next}");
        let signed_in = browser.submit(&page, &fields).await;
        assert_eq!(signed_in.header("location"), "/_parlour/account");
    }
}

#[tokio::test]
async fn signing_out_ends_the_session_of_the_browser() {
    let server = start_server().await;
    let (browser, alice) = signed_in_browser(&server, "alice").await;

    let out = browser.submit("/_parlour/sign-out", &[]).await;

    assert_eq!(out.status, 303);
    let page = browser.open("/_parlour/account").await;
    assert!(page.header("location").starts_with("/_parlour/sign-in"));
    // The devices stay signed in.
    alice.client.get(super::WHOAMI_PATH).await.expect_ok();
}

#[tokio::test]
async fn logging_out_everywhere_ends_the_sessions_of_browsers() {
    let server = start_server().await;
    let (browser, alice) = signed_in_browser(&server, "alice").await;

    let path = "/_matrix/client/v3/logout/all";
    alice
        .client
        .post(path, serde_json::json!({}))
        .await
        .expect_ok();

    let page = browser.open("/_parlour/account").await;
    assert!(page.header("location").starts_with("/_parlour/sign-in"));
}

#[tokio::test]
async fn wrong_passwords_are_limited() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = start_server_with(clock, |config| config.limits.enabled = true).await;
    server.register("alice").await;
    let browser = Browser::new(&server);

    let mut last = 0;
    for _ in 0..200 {
        last = sign_in(&browser, "alice", "wrong").await.status;
        if last == 429 {
            break;
        }
    }

    assert_eq!(last, 429);
}

#[tokio::test]
async fn a_closed_server_asks_for_a_registration_token() {
    let server =
        start_server_with(Clock::system(), |config| config.registration.open = false).await;
    let browser = Browser::new(&server);
    let fields = |token| {
        [
            ("user", "alice"),
            ("password", "password"),
            ("token", token),
        ]
    };

    let form = browser.open(REGISTER_PATH).await;
    assert!(form.text.contains("name=\"token\""), "{}", form.text);
    let wrong = browser.submit(REGISTER_PATH, &fields("wrong")).await;
    assert_eq!(wrong.status, 403, "{}", wrong.text);
    let token = server.first_admin_token();
    let link = format!("{PUBLIC_URL}/?registration_token={token}");
    let right = browser.submit(REGISTER_PATH, &fields(&link)).await;

    assert_eq!(right.status, 303, "{}", right.text);
    let page = browser.open("/_parlour/account").await;
    assert!(page.text.contains("@alice:localhost"), "{}", page.text);
}

#[tokio::test]
async fn a_taken_user_name_is_said_on_the_page() {
    let server = start_server().await;
    server.register("alice").await;
    let browser = Browser::new(&server);

    let fields = [("user", "alice"), ("password", "password")];
    let refused = browser.submit(REGISTER_PATH, &fields).await;

    assert_eq!(refused.status, 400);
    assert!(
        refused.text.contains("The user name is taken."),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn a_registration_can_require_an_email_address() {
    let mut smtp = SmtpServer::start().await;
    let server = start_server_with(Clock::system(), |config| {
        smtp.receive_from(config);
        config.registration.require_email = true;
    })
    .await;
    let browser = Browser::new(&server);
    let fields = [
        ("user", "alice"),
        ("password", "password"),
        ("email", "alice@example.org"),
    ];

    let waiting = browser.submit(REGISTER_PATH, &fields).await;
    assert_eq!(waiting.status, 200, "{}", waiting.text);
    let hidden = ["session", "sid", "client_secret"].map(|name| {
        let field = format!("name=\"{name}\" value=\"");
        let (_, value) = waiting.text.split_once(&field).expect("the field is there");
        (name, value.split('"').next().expect("ends").to_owned())
    });
    let hidden = hidden.each_ref().map(|(name, value)| (*name, &**value));
    let early = browser.submit(REGISTER_PATH, &hidden).await;
    assert!(early.text.contains("not confirmed yet"), "{}", early.text);
    let link = smtp.next().await.link_path();
    browser.submit(&link, &[]).await;
    let done = browser.submit(REGISTER_PATH, &hidden).await;

    assert_eq!(done.status, 303, "{}", done.text);
    let page = browser.open("/_parlour/account").await;
    assert!(page.text.contains("@alice:localhost"), "{}", page.text);
}
