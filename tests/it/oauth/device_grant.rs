//! Devices without a browser wait until their user signs them in on another device.

use std::time::Duration;

use parlour::clock::Clock;

use super::{
    ClientApp, DEVICE_GRANT, WHOAMI_PATH, expect_oauth_error, scope_of, signed_in_browser,
    start_server_with, text,
};
use crate::{
    browser::Browser,
    harness::{HttpAnswer, Server},
};

/// A device that waits, and the app on it.
struct WaitingDevice {
    app: ClientApp,
    device_code: String,
    user_code: String,
}

impl WaitingDevice {
    async fn begin(server: &Server) -> Self {
        let app = ClientApp::register(server).await;
        let scope = scope_of("TELEVISION");
        let fields = [("client_id", &*app.client_id), ("scope", &*scope)];
        let begun = app
            .post_form("device_authorization_endpoint", &fields)
            .await;
        let begun = begun.expect_ok();
        let user_code = text(&begun, "user_code");
        let page = text(&begun, "verification_uri");
        assert_eq!(page, format!("{}/link", super::PUBLIC_URL));
        let complete = text(&begun, "verification_uri_complete");
        assert_eq!(complete, format!("{page}?user_code={user_code}"));
        Self {
            device_code: text(&begun, "device_code"),
            user_code,
            app,
        }
    }

    async fn asks(&self) -> HttpAnswer {
        self.app
            .request_tokens(&[
                ("grant_type", DEVICE_GRANT),
                ("device_code", &self.device_code),
                ("client_id", &self.app.client_id),
            ])
            .await
    }
}

async fn decide(browser: &Browser, device: &WaitingDevice, decision: &str) -> HttpAnswer {
    let fields = [("user_code", &*device.user_code), ("decision", decision)];
    browser.submit("/link", &fields).await
}

#[tokio::test]
async fn a_user_signs_in_a_waiting_device_with_its_code() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = start_server_with(clock.clone(), |_| {}).await;
    let device = WaitingDevice::begin(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;

    expect_oauth_error(&device.asks().await, "authorization_pending");
    expect_oauth_error(&device.asks().await, "slow_down");
    let typed = device.user_code.to_lowercase().replace('-', "");
    let question = browser.open(&format!("/link?user_code={typed}")).await;
    assert!(
        question.text.contains(&device.user_code),
        "{}",
        question.text
    );
    assert!(question.text.contains("Example App"), "{}", question.text);
    let done = decide(&browser, &device, "allow").await;
    assert_eq!(done.status, 200, "{}", done.text);

    let tokens = device.asks().await.expect_ok();
    let television = server.client().with_token(&text(&tokens, "access_token"));
    let identity = television.get(WHOAMI_PATH).await.expect_ok();
    assert_eq!(identity["device_id"], "TELEVISION");
    assert_eq!(text(&tokens, "scope"), scope_of("TELEVISION"));
    // The code is for one sign-in.
    expect_oauth_error(&device.asks().await, "invalid_grant");
    assert_eq!(decide(&browser, &device, "allow").await.status, 403);
}

#[tokio::test]
async fn a_waiting_device_learns_that_the_user_does_not_want_it() {
    let server = start_server_with(Clock::system(), |_| {}).await;
    let device = WaitingDevice::begin(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;

    decide(&browser, &device, "deny").await;

    expect_oauth_error(&device.asks().await, "access_denied");
}

#[tokio::test]
async fn a_waiting_device_learns_that_its_codes_have_expired() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = start_server_with(clock.clone(), |_| {}).await;
    let device = WaitingDevice::begin(&server).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;

    clock.advance(Duration::from_mins(20));

    expect_oauth_error(&device.asks().await, "expired_token");
    assert_eq!(decide(&browser, &device, "allow").await.status, 403);
}

#[tokio::test]
async fn a_wrong_code_is_refused_and_guessing_is_limited() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = start_server_with(clock, |config| config.limits.enabled = true).await;
    let (browser, _) = signed_in_browser(&server, "alice").await;

    let wrong = browser.open("/link?user_code=BBBB-BBBB").await;
    assert_eq!(wrong.status, 403);
    assert!(wrong.text.contains("role=\"alert\""), "{}", wrong.text);
    let mut last = wrong.status;
    for _ in 0..200 {
        last = browser.open("/link?user_code=BBBB-BBBB").await.status;
        if last == 429 {
            break;
        }
    }
    assert_eq!(last, 429);
}

#[tokio::test]
async fn the_page_for_codes_asks_to_sign_in_first() {
    let server = start_server_with(Clock::system(), |_| {}).await;
    let browser = Browser::new(&server);

    let page = browser.open("/link?user_code=BBBB-BBBB").await;

    let next = "/_parlour/sign-in?next=%2Flink%3Fuser_code%3DBBBB-BBBB";
    assert_eq!(page.header("location"), next);
}
