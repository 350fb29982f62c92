//! Tests e-mail addresses of accounts: their validation, logins, registrations and forgotten passwords.

use std::time::Duration;

use parlour::{
    clock::Clock,
    config::{Config, SecretString},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{HttpAnswer, Server, User, password_of},
    smtp_server::SmtpServer,
};

const ADD_TOKEN_PATH: &str = "/_matrix/client/v3/account/3pid/email/requestToken";
const PASSWORD_TOKEN_PATH: &str = "/_matrix/client/v3/account/password/email/requestToken";
const REGISTER_TOKEN_PATH: &str = "/_matrix/client/v3/register/email/requestToken";
const ADD_PATH: &str = "/_matrix/client/v3/account/3pid/add";
const LIST_PATH: &str = "/_matrix/client/v3/account/3pid";
const PASSWORD_PATH: &str = "/_matrix/client/v3/account/password";
const LOGIN_PATH: &str = "/_matrix/client/v3/login";
const REGISTER_PATH: &str = "/_matrix/client/v3/register";

/// A server that sends e-mail, and the SMTP server that receives it.
struct MailTest {
    server: Server,
    smtp: SmtpServer,
}

impl MailTest {
    async fn start() -> Self {
        Self::with_config(|_| {}).await
    }

    async fn with_config(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_clock(Clock::system(), change).await
    }

    async fn with_clock(clock: Clock, change: impl FnOnce(&mut Config)) -> Self {
        let smtp = SmtpServer::start().await;
        let server = Server::with_clock(clock, |config| {
            smtp.receive_from(config);
            change(config);
        })
        .await;
        Self { server, smtp }
    }

    async fn restart(self) -> Self {
        Self {
            server: self.server.restart().await,
            ..self
        }
    }

    /// Requests an e-mail, and returns the id of the session.
    async fn requests(&self, path: &str, email: &str) -> String {
        let answer = self.server.post(path, token_request(email, 1)).await;
        let answer = answer.expect_ok();
        answer["sid"].as_str().expect("a session id").to_owned()
    }

    /// Requests an e-mail and confirms the address on the page to which it leads. Returns the id of the session.
    async fn confirms(&mut self, path: &str, email: &str) -> String {
        let sid = self.requests(path, email).await;
        let link = self.smtp.next().await.link_path();
        let confirmed = self.presses_button(&link).await;
        assert_eq!(confirmed.status, 200, "{}", confirmed.text);
        sid
    }

    async fn presses_button(&self, link: &str) -> HttpAnswer {
        let client = self.server.client();
        client.send(Method::POST, link, "").await
    }

    /// Adds an address to the account of a user.
    async fn adds(&mut self, user: &User, email: &str) {
        let sid = self.confirms(ADD_TOKEN_PATH, email).await;
        add(user, &sid).await.expect_ok();
    }

    async fn logs_in_with(&self, email: &str, password: &str) -> HttpAnswer {
        let login = json!({
            "type": "m.login.password", "password": password,
            "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": email },
        });
        self.server.post(LOGIN_PATH, login).await
    }

    async fn sets_password(&self, password: &str, sid: &str) -> HttpAnswer {
        let body = json!({ "new_password": password, "auth": email_stage(sid) });
        self.server.post(PASSWORD_PATH, body).await
    }
}

fn token_request(email: &str, send_attempt: u32) -> Value {
    json!({ "client_secret": "secret", "email": email, "send_attempt": send_attempt })
}

fn email_stage(sid: &str) -> Value {
    json!({
        "type": "m.login.email.identity",
        "threepid_creds": { "sid": sid, "client_secret": "secret" },
    })
}

async fn add(user: &User, sid: &str) -> HttpAnswer {
    let name = user.id.as_str();
    let body = json!({ "client_secret": "secret", "sid": sid, "auth": password_of(name) });
    user.client.post(ADD_PATH, body).await
}

async fn addresses(user: &User) -> Value {
    let listed = user.client.get(LIST_PATH).await.expect_ok();
    let identifiers = listed["threepids"].as_array().expect("a list");
    identifiers.iter().map(|id| id["address"].clone()).collect()
}

#[tokio::test]
async fn a_confirmed_address_is_added_also_after_a_restart() {
    let mut test = MailTest::start().await;
    let sid = test.confirms(ADD_TOKEN_PATH, "Alice@Example.org").await;
    test = test.restart().await;
    let alice = test.server.register("alice").await;

    let asked = alice
        .client
        .post(ADD_PATH, json!({ "client_secret": "secret", "sid": sid }))
        .await;
    assert_eq!(asked.status, 401, "{}", asked.text);
    add(&alice, &sid).await.expect_ok();

    let listed = alice.client.get(LIST_PATH).await.expect_ok();
    let identifier = &listed["threepids"][0];
    assert_eq!(identifier["medium"], "email");
    assert_eq!(identifier["address"], "alice@example.org");
    assert!(identifier["validated_at"].is_u64() && identifier["added_at"].is_u64());
}

