//! Data that is still sent to other servers after a long outage of theirs or of this server.

use std::time::Duration;

use futures_util::future::join_all;
use parlour::clock::Clock;
use serde_json::json;

use super::{
    sending::{SendingScene, TransactionAnswer},
    unused_address,
};
use crate::{chat::new_transaction, stored_rows::StoredRows};

/// Sends many messages in the room of a scene, in any order.
async fn sends_many_messages(scene: &SendingScene, count: usize) {
    for first in (0..count).step_by(50) {
        let texts: Vec<String> = (first..count.min(first + 50))
            .map(|n| n.to_string())
            .collect();
        let alice = &scene.alice;
        join_all(texts.iter().map(|text| alice.says(&scene.room, text))).await;
    }
}

#[tokio::test]
async fn a_leave_during_a_long_outage_is_still_sent() {
    let scene = SendingScene::new().await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(500));
    scene.says(["first"]).await;
    scene.receiver.waits_for_refusals(1).await;
    // Send more messages than the server reads at once, before and after the kick.
    sends_many_messages(&scene, 850).await;
    let bob = json!({ "user_id": scene.bob.id });
    let kick = scene.alice.posts_in_room(&scene.room, "kick", bob);
    kick.await.expect_ok();
    sends_many_messages(&scene, 220).await;
    scene.receiver.sets_answer(TransactionAnswer::Accepts);

    scene.peer_sends_request().await;
    scene.asserts_bobs_leave_came_last().await;
}

#[tokio::test]
async fn an_unrecorded_device_change_is_sent_after_a_restart() {
    let scene = SendingScene::new().await;
    scene
        .receiver
        .waits_for_edus("m.device_list_update", 1)
        .await;
    let peer = scene.peer.name.clone();
    // From now on a second pending device change violates the unique index, so it cannot be recorded.
    let scene = scene
        .restart_after(async |server| {
            let mut rows = StoredRows::open(server).await;
            let newest = rows
                .query_numbers("SELECT MAX(changed) FROM told_devices")
                .await[0];
            let other = format!("INSERT INTO told_devices VALUES ('{peer}', 0, 1, 1, 0)");
            rows.execute_sql(&other).await;
            let broken = format!(
                "CREATE UNIQUE INDEX broken ON told_devices
                 ((CASE WHEN changed > {newest} THEN 1 ELSE changed END))"
            );
            rows.execute_sql(&broken).await;
            rows.close().await;
        })
        .await;

    SendingScene::uploads_keys(&scene.alice).await;
    scene.says(["one"]).await;
    scene.receiver.waits_for_message("one").await;
    let scene = scene
        .restart_after(async |server| {
            let mut rows = StoredRows::open(server).await;
            rows.execute_sql("DROP INDEX broken").await;
            rows.close().await;
        })
        .await;

    let told = scene
        .receiver
        .waits_for_edus("m.device_list_update", 2)
        .await;
    assert_eq!(told[1]["user_id"], scene.alice.id);
    assert!(told[1]["keys"].is_object());
}

#[tokio::test]
async fn an_unsent_to_device_message_expires_after_a_month() {
    let clock = Clock::manual(1_700_000_000_000);
    let scene = SendingScene::with_clock(clock.clone()).await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(500));
    let sends = async |n: u32| {
        let id = new_transaction();
        let path = format!("/_matrix/client/v3/sendToDevice/m.test/{id}");
        let body = json!({ "messages": { &scene.bob.id: { "PHONE": { "n": n } } } });
        scene.alice.client.put(&path, body).await.expect_ok();
    };
    sends(1).await;
    scene.receiver.waits_for_refusals(1).await;
    clock.advance(Duration::from_hours(31 * 24));
    sends(2).await;

    scene.receiver.sets_answer(TransactionAnswer::Accepts);
    // The pause after the last refused attempt may begin only now.
    let letters = loop {
        clock.advance(Duration::from_mins(1));
        scene.peer_sends_request().await;
        let letters = scene.receiver.lock().edus("m.direct_to_device");
        if !letters.is_empty() {
            break letters;
        }
    };

    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["messages"][&scene.bob.id]["PHONE"]["n"], 2);
}

#[tokio::test]
async fn servers_in_no_room_are_forgotten_when_the_server_starts() {
    let scene = SendingScene::new().await;
    scene
        .receiver
        .waits_for_edus("m.device_list_update", 1)
        .await;
    scene.says(["one"]).await;
    scene.receiver.waits_for_message("one").await;
    let before = scene.receiver.lock().transaction_count();
    let (gone, waits) = (unused_address().to_string(), unused_address().to_string());
    let scene = scene
        .restart_after(async |server| {
            let mut rows = StoredRows::open(server).await;
            for name in [&gone, &waits] {
                let sql = format!("INSERT INTO destinations VALUES ('{name}', 9, 1, 1)");
                rows.execute_sql(&sql).await;
                let sql = format!("INSERT INTO told_devices VALUES ('{name}', 1, 1, -1, 0)");
                rows.execute_sql(&sql).await;
            }
            let sql = format!("INSERT INTO unsent_rooms VALUES ('{waits}', 1, 1)");
            rows.execute_sql(&sql).await;
            rows.close().await;
        })
        .await;

    // The peer gets a transaction when the cleanup is done.
    let is_greeted = |count| (count > before).then_some(());
    scene
        .receiver
        .waits_until(|heard| is_greeted(heard.transaction_count()))
        .await;
    let peer = scene.peer.name.clone();
    scene
        .restart_after(async |server| {
            let mut rows = StoredRows::open(server).await;
            for table in ["destinations", "told_devices"] {
                let texts = rows.row_texts(table).await.join("\n");
                assert!(!texts.contains(&gone), "{texts}");
                assert!(texts.contains(&waits), "{texts}");
                assert!(texts.contains(&peer), "{texts}");
            }
            rows.close().await;
        })
        .await;
}
