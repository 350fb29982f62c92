//! Sticky events between servers: they are received, sent to servers that are new in a room or were away, and shown as
//! soon as the current state allows them.

use serde_json::{Value, json};

use super::{
    Network, Peer,
    joining::joins_via,
    peer_user::{PeerArchive, PeerEvent, PeerUser},
    sending::{SendingScene, TransactionAnswer},
};
use crate::{
    chat::{event_ids, filter_query, next_batch},
    harness::{Server, User},
};

const KIND: &str = "org.example.call.member";

/// A room of Alice, with Bob of a peer.
struct SharedRoom {
    server: Server,
    alice: User,
    room: String,
    peer: Peer,
    archive: PeerArchive,
    bob: PeerUser,
    _network: Network,
}

impl SharedRoom {
    async fn start() -> Self {
        let network = Network::new();
        let server = network.server().await;
        let alice = server.register("alice").await;
        let room = alice.creates_open_room().await;
        let (peer, archive) = network.peer_with_archive().await;
        let bob = peer.joins(&server, &room, ("bob", &archive)).await;
        Self {
            server,
            alice,
            room,
            peer,
            archive,
            bob,
            _network: network,
        }
    }

    /// Makes an event that is sticky for an hour.
    fn makes_sticky(&mut self) -> PeerEvent {
        let mut event = self.bob.drafts_event(KIND, None, &json!({ "in": "call" }));
        event["msc4354_sticky"] = json!({ "duration_ms": 3_600_000 });
        let made = self.peer.signs(&event, &self.bob.rules);
        self.bob.advances_to(&made);
        made
    }

    async fn sends(&self, event: &PeerEvent) {
        let results = self.peer.sends(&self.server, &[event]).await;
        assert_eq!(results[&event.id], json!({}));
    }

    /// Returns a sync of Alice whose timelines are empty.
    async fn sync(&self, since: Option<&Value>) -> Value {
        sync_without_timeline(&self.alice, since, 0).await
    }
}

async fn sync_without_timeline(user: &User, since: Option<&Value>, timeout: u32) -> Value {
    let filter = json!({ "room": { "timeline": { "types": [] } } });
    let since = since.map_or_else(String::new, |sync| format!("&since={}", next_batch(sync)));
    let query = format!("{}&timeout={timeout}{since}", filter_query(&filter));
    user.syncs_with(&query).await
}

/// Syncs until there are sticky events in a room, and returns their ids.
async fn wait_for_sticky_events(user: &User, room: &str, since: Option<&Value>) -> Vec<String> {
    let mut sync = sync_without_timeline(user, since, 30_000).await;
    while sticky_ids(&sync, room).is_empty() {
        sync = sync_without_timeline(user, Some(&sync), 30_000).await;
    }
    let ids = sticky_ids(&sync, room).into_iter();
    ids.map(ToOwned::to_owned).collect()
}

fn sticky_ids<'a>(sync: &'a Value, room: &str) -> Vec<&'a str> {
    event_ids(&sync["rooms"]["join"][room]["msc4354_sticky"]["events"])
}

#[tokio::test]
async fn sticky_events_of_other_servers_are_shown() {
    let mut test = SharedRoom::start().await;
    let before = test.sync(None).await;
    let made = test.makes_sticky();
    test.sends(&made).await;

    let sync = test.sync(Some(&before)).await;

    assert_eq!(sticky_ids(&sync, &test.room), [made.id.as_str()]);
    let events = &sync["rooms"]["join"][&test.room]["msc4354_sticky"]["events"];
    let ttl = &events[0]["unsigned"]["msc4354_sticky_duration_ttl_ms"];
    assert!((1..=3_600_000).contains(&ttl.as_i64().expect("a number")));
}

