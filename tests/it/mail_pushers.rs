//! Tests the digests of unread messages that e-mail pushers send.

use std::time::Duration;

use parlour::{clock::Clock, config::Config};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    harness::{HttpAnswer, Server, User, password_of},
    push_gateway::TestGateway,
    smtp_server::SmtpServer,
};

const SET_PUSHER_PATH: &str = "/_matrix/client/v3/pushers/set";
/// The time after the first unread message at which the digest is due.
const QUIET_TIME: Duration = Duration::from_mins(10);
/// The shortest time between two digests.
const MIN_INTERVAL: Duration = Duration::from_hours(6);

/// A room of Alice and Bob. Bob has an e-mail address, and a phone that shows when a message was handled.
struct DigestTest {
    server: Server,
    smtp: SmtpServer,
    phone: TestGateway,
    clock: Clock,
    alice: User,
    bob: User,
    room: String,
}

impl DigestTest {
    async fn start() -> Self {
        let smtp = SmtpServer::start().await;
        let clock = Clock::manual(1_700_000_000_000);
        let server = Server::with_clock(clock.clone(), |config: &mut Config| {
            smtp.receive_from(config);
            config.push.allow_private_addresses = true;
        })
        .await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.creates_open_room().await;
        bob.joins(&room).await;
        let mut test = Self {
            server,
            smtp,
            phone: TestGateway::start().await,
            clock,
            alice,
            bob,
            room,
        };
        test.bob_adds_address().await;
        test
    }

    /// Starts with pushers of Bob for e-mail and the phone.
    async fn with_pushers() -> Self {
        let test = Self::start().await;
        test.bob_sets(email_pusher("bob@example.org"))
            .await
            .expect_ok();
        let phone = json!({
            "pushkey": "phone", "app_id": "org.example", "kind": "http", "lang": "en",
            "app_display_name": "Example", "device_display_name": "Phone",
            "data": { "url": test.phone.url() },
        });
        test.bob_sets(phone).await.expect_ok();
        test
    }

    async fn bob_adds_address(&mut self) {
        let request =
            json!({ "client_secret": "secret", "email": "bob@example.org", "send_attempt": 1 });
        let path = "/_matrix/client/v3/account/3pid/email/requestToken";
        let sid = self.server.post(path, request).await.expect_ok()["sid"].clone();
        let link = self.smtp.next().await.link_path();
        self.presses_button(&link).await;
        let add = json!({
            "client_secret": "secret", "sid": sid, "auth": password_of(&self.bob.id),
        });
        let path = "/_matrix/client/v3/account/3pid/add";
        self.bob.client.post(path, add).await.expect_ok();
    }

    async fn bob_sets(&self, pusher: Value) -> HttpAnswer {
        self.bob.client.post(SET_PUSHER_PATH, pusher).await
    }

    async fn bobs_email_pushers(&self) -> usize {
        let pushers = self.bob.client.get("/_matrix/client/v3/pushers").await;
        let pushers = pushers.expect_ok();
        let pushers = pushers["pushers"].as_array().expect("a list");
        let emails = pushers.iter().filter(|pusher| pusher["kind"] == "email");
        emails.count()
    }

    async fn presses_button(&self, link: &str) -> HttpAnswer {
        let client = self.server.client();
        client.send(Method::POST, link, "").await
    }

    /// Sends a message, waits until it was handled, and returns its id.
    async fn alice_says(&mut self, text: &str) -> String {
        let event_id = self.alice.says(&self.room, text).await;
        loop {
            let notification = self.phone.next_message().await;
            if notification["event_id"] == event_id.as_str() {
                return event_id;
            }
        }
    }

    async fn restart(self) -> Self {
        let server = self.server.restart().await;
        Self {
            alice: self.alice.on_server(&server),
            bob: self.bob.on_server(&server),
            server,
            ..self
        }
    }
}

fn email_pusher(address: &str) -> Value {
    json!({
        "pushkey": address, "app_id": "m.email", "kind": "email", "lang": "en",
        "app_display_name": "Email", "device_display_name": address, "data": {},
    })
}

