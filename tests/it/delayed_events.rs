//! Delayed events (MSC4140).

use std::time::Duration;

use parlour::{clock::Clock, config::Config};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    chat::{message_bodies, new_transaction, room_path, timeline, unread_counts},
    harness::{HttpAnswer, Server, User},
};

const DELAYED_EVENTS: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
/// The type of a state event that every member may set in the rooms of these tests.
const STATE_TYPE: &str = "org.example.state";

struct DelayedEventsTest {
    server: Server,
    clock: Clock,
    alice: User,
    bob: User,
    room: String,
}

impl DelayedEventsTest {
    async fn new() -> Self {
        Self::with_config(|_| {}).await
    }

    async fn with_config(change: impl FnOnce(&mut Config)) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let server = Server::with_clock(clock.clone(), change).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let levels = json!({ "events": { STATE_TYPE: 0 } });
        let request = json!({ "preset": "public_chat", "power_level_content_override": levels });
        let room = alice.creates(request).await;
        bob.joins(&room).await;
        Self {
            server,
            clock,
            alice,
            bob,
            room,
        }
    }

    fn advance_clock(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    async fn try_delay(&self, user: &User, path: &str, ms: i64, content: Value) -> HttpAnswer {
        let path = room_path(&self.room, &format!("{path}?org.matrix.msc4140.delay={ms}"));
        user.client.put(&path, content).await
    }

    async fn delay_event(&self, user: &User, path: &str, ms: i64, content: Value) -> String {
        let answer = self.try_delay(user, path, ms, content).await.expect_ok();
        assert_eq!(answer["event_id"], Value::Null);
        answer["delay_id"].as_str().expect("an id").to_owned()
    }

    async fn delay_message(&self, text: &str, ms: i64) -> String {
        let path = format!("send/m.room.message/{}", new_transaction());
        self.delay_event(&self.alice, &path, ms, json!({ "body": text }))
            .await
    }

    async fn delay_state(&self, user: &User, key: &str, ms: i64) -> String {
        let path = format!("state/{STATE_TYPE}/{key}");
        self.delay_event(user, &path, ms, json!({ "by": user.id }))
            .await
    }

    /// Posts an action for a delayed event without a token, which anyone who knows its id may do.
    async fn post_action(&self, delay_id: &str, action: &str) -> HttpAnswer {
        let path = format!("{DELAYED_EVENTS}/{delay_id}/{action}");
        self.server.post(&path, json!({})).await
    }

    async fn scheduled_events(&self, user: &User) -> Vec<Value> {
        let answer = user.client.get(DELAYED_EVENTS).await.expect_ok();
        answer["delayed_events"].as_array().expect("a list").clone()
    }

    async fn outcome(&self, delay_id: &str) -> Value {
        let path = format!("{DELAYED_EVENTS}/{delay_id}");
        self.alice.client.get(&path).await.expect_ok()
    }

    /// Returns the next messages in the room.
    async fn next_messages(&self, sync: &Value) -> Vec<String> {
        let mut after = self.bob.long_polls_after(sync).await;
        // Other changes, such as presence, may be in earlier syncs.
        while message_bodies(timeline(&after, &self.room)).is_empty() {
            after = self.bob.long_polls_after(&after).await;
        }
        let heard = message_bodies(timeline(&after, &self.room));
        heard.into_iter().map(ToOwned::to_owned).collect()
    }
}

#[tokio::test]
async fn a_delayed_event_is_sent_once_when_due() {
    let test = DelayedEventsTest::new().await;
    let before = test.bob.syncs().await;
    let delay_id = test.delay_message("later", 1_000).await;

    let listed = test.scheduled_events(&test.alice).await;
    assert_eq!(listed[0]["delay_id"], delay_id);
    assert_eq!(listed[0]["room_id"], test.room);
    assert_eq!(listed[0]["type"], "m.room.message");
    assert_eq!(listed[0]["content"], json!({ "body": "later" }));
    assert_eq!(
        (&listed[0]["delay"], &listed[0]["delay_ms"]),
        (&json!(1_000), &json!(1_000))
    );
    assert!(test.scheduled_events(&test.bob).await.is_empty());
    test.advance_clock(1_000);
    assert_eq!(test.next_messages(&before).await, ["later"]);

    assert!(test.scheduled_events(&test.alice).await.is_empty());
    let outcome = test.outcome(&delay_id).await;
    assert!(outcome["event_id"].is_string() && outcome["finalised_ts"].is_u64());
    let page = test.bob.messages(&test.room, "dir=b&limit=50").await;
    assert_eq!(message_bodies(&page["chunk"]), ["later"]);
}

