//! Sticky events (MSC4354): events that members receive even where the timeline leaves them out, for a while.

use std::time::Duration;

use parlour::{clock::Clock, config::Config};
use serde_json::{Value, json};

use crate::{
    chat::{event_ids, filter_query, message_bodies, new_transaction, room_path, timeline},
    harness::{HttpAnswer, Server, User},
    sliding::list_config,
};

const KIND: &str = "org.example.call.member";
const START_MS: u64 = 1_700_000_000_000;
const EXTENSION: &str = "org.matrix.msc4354.sticky_events";

/// A room of Alice and Bob, on a server whose clock the test sets.
struct StickyTest {
    server: Server,
    clock: Clock,
    alice: User,
    bob: User,
    room: String,
}

impl StickyTest {
    async fn start() -> Self {
        Self::with_config(|_| {}).await
    }

    async fn with_config(change: impl FnOnce(&mut Config)) -> Self {
        let clock = Clock::manual(START_MS);
        let server = Server::with_clock(clock.clone(), change).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.creates_open_room().await;
        bob.joins(&room).await;
        Self {
            server,
            clock,
            alice,
            bob,
            room,
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

    fn advance_clock(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    /// Syncs with a filter that lets no event into the timeline.
    async fn sync_without_timeline(&self, user: &User, since: Option<&Value>) -> Value {
        let filter = json!({ "room": { "timeline": { "types": [] } } });
        let since = since.map_or_else(String::new, |sync| {
            format!("&since={}", sync["next_batch"].as_str().expect("a token"))
        });
        let query = format!("{}{since}", filter_query(&filter));
        user.syncs_with(&query).await
    }

    fn sticky_ids<'a>(&self, sync: &'a Value) -> Vec<&'a str> {
        event_ids(&sync["rooms"]["join"][&self.room]["msc4354_sticky"]["events"])
    }
}

impl User {
    async fn tries_to_send_sticky(&self, room: &str, ms: &str, text: &str) -> HttpAnswer {
        let txn = new_transaction();
        let query = format!("org.matrix.msc4354.sticky_duration_ms={ms}");
        let path = room_path(room, &format!("send/{KIND}/{txn}?{query}"));
        self.client.put(&path, json!({ "body": text })).await
    }