#[tokio::test]
async fn an_event_with_a_malformed_duration_is_not_sticky() {
    let mut test = SharedRoom::start().await;
    for wrong in [
        json!(5),
        json!({ "duration_ms": -1 }),
        json!({ "duration_ms": "1000" }),
    ] {
        let mut event = test.bob.drafts_event(KIND, None, &json!({}));
        event["msc4354_sticky"] = wrong;
        let made = test.peer.signs(&event, &test.bob.rules);
        test.bob.advances_to(&made);
        test.sends(&made).await;
    }

    let sync = test.sync(None).await;

    assert!(sticky_ids(&sync, &test.room).is_empty());
}

#[tokio::test]
async fn a_soft_failed_sticky_event_is_shown_when_its_sender_is_back_in_the_room() {
    let mut test = SharedRoom::start().await;
    let target = json!({ "user_id": test.bob.id });
    let kicked = test.alice.posts_in_room(&test.room, "kick", target).await;
    kicked.expect_ok();
    let before = test.sync(None).await;
    // Bob's server does not know of the kick.
    let made = test.makes_sticky();
    test.sends(&made).await;
    let sync = test.sync(Some(&before)).await;
    assert!(sticky_ids(&sync, &test.room).is_empty());

    let (peer, bob) = (&test.peer, ("bob", &test.archive));
    peer.joins(&test.server, &test.room, bob).await;

    let shown = wait_for_sticky_events(&test.alice, &test.room, Some(&sync)).await;
    assert_eq!(shown, [made.id.as_str()]);
}

#[tokio::test]
async fn a_soft_failed_sticky_event_is_not_forgotten_in_a_restart() {
    let mut test = SharedRoom::start().await;
    let target = json!({ "user_id": test.bob.id });
    let kicked = test.alice.posts_in_room(&test.room, "kick", target).await;
    kicked.expect_ok();
    let made = test.makes_sticky();
    test.sends(&made).await;
    let server = test.server.restart().await;
    let alice = test.alice.on_server(&server);
    let before = sync_without_timeline(&alice, None, 0).await;

    let bob = ("bob", &test.archive);
    test.peer.joins(&server, &test.room, bob).await;

    let shown = wait_for_sticky_events(&alice, &test.room, Some(&before)).await;
    assert_eq!(shown, [made.id.as_str()]);
}

#[tokio::test]
async fn a_server_that_is_new_in_a_room_is_sent_its_sticky_events() {
    let network = Network::new();
    let (home, away) = (network.server().await, network.server().await);
    let (alice, bob) = (home.register("alice").await, away.register("bob").await);
    let room = alice.creates_room_with_history("joined").await;
    let sticky = alice.sends_sticky(&room, "here").await;
    for n in 0..3 {
        alice.says(&room, &n.to_string()).await;
    }

    let joined = joins_via(&bob, &room, &[home.name()]).await;
    joined.expect_ok();

    let shown = wait_for_sticky_events(&bob, &room, None).await;
    assert_eq!(shown, [sticky]);
}

#[tokio::test]
async fn a_server_that_was_away_is_sent_the_sticky_events_that_it_missed() {
    let scene = SendingScene::new().await;
    scene.receiver.sets_answer(TransactionAnswer::Refuses(502));
    scene.says(["first"]).await;
    scene.receiver.waits_for_refusals(1).await;
    for n in 0..60 {
        let text = format!("sticky {n}");
        scene.alice.sends_sticky(&scene.room, &text).await;
    }
    for n in 0..60 {
        scene.alice.says(&scene.room, &n.to_string()).await;
    }
    scene.receiver.sets_answer(TransactionAnswer::Accepts);
    scene.peer_sends_request().await;

    scene.receiver.waits_for_message("59").await;
    let mut texts = scene.receiver.waits_for_message("sticky 59").await;
    texts.sort_unstable();

    // Of the other events only the newest is sent: the server can request the rest.
    let sticky = (0..60).map(|n| format!("sticky {n}"));
    let mut expected: Vec<String> = sticky.chain(["59".to_owned()]).collect();
    expected.sort_unstable();
    assert_eq!(texts, expected);
}