#[tokio::test]
async fn opening_the_link_confirms_nothing() {
    let mut test = MailTest::start().await;
    let alice = test.server.register("alice").await;
    let sid = test.requests(ADD_TOKEN_PATH, "alice@example.org").await;

    let page = test.server.get(&test.smtp.next().await.link_path()).await;

    assert_eq!(page.status, 200);
    assert!(page.text.contains("alice@example.org") && page.text.contains("<form"));
    assert!(!page.text.contains("<script"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("script-src 'none'"), "{policy}");
    let refused = add(&alice, &sid).await;
    refused.expect_error(403, "M_THREEPID_AUTH_FAILED");
}

#[tokio::test]
async fn an_email_has_the_headers_of_an_automatic_message() {
    let mut test = MailTest::with_config(|config| {
        config.mail.smtp_username = Some("parlour".to_owned());
        config.mail.smtp_password = Some(SecretString::new("swordfish"));
    })
    .await;
    test.requests(ADD_TOKEN_PATH, "alice@example.org").await;

    let mail = test.smtp.next().await;

    assert_eq!(mail.to, "alice@example.org");
    for header in [
        "From: localhost <noreply@example.org>",
        "To: alice@example.org",
        "Auto-Submitted: auto-generated",
        "Message-ID: <",
        "Date: ",
    ] {
        assert!(mail.headers.contains(header), "{}", mail.headers);
    }
    assert!(mail.login.starts_with("AUTH PLAIN "), "{}", mail.login);
}

#[tokio::test]
async fn a_repeated_send_attempt_sends_no_second_email() {
    let mut test = MailTest::start().await;
    let post = async |attempt: u32| {
        let body = token_request("alice@example.org", attempt);
        let answer = test.server.post(ADD_TOKEN_PATH, body).await;
        answer.expect_ok()["sid"].clone()
    };
    let first = post(1).await;
    let (repeated, second) = (post(1).await, post(2).await);

    assert_eq!((&first, &first), (&repeated, &second));
    let (one, two) = (test.smtp.next().await, test.smtp.next().await);
    assert!(!test.smtp.has_more());
    let links = [one.link_path(), two.link_path()];
    let mut statuses = Vec::new();
    for link in links {
        statuses.push(test.server.get(&link).await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
}

#[tokio::test]
async fn only_the_email_says_that_an_address_is_taken() {
    let mut test = MailTest::start().await;
    let alice = test.server.register("alice").await;
    test.adds(&alice, "alice@example.org").await;

    for path in [ADD_TOKEN_PATH, REGISTER_TOKEN_PATH] {
        let body = json!({
            "client_secret": "other", "email": "alice@example.org", "send_attempt": 1,
        });
        let answer = test.server.post(path, body).await.expect_ok();
        assert!(answer["sid"].is_string());
        let mail = test.smtp.next().await;
        assert!(!mail.has_link() && mail.text.contains(&alice.id));
    }
    test.requests(PASSWORD_TOKEN_PATH, "bob@example.org").await;
    assert!(!test.smtp.next().await.has_link());
}

#[tokio::test]
async fn an_address_belongs_to_one_account() {
    let mut test = MailTest::start().await;
    let (alice, bob) = (
        test.server.register("alice").await,
        test.server.register("bob").await,
    );
    let sid = test.confirms(ADD_TOKEN_PATH, "alice@example.org").await;
    add(&alice, &sid).await.expect_ok();

    let repeated = add(&alice, &sid).await;
    let stolen = add(&bob, &sid).await;

    repeated.expect_ok();
    stolen.expect_error(400, "M_THREEPID_IN_USE");
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_and_devices_logged_out() {
    let mut test = MailTest::start().await;
    let alice = test.server.register("alice").await;
    test.adds(&alice, "alice@example.org").await;
    let sid = test
        .requests(PASSWORD_TOKEN_PATH, "ALICE@example.org")
        .await;
    let link = test.smtp.next().await.link_path();

    let early = test.sets_password("second", &sid).await;
    assert_eq!(early.status, 401, "{}", early.text);
    assert_eq!(
        early.body["flows"],
        json!([{ "stages": ["m.login.email.identity"] }])
    );
    test = test.restart().await;
    assert_eq!(test.presses_button(&link).await.status, 200);
    test.sets_password("second", &sid).await.expect_ok();

    let old = test.logs_in_with("alice@example.org", "password").await;
    old.expect_error(403, "M_FORBIDDEN");
    let new = test.logs_in_with("alice@example.org", "second").await;
    assert_eq!(new.expect_ok()["user_id"], alice.id.as_str());
    let path = "/_matrix/client/v3/account/whoami";
    let client = test.server.client().with_token(&alice.token);
    client.get(path).await.expect_error(401, "M_UNKNOWN_TOKEN");
    let again = test.sets_password("third", &sid).await;
    assert_eq!(again.status, 401, "{}", again.text);
}

#[tokio::test]
async fn devices_stay_logged_in_if_the_user_wants_it() {
    let mut test = MailTest::start().await;
    let alice = test.server.register("alice").await;
    test.adds(&alice, "alice@example.org").await;
    let sid = test
        .confirms(PASSWORD_TOKEN_PATH, "alice@example.org")
        .await;

    let body = json!({
        "new_password": "second", "logout_devices": false, "auth": email_stage(&sid),
    });
    test.server.post(PASSWORD_PATH, body).await.expect_ok();

    alice
        .client
        .get("/_matrix/client/v3/account/whoami")
        .await
        .expect_ok();
}

#[tokio::test]
async fn a_session_for_another_purpose_sets_no_password() {
    let mut test = MailTest::start().await;
    let alice = test.server.register("alice").await;
    let sid = test.confirms(ADD_TOKEN_PATH, "alice@example.org").await;
    add(&alice, &sid).await.expect_ok();

    let refused = test.sets_password("second", &sid).await;

    assert_eq!(refused.status, 401, "{}", refused.text);
    let wrong_secret = json!({
        "type": "m.login.email.identity",
        "threepid_creds": { "sid": sid, "client_secret": "guess" },
    });
    let body = json!({ "new_password": "second", "auth": wrong_secret });
    assert_eq!(test.server.post(PASSWORD_PATH, body).await.status, 401);
}

#[tokio::test]
async fn a_login_names_the_address_of_an_account() {
    let mut test = MailTest::start().await;
    let alice = test.server.register("alice").await;
    test.adds(&alice, "alice@example.org").await;

    let right = test.logs_in_with("Alice@Example.Org", "password").await;
    let wrong = test.logs_in_with("alice@example.org", "wrong").await;
    let unknown = test.logs_in_with("bob@example.org", "password").await;

    assert_eq!(right.expect_ok()["user_id"], alice.id.as_str());
    let wrong = wrong.expect_error(403, "M_FORBIDDEN");
    assert_eq!(unknown.expect_error(403, "M_FORBIDDEN"), wrong);
}

#[tokio::test]
async fn a_removed_address_belongs_to_nobody() {
    let mut test = MailTest::start().await;
    let alice = test.server.register("alice").await;
    test.adds(&alice, "alice@example.org").await;
    test.adds(&alice, "alice@example.com").await;

    let body = json!({ "medium": "email", "address": "Alice@example.org" });
    let path = "/_matrix/client/v3/account/3pid/delete";
    let removed = alice.client.post(path, body).await.expect_ok();

    assert_eq!(removed, json!({ "id_server_unbind_result": "no-support" }));
    assert_eq!(addresses(&alice).await, json!(["alice@example.com"]));
    let body = json!({ "auth": password_of(&alice.id) });
    let path = "/_matrix/client/v3/account/deactivate";
    alice.client.post(path, body).await.expect_ok();
    let bob = test.server.register("bob").await;
    let body = json!({ "client_secret": "bob", "email": "alice@example.com", "send_attempt": 1 });
    test.server.post(ADD_TOKEN_PATH, body).await.expect_ok();
    assert!(test.smtp.next().await.has_link());
    assert_eq!(addresses(&bob).await, json!([]));
}

#[tokio::test]
async fn a_link_expires_after_an_hour() {
    let clock = Clock::manual(1_700_000_000_000);
    let mut test = MailTest::with_clock(clock.clone(), |_| {}).await;
    test.requests(ADD_TOKEN_PATH, "alice@example.org").await;
    let link = test.smtp.next().await.link_path();

    clock.advance(Duration::from_mins(59));
    assert_eq!(test.server.get(&link).await.status, 200);
    clock.advance(Duration::from_mins(1));
    let late = test.presses_button(&link).await;

    assert_eq!(late.status, 403);
    assert!(late.text.contains("role=\"alert\""), "{}", late.text);
}

#[tokio::test]
async fn too_many_wrong_tokens_make_the_link_invalid() {
    let mut test = MailTest::start().await;
    let sid = test.requests(ADD_TOKEN_PATH, "alice@example.org").await;
    let link = test.smtp.next().await.link_path();

    for _ in 0..10 {
        let wrong = format!("/_parlour/email/confirm?sid={sid}&token=wrong");
        assert_eq!(test.presses_button(&wrong).await.status, 403);
    }

    assert_eq!(test.presses_button(&link).await.status, 403);
}

#[tokio::test]
async fn the_next_page_is_behind_a_link_that_shows_its_host() {
    let mut test = MailTest::start().await;
    let mut confirm = async |next_link: &str, secret: &str| {
        let body = json!({
            "client_secret": secret, "email": "alice@example.org", "send_attempt": 1,
            "next_link": next_link,
        });
        let path = REGISTER_TOKEN_PATH;
        test.server.post(path, body).await.expect_ok();
        let link = test.smtp.next().await.link_path();
        test.presses_button(&link).await.text
    };

    let page = confirm("https://app.example.org/?a=1&b=2", "one").await;
    let script = confirm("javascript:alert(1)", "two").await;

    let expected = "<a href=\"https://app.example.org/?a=1&amp;b=2\" rel=\"noopener noreferrer\">\
                    Continue to app.example.org</a>";
    assert!(page.contains(expected), "{page}");
    assert!(!script.contains("<a "), "{script}");
}

#[tokio::test]
async fn an_email_is_sent_again_after_a_temporary_failure() {
    let mut test = MailTest::start().await;
    test.smtp.replies_next("451 try again later");

    test.requests(ADD_TOKEN_PATH, "alice@example.org").await;

    assert!(test.smtp.next().await.has_link());
}

#[tokio::test]
async fn wrong_addresses_are_refused() {
    let test = MailTest::start().await;

    for email in ["alice", "Alice <alice@example.org>", "a@b\r\nBcc: c@d"] {
        let refused = test.server.post(ADD_TOKEN_PATH, token_request(email, 1));
        refused.await.expect_error(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn one_address_gets_a_limited_number_of_emails() {
    let test = MailTest::with_config(|config| config.limits.enabled = true).await;
    let request = async |email: &str, attempt: u32| {
        let body = token_request(email, attempt);
        test.server.post(ADD_TOKEN_PATH, body).await
    };

    for attempt in 1..=6 {
        request("alice@example.org", attempt).await.expect_ok();
    }

    let refused = request("Alice@example.org", 7).await;
    refused.expect_error(429, "M_LIMIT_EXCEEDED");
    request("bob@example.org", 1).await.expect_ok();
}

#[tokio::test]
async fn an_account_registers_with_a_confirmed_address() {
    let mut test = MailTest::start().await;
    let asked = test.server.post(REGISTER_PATH, json!({})).await;
    let flows = asked.body["flows"].to_string();
    assert!(flows.contains("m.login.dummy"), "{flows}");
    assert!(flows.contains("m.login.email.identity"), "{flows}");
    let sid = test
        .confirms(REGISTER_TOKEN_PATH, "alice@example.org")
        .await;

    let body = json!({
        "username": "alice", "password": "password", "auth": email_stage(&sid),
    });
    let registered = test.server.post(REGISTER_PATH, body).await.expect_ok();

    let alice = test.server.user_from_login(&registered);
    assert_eq!(addresses(&alice).await, json!(["alice@example.org"]));
}

#[tokio::test]
async fn registration_can_require_an_address() {
    let mut test = MailTest::with_config(|config| config.registration.require_email = true).await;
    let token = test.server.first_admin_token();
    let body = |auth: Value| json!({ "username": "alice", "password": "password", "auth": auth });

    let refused = test
        .server
        .post(REGISTER_PATH, body(json!({ "type": "m.login.dummy" })))
        .await;
    assert_eq!(refused.status, 401, "{}", refused.text);
    let auth = json!({ "type": "m.login.registration_token", "token": token });
    let half = test.server.post(REGISTER_PATH, body(auth)).await;
    assert_eq!(half.status, 401, "{}", half.text);
    let sid = test
        .confirms(REGISTER_TOKEN_PATH, "alice@example.org")
        .await;
    let mut auth = email_stage(&sid);
    auth["session"] = half.body["session"].clone();
    let registered = test.server.post(REGISTER_PATH, body(auth)).await;

    let alice = test.server.user_from_login(&registered.expect_ok());
    assert_eq!(addresses(&alice).await, json!(["alice@example.org"]));
    let capabilities = alice.client.get("/_matrix/client/v3/capabilities").await;
    let capabilities = capabilities.expect_ok();
    assert_eq!(
        capabilities["capabilities"]["m.3pid_changes"]["enabled"],
        true
    );
}