    /// Sends an event that is sticky for five minutes. Returns its id.
    pub(crate) async fn sends_sticky(&self, room: &str, text: &str) -> String {
        let sent = self.tries_to_send_sticky(room, "300000", text).await;
        let sent = sent.expect_ok();
        sent["event_id"].as_str().expect("an id").to_owned()
    }
}

fn first_event(events: &Value) -> &Value {
    events
        .as_array()
        .and_then(|events| events.first())
        .expect("an event")
}

#[tokio::test]
async fn a_sticky_event_in_the_timeline_is_not_repeated() {
    let test = StickyTest::start().await;
    let before = test.bob.syncs().await;
    let sent = test.alice.sends_sticky(&test.room, "here").await;
    test.advance_clock(1_000);

    let after = test.bob.syncs_after(&before).await;

    let event = first_event(timeline(&after, &test.room));
    assert_eq!(event["event_id"], sent);
    assert_eq!(event["msc4354_sticky"], json!({ "duration_ms": 300_000 }));
    let unsigned = &event["unsigned"];
    assert_eq!(unsigned["msc4354_sticky_duration_ttl_ms"], 299_000);
    assert!(test.sticky_ids(&after).is_empty());
    let later = test.bob.syncs_after(&after).await;
    assert!(later["rooms"]["join"].get(&test.room).is_none(), "{later}");
}

#[tokio::test]
async fn an_event_that_the_timeline_leaves_out_is_sent_once_as_a_sticky_one() {
    let test = StickyTest::start().await;
    let before = test.bob.syncs().await;
    let sent = test.alice.sends_sticky(&test.room, "here").await;
    for n in 0..20 {
        test.alice.says(&test.room, &n.to_string()).await;
    }

    let limited = test.bob.syncs_after(&before).await;
    let filtered = test.sync_without_timeline(&test.bob, Some(&before)).await;

    assert_eq!(
        limited["rooms"]["join"][&test.room]["timeline"]["limited"],
        true
    );
    assert_eq!(test.sticky_ids(&limited), [sent.as_str()]);
    assert_eq!(test.sticky_ids(&filtered), [sent.as_str()]);
    let events = &limited["rooms"]["join"][&test.room]["msc4354_sticky"]["events"];
    let event = first_event(events);
    assert_eq!(event["msc4354_sticky"]["duration_ms"], 300_000);
    assert_eq!(event["unsigned"]["msc4354_sticky_duration_ttl_ms"], 300_000);
    assert!(event.get("room_id").is_none());
    let later = test.sync_without_timeline(&test.bob, Some(&limited)).await;
    assert!(test.sticky_ids(&later).is_empty());
}

#[tokio::test]
async fn a_new_member_receives_the_sticky_events_that_history_visibility_hides() {
    let test = StickyTest::start().await;
    let room = test.alice.creates_room_with_history("joined").await;
    let test = StickyTest { room, ..test };
    let sent = test.alice.sends_sticky(&test.room, "here").await;
    let carol = test.server.register("carol").await;
    let before = carol.syncs().await;
    carol.joins(&test.room).await;

    let joined = carol.syncs_after(&before).await;

    assert_eq!(test.sticky_ids(&joined), [sent.as_str()]);
    let later = carol.syncs_after(&joined).await;
    assert!(test.sticky_ids(&later).is_empty());
    // The first sync of a device contains them, too.
    let initial = test.sync_without_timeline(&carol, None).await;
    assert_eq!(test.sticky_ids(&initial), [sent.as_str()]);
}

#[tokio::test]
async fn an_event_is_no_longer_sticky_when_its_time_is_over() {
    let test = StickyTest::start().await;
    let short = test
        .alice
        .tries_to_send_sticky(&test.room, "1000", "short")
        .await;
    short.expect_ok();
    let long = test.alice.sends_sticky(&test.room, "long").await;

    test.advance_clock(1_000);
    let sync = test.sync_without_timeline(&test.bob, None).await;
    assert_eq!(test.sticky_ids(&sync), [long.as_str()]);
    test.advance_clock(299_000);
    let sync = test.sync_without_timeline(&test.bob, None).await;
    assert!(test.sticky_ids(&sync).is_empty());

    // It remains in the timeline like any other event.
    let sync = test.bob.syncs().await;
    let events = timeline(&sync, &test.room).as_array().expect("a list");
    let last = events.last().expect("an event");
    assert_eq!(last["event_id"], long);
    let unsigned = &last["unsigned"];
    assert!(unsigned.get("msc4354_sticky_duration_ttl_ms").is_none());
}

#[tokio::test]
async fn an_event_is_sticky_for_an_hour_at_most() {
    let test = StickyTest::start().await;
    let send = async |ms: &str| test.alice.tries_to_send_sticky(&test.room, ms, "x").await;

    for wrong in ["3600001", "-1", "soon"] {
        assert_eq!(send(wrong).await.status, 400, "{wrong}");
    }
    send("3600000").await.expect_ok();
    send("0").await.expect_ok();

    let sync = test.sync_without_timeline(&test.bob, None).await;
    assert_eq!(test.sticky_ids(&sync).len(), 1);
}

#[tokio::test]
async fn sticky_events_of_ignored_users_are_left_out() {
    let test = StickyTest::start().await;
    test.alice.sends_sticky(&test.room, "here").await;
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        test.bob.id
    );
    let ignored = json!({ "ignored_users": { &test.alice.id: {} } });
    test.bob.client.put(&path, ignored).await.expect_ok();

    let sync = test.sync_without_timeline(&test.bob, None).await;

    assert!(test.sticky_ids(&sync).is_empty());
}

