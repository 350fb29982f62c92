//! Stored filters.

use serde_json::{Value, json};

use crate::{
    chat::{filter_query, percent_encoded, state, timeline},
    harness::Server,
};

#[tokio::test]
async fn a_filter_is_stored_once() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let path = format!("/_matrix/client/v3/user/{}/filter", alice.id);
    let filter = json!({ "room": { "timeline": { "limit": 10 } } });

    let first = alice.client.post(&path, filter.clone()).await.expect_ok();
    let again = alice.client.post(&path, filter.clone()).await.expect_ok();

    assert_eq!(first, again);
    let id = first["filter_id"].as_str().expect("an id");
    let stored = alice.client.get(&format!("{path}/{id}")).await.expect_ok();
    assert_eq!(stored, filter);
}

#[tokio::test]
async fn filters_are_private_and_must_be_valid() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = format!("/_matrix/client/v3/user/{}/filter", alice.id);

    alice
        .client
        .get(&format!("{path}/1"))
        .await
        .expect_error(404, "M_NOT_FOUND");
    bob.client
        .get(&format!("{path}/1"))
        .await
        .expect_error(403, "M_FORBIDDEN");
    bob.client
        .post(&path, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    let wrong = json!({ "room": { "timeline": { "limit": "many" } } });
    alice
        .client
        .post(&path, wrong)
        .await
        .expect_error(400, "M_BAD_JSON");
}

fn assert_federation_format(event: &Value) {
    for field in [
        "auth_events",
        "prev_events",
        "hashes",
        "signatures",
        "depth",
    ] {
        assert!(!event[field].is_null(), "{field}: {event}");
    }
}

#[tokio::test]
async fn a_filter_can_request_the_federation_event_format() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "topic": "tea" })).await;
    let event_id = alice.says(&room, "hello").await;
    let format = json!({ "event_format": "federation", "room": { "timeline": { "limit": 1 } } });
    let in_room = filter_query(&json!({ "event_format": "federation" }));

    let sync = alice.syncs_with(&filter_query(&format)).await;
    let page = alice
        .messages(&room, &format!("dir=b&limit=5&{in_room}"))
        .await;
    let context = format!("context/{}?{in_room}", percent_encoded(&event_id));
    let context = alice.gets_in_room(&room, &context).await.expect_ok();
    let usual = alice.messages(&room, "dir=b&limit=5").await;

    let synced = &timeline(&sync, &room)[0];
    for event in [synced, &page["chunk"][0], &context["event"]] {
        assert_eq!(event["event_id"], event_id, "{event}");
        assert_eq!(event["content"]["body"], "hello");
        assert!(event["unsigned"]["age"].is_number());
    }
    let lists = [
        state(&sync, &room),
        &page["chunk"],
        &context["events_before"],
        &context["state"],
    ];
    for events in lists {
        events
            .as_array()
            .expect("a list")
            .iter()
            .for_each(assert_federation_format);
    }
    assert_eq!(usual["chunk"][0]["auth_events"], Value::Null);
}

#[tokio::test]
async fn a_redacted_event_is_redacted_in_every_format() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let event_id = alice.says(&room, "secret").await;
    alice.redacts(&room, &event_id).await;

    let format = json!({ "event_format": "federation" });
    let sync = alice.syncs_with(&filter_query(&format)).await;

    assert!(!sync.to_string().contains("secret"));
}

#[tokio::test]
async fn unspecified_enum_values_are_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let odd = json!({ "event_format": "odd" });
    let stored = format!("/_matrix/client/v3/user/{}/filter", alice.id);
    let grouped = json!({ "search_categories": { "room_events": {
        "search_term": "tea", "groupings": { "group_by": [{ "key": "odd" }] },
    } } });

    let answers = [
        alice.client.post(&stored, odd.clone()).await,
        alice.tries_to_sync(&filter_query(&odd)).await,
        alice.tries_to_sync("set_presence=odd").await,
        alice
            .sends_sliding_sync("set_presence=odd", json!({}))
            .await,
        alice
            .gets_in_room(&room, &format!("messages?dir=b&{}", filter_query(&odd)))
            .await,
        alice
            .client
            .post("/_matrix/client/v3/search", grouped)
            .await,
    ];

    for answer in answers {
        answer.expect_error(400, "M_INVALID_PARAM");
    }
}
