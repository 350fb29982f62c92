//! Tests that the database keeps nothing of a deleted room, in whatever order requests arrive.

use parlour::clock::Clock;
use serde_json::{Value, json};

use crate::{
    chat::{each, encoded, in_room, new_transaction, timeline},
    harness::Server,
    parlour_room_deletion::Test,
    stored::{Rows, Stages},
};

impl Test {
    /// Stops the server and opens its database.
    async fn stops(&self) -> Rows {
        self.server.running.stop().await;
        self.server.running.wait_until_stopped().await;
        Rows::of(&self.server).await
    }
}

#[tokio::test]
async fn nobody_comes_in_while_it_is_deleted() {
    let test = Test::new().await;
    let before = test.carol.syncs().await;
    let comes = async || {
        for _ in 0..20 {
            let answer = test.carol.tries(&test.room, "join", json!({})).await;
            assert!(matches!(answer.status, 200 | 403 | 404), "{}", answer.text);
        }
    };
    let talks = async || {
        for _ in 0..20 {
            let content = json!({ "body": "still there", "msgtype": "m.text" });
            let answer = test
                .bob
                .tries_to_send(&test.room, "m.room.message", content)
                .await;
            assert!(matches!(answer.status, 200 | 403 | 404), "{}", answer.text);
        }
    };

    tokio::join!(comes(), test.deletes(), talks());

    let sync = test.carol.syncs_after(&before).await;
    assert_eq!(sync["rooms"]["join"][&test.room], Value::Null);
    test.stops()
        .await
        .check_nothing_mentions(&[&test.room])
        .await;
}

#[tokio::test]
async fn nothing_that_is_stored_mentions_it() {
    let test = Test::with_room(json!({ "preset": "public_chat", "room_alias_name": "tea" })).await;
    let other = test.alice.creates(json!({ "preset": "public_chat" })).await;
    let said = fill(&test).await;
    let room = test.room.clone();
    let needles: Vec<&str> = said.iter().chain([&room]).map(String::as_str).collect();
    // A search indexes the messages that are not indexed yet.
    let search = json!({ "search_categories": { "room_events": { "search_term": "zebra" } } });
    let path = "/_matrix/client/v3/search";
    let found = test.bob.client.post(path, search).await.expect_ok();
    assert_ne!(found["search_categories"]["room_events"]["count"], 0);
    let looks = async |server: &Server| {
        let mut rows = Rows::of(server).await;
        rows.check_everything_mentions(&room).await;
        rows.close().await;
    };
    let test = test.restarts(looks).await;

    test.deletes().await;

    test.bob.joins(&other).await;
    let mut rows = test.stops().await;
    rows.check_nothing_mentions(&needles).await;
    let kept = rows.texts("deleted_rooms").await;
    assert!(kept.len() == 1 && kept[0].contains(&test.room));
    assert_eq!(rows.texts("rooms").await.len(), 1);
    assert_eq!(rows.texts("state_chains").await.len(), 1);
}

/// Stores something of every kind for a room; returns event IDs and words that the database then contains.
async fn fill(test: &Test) -> Vec<String> {
    let (bob, room) = (&test.bob, &test.room);
    let mut said = vec!["zebra".to_owned()];
    for _ in 0..3 {
        said.push(bob.says(room, "a zebra").await);
    }
    said.push(fill_thread(test, &said[1]).await);
    fill_reading(test, [&said[1], &said[2], &said[3]]).await;
    fill_schedules(test).await;
    for (path, body) in [
        ("tags/m.favourite", json!({})),
        ("account_data/org.example.own", json!({ "a": 1 })),
    ] {
        for user in [bob, &test.carol] {
            let path = format!("/_matrix/client/v3/user/{}/rooms/{room}/{path}", user.id);
            user.client.put(&path, body.clone()).await.expect_ok();
        }
    }
    let report = json!({ "reason": "stripes" });
    bob.tries(room, &format!("report/{}", encoded(&said[2])), report)
        .await
        .expect_ok();
    said
}

/// Replies in a thread, reacts, and subscribes to the thread; returns the id of the reply.
async fn fill_thread(test: &Test, thread_root: &str) -> String {
    let (alice, bob, room) = (&test.alice, &test.bob, &test.room);
    let thread = json!({ "rel_type": "m.thread", "event_id": thread_root });
    let mentions = json!({ "user_ids": [alice.id] });
    let reply = json!({
        "msgtype": "m.text", "body": "a zebra, alice", "m.relates_to": thread, "m.mentions": mentions,
    });
    let reply = bob.tries_to_send(room, "m.room.message", reply).await;
    let key = json!({ "rel_type": "m.annotation", "event_id": thread_root, "key": "+" });
    let reaction = json!({ "m.relates_to": key });
    let reacted = alice.tries_to_send(room, "m.reaction", reaction).await;
    reacted.expect_ok();
    let path = format!(
        "/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{}/subscription",
        encoded(thread_root)
    );
    bob.client.put(&path, json!({})).await.expect_ok();
    let reply = reply.expect_ok();
    reply["event_id"].as_str().expect("an ID").to_owned()
}

