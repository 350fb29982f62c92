//! Concurrent equal requests take effect once.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use parlour::clock::Clock;
use serde_json::{Value, json};

use crate::{
    chat::{room_path, texts_at},
    harness::{HttpAnswer, Server, User},
};

/// Number of equal requests that are sent concurrently.
const REQUESTS_AT_ONCE: usize = 6;

/// Sends equal requests concurrently and returns their answers.
pub(crate) async fn post_at_once(user: &User, path: &str, body: &Value) -> Vec<HttpAnswer> {
    let requests = (0..REQUESTS_AT_ONCE).map(|_| user.client.post(path, body.clone()));
    join_all(requests).await
}

/// Returns the memberships of a user in a room, from each of their member events in order.
pub(crate) async fn memberships(asker: &User, room: &str, of: &User) -> Vec<String> {
    let page = asker.messages(room, "dir=f&limit=100").await;
    let events = page["chunk"].as_array().cloned().unwrap_or_default();
    let of_user = events
        .into_iter()
        .filter(|event| event["type"] == "m.room.member" && event["state_key"] == of.id.as_str());
    let of_user: Value = of_user.collect();
    let memberships = texts_at(&of_user, "/content/membership");
    memberships.into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn concurrent_equal_membership_changes_make_one_event() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let knocking = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = alice.creates(json!({ "initial_state": [knocking] })).await;
    let about_bob = json!({ "user_id": bob.id });
    let knock = format!("/_matrix/client/v3/knock/{room}");
    let steps = [
        (&bob, knock.clone(), json!({}), "knock"),
        (
            &alice,
            room_path(&room, "invite"),
            about_bob.clone(),
            "invite",
        ),
        (&bob, room_path(&room, "join"), json!({}), "join"),
        (&bob, room_path(&room, "leave"), json!({}), "leave"),
        (&alice, room_path(&room, "ban"), about_bob.clone(), "ban"),
        (
            &alice,
            room_path(&room, "unban"),
            about_bob.clone(),
            "leave",
        ),
        (&bob, knock, json!({}), "knock"),
        (&alice, room_path(&room, "kick"), about_bob.clone(), "leave"),
    ];

    let mut expected = Vec::new();
    for (user, path, body, membership) in steps {
        let answers = post_at_once(user, &path, &body).await;
        expected.push(membership);
        assert!(answers.iter().any(|answer| answer.status == 200), "{path}");
        let odd = answers
            .iter()
            .find(|answer| !matches!(answer.status, 200 | 403));
        assert!(odd.is_none(), "{path}: {odd:?}");
        assert_eq!(memberships(&alice, &room, &bob).await, expected, "{path}");
    }
}

#[tokio::test]
async fn concurrent_restricted_joins_make_one_event() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let space = alice.creates_open_room().await;
    bob.joins(&space).await;
    let rules = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": space }],
    });
    let rules = json!({ "type": "m.room.join_rules", "content": rules });
    let room = alice.creates(json!({ "initial_state": [rules] })).await;

    let answers = post_at_once(&bob, &room_path(&room, "join"), &json!({})).await;

    assert!(
        answers.iter().all(|answer| answer.status == 200),
        "{answers:?}"
    );
    assert_eq!(memberships(&alice, &room, &bob).await, ["join"]);
}

#[tokio::test]
async fn concurrent_equal_state_makes_one_event() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;

    let topic = json!({ "topic": "tea" });
    let requests =
        (0..REQUESTS_AT_ONCE).map(|_| alice.sets_state(&room, "m.room.topic", topic.clone()));
    let ids: BTreeSet<String> = join_all(requests).await.into_iter().collect();

    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn concurrent_upgrades_make_one_room() {
    let clock = Clock::manual(1_700_000_000_000);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let alice = server.register("alice").await;
    let old = alice.creates(json!({ "room_version": "10" })).await;

    let body = json!({ "new_version": "11" });
    let answers = post_at_once(&alice, &room_path(&old, "upgrade"), &body).await;

    let rooms: BTreeSet<String> = answers.into_iter().map(replacement_room).collect();
    assert_eq!(rooms.len(), 1);
    let joined = alice.client.get("/_matrix/client/v3/joined_rooms").await;
    let joined = joined.expect_ok();
    assert_eq!(joined["joined_rooms"].as_array().map(Vec::len), Some(2));
    // Later, or with another version, the room can be replaced again.
    clock.advance(Duration::from_mins(2));
    let later = alice.posts_in_room(&old, "upgrade", body).await;
    assert!(!rooms.contains(&replacement_room(later)));
    let other = alice.posts_in_room(&old, "upgrade", json!({ "new_version": "12" }));
    assert!(!rooms.contains(&replacement_room(other.await)));
}

fn replacement_room(answer: HttpAnswer) -> String {
    let answer = answer.expect_ok();
    let room_id = answer["replacement_room"].as_str();
    room_id.expect("an id").to_owned()
}
