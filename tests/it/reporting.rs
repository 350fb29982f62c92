//! Tests reports of events, rooms and users.

use serde_json::json;

use crate::{chat::room_path, harness::Server};

#[tokio::test]
async fn members_report_the_events_of_a_room() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let event = alice.says(&room, "rude").await;

    let path = format!("report/{event}");
    assert_eq!(
        bob.posts_in_room(&room, &path, json!({ "reason": "rude" }))
            .await
            .expect_ok(),
        json!({})
    );
    bob.posts_in_room(&room, &path, json!({})).await.expect_ok();
    let long = json!({ "reason": "x".repeat(10_000) });
    bob.posts_in_room(&room, &path, long)
        .await
        .expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn reporting_an_event_does_not_reveal_that_it_exists() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates(json!({})).await;
    let event = alice.says(&room, "secret").await;
    let mut answers = Vec::new();

    for (room, event) in [
        (&*room, &*event),
        (&room, "$unknown"),
        ("!unknown:localhost", &event),
    ] {
        let answer = bob
            .posts_in_room(room, &format!("report/{event}"), json!({}))
            .await;
        answers.push(answer.expect_error(404, "M_NOT_FOUND"));
    }

    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

#[tokio::test]
async fn unknown_rooms_and_users_can_be_reported() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.creates(json!({})).await;
    let body = || json!({ "reason": "spam" });

    for room in [&*room, "!unknown:localhost"] {
        assert_eq!(
            bob.posts_in_room(room, "report", body()).await.expect_ok(),
            json!({})
        );
    }
    for user in [&*alice.id, "@unknown:localhost"] {
        let path = format!("/_matrix/client/v3/users/{user}/report");
        assert_eq!(bob.client.post(&path, body()).await.expect_ok(), json!({}));
    }
    let path = format!("/_matrix/client/v3/users/{}/report", alice.id);
    bob.client
        .post(&path, json!({}))
        .await
        .expect_error(400, "M_BAD_JSON");
    server
        .post(&room_path(&room, "report"), body())
        .await
        .expect_error(401, "M_MISSING_TOKEN");
}
