//! Delayed events (MSC4140).

use std::time::Duration;

use parlour::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    chat::{in_room, new_transaction, said, timeline, unread},
    harness::{Answer, Server, User},
};

const DELAYED_EVENTS: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
/// The type of a state event that every member may set in the rooms of these tests.
const STATE: &str = "org.example.state";

struct Test {
    server: Server,
    clock: Clock,
    alice: User,
    bob: User,
    room: String,
}

impl Test {
    async fn new() -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        let server = Server::with_clock(clock.clone(), |_| {}).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let levels = json!({ "events": { STATE: 0 } });
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

    fn passes(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    async fn tries_to_delay(&self, user: &User, path: &str, ms: i64, content: Value) -> Answer {
        let path = in_room(&self.room, &format!("{path}?org.matrix.msc4140.delay={ms}"));
        user.client.put(&path, content).await
    }

    async fn delays(&self, user: &User, path: &str, ms: i64, content: Value) -> String {
        let answer = self
            .tries_to_delay(user, path, ms, content)
            .await
            .expect_ok();
        assert_eq!(answer["event_id"], Value::Null);
        answer["delay_id"].as_str().expect("an id").to_owned()
    }

    async fn delays_message(&self, text: &str, ms: i64) -> String {
        let path = format!("send/m.room.message/{}", new_transaction());
        self.delays(&self.alice, &path, ms, json!({ "body": text }))
            .await
    }

    async fn delays_state(&self, user: &User, key: &str, ms: i64) -> String {
        let path = format!("state/{STATE}/{key}");
        self.delays(user, &path, ms, json!({ "by": user.id })).await
    }

    /// Posts an action for a delayed event without a token, which anyone who knows its id may do.
    async fn tries(&self, delay_id: &str, action: &str) -> Answer {
        let path = format!("{DELAYED_EVENTS}/{delay_id}/{action}");
        self.server.post(&path, json!({})).await
    }

    async fn scheduled(&self, user: &User) -> Vec<Value> {
        let answer = user.client.get(DELAYED_EVENTS).await.expect_ok();
        answer["delayed_events"].as_array().expect("a list").clone()
    }

    async fn outcome(&self, delay_id: &str) -> Value {
        let path = format!("{DELAYED_EVENTS}/{delay_id}");
        self.alice.client.get(&path).await.expect_ok()
    }

    /// Returns the next messages in the room.
    async fn hears(&self, sync: &Value) -> Vec<String> {
        let mut after = self.bob.waits_after(sync).await;
        // Other changes, such as presence, may be in earlier syncs.
        while said(timeline(&after, &self.room)).is_empty() {
            after = self.bob.waits_after(&after).await;
        }
        let heard = said(timeline(&after, &self.room));
        heard.into_iter().map(ToOwned::to_owned).collect()
    }
}

#[tokio::test]
async fn an_event_is_sent_when_its_time_has_come_and_once() {
    let test = Test::new().await;
    let before = test.bob.syncs().await;
    let delay_id = test.delays_message("later", 1_000).await;

    let listed = test.scheduled(&test.alice).await;
    assert_eq!(listed[0]["delay_id"], delay_id);
    assert_eq!(listed[0]["room_id"], test.room);
    assert_eq!(listed[0]["type"], "m.room.message");
    assert_eq!(listed[0]["content"], json!({ "body": "later" }));
    assert_eq!(
        (&listed[0]["delay"], &listed[0]["delay_ms"]),
        (&json!(1_000), &json!(1_000))
    );
    assert!(test.scheduled(&test.bob).await.is_empty());
    test.passes(1_000);
    assert_eq!(test.hears(&before).await, ["later"]);

    assert!(test.scheduled(&test.alice).await.is_empty());
    let outcome = test.outcome(&delay_id).await;
    assert!(outcome["event_id"].is_string() && outcome["finalised_ts"].is_u64());
    let page = test.bob.messages(&test.room, "dir=b&limit=50").await;
    assert_eq!(said(&page["chunk"]), ["later"]);
}

#[tokio::test]
async fn the_same_transaction_is_scheduled_once() {
    let test = Test::new().await;
    let path = format!("send/m.room.message/{}", new_transaction());

    let first = test
        .delays(&test.alice, &path, 1_000, json!({ "body": "x" }))
        .await;
    let second = test.delays(&test.alice, &path, 1_000, json!({})).await;

    assert_eq!(first, second);
    assert_eq!(test.scheduled(&test.alice).await.len(), 1);
}

#[tokio::test]
async fn events_are_sent_in_the_order_of_their_time() {
    let test = Test::new().await;
    for (text, ms) in [("third", 900), ("first", 700), ("second", 800)] {
        test.delays_message(text, ms).await;
    }
    let before = test.bob.syncs().await;

    test.passes(5_000);
    let mut heard = Vec::new();
    let mut sync = before;
    while heard.len() < 3 {
        let after = test.bob.waits_after(&sync).await;
        heard.extend(
            said(timeline(&after, &test.room))
                .into_iter()
                .map(ToOwned::to_owned),
        );
        sync = after;
    }

    assert_eq!(heard, ["first", "second", "third"]);
}

#[tokio::test]
async fn a_cancelled_event_is_never_sent() {
    let test = Test::new().await;
    let delay_id = test.delays_message("cancelled", 1_000).await;
    test.delays_message("sent", 2_000).await;
    let before = test.bob.syncs().await;

    test.tries(&delay_id, "cancel").await.expect_ok();
    test.passes(2_000);

    assert_eq!(test.hears(&before).await, ["sent"]);
    test.tries(&delay_id, "cancel").await.expect_ok();
    test.tries(&delay_id, "send")
        .await
        .expect_error(409, "M_UNKNOWN");
    test.tries(&delay_id, "restart")
        .await
        .expect_error(409, "M_UNKNOWN");
    assert_eq!(test.outcome(&delay_id).await["event_id"], Value::Null);
}

#[tokio::test]
async fn a_restarted_event_waits_for_its_whole_time_again() {
    let test = Test::new().await;
    let delay_id = test.delays_message("restarted", 1_000).await;
    test.delays_message("meanwhile", 1_200).await;
    let before = test.bob.syncs().await;
    test.passes(900);

    test.tries(&delay_id, "restart").await.expect_ok();
    test.passes(300);
    let between = test.bob.waits_after(&before).await;
    assert_eq!(said(timeline(&between, &test.room)), ["meanwhile"]);
    assert_eq!(test.scheduled(&test.alice).await.len(), 1);
    test.passes(700);

    assert_eq!(test.hears(&between).await, ["restarted"]);
}

#[tokio::test]
async fn an_event_can_be_sent_before_its_time() {
    let test = Test::new().await;
    let delay_id = test.delays_state(&test.alice, "now", 100_000).await;

    test.tries(&delay_id, "send").await.expect_ok();

    let state = test.bob.state(&test.room, &format!("{STATE}/now")).await;
    assert_eq!(state["by"], test.alice.id);
    test.tries(&delay_id, "send").await.expect_ok();
    test.tries(&delay_id, "cancel")
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
async fn what_is_refused_when_it_is_due_is_told_to_its_sender() {
    let test = Test::new().await;
    let path = "state/m.room.name";
    let delay_id = test
        .delays(&test.bob, path, 1_000, json!({ "name": "Bob's" }))
        .await;

    let by_hand = test.tries(&delay_id, "send").await;
    by_hand.expect_error(403, "M_FORBIDDEN");
    assert_eq!(test.scheduled(&test.bob).await.len(), 1);
    let before = test.bob.syncs().await;
    test.delays_message("after", 1_000).await;
    test.passes(1_000);
    test.hears(&before).await;

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
async fn state_that_another_sets_cancels_what_was_to_be_set_later() {
    let test = Test::new().await;
    let (own, others) = ("own", "others");
    test.delays_state(&test.alice, own, 1_000).await;
    test.delays_state(&test.alice, others, 1_000).await;

    let kind = |key: &str| format!("{STATE}/{key}");
    test.alice
        .sets(&test.room, &kind(own), json!({ "v": 1 }))
        .await;
    test.bob
        .sets(&test.room, &kind(others), json!({ "v": 1 }))
        .await;

    let left = test.scheduled(&test.alice).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["state_key"], own);
}

#[tokio::test]
async fn what_was_due_while_the_server_was_away_is_sent_at_its_start() {
    let test = Test::new().await;
    let before = test.bob.syncs().await;
    test.delays_message("overdue", 1_000).await;
    test.delays_message("later", 60_000).await;
    let Test {
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
    let (alice, bob) = (alice.at(&server), bob.at(&server));
    let test = Test {
        server,
        clock,
        alice,
        bob,
        room,
    };

    assert_eq!(test.hears(&before).await, ["overdue"]);
    assert_eq!(test.scheduled(&test.alice).await.len(), 1);
    let between = test.bob.syncs().await;
    test.passes(60_000);
    assert_eq!(test.hears(&between).await, ["later"]);
}

#[tokio::test]
async fn delays_and_their_number_have_limits() {
    let test = Test::new().await;
    let path = |n: i32| format!("send/m.room.message/t{n}");
    let body = || json!({ "body": "x" });

    let month = 31 * 24 * 3_600_000_i64;
    let long = test
        .tries_to_delay(&test.alice, &path(0), month + 1, body())
        .await;
    let refused = long.expect_error(403, "M_FORBIDDEN");
    assert_eq!(
        refused["org.matrix.msc4140.errcode"],
        "M_MAX_DELAY_EXCEEDED"
    );
    assert_eq!(refused["org.matrix.msc4140.max_delay"], month);
    for none in [0, -1] {
        let refused = test
            .tries_to_delay(&test.alice, &path(0), none, body())
            .await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    for n in 1..=100 {
        test.tries_to_delay(&test.alice, &path(n), 60_000, body())
            .await
            .expect_ok();
    }
    let many = test
        .tries_to_delay(&test.alice, &path(101), 60_000, body())
        .await;
    assert_eq!(many.header("retry-after"), "60");
    many.expect_error(429, "M_LIMIT_EXCEEDED");
    test.tries_to_delay(&test.bob, &path(1), 60_000, body())
        .await
        .expect_ok();
}

#[tokio::test]
async fn only_members_schedule_events_and_only_known_ones_can_be_changed() {
    let test = Test::new().await;
    let carol = test.server.register("carol").await;

    let outside = test
        .tries_to_delay(&carol, "send/m.room.message/t", 1_000, json!({}))
        .await;
    outside.expect_error(403, "M_FORBIDDEN");
    for action in ["cancel", "restart", "send"] {
        test.tries("abc", action)
            .await
            .expect_error(404, "M_NOT_FOUND");
    }
    let delay_id = test.delays_message("x", 1_000).await;
    test.tries(&delay_id, "oops")
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
async fn events_are_delayed_on_a_path_of_their_own_too() {
    let test = Test::new().await;
    let rest = format!("delayed_event/{STATE}/{}", new_transaction());
    let path = format!(
        "/_matrix/client/unstable/org.matrix.msc4140/rooms/{}/{rest}",
        test.room
    );
    let body = json!({ "delay": 1_000, "state_key": "k", "content": { "a": 1 } });

    let first = test.alice.client.put(&path, body.clone()).await.expect_ok();
    let second = test.alice.client.put(&path, body).await.expect_ok();

    assert_eq!(first["delay_id"], second["delay_id"]);
    let listed = test.scheduled(&test.alice).await;
    assert_eq!((&listed[0]["state_key"], listed.len()), (&json!("k"), 1));
}

#[tokio::test]
async fn a_delayed_event_marks_no_room_as_read_for_its_sender() {
    let test = Test::new().await;
    test.delays_message("later", 1_000).await;
    test.bob.says(&test.room, "now").await;
    let before = test.alice.syncs().await;
    let heard = test.bob.syncs().await;

    test.passes(1_000);

    assert_eq!(test.hears(&heard).await, ["later"]);
    assert_eq!(unread(&before, &test.room), (1, 0));
    assert_eq!(unread(&test.alice.syncs().await, &test.room), (1, 0));
    assert_eq!(unread(&test.bob.syncs().await, &test.room), (1, 0));
}

#[tokio::test]
async fn only_a_scheduled_event_is_asked_for_without_a_body() {
    let test = Test::new().await;
    let path = in_room(&test.room, "send/m.x/1?org.matrix.msc4140.delay=1000");
    let asks = async || test.alice.client.send(Method::PUT, &path, "").await;

    asks().await.expect_error(400, "M_NOT_JSON");
    let scheduled = test.alice.client.put(&path, json!({})).await.expect_ok();

    assert_eq!(asks().await.expect_ok(), scheduled);
}