#[tokio::test]
async fn unread_messages_are_announced_after_ten_minutes() {
    let mut test = DigestTest::with_pushers().await;
    test.alice_says("one").await;
    test.alice_says("two").await;

    test.clock.advance(QUIET_TIME);
    let mail = test.smtp.next().await;

    assert_eq!(mail.to, "bob@example.org");
    assert!(mail.text.contains("alice: 2 messages"), "{}", mail.text);
    assert!(!mail.text.contains("one"), "{}", mail.text);
    let headers = &mail.headers;
    assert!(headers.contains("List-Unsubscribe: <http"), "{headers}");
    let one_click = "List-Unsubscribe-Post: List-Unsubscribe=One-Click";
    assert!(headers.contains(one_click), "{headers}");
}

#[tokio::test]
async fn a_digest_is_sent_also_after_a_restart() {
    let mut test = DigestTest::with_pushers().await;
    test.alice_says("one").await;

    test = test.restart().await;
    test.clock.advance(QUIET_TIME);

    let mail = test.smtp.next().await;
    assert!(mail.text.contains("alice: 1 message"), "{}", mail.text);
}

#[tokio::test]
async fn messages_that_were_read_cause_no_email() {
    let mut test = DigestTest::with_pushers().await;
    test.alice_says("one").await;
    let read = test.alice_says("two").await;
    test.bob.sends_read_receipt(&test.room, &read).await;

    test.clock.advance(QUIET_TIME);
    test.alice_says("three").await;
    test.clock.advance(QUIET_TIME);

    let mail = test.smtp.next().await;
    assert!(mail.text.contains("alice: 1 message"), "{}", mail.text);
    assert!(!test.smtp.has_more());
}

#[tokio::test]
async fn there_are_hours_between_two_emails() {
    let mut test = DigestTest::with_pushers().await;
    test.alice_says("one").await;
    test.clock.advance(QUIET_TIME);
    test.smtp.next().await;

    test.alice_says("two").await;
    test.clock.advance(QUIET_TIME);
    test.alice_says("three").await;
    test.clock.advance(MIN_INTERVAL);

    let mail = test.smtp.next().await;
    assert!(mail.text.contains("alice: 3 messages"), "{}", mail.text);
}

#[tokio::test]
async fn the_link_in_an_email_removes_the_pusher() {
    let mut test = DigestTest::with_pushers().await;
    test.alice_says("one").await;
    test.clock.advance(QUIET_TIME);
    let mail = test.smtp.next().await;
    let link = mail
        .headers
        .split(['<', '>'])
        .find(|part| part.contains("unsubscribe?"));
    let (_, path) = link
        .expect("a link")
        .split_once("/_parlour/")
        .expect("a path");
    let link = format!("/_parlour/{path}");

    let page = test.server.get(&link).await;
    assert_eq!((page.status, test.bobs_email_pushers().await), (200, 1));
    assert!(page.text.contains("bob@example.org"), "{}", page.text);
    assert_eq!(test.presses_button(&link).await.status, 200);

    assert_eq!(test.bobs_email_pushers().await, 0);
    let wrong = "/_parlour/email/unsubscribe?token=wrong";
    assert_eq!(test.presses_button(wrong).await.status, 403);
}

#[tokio::test]
async fn only_the_users_own_address_gets_emails() {
    let test = DigestTest::start().await;

    let other = test.bob_sets(email_pusher("alice@example.org")).await;
    let mut pusher = email_pusher("bob@example.org");
    pusher["app_id"] = json!("org.example");
    let app = test.bob_sets(pusher).await;

    other.expect_error(400, "M_THREEPID_NOT_FOUND");
    app.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn removing_an_address_removes_its_pusher() {
    let test = DigestTest::with_pushers().await;
    assert_eq!(test.bobs_email_pushers().await, 1);

    let body = json!({ "medium": "email", "address": "bob@example.org" });
    let path = "/_matrix/client/v3/account/3pid/delete";
    test.bob.client.post(path, body).await.expect_ok();

    assert_eq!(test.bobs_email_pushers().await, 0);
}