#[tokio::test]
async fn a_redacted_event_is_no_longer_sticky() {
    let test = StickyTest::start().await;
    let sent = test.alice.sends_sticky(&test.room, "here").await;
    test.alice.redacts(&test.room, &sent).await;

    let sync = test.sync_without_timeline(&test.bob, None).await;
    assert!(test.sticky_ids(&sync).is_empty());
    let event = test.bob.event(&test.room, &sent).await.expect_ok();
    assert!(event.get("msc4354_sticky").is_none());
    let test = test.restart().await;
    let sync = test.sync_without_timeline(&test.bob, None).await;
    assert!(test.sticky_ids(&sync).is_empty());
}

#[tokio::test]
async fn only_members_receive_sticky_events() {
    let test = StickyTest::start().await;
    let before = test.bob.syncs().await;
    test.bob.leaves(&test.room).await;
    test.alice.sends_sticky(&test.room, "here").await;

    let sync = test.bob.syncs_after(&before).await;

    assert!(sync["rooms"]["join"].get(&test.room).is_none());
    assert!(!sync.to_string().contains("duration_ms"), "{sync}");
}

#[tokio::test]
async fn sticky_events_survive_a_restart() {
    let test = StickyTest::start().await;
    let sent = test.alice.sends_sticky(&test.room, "here").await;
    let test = test.restart().await;

    let sync = test.sync_without_timeline(&test.bob, None).await;

    assert_eq!(test.sticky_ids(&sync), [sent.as_str()]);
}

#[tokio::test]
async fn a_sticky_state_event_is_sent_again_although_it_is_equal() {
    let test = StickyTest::start().await;
    let kind = format!("state/{KIND}/alice?org.matrix.msc4354.sticky_duration_ms=60000");
    let path = room_path(&test.room, &kind);
    let send = async || {
        let sent = test.alice.client.put(&path, json!({ "in": "call" })).await;
        sent.expect_ok()["event_id"].clone()
    };

    let (first, second) = (send().await, send().await);

    assert_ne!(first, second);
    let sync = test.sync_without_timeline(&test.bob, None).await;
    let ids = test.sticky_ids(&sync);
    assert_eq!(json!(ids), json!([first, second]));
}

#[tokio::test]
async fn a_delayed_event_is_sticky_from_its_sending_on() {
    let test = StickyTest::start().await;
    let before = test.bob.syncs().await;
    let query = "org.matrix.msc4354.sticky_duration_ms=60000&org.matrix.msc4140.delay=5000";
    let path = room_path(&test.room, &format!("send/{KIND}/txn?{query}"));
    let delayed = test
        .alice
        .client
        .put(&path, json!({ "body": "left" }))
        .await;
    assert!(delayed.expect_ok()["delay_id"].is_string());

    let early = test.sync_without_timeline(&test.bob, Some(&before)).await;
    assert!(test.sticky_ids(&early).is_empty());
    test.advance_clock(5_000);
    let mut sync = test.bob.long_polls_after(&before).await;
    while message_bodies(timeline(&sync, &test.room)).is_empty() {
        sync = test.bob.long_polls_after(&sync).await;
    }

    let event = first_event(timeline(&sync, &test.room));
    assert_eq!(event["unsigned"]["msc4354_sticky_duration_ttl_ms"], 60_000);
}

#[tokio::test]
async fn more_sticky_events_than_fit_come_in_the_next_responses() {
    let test = StickyTest::start().await;
    let other = test.alice.creates_open_room().await;
    test.bob.joins(&other).await;
    let before = test.bob.syncs().await;
    let mut sent = Vec::new();
    for room in [&test.room, &other] {
        for n in 0..520 {
            sent.push(test.alice.sends_sticky(room, &n.to_string()).await);
        }
    }

    let mut received: Vec<String> = Vec::new();
    let mut sync = before;
    for expected in [1_000, 40, 0] {
        sync = test.sync_without_timeline(&test.bob, Some(&sync)).await;
        let rooms = [&test.room, &other].map(|room| &sync["rooms"]["join"][room]);
        let ids = rooms.map(|room| event_ids(&room["msc4354_sticky"]["events"]));
        let ids = ids.concat();
        assert_eq!(ids.len(), expected);
        received.extend(ids.into_iter().map(ToOwned::to_owned));
    }
    assert_eq!(received, sent);
}