#[tokio::test]
async fn the_same_transaction_is_scheduled_once() {
    let test = DelayedEventsTest::new().await;
    let path = format!("send/m.room.message/{}", new_transaction());

    let first = test
        .delay_event(&test.alice, &path, 1_000, json!({ "body": "x" }))
        .await;
    let second = test.delay_event(&test.alice, &path, 1_000, json!({})).await;

    assert_eq!(first, second);
    assert_eq!(test.scheduled_events(&test.alice).await.len(), 1);
}

#[tokio::test]
async fn delayed_events_are_sent_in_due_order() {
    let test = DelayedEventsTest::new().await;
    for (text, ms) in [("third", 900), ("first", 700), ("second", 800)] {
        test.delay_message(text, ms).await;
    }
    let before = test.bob.syncs().await;

    test.advance_clock(5_000);
    let mut heard = Vec::new();
    let mut sync = before;
    while heard.len() < 3 {
        let after = test.bob.long_polls_after(&sync).await;
        heard.extend(
            message_bodies(timeline(&after, &test.room))
                .into_iter()
                .map(ToOwned::to_owned),
        );
        sync = after;
    }

    assert_eq!(heard, ["first", "second", "third"]);
}

#[tokio::test]
async fn a_cancelled_event_is_never_sent() {
    let test = DelayedEventsTest::new().await;
    let delay_id = test.delay_message("cancelled", 1_000).await;
    test.delay_message("sent", 2_000).await;
    let before = test.bob.syncs().await;

    test.post_action(&delay_id, "cancel").await.expect_ok();
    test.advance_clock(2_000);

    assert_eq!(test.next_messages(&before).await, ["sent"]);
    test.post_action(&delay_id, "cancel").await.expect_ok();
    test.post_action(&delay_id, "send")
        .await
        .expect_error(409, "M_UNKNOWN");
    test.post_action(&delay_id, "restart")
        .await
        .expect_error(409, "M_UNKNOWN");
    assert_eq!(test.outcome(&delay_id).await["event_id"], Value::Null);
}

#[tokio::test]
async fn restarting_a_delayed_event_restarts_its_delay() {
    let test = DelayedEventsTest::new().await;
    let delay_id = test.delay_message("restarted", 1_000).await;
    test.delay_message("meanwhile", 1_200).await;
    let before = test.bob.syncs().await;
    test.advance_clock(900);

    test.post_action(&delay_id, "restart").await.expect_ok();
    test.advance_clock(300);
    let between = test.bob.long_polls_after(&before).await;
    assert_eq!(
        message_bodies(timeline(&between, &test.room)),
        ["meanwhile"]
    );
    assert_eq!(test.scheduled_events(&test.alice).await.len(), 1);
    test.advance_clock(700);

    assert_eq!(test.next_messages(&between).await, ["restarted"]);
}

