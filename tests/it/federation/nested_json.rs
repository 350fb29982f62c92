//! Deeply nested JSON affects only its own event or message, whether it comes from this server or another.

use parlour::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Network,
    edus::edu,
    sending::{SendingScene, TransactionAnswer},
    transactions::SharedRoom,
};
use crate::{chat::new_transaction, nested_json::nested_object, stored_rows::StoredRows};

/// Returns an EDU with a message to all devices of a user.
fn message_to_all_devices(sender: &str, kind: &str, receiver: &str, content: &Value) -> Value {
    let content = json!({
        "sender": sender, "type": kind, "message_id": new_transaction(),
        "messages": { receiver: { "*": content } },
    });
    edu("m.direct_to_device", &content)
}

#[tokio::test]
async fn a_deeply_nested_event_does_not_affect_its_transaction() {
    let mut shared = SharedRoom::new().await;
    for depth in [110, 124, 126, 128, 300, 10_000] {
        let since = shared.alice.syncs().await;
        let (peer, bob, alice) = (&shared.peer, &shared.bob.id, &shared.alice.id);
        // The nested value replaces a placeholder in the text, because the test helpers cannot make such events.
        let deep = shared
            .bob
            .drafts_event("m.room.message", None, &json!({ "d": "DEEP" }));
        let deep_message = message_to_all_devices(bob, "org.deep", alice, &json!({ "d": "DEEP" }));
        let fine_message = message_to_all_devices(bob, "org.fine", alice, &json!({}));
        let text = format!("fine beside {depth}");
        let fine = shared.bob.clone().says(peer, &text);
        let body = json!({
            "origin": peer.name, "origin_server_ts": 1,
            "pdus": [deep, fine.json], "edus": [deep_message, fine_message],
        });
        let body = body.to_string().replace("\"DEEP\"", &nested_object(depth));
        let path = format!("/_matrix/federation/v1/send/{}", new_transaction());

        let answer = peer
            .sends_request(&shared.server, Method::PUT, &path, &body)
            .await
            .expect_ok();

        assert_eq!(answer["pdus"][&*fine.id], json!({}));
        assert_eq!(
            answer["pdus"].as_object().expect("an object").len(),
            2,
            "each event has a result"
        );
        shared.bob.advances_to(&fine);
        assert_eq!(shared.message_texts().await.last(), Some(&text));
        let sync = shared.alice.syncs_after(&since).await;
        let messages = sync["to_device"]["events"].as_array().expect("a list");
        let types: Vec<&Value> = messages.iter().map(|message| &message["type"]).collect();
        assert_eq!(types, ["org.fine"], "{depth} levels");
    }
}

#[tokio::test]
async fn to_device_content_from_another_server_must_be_an_object() {
    let shared = SharedRoom::new().await;
    let since = shared.alice.syncs().await;
    let of =
        |kind, content| message_to_all_devices(&shared.bob.id, kind, &shared.alice.id, &content);
    let edus = [
        of("org.number", json!(5)),
        of("org.null", json!(null)),
        of("org.fine", json!({})),
    ];

    shared.peer.sends_edus(&shared.server, &edus).await;

    let sync = shared.alice.syncs_after(&since).await;
    let messages = sync["to_device"]["events"].as_array().expect("a list");
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(messages[0]["type"], "org.fine");
}

#[tokio::test]
async fn stored_messages_that_cannot_be_signed_are_dropped_alone() {
    let scene = SendingScene::with_clock(Clock::system()).await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(500));
    let send = async |kind: &str| {
        let path = format!(
            "/_matrix/client/v3/sendToDevice/{kind}/{}",
            new_transaction()
        );
        let body = json!({ "messages": { &scene.bob.id: { "*": {} } } });
        scene.alice.client.put(&path, body).await.expect_ok();
    };
    for kind in ["org.before", "org.deep", "org.after"] {
        send(kind).await;
    }
    scene.receiver.waits_for_refusals(1).await;

    // Versions of the server that did not limit the depth stored such messages.
    let scene = scene
        .restart_after(async |server| {
            let sql = format!(
                r#"UPDATE unsent_messages SET edu = REPLACE(edu, '"*":{{}}', '"*":{}')
                   WHERE edu LIKE '%org.deep%'"#,
                nested_object(200)
            );
            let mut rows = StoredRows::open(server).await;
            rows.execute_sql(&sql).await;
            rows.close().await;
        })
        .await;
    scene.receiver.sets_answer(TransactionAnswer::Accepts);
    scene.peer_sends_request().await;
    scene.says(["plain"]).await;

    scene.receiver.waits_for_message("plain").await;
    let edus = scene.receiver.waits_for_edus("m.direct_to_device", 2).await;
    let types: Vec<&Value> = edus.iter().map(|edu| &edu["type"]).collect();
    assert_eq!(types, ["org.before", "org.after"]);
}

#[tokio::test]
async fn to_device_messages_to_other_servers_must_be_canonical_json() {
    let server = Network::new().server().await;
    let alice = server.register("alice").await;
    let send = async |user: &str| {
        let path = format!(
            "/_matrix/client/v3/sendToDevice/org.x/{}",
            new_transaction()
        );
        let body = json!({ "messages": { user: { "*": { "fraction": 0.5 } } } });
        alice.client.put(&path, body).await
    };

    send("@elsewhere:example.org")
        .await
        .expect_error(400, "M_BAD_JSON");
    send(&alice.id).await.expect_ok();
}