#[tokio::test]
async fn sliding_sync_has_an_extension_for_sticky_events() {
    let test = StickyTest::start().await;
    let first = test.alice.sends_sticky(&test.room, "first").await;
    test.alice.says(&test.room, "and more").await;
    let mut connection = test.bob.opens_connection(json!({
        // The room is in the list, but not in view.
        "lists": { "all": list_config([5, 6], 1, &json!([])) },
        "extensions": { EXTENSION: { "enabled": true } },
    }));

    let answer = connection.poll().await;
    let sticky = &answer["extensions"][EXTENSION];
    assert_eq!(event_ids(&sticky["rooms"][&test.room]["events"]), [first]);
    let again = connection.poll().await;
    assert_eq!(again["extensions"][EXTENSION]["rooms"], sticky["rooms"]);
    connection.body["extensions"][EXTENSION]["since"] = sticky["next_batch"].clone();
    let none = connection.poll().await;
    assert!(none["extensions"][EXTENSION].get("rooms").is_none());

    let second = test.alice.sends_sticky(&test.room, "second").await;
    let answer = connection.poll_until_news().await;
    let sticky = &answer["extensions"][EXTENSION];
    assert_eq!(event_ids(&sticky["rooms"][&test.room]["events"]), [second]);
}

#[tokio::test]
async fn sliding_sync_returns_as_many_sticky_events_as_the_client_wants() {
    let test = StickyTest::start().await;
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(test.alice.sends_sticky(&test.room, &n.to_string()).await);
    }
    let mut connection = test.bob.opens_connection(json!({
        "room_subscriptions": { &test.room: { "timeline_limit": 1, "required_state": [] } },
        "extensions": { EXTENSION: { "enabled": true, "limit": 2 } },
    }));

    let mut received: Vec<String> = Vec::new();
    for _ in 0..3 {
        let answer = connection.poll().await;
        let sticky = &answer["extensions"][EXTENSION];
        let ids = event_ids(&sticky["rooms"][&test.room]["events"]);
        received.extend(ids.into_iter().map(ToOwned::to_owned));
        let shown = event_ids(&answer["rooms"][&test.room]["timeline"]);
        received.extend(shown.into_iter().map(ToOwned::to_owned));
        connection.body["extensions"][EXTENSION]["since"] = sticky["next_batch"].clone();
    }

    received.sort_unstable();
    received.dedup();
    sent.sort_unstable();
    assert_eq!(received, sent);
    connection.body["extensions"][EXTENSION]["since"] = json!("nonsense");
    let answer = connection.try_poll("timeout=0").await;
    answer.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn sticky_events_of_rooms_outside_the_lists_are_left_out_of_sliding_sync() {
    let test = StickyTest::start().await;
    test.alice.sends_sticky(&test.room, "here").await;
    let mut list = list_config([0, 9], 1, &json!([]));
    list["filters"] = json!({ "is_encrypted": true });
    let mut connection = test.bob.opens_connection(json!({
        "lists": { "encrypted": list }, "extensions": { EXTENSION: { "enabled": true } },
    }));

    let answer = connection.poll().await;

    assert!(answer["extensions"][EXTENSION].get("rooms").is_none());
}

#[tokio::test]
async fn the_limits_do_not_affect_a_client_in_a_call() {
    let test = StickyTest::with_config(|config| config.limits.enabled = true).await;
    let query = "org.matrix.msc4140.delay=18000";
    let path = room_path(&test.room, &format!("send/{KIND}/leave?{query}"));
    let leave = test.alice.client.put(&path, json!({})).await.expect_ok();
    let leave = leave["delay_id"].as_str().expect("an id");
    let restart =
        format!("/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{leave}/restart");

    // The delay is restarted every four seconds, and the membership is sent again every five minutes.
    for n in 0..900 {
        test.server.post(&restart, json!({})).await.expect_ok();
        if n % 75 == 0 {
            test.alice.sends_sticky(&test.room, "here").await;
        }
        test.advance_clock(4_000);
    }
}
