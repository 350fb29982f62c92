//! Gaps that other servers leave in a room: clients learn that events are missing, and from which token to continue.

use serde_json::json;

use super::{guest::Made, transactions::Shared};
use crate::{
    chat::{encoded, find, ids, in_room, state, timeline},
    sliding::list,
};

/// A room in which a peer left events out, and the events that it sent after them.
struct Gap {
    shared: Shared,
    found: Made,
    newest: Made,
}

impl Gap {
    /// Lets a message and a change of Bob's name get lost.
    async fn before(mut shared: Shared) -> Self {
        let id = shared.bob.id.clone();
        let member = json!({ "membership": "join", "displayname": "Bob" });
        shared
            .bob
            .makes(&shared.peer, "m.room.member", (Some(&id), &member));
        shared.bob.says(&shared.peer, "lost");
        let found = shared.bob.says(&shared.peer, "found");
        let newest = shared.bob.says(&shared.peer, "newest");
        shared.archive.tells_back_to(&found);
        let told = shared.peer.sends(&shared.server, &[&newest]).await;
        assert_eq!(told[&*newest.id], json!({}));
        Self {
            shared,
            found,
            newest,
        }
    }
}

#[tokio::test]
async fn an_incremental_sync_says_that_events_are_missing() {
    for restarts in [false, true] {
        let shared = Shared::new().await;
        shared.alice.says(&shared.room, "before").await;
        let since = shared.alice.syncs().await;
        let mut gap = Gap::before(shared).await;
        if restarts {
            gap.shared.server = gap.shared.server.restart().await;
            gap.shared.alice = gap.shared.alice.at(&gap.shared.server);
        }
        let Shared { alice, room, .. } = &gap.shared;

        let sync = alice.syncs_after(&since).await;

        let joined = &sync["rooms"]["join"][room];
        assert_eq!(
            ids(timeline(&sync, room)),
            [&*gap.found.id, &*gap.newest.id]
        );
        assert_eq!(joined["timeline"]["limited"], true, "{joined}");
        let member = find(state(&sync, room), "m.room.member", &gap.shared.bob.id);
        assert_eq!(member["content"]["displayname"], "Bob", "{joined}");
        let from = joined["timeline"]["prev_batch"].as_str().expect("a token");
        let page = alice.messages(room, &format!("dir=b&from={from}")).await;
        assert!(!page.to_string().contains(&gap.found.id), "{page}");
        let after = alice.syncs_after(&sync).await;
        assert!(after["rooms"]["join"][room].is_null(), "{after}");
    }
}

#[tokio::test]
async fn the_events_of_a_gap_can_be_read_from_its_token() {
    let shared = Shared::new().await;
    let before = shared.alice.says(&shared.room, "before").await;
    let since = shared.alice.syncs().await;
    let gap = Gap::before(shared).await;
    let Shared { alice, room, .. } = &gap.shared;
    let sync = alice.syncs_after(&since).await;
    let timeline = &sync["rooms"]["join"][room]["timeline"];
    let from = timeline["prev_batch"].as_str().expect("a token");

    let query = format!("dir=b&limit=3&from={from}");
    let page = alice.messages(room, &query).await;

    let chunk = page["chunk"].as_array().expect("a list");
    let bodies: Vec<_> = chunk
        .iter()
        .map(|event| &event["content"]["body"])
        .collect();
    assert_eq!(bodies[0], "lost", "{page}");
    let context = format!("context/{}?limit=20", encoded(&before));
    alice.client.get(&in_room(room, &context)).await.expect_ok();
}

#[tokio::test]
async fn a_sync_with_the_state_after_says_that_events_are_missing() {
    let shared = Shared::new().await;
    let since = shared.alice.syncs().await;
    let gap = Gap::before(shared).await;
    let Shared { alice, room, .. } = &gap.shared;

    let since = encoded(since["next_batch"].as_str().expect("a token"));
    let query = format!("since={since}&use_state_after=true");
    let sync = alice.syncs_with(&query).await;

    let joined = &sync["rooms"]["join"][room];
    assert_eq!(joined["timeline"]["limited"], true);
    let member = find(
        &joined["state_after"]["events"],
        "m.room.member",
        &gap.shared.bob.id,
    );
    assert_eq!(member["content"]["displayname"], "Bob", "{joined}");
}

#[tokio::test]
async fn sliding_sync_says_that_events_are_missing() {
    let shared = Shared::new().await;
    let alice = shared.server.log_in("alice").await;
    let mut sliding = alice.lists(&list([0, 9], 10, &json!([])));
    sliding.next().await;
    let gap = Gap::before(shared).await;

    let answer = sliding.next().await;

    let room = &answer["rooms"][&gap.shared.room];
    assert_eq!(ids(&room["timeline"]), [&*gap.found.id, &*gap.newest.id]);
    assert_eq!(room["limited"], true, "{room}");
    assert!(room["prev_batch"].is_string(), "{room}");
}