#[tokio::test]
async fn a_delayed_event_can_be_sent_early() {
    let test = DelayedEventsTest::new().await;
    let delay_id = test.delay_state(&test.alice, "now", 100_000).await;

    test.post_action(&delay_id, "send").await.expect_ok();

    let state = test
        .bob
        .state(&test.room, &format!("{STATE_TYPE}/now"))
        .await;
    assert_eq!(state["by"], test.alice.id);
    test.post_action(&delay_id, "send").await.expect_ok();
    test.post_action(&delay_id, "cancel")
        .await
        .expect_error(409, "M_UNKNOWN");
    let path = format!("{DELAYED_EVENTS}/{delay_id}");
    let body = json!({ "action": "send" });
    test.alice
        .client
        .post(&path, body.clone())
        .await
        .expect_ok();
    test.server
        .post(&path, body)
        .await
        .expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn a_refused_delayed_event_shows_its_error_to_the_sender() {
    let test = DelayedEventsTest::new().await;
    let path = "state/m.room.name";
    let delay_id = test
        .delay_event(&test.bob, path, 1_000, json!({ "name": "Bob's" }))
        .await;

    let by_hand = test.post_action(&delay_id, "send").await;
    by_hand.expect_error(403, "M_FORBIDDEN");
    assert_eq!(test.scheduled_events(&test.bob).await.len(), 1);
    let before = test.bob.syncs().await;
    test.delay_message("after", 1_000).await;
    test.advance_clock(1_000);
    test.next_messages(&before).await;

    let path = format!("{DELAYED_EVENTS}/{delay_id}");
    let outcome = test.bob.client.get(&path).await.expect_ok();
    assert_eq!(outcome["error"]["errcode"], "M_FORBIDDEN");
    test.alice
        .client
        .get(&path)
        .await
        .expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn state_set_by_another_user_cancels_delayed_state() {
    let test = DelayedEventsTest::new().await;
    let (own, others) = ("own", "others");
    test.delay_state(&test.alice, own, 1_000).await;
    test.delay_state(&test.alice, others, 1_000).await;

    let kind = |key: &str| format!("{STATE_TYPE}/{key}");
    test.alice
        .sets_state(&test.room, &kind(own), json!({ "v": 1 }))
        .await;
    test.bob
        .sets_state(&test.room, &kind(others), json!({ "v": 1 }))
        .await;

    let left = test.scheduled_events(&test.alice).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["state_key"], own);
}

#[tokio::test]
async fn overdue_delayed_events_are_sent_at_startup() {
    let test = DelayedEventsTest::new().await;
    let before = test.bob.syncs().await;
    test.delay_message("overdue", 1_000).await;
    test.delay_message("later", 60_000).await;
    let DelayedEventsTest {
        server,
        clock,
        alice,
        bob,
        room,
    } = test;
    clock.advance(Duration::from_millis(500));

    server.running.stop().await;
    clock.advance(Duration::from_secs(5));
    let server = server.restart().await;
    let (alice, bob) = (alice.on_server(&server), bob.on_server(&server));
    let test = DelayedEventsTest {
        server,
        clock,
        alice,
        bob,
        room,
    };

    assert_eq!(test.next_messages(&before).await, ["overdue"]);
    assert_eq!(test.scheduled_events(&test.alice).await.len(), 1);
    let between = test.bob.syncs().await;
    test.advance_clock(60_000);
    assert_eq!(test.next_messages(&between).await, ["later"]);
}

#[tokio::test]
async fn delay_lengths_and_counts_are_limited() {
    let test = DelayedEventsTest::new().await;
    let path = |n: i32| format!("send/m.room.message/t{n}");
    let body = || json!({ "body": "x" });

    let month = 31 * 24 * 3_600_000_i64;
    let long = test
        .try_delay(&test.alice, &path(0), month + 1, body())
        .await;
    let refused = long.expect_error(403, "M_FORBIDDEN");
    assert_eq!(
        refused["org.matrix.msc4140.errcode"],
        "M_MAX_DELAY_EXCEEDED"
    );
    assert_eq!(refused["org.matrix.msc4140.max_delay"], month);
    for none in [0, -1] {
        let refused = test.try_delay(&test.alice, &path(0), none, body()).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    for n in 1..=100 {
        test.try_delay(&test.alice, &path(n), 60_000, body())
            .await
            .expect_ok();
    }
    let many = test
        .try_delay(&test.alice, &path(101), 60_000, body())
        .await;
    assert_eq!(many.header("retry-after"), "60");
    many.expect_error(429, "M_LIMIT_EXCEEDED");
    test.try_delay(&test.bob, &path(1), 60_000, body())
        .await
        .expect_ok();
}

#[tokio::test]
async fn invalid_scheduling_and_delay_actions_are_refused() {
    let test = DelayedEventsTest::new().await;
    let carol = test.server.register("carol").await;

    let outside = test
        .try_delay(&carol, "send/m.room.message/t", 1_000, json!({}))
        .await;
    outside.expect_error(403, "M_FORBIDDEN");
    for action in ["cancel", "restart", "send"] {
        test.post_action("abc", action)
            .await
            .expect_error(404, "M_NOT_FOUND");
    }
    let delay_id = test.delay_message("x", 1_000).await;
    test.post_action(&delay_id, "oops")
        .await
        .expect_error(404, "M_UNRECOGNIZED");
    let in_body = format!("{DELAYED_EVENTS}/{delay_id}");
    let in_body = test
        .alice
        .client
        .post(&in_body, json!({ "action": "oops" }));
    in_body.await.expect_error(400, "M_INVALID_PARAM");
    test.server
        .get(DELAYED_EVENTS)
        .await
        .expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn events_can_be_delayed_on_the_delayed_event_path() {
    let test = DelayedEventsTest::new().await;
    let rest = format!("delayed_event/{STATE_TYPE}/{}", new_transaction());
    let path = format!(
        "/_matrix/client/unstable/org.matrix.msc4140/rooms/{}/{rest}",
        test.room
    );
    let body = json!({ "delay": 1_000, "state_key": "k", "content": { "a": 1 } });

    let first = test.alice.client.put(&path, body.clone()).await.expect_ok();
    let second = test.alice.client.put(&path, body).await.expect_ok();

    assert_eq!(first["delay_id"], second["delay_id"]);
    let listed = test.scheduled_events(&test.alice).await;
    assert_eq!((&listed[0]["state_key"], listed.len()), (&json!("k"), 1));
}

#[tokio::test]
async fn a_delayed_event_does_not_mark_its_room_as_read() {
    let test = DelayedEventsTest::new().await;
    test.delay_message("later", 1_000).await;
    test.bob.says(&test.room, "now").await;
    let before = test.alice.syncs().await;
    let heard = test.bob.syncs().await;

    test.advance_clock(1_000);

    assert_eq!(test.next_messages(&heard).await, ["later"]);
    assert_eq!(unread_counts(&before, &test.room), (1, 0));
    assert_eq!(unread_counts(&test.alice.syncs().await, &test.room), (1, 0));
    assert_eq!(unread_counts(&test.bob.syncs().await, &test.room), (1, 0));
}

#[tokio::test]
async fn repeating_a_scheduled_request_needs_no_body() {
    let test = DelayedEventsTest::new().await;
    let path = room_path(&test.room, "send/m.x/1?org.matrix.msc4140.delay=1000");
    let asks = async || test.alice.client.send(Method::PUT, &path, "").await;

    asks().await.expect_error(400, "M_NOT_JSON");
    let scheduled = test.alice.client.put(&path, json!({})).await.expect_ok();

    assert_eq!(asks().await.expect_ok(), scheduled);
}

#[tokio::test]
async fn the_limit_for_sending_does_not_prevent_a_restart() {
    let test = DelayedEventsTest::with_config(|config| config.limits.enabled = true).await;
    let delay_id = test.delay_message("hangup", 20_000).await;
    let content = json!({ "body": "x" });
    let mut sent = 0;
    while test
        .alice
        .tries_to_send(&test.room, "m.room.message", content.clone())
        .await
        .status
        == 200
    {
        sent += 1;
    }
    assert!(sent > 50, "{sent}");

    for _ in 0..100 {
        test.post_action(&delay_id, "restart").await.expect_ok();
        let path = format!("{DELAYED_EVENTS}/{delay_id}");
        let restart = json!({ "action": "restart" });
        test.alice.client.post(&path, restart).await.expect_ok();
    }
    let hangup = test.post_action(&delay_id, "send").await;
    hangup.expect_error(429, "M_LIMIT_EXCEEDED");
    test.post_action(&delay_id, "cancel").await.expect_ok();
}

#[tokio::test]
async fn unknown_delayed_events_do_not_use_up_the_restarts_of_others() {
    let test = DelayedEventsTest::with_config(|config| config.limits.enabled = true).await;
    let delay_id = test.delay_message("hangup", 20_000).await;
    let mut refused = 0;
    for _ in 0..300 {
        let answer = test.post_action("unknown", "restart").await;
        refused += usize::from(answer.status == 429);
    }

    assert!(refused > 100, "{refused}");
    test.post_action(&delay_id, "restart").await.expect_ok();
}

#[tokio::test]
async fn the_restarts_of_a_user_are_limited() {
    let test = DelayedEventsTest::with_config(|config| config.limits.enabled = true).await;
    let delay_id = test.delay_message("hangup", 20_000).await;
    let of_bob = test
        .delay_event(&test.bob, "send/m.x/t", 20_000, json!({}))
        .await;

    for _ in 0..300 {
        test.post_action(&delay_id, "restart").await.expect_ok();
    }

    let answer = test.post_action(&delay_id, "restart").await;
    answer.expect_error(429, "M_LIMIT_EXCEEDED");
    test.post_action(&of_bob, "restart").await.expect_ok();
}
