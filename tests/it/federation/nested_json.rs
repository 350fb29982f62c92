//! Deeply nested JSON affects only its own event or message, whether it comes from this server or another.

use parlour::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Network,
    edus::edu,
    sending::{Manner, Scene},
    transactions::Shared,
};
use crate::{chat::new_transaction, nested_json::nested, stored::Rows};

/// Returns an EDU with a message to all devices of a user.
fn message(sender: &str, kind: &str, receiver: &str, content: &Value) -> Value {
    let content = json!({
        "sender": sender, "type": kind, "message_id": new_transaction(),
        "messages": { receiver: { "*": content } },
    });
    edu("m.direct_to_device", &content)
}

#[tokio::test]
async fn a_deep_event_or_edu_of_another_server_spoils_nothing_else_of_its_transaction() {
    let mut shared = Shared::new().await;
    for depth in [110, 124, 126, 128, 300, 10_000] {
        let since = shared.alice.syncs().await;
        let (peer, bob, alice) = (&shared.peer, &shared.bob.id, &shared.alice.id);
        // The nested value replaces a placeholder in the text, because the test helpers cannot make such events.
        let deep = shared
            .bob
            .drafts("m.room.message", None, &json!({ "d": "DEEP" }));
        let deep_message = message(bob, "org.deep", alice, &json!({ "d": "DEEP" }));
        let fine_message = message(bob, "org.fine", alice, &json!({}));
        let text = format!("fine beside {depth}");
        let fine = shared.bob.clone().says(peer, &text);
        let body = json!({
            "origin": peer.name, "origin_server_ts": 1,
            "pdus": [deep, fine.json], "edus": [deep_message, fine_message],
        });
        let body = body.to_string().replace("\"DEEP\"", &nested(depth));
        let path = format!("/_matrix/federation/v1/send/{}", new_transaction());

        let answer = peer
            .asks(&shared.server, Method::PUT, &path, &body)
            .await
            .expect_ok();

        assert_eq!(answer["pdus"][&*fine.id], json!({}));
        assert_eq!(
            answer["pdus"].as_object().expect("an object").len(),
            2,
            "each event has a result"
        );
        shared.bob.follows(&fine);
        assert_eq!(shared.said().await.last(), Some(&text));
        let sync = shared.alice.syncs_after(&since).await;
        let messages = sync["to_device"]["events"].as_array().expect("a list");
        let types: Vec<&Value> = messages.iter().map(|message| &message["type"]).collect();
        assert_eq!(types, ["org.fine"], "{depth} levels");
    }
}

#[tokio::test]
async fn a_message_to_a_device_of_another_server_has_to_be_an_object() {
    let shared = Shared::new().await;
    let since = shared.alice.syncs().await;
    let of = |kind, content| message(&shared.bob.id, kind, &shared.alice.id, &content);
    let edus = [
        of("org.number", json!(5)),
        of("org.null", json!(null)),
        of("org.fine", json!({})),
    ];

    shared.peer.tells(&shared.server, &edus).await;

    let sync = shared.alice.syncs_after(&since).await;
    let messages = sync["to_device"]["events"].as_array().expect("a list");
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(messages[0]["type"], "org.fine");
}

#[tokio::test]
async fn what_cannot_be_signed_is_dropped_and_all_else_is_sent() {
    let scene = Scene::at(Clock::system()).await;
    scene.ear.answers(Manner::Refuses(500));
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
    scene.ear.refuses(1).await;

    // Versions of the server that did not limit the depth stored such messages.
    let scene = scene
        .restart_after(async |server| {
            let sql = format!(
                r#"UPDATE unsent_messages SET edu = REPLACE(edu, '"*":{{}}', '"*":{}')
                   WHERE edu LIKE '%org.deep%'"#,
                nested(200)
            );
            let mut rows = Rows::of(server).await;
            rows.run(&sql).await;
            rows.close().await;
        })
        .await;
    scene.ear.answers(Manner::Takes);
    scene.shows_life().await;
    scene.says(["plain"]).await;

    scene.ear.hears("plain").await;
    let edus = scene.ear.hears_edus("m.direct_to_device", 2).await;
    let types: Vec<&Value> = edus.iter().map(|edu| &edu["type"]).collect();
    assert_eq!(types, ["org.before", "org.after"]);
}

#[tokio::test]
async fn a_message_to_another_server_has_to_have_a_canonical_form() {
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
