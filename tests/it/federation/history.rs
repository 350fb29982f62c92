//! History of a room from before the server joined it.

use reqwest::Method;
use serde_json::{Value, json};

use super::joining::JoinPeerRoomScene;
use crate::{
    chat::{event_ids, message_bodies, percent_encoded},
    parlour_room_deletion::send_deletion,
    stored_rows::StoredRows,
};

impl JoinPeerRoomScene {
    /// Returns all messages that can be read, the newest first, and the number of pages.
    async fn reads_history(&self, limit: usize) -> (Vec<String>, usize) {
        let (mut all, mut pages) = (Vec::new(), 0);
        let mut from = String::new();
        loop {
            let query = format!("dir=b&limit={limit}{from}");
            let page = self.bob.messages(&self.room.id(), &query).await;
            all.extend(
                message_bodies(&page["chunk"])
                    .into_iter()
                    .map(ToOwned::to_owned),
            );
            pages += 1;
            let Some(end) = page["end"].as_str() else {
                return (all, pages);
            };
            from = format!("&from={end}");
        }
    }
}

/// Adds messages, and a state event now and then.
fn adds_history(story: &JoinPeerRoomScene) {
    for n in 0..150 {
        let mut room = story.room.lock();
        room.says(&n.to_string());
        if n % 40 == 0 {
            room.sets_state("m.room.name", "", json!({ "name": n.to_string() }));
        }
    }
}

#[tokio::test]
async fn history_is_fetched_page_by_page_up_to_the_beginning() {
    for version in ["10", "12"] {
        let story = JoinPeerRoomScene::new(version).await;
        adds_history(&story);
        story.joins_via(&[&story.peer.name]).await.expect_ok();

        let (all, _) = story.reads_history(30).await;

        let wanted: Vec<String> = (0..150).rev().map(|n| n.to_string()).collect();
        assert_eq!(all, wanted, "{version}");
        let old = story.room.lock().events[5].0.event_id.to_string();
        story.bob.event(&story.room.id(), &old).await.expect_ok();
    }
}

#[tokio::test]
async fn messages_sent_while_a_user_was_away_are_fetched() {
    let story = JoinPeerRoomScene::new("11").await;
    story.room.lock().says("before");
    story.joins_via(&[&story.peer.name]).await.expect_ok();
    let room = story.room.id();
    story.bob.leaves(&room).await;
    for n in 0..20 {
        story.room.lock().says(&n.to_string());
    }
    story.joins_via(&[&story.peer.name]).await.expect_ok();

    let (all, _) = story.reads_history(100).await;

    let wanted: Vec<String> = (0..20).rev().map(|n| n.to_string()).collect();
    assert_eq!(all, [wanted, vec!["before".to_owned()]].concat());
}

#[tokio::test]
async fn a_page_without_remote_history_can_be_continued_later() {
    let story = JoinPeerRoomScene::new("11").await;
    story.room.lock().says("before");
    story.joins_via(&[&story.peer.name]).await.expect_ok();
    let room = story.room.id();
    story.room.lock().is_silent = true;

    let page = story.bob.messages(&room, "dir=b&limit=10").await;

    assert_eq!(event_ids(&page["chunk"]).len(), 1);
    let end = page["end"].as_str().expect("a token for the next page");
    story.room.lock().is_silent = false;
    let page = story
        .bob
        .messages(&room, &format!("dir=b&from={end}"))
        .await;
    assert_eq!(message_bodies(&page["chunk"]), ["before"]);
}

#[tokio::test]
async fn forged_history_is_ignored() {
    let story = JoinPeerRoomScene::new("11").await;
    story.room.lock().says("true");
    let forged = story.room.lock().says("forged");
    story.joins_via(&[&story.peer.name]).await.expect_ok();
    for (pdu, json) in &mut story.room.lock().events {
        if pdu.event_id == *forged {
            json["content"]["body"] = json!("other words");
        }
    }

    let (all, _) = story.reads_history(100).await;

    assert_eq!(all, ["true"]);
}

#[tokio::test]
async fn the_event_at_a_time_may_be_older_than_the_join() {
    let story = JoinPeerRoomScene::new("11").await;
    let first = story.room.lock().says("first");
    let at = story.room.lock().time_of(&first);
    story.room.lock().says("second");
    story.joins_via(&[&story.peer.name]).await.expect_ok();
    let room = percent_encoded(&story.room.id());

    let path = format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts={at}&dir=f");
    let found: Value = story.bob.client.get(&path).await.expect_ok();

    let told = found["event_id"].as_str().expect("an id").to_owned();
    let at_told = story.room.lock().time_of(&told);
    assert_eq!(at_told, at);
    let context = story
        .bob
        .gets_in_room(
            &story.room.id(),
            &format!("context/{}", percent_encoded(&told)),
        )
        .await;
    context.expect_ok();
}

