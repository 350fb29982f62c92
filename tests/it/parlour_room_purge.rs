//! Tests that the database keeps nothing of a deleted room, in any order of the requests.

use parlour::clock::Clock;
use serde_json::{Value, json};

use crate::{
    chat::{new_transaction, percent_encoded, room_path, texts_at, timeline},
    harness::Server,
    parlour_room_deletion::RoomDeletionTest,
    stored_rows::{DeletionProgress, StoredRows},
};

impl RoomDeletionTest {
    /// Stops the server and opens its database.
    async fn stop_server(&self) -> StoredRows {
        self.server.running.stop().await;
        self.server.running.wait_until_stopped().await;
        StoredRows::open(&self.server).await
    }
}

#[tokio::test]
async fn nobody_can_join_during_a_deletion() {
    let test = RoomDeletionTest::new().await;
    let before = test.carol.syncs().await;
    let comes = async || {
        for _ in 0..20 {
            let answer = test
                .carol
                .posts_in_room(&test.room, "join", json!({}))
                .await;
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

    tokio::join!(comes(), test.delete_room(), talks());

    let sync = test.carol.syncs_after(&before).await;
    assert_eq!(sync["rooms"]["join"][&test.room], Value::Null);
    test.stop_server()
        .await
        .check_no_table_mentions(&[&test.room])
        .await;
}

#[tokio::test]
async fn a_purge_removes_every_mention_of_the_room() {
    let test =
        RoomDeletionTest::with_room(json!({ "preset": "public_chat", "room_alias_name": "tea" }))
            .await;
    let other = test.alice.creates(json!({ "preset": "public_chat" })).await;
    let said = fill_room(&test).await;
    let room = test.room.clone();
    let needles: Vec<&str> = said.iter().chain([&room]).map(String::as_str).collect();
    // A search indexes the messages that are not indexed yet.
    let search = json!({ "search_categories": { "room_events": { "search_term": "zebra" } } });
    let path = "/_matrix/client/v3/search";
    let found = test.bob.client.post(path, search).await.expect_ok();
    assert_ne!(found["search_categories"]["room_events"]["count"], 0);
    let looks = async |server: &Server| {
        let mut rows = StoredRows::open(server).await;
        let listing = format!(
            "INSERT INTO application_service_rooms (service, network, room)
             SELECT 'bridge', 'net', num FROM rooms WHERE room_id = '{room}'"
        );
        rows.execute_sql(&listing).await;
        rows.check_all_tables_mention(&room).await;
        rows.close().await;
    };
    let test = test.restart_server_after(looks).await;

    test.delete_room().await;

    test.bob.joins(&other).await;
    let mut rows = test.stop_server().await;
    rows.check_no_table_mentions(&needles).await;
    let kept = rows.row_texts("deleted_rooms").await;
    assert!(kept.len() == 1 && kept[0].contains(&test.room));
    assert_eq!(rows.row_texts("rooms").await.len(), 1);
    assert_eq!(rows.row_texts("state_chains").await.len(), 1);
}

/// Stores something of every kind for a room; returns event IDs and words that the database then contains.
async fn fill_room(test: &RoomDeletionTest) -> Vec<String> {
    let (bob, room) = (&test.bob, &test.room);
    let mut said = vec!["zebra".to_owned()];
    for _ in 0..3 {
        said.push(bob.says(room, "a zebra").await);
    }
    said.push(bob.sends_sticky(room, "a sticky zebra").await);
    said.push(fill_thread(test, &said[1]).await);
    fill_receipts(test, [&said[1], &said[2], &said[3]]).await;
    fill_delayed_events(test).await;
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
    bob.posts_in_room(
        room,
        &format!("report/{}", percent_encoded(&said[2])),
        report,
    )
    .await
    .expect_ok();
    said
}

/// Replies in a thread, reacts, and subscribes to the thread; returns the id of the reply.
async fn fill_thread(test: &RoomDeletionTest, thread_root: &str) -> String {
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
        percent_encoded(thread_root)
    );
    bob.client.put(&path, json!({})).await.expect_ok();
    let unwanted = bob.says(room, "unwanted").await;
    let path = format!(
        "redact/{}/{}",
        percent_encoded(&unwanted),
        new_transaction()
    );
    let body = json!({ "with_rel_types": ["m.reference"] });
    bob.client
        .put(&room_path(room, &path), body)
        .await
        .expect_ok();
    let reply = reply.expect_ok();
    reply["event_id"].as_str().expect("an ID").to_owned()
}

/// Sends receipts for a thread, for the main timeline and without a thread, and read markers.
async fn fill_receipts(test: &RoomDeletionTest, [first, second, third]: [&str; 3]) {
    let (alice, bob, room) = (&test.alice, &test.bob, &test.room);
    let of_thread = json!({ "thread_id": first });
    let receipt = |event_id| format!("receipt/m.read/{}", percent_encoded(event_id));
    let read = alice.posts_in_room(room, &receipt(first), of_thread).await;
    read.expect_ok();
    let main = json!({ "thread_id": "main" });
    let read = alice.posts_in_room(room, &receipt(second), main).await;
    read.expect_ok();
    let read = bob.posts_in_room(room, &receipt(third), json!({})).await;
    read.expect_ok();
    let marks = json!({ "m.fully_read": second, "m.read.private": second });
    alice
        .posts_in_room(room, "read_markers", marks)
        .await
        .expect_ok();
}

/// Schedules delayed events, one of which is sent at once, redeems an invite link, and sends an
/// invitation that expires.
async fn fill_delayed_events(test: &RoomDeletionTest) {
    let (alice, bob, room) = (&test.alice, &test.bob, &test.room);
    for delay in [1_000_000, 1] {
        let path = format!("send/m.room.message/{}", new_transaction());
        let path = room_path(room, &format!("{path}?org.matrix.msc4140.delay={delay}"));
        let delayed = bob.client.put(&path, json!({ "body": "a late zebra" }));
        delayed.await.expect_ok();
    }
    let own = format!("/_parlour/client/v1/rooms/{}", percent_encoded(room));
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
async fn a_large_room_is_purged_completely() {
    let test = RoomDeletionTest::new().await;
    for _ in 0..12 {
        let fifty = (0..50).map(|_| test.bob.says(&test.room, "again"));
        futures_util::future::join_all(fifty).await;
    }

    test.delete_room().await;

    let mut rows = test.stop_server().await;
    rows.check_no_table_mentions(&[&test.room]).await;
    assert!(rows.row_texts("events").await.is_empty());
}

#[tokio::test]
async fn an_interrupted_deletion_is_finished_at_startup() {
    let test = RoomDeletionTest::new().await;
    test.bob.says(&test.room, "zebra").await;
    let before = test.bob.syncs().await;
    let room = test.room.clone();
    let alice = test.alice.id.clone();
    let begun = async |server: &Server| {
        let mut rows = StoredRows::open(server).await;
        rows.begin_deletion(&room, &alice).await;
    };

    let test = test.restart_server_after(begun).await;

    let mut after = test.bob.long_polls_after(&before).await;
    while after["rooms"]["leave"][&test.room].is_null() {
        assert_eq!(
            texts_at(timeline(&after, &test.room), "/content/body").len(),
            0
        );
        after = test.bob.long_polls_after(&after).await;
    }
    assert_eq!(
        test.leave_event(&after, &test.bob)["content"]["reason"],
        "begun before"
    );
    test.bob
        .posts_in_room(&test.room, "join", json!({}))
        .await
        .expect_error(404, "M_NOT_FOUND");
    DeletionProgress::connect(&test.server)
        .await
        .wait_until_finished()
        .await;
    let mut rows = test.stop_server().await;
    rows.check_no_table_mentions(&[&test.room, "zebra"]).await;
}

#[tokio::test]
async fn an_interrupted_purge_is_finished_at_startup() {
    let test = RoomDeletionTest::new().await;
    test.bob.says(&test.room, "zebra").await;
    let (room, alice) = (test.room.clone(), test.alice.id.clone());
    let purged = async |server: &Server| {
        let mut rows = StoredRows::open(server).await;
        rows.begin_purge(&room, &alice).await;
    };

    let test = test.restart_server_after(purged).await;

    DeletionProgress::connect(&test.server)
        .await
        .wait_until_finished()
        .await;
    let sync = test.bob.syncs().await;
    assert_eq!(sync["rooms"], Value::Null);
    let mut rows = test.stop_server().await;
    rows.check_no_table_mentions(&[&test.room, "zebra"]).await;
}