/// Sends receipts for a thread, for the main timeline and without a thread, and read markers.
async fn fill_reading(test: &Test, [first, second, third]: [&str; 3]) {
    let (alice, bob, room) = (&test.alice, &test.bob, &test.room);
    let of_thread = json!({ "thread_id": first });
    let receipt = |event_id| format!("receipt/m.read/{}", encoded(event_id));
    let read = alice.tries(room, &receipt(first), of_thread).await;
    read.expect_ok();
    let main = json!({ "thread_id": "main" });
    let read = alice.tries(room, &receipt(second), main).await;
    read.expect_ok();
    let read = bob.tries(room, &receipt(third), json!({})).await;
    read.expect_ok();
    let marks = json!({ "m.fully_read": second, "m.read.private": second });
    alice.tries(room, "read_markers", marks).await.expect_ok();
}

/// Schedules delayed events, one of which is sent at once, redeems an invite link, and sends an
/// invitation that expires.
async fn fill_schedules(test: &Test) {
    let (alice, bob, room) = (&test.alice, &test.bob, &test.room);
    for delay in [1_000_000, 1] {
        let path = format!("send/m.room.message/{}", new_transaction());
        let path = in_room(room, &format!("{path}?org.matrix.msc4140.delay={delay}"));
        let delayed = bob.client.put(&path, json!({ "body": "a late zebra" }));
        delayed.await.expect_ok();
    }
    let own = format!("/_parlour/client/v1/rooms/{}", encoded(room));
    let links = format!("{own}/invite_links");
    let link = alice.client.post(&links, json!({ "label": "zebra" })).await;
    let path = format!(
        "/_parlour/client/v1/invite_links/{}/redeem",
        link.expect_ok()["token"].as_str().expect("a token")
    );
    bob.client.post(&path, json!({})).await.expect_ok();
    let until = Clock::system().now_ms() + 3_600_000;
    let until = json!({ "user_id": test.carol.id, "expires_at": until });
    let sent = alice.client.post(&format!("{own}/invite"), until).await;
    sent.expect_ok();
}

#[tokio::test]
async fn a_large_room_goes_in_pieces() {
    let test = Test::new().await;
    for _ in 0..12 {
        let fifty = (0..50).map(|_| test.bob.says(&test.room, "again"));
        futures_util::future::join_all(fifty).await;
    }

    test.deletes().await;

    let mut rows = test.stops().await;
    rows.check_nothing_mentions(&[&test.room]).await;
    assert!(rows.texts("events").await.is_empty());
}

#[tokio::test]
async fn a_deletion_that_has_begun_is_finished_at_the_next_start() {
    let test = Test::new().await;
    test.bob.says(&test.room, "zebra").await;
    let before = test.bob.syncs().await;
    let room = test.room.clone();
    let alice = test.alice.id.clone();
    let begun = async |server: &Server| {
        let mut rows = Rows::of(server).await;
        rows.begin_deletion(&room, &alice).await;
    };

    let test = test.restarts(begun).await;

    let mut after = test.bob.waits_after(&before).await;
    while after["rooms"]["leave"][&test.room].is_null() {
        assert_eq!(each(timeline(&after, &test.room), "/content/body").len(), 0);
        after = test.bob.waits_after(&after).await;
    }
    assert_eq!(
        test.leave(&after, &test.bob)["content"]["reason"],
        "begun before"
    );
    test.bob
        .tries(&test.room, "join", json!({}))
        .await
        .expect_error(404, "M_NOT_FOUND");
    Stages::of(&test.server).await.wait_until_done().await;
    let mut rows = test.stops().await;
    rows.check_nothing_mentions(&[&test.room, "zebra"]).await;
}

#[tokio::test]
async fn a_purge_that_was_interrupted_goes_on_at_the_next_start() {
    let test = Test::new().await;
    test.bob.says(&test.room, "zebra").await;
    let (room, alice) = (test.room.clone(), test.alice.id.clone());
    let purged = async |server: &Server| {
        let mut rows = Rows::of(server).await;
        rows.begin_purge(&room, &alice).await;
    };

    let test = test.restarts(purged).await;

    Stages::of(&test.server).await.wait_until_done().await;
    let sync = test.bob.syncs().await;
    assert_eq!(sync["rooms"], Value::Null);
    let mut rows = test.stops().await;
    rows.check_nothing_mentions(&[&test.room, "zebra"]).await;
}