#[tokio::test]
async fn deleting_a_remote_room_removes_all_its_rows() {
    let story = JoinPeerRoomScene::new("11").await;
    story
        .room
        .lock()
        .sets_state("m.room.name", "", json!({ "name": "zebra" }));
    story.room.lock().says("zebra");
    story
        .room
        .lock()
        .sets_state("m.room.name", "", json!({ "name": "zebras" }));
    let server = &story.server;
    let admin = server.register_admin("admin").await;
    story.joins_via(&[&story.peer.name]).await.expect_ok();
    story.reads_history(100).await;
    let room = story.room.id();
    story.bob.leaves(&room).await;
    story
        .room
        .lock()
        .sets_state("m.room.topic", "", json!({ "topic": "zebra" }));
    story.joins_via(&[&story.peer.name]).await.expect_ok();
    story.reads_history(100).await;

    send_deletion(&admin, &room, json!({})).await.expect_ok();

    server.running.stop().await;
    server.running.wait_until_stopped().await;
    let mut rows = StoredRows::open(server).await;
    for table in [
        "events",
        "state_chains",
        "state_snapshots",
        "state_entries",
        "gaps",
    ] {
        let left = rows.row_texts(table).await;
        assert!(left.is_empty(), "{table}: {left:?}");
    }
    rows.close().await;
}

#[tokio::test]
async fn a_single_event_from_before_the_join_is_fetched() {
    for version in ["10", "12"] {
        let story = JoinPeerRoomScene::new(version).await;
        let pinned = story.room.lock().says("pinned");
        adds_history(&story);
        story.joins_via(&[&story.peer.name]).await.expect_ok();
        let room = story.room.id();

        let event = story.bob.event(&room, &pinned).await.expect_ok();
        story.room.lock().is_silent = true;
        let again = story.bob.event(&room, &pinned).await.expect_ok();

        assert_eq!(event["content"]["body"], "pinned", "{version}");
        assert_eq!(event["event_id"], pinned);
        assert_eq!(event["room_id"], room);
        assert_eq!(event["unsigned"]["membership"], "leave");
        assert_eq!(again["content"], event["content"]);
        let unknown = story.bob.event(&room, "$unknown").await;
        unknown.expect_error(404, "M_NOT_FOUND");
        let stranger = story.server.register("stranger").await;
        let refused = stranger.event(&room, &pinned).await;
        refused.expect_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_single_event_is_fetched_only_if_the_history_visibility_allows_it() {
    for (visibility, is_visible) in [("shared", true), ("invited", false), ("joined", false)] {
        let story = JoinPeerRoomScene::new("11").await;
        let content = json!({ "history_visibility": visibility });
        let set = |content: Value| {
            let mut room = story.room.lock();
            room.sets_state("m.room.history_visibility", "", content)
        };
        set(content);
        let pinned = story.room.lock().says("pinned");
        set(json!({ "history_visibility": "shared" }));
        adds_history(&story);
        story.joins_via(&[&story.peer.name]).await.expect_ok();

        let event = story.bob.event(&story.room.id(), &pinned).await;

        if is_visible {
            event.expect_ok();
        } else {
            event.expect_error(404, "M_NOT_FOUND");
        }
    }
}

#[tokio::test]
async fn a_single_event_that_is_forged_is_not_fetched() {
    let story = JoinPeerRoomScene::new("11").await;
    let pinned = story.room.lock().says("pinned");
    let other = story.room.lock().says("other");
    adds_history(&story);
    story.joins_via(&[&story.peer.name]).await.expect_ok();
    for (pdu, json) in &mut story.room.lock().events {
        if pdu.event_id == *pinned {
            json["depth"] = json!(7);
        }
        if pdu.event_id == *other {
            json["signatures"] = json!({});
        }
    }

    for event_id in [&pinned, &other] {
        let event = story.bob.event(&story.room.id(), event_id).await;
        event.expect_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_single_event_is_redacted_by_a_redaction_that_arrived_before() {
    let story = JoinPeerRoomScene::new("11").await;
    let pinned = story.room.lock().says("pinned");
    adds_history(&story);
    story.joins_via(&[&story.peer.name]).await.expect_ok();
    let room = story.room.id();
    let before = story.bob.event(&room, &pinned).await.expect_ok();

    let redaction = story.room.lock().redacts(&pinned);
    let body = json!({
        "origin": story.peer.name, "origin_server_ts": 1, "pdus": [redaction], "edus": [],
    });
    let path = "/_matrix/federation/v1/send/redaction";
    let body = body.to_string();
    let sent = story
        .peer
        .sends_request(&story.server, Method::PUT, path, &body);
    sent.await.expect_ok();

    assert_eq!(before["content"]["body"], "pinned");
    let after = story.bob.event(&room, &pinned).await.expect_ok();
    assert_eq!(after["content"], json!({}));
    let because = &after["unsigned"]["redacted_because"];
    assert_eq!(because["type"], "m.room.redaction");
}
