//! Gaps that other servers leave in a room: clients learn that events are missing, and from which token to continue.

use serde_json::json;

use super::{peer_user::PeerEvent, transactions::SharedRoom};
use crate::{
    chat::{event_ids, find_event, percent_encoded, room_path, state, timeline},
    sliding::list_config,
};

/// A room in which a peer left events out, and the events that it sent after them.
struct GapScene {
    shared: SharedRoom,
    first_after_gap: PeerEvent,
    newest: PeerEvent,
}

impl GapScene {
    /// Lets a message and a change of Bob's name get lost.
    async fn make_gap(mut shared: SharedRoom) -> Self {
        let id = shared.bob.id.clone();
        let member = json!({ "membership": "join", "displayname": "Bob" });
        shared
            .bob
            .makes_event(&shared.peer, "m.room.member", (Some(&id), &member));
        shared.bob.says(&shared.peer, "lost");
        let found = shared.bob.says(&shared.peer, "found");
        let newest = shared.bob.says(&shared.peer, "newest");
        shared.archive.limits_missing_events_to(&found);
        let told = shared.peer.sends(&shared.server, &[&newest]).await;
        assert_eq!(told[&*newest.id], json!({}));
        Self {
            shared,
            first_after_gap: found,
            newest,
        }
    }
}

#[tokio::test]
async fn an_incremental_sync_says_that_events_are_missing() {
    for restarts in [false, true] {
        let shared = SharedRoom::new().await;
        shared.alice.says(&shared.room, "before").await;
        let since = shared.alice.syncs().await;
        let mut gap = GapScene::make_gap(shared).await;
        if restarts {
            gap.shared.server = gap.shared.server.restart().await;
            gap.shared.alice = gap.shared.alice.on_server(&gap.shared.server);
        }
        let SharedRoom { alice, room, .. } = &gap.shared;

        let sync = alice.syncs_after(&since).await;

        let joined = &sync["rooms"]["join"][room];
        assert_eq!(
            event_ids(timeline(&sync, room)),
            [&*gap.first_after_gap.id, &*gap.newest.id]
        );
        assert_eq!(joined["timeline"]["limited"], true, "{joined}");
        let member = find_event(state(&sync, room), "m.room.member", &gap.shared.bob.id);
        assert_eq!(member["content"]["displayname"], "Bob", "{joined}");
        let from = joined["timeline"]["prev_batch"].as_str().expect("a token");
        let page = alice.messages(room, &format!("dir=b&from={from}")).await;
        assert!(
            !page.to_string().contains(&gap.first_after_gap.id),
            "{page}"
        );
        let after = alice.syncs_after(&sync).await;
        assert!(after["rooms"]["join"][room].is_null(), "{after}");
    }
}

#[tokio::test]
async fn the_events_of_a_gap_can_be_read_from_its_token() {
    let shared = SharedRoom::new().await;
    let before = shared.alice.says(&shared.room, "before").await;
    let since = shared.alice.syncs().await;
    let gap = GapScene::make_gap(shared).await;
    let SharedRoom { alice, room, .. } = &gap.shared;
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
    let context = format!("context/{}?limit=20", percent_encoded(&before));
    alice
        .client
        .get(&room_path(room, &context))
        .await
        .expect_ok();
}

#[tokio::test]
async fn a_sync_with_the_state_after_says_that_events_are_missing() {
    let shared = SharedRoom::new().await;
    let since = shared.alice.syncs().await;
    let gap = GapScene::make_gap(shared).await;
    let SharedRoom { alice, room, .. } = &gap.shared;

    let since = percent_encoded(since["next_batch"].as_str().expect("a token"));
    let query = format!("since={since}&use_state_after=true");
    let sync = alice.syncs_with(&query).await;

    let joined = &sync["rooms"]["join"][room];
    assert_eq!(joined["timeline"]["limited"], true);
    let member = find_event(
        &joined["state_after"]["events"],
        "m.room.member",
        &gap.shared.bob.id,
    );
    assert_eq!(member["content"]["displayname"], "Bob", "{joined}");
}

#[tokio::test]
async fn sliding_sync_says_that_events_are_missing() {
    let shared = SharedRoom::new().await;
    let alice = shared.server.log_in("alice").await;
    let mut sliding = alice.opens_list(&list_config([0, 9], 10, &json!([])));
    sliding.poll().await;
    let gap = GapScene::make_gap(shared).await;

    let answer = sliding.poll().await;

    let room = &answer["rooms"][&gap.shared.room];
    assert_eq!(
        event_ids(&room["timeline"]),
        [&*gap.first_after_gap.id, &*gap.newest.id]
    );
    assert_eq!(room["limited"], true, "{room}");
    assert!(room["prev_batch"].is_string(), "{room}");
}
