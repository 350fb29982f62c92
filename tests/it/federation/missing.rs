//! Events that arrive before their predecessors or auth events: the missing events are fetched.

use std::time::Duration;

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
};
use futures_util::{StreamExt, future::OptionFuture, stream::FuturesUnordered};
use parlour::clock::Clock;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{
    Network,
    peer_user::{PeerArchive, PeerEvent},
    transactions::SharedRoom,
};
use crate::chat::{event_ids, message_bodies, percent_encoded, timeline};

impl SharedRoom {
    /// Makes a message that is not sent to the server.
    fn makes_unsent_message(&mut self, text: &str) -> PeerEvent {
        self.bob.says(&self.peer, text)
    }

    async fn sends_event(&self, made: &PeerEvent) -> Value {
        self.peer.sends(&self.server, &[made]).await
    }
}

/// Delays a peer's answers to requests for missing events.
struct MissingEventsGate {
    is_open: watch::Sender<bool>,
    request_sender: mpsc::UnboundedSender<()>,
    /// Receives a message for every request.
    requests: mpsc::UnboundedReceiver<()>,
}

async fn wait_at_gate(mut is_open: watch::Receiver<bool>, asks: mpsc::UnboundedSender<()>) {
    asks.send(()).expect("the test is still running");
    is_open.wait_for(|open| *open).await.expect("a gate");
}

impl MissingEventsGate {
    fn new() -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        Self {
            is_open: watch::Sender::new(false),
            request_sender: asks,
            requests: asked,
        }
    }

    fn opens(&self) {
        self.is_open.send_replace(true);
    }

    /// Wraps a router: requests for missing events wait until the gate is open.
    fn wraps(&self, router: Router) -> Router {
        let (is_open, asks) = (self.is_open.subscribe(), self.request_sender.clone());
        router.layer(from_fn(move |request: Request, next: Next| {
            let is_for_missing = request.uri().path().contains("get_missing_events");
            let waiting = is_for_missing.then(|| wait_at_gate(is_open.clone(), asks.clone()));
            async move {
                OptionFuture::from(waiting).await;
                next.run(request).await
            }
        }))
    }
}

#[tokio::test]
async fn missing_events_are_fetched_and_shown_in_order() {
    let mut shared = SharedRoom::new().await;
    let since = shared.alice.syncs().await;
    let made: Vec<PeerEvent> = (0..5)
        .map(|n| shared.makes_unsent_message(&n.to_string()))
        .collect();

    let told = shared.sends_event(&made[4]).await;

    assert_eq!(told, json!({ &*made[4].id: {} }));
    let sync = shared.alice.syncs_after(&since).await;
    let made: Vec<&str> = made.iter().map(|made| &*made.id).collect();
    assert_eq!(event_ids(timeline(&sync, &shared.room)), made);
    assert_eq!(
        shared.archive.takes_requests(),
        [format!("missing {}", made[4])]
    );
}

#[tokio::test]
async fn a_long_gap_is_closed_in_several_rounds() {
    let mut shared = SharedRoom::new().await;
    let made: Vec<PeerEvent> = (0..60)
        .map(|n| shared.makes_unsent_message(&n.to_string()))
        .collect();

    let told = shared.sends_event(&made[59]).await;

    assert_eq!(told[&*made[59].id], json!({}));
    let wanted: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    assert_eq!(shared.message_texts().await, wanted);
    let asked = shared.archive.takes_requests();
    assert!(asked.iter().all(|asked| asked.starts_with("missing")));
    assert_eq!(asked.len(), 4, "{asked:?}");
}

#[tokio::test]
async fn an_event_is_accepted_once_its_missing_past_arrives() {
    let mut shared = SharedRoom::new().await;
    let first = shared.makes_unsent_message("first");
    let second = shared.makes_unsent_message("second");
    shared.archive.withholds(&first);

    let told = shared.sends_event(&second).await;
    assert_eq!(told, json!({ &*second.id: {} }));
    assert!(shared.message_texts().await.is_empty());
    shared.sends_event(&first).await;
    shared.sends_event(&second).await;

    assert_eq!(shared.message_texts().await, ["first", "second"]);
}

#[tokio::test]
async fn the_state_before_a_gap_is_fetched() {
    let mut shared = SharedRoom::new().await;
    let peer = &shared.peer;
    let member = json!({ "membership": "join", "displayname": "Bob" });
    let id = shared.bob.id.clone();
    let member = shared
        .bob
        .makes_event(peer, "m.room.member", (Some(&id), &member));
    let lost = shared.makes_unsent_message("lost");
    let found = shared.makes_unsent_message("found");
    let newest = shared.makes_unsent_message("newest");
    // Events before the gap are not returned as missing events, but as part of the state.
    shared.archive.limits_missing_events_to(&found);

    let told = shared.sends_event(&newest).await;

    assert_eq!(told[&*newest.id], json!({}));
    // Reading that far back fetches the history.
    assert_eq!(shared.message_texts().await, ["lost", "found", "newest"]);
    let path = format!("m.room.member/{}", shared.bob.id);
    let state = shared.alice.state(&shared.room, &path).await;
    assert_eq!(state["displayname"], "Bob");
    let asked = shared.archive.takes_requests();
    assert!(
        asked.contains(&format!("state_ids {}", lost.id)),
        "{asked:?}"
    );
    let one_by_one = asked.contains(&format!("event {}", member.id));
    assert!(one_by_one || asked.contains(&format!("state {}", lost.id)));
}

#[tokio::test]
async fn an_incomplete_fetched_state_is_not_used() {
    let mut shared = SharedRoom::new().await;
    let id = shared.bob.id.clone();
    let mut names = Vec::new();
    for name in ["A", "B", "C"] {
        let member = json!({ "membership": "join", "displayname": name });
        let made = shared
            .bob
            .makes_event(&shared.peer, "m.room.member", (Some(&id), &member));
        names.push(made);
    }
    shared.makes_unsent_message("lost");
    let found = shared.makes_unsent_message("found");
    let last = shared.makes_unsent_message("last");
    shared.archive.limits_missing_events_to(&found);
    shared.archive.withholds(&names[1]);

    let told = shared.sends_event(&last).await;

    assert_eq!(told[&*last.id], json!({}));
    assert!(shared.message_texts().await.is_empty());
    let path = format!("m.room.member/{id}");
    let state = shared.alice.state(&shared.room, &path).await;
    assert_eq!(state.get("displayname"), None);
}

#[tokio::test]
async fn an_event_with_a_refused_auth_event_is_refused() {
    let mut shared = SharedRoom::new().await;
    let levels = json!({ "users": {} });
    let mut apart = shared.bob.clone();
    let refused = apart.makes_event(&shared.peer, "m.room.power_levels", (Some(""), &levels));
    let told = shared.sends_event(&refused).await;
    assert!(told[&*refused.id]["error"].is_string());
    // This event has a refused auth event, and is fetched with the auth chain of the next event.
    let id = shared.bob.id.clone();
    let member = json!({ "membership": "join", "test": 1 });
    let mut outlier = shared.bob.drafts_event("m.room.member", Some(&id), &member);
    let rests_on = |event: &mut Value, made: &PeerEvent| {
        let auth_events = event["auth_events"].as_array_mut().expect("a list");
        auth_events.push(json!(made.id));
    };
    outlier["auth_events"] = json!([
        shared.bob.state_event_id("m.room.join_rules", ""),
        refused.id,
        shared.bob.state_event_id("m.room.member", &id),
    ]);
    let outlier = shared.peer.signs(&outlier, &shared.bob.rules);
    shared.bob.clone().advances_to(&outlier);
    let mut message = shared
        .bob
        .drafts_event("m.room.message", None, &json!({ "body": "one" }));
    rests_on(&mut message, &outlier);
    let message = shared.peer.signs(&message, &shared.bob.rules);
    shared.bob.advances_to(&message);

    let told = shared.sends_event(&message).await;
    let last = shared.makes_unsent_message("last");
    shared.sends_event(&last).await;

    assert!(told[&*message.id]["error"].is_string(), "{told}");
    assert_eq!(shared.message_texts().await, ["last"]);
    for hidden in [&refused, &outlier, &message] {
        let answer = shared.alice.event(&shared.room, &hidden.id).await;
        answer.expect_error(404, "M_NOT_FOUND");
    }
    let asked = shared.archive.takes_requests();
    let chain = format!("event_auth {}", message.id);
    assert!(asked.contains(&chain), "{asked:?}");
}

#[tokio::test]
async fn an_event_with_an_unavailable_auth_event_is_refused() {
    let mut shared = SharedRoom::new().await;
    let mut message = shared
        .bob
        .drafts_event("m.room.message", None, &json!({ "body": "one" }));
    let auth_events = message["auth_events"].as_array_mut().expect("a list");
    let unknown = format!("${}", "a".repeat(43));
    auth_events.push(json!(unknown));
    let message = shared.peer.signs(&message, &shared.bob.rules);

    let told = shared.sends_event(&message).await;

    assert!(told[&*message.id]["error"].is_string(), "{told}");
    let asked = shared.archive.takes_requests();
    assert!(asked.contains(&format!("event {unknown}")), "{asked:?}");
    let tea = shared.makes_unsent_message("tea");
    assert_eq!(shared.sends_event(&tea).await[&*tea.id], json!({}));
}

#[tokio::test]
async fn an_unhelpful_sender_does_not_block_later_events() {
    let mut shared = SharedRoom::new().await;
    let first = shared.makes_unsent_message("first");
    let second = shared.makes_unsent_message("second");
    // A peer that answers no requests forwards the event.
    let other = shared.network.peer(axum::Router::new()).await;

    let told = other.sends(&shared.server, &[&second]).await;

    assert_eq!(told, json!({ &*second.id: {} }));
    assert!(shared.message_texts().await.is_empty());
    shared.sends_event(&second).await;
    assert_eq!(shared.message_texts().await, ["first", "second"]);
    let event = shared.alice.event(&shared.room, &first.id).await;
    assert_eq!(event.expect_ok()["event_id"], first.id);
}

#[tokio::test]
async fn backfill_returns_concurrent_events() {
    let mut shared = SharedRoom::new().await;
    let mut beside = shared.bob.clone();
    let one = shared.makes_unsent_message("one");
    let other = beside.says(&shared.peer, "other");
    shared.peer.sends(&shared.server, &[&one, &other]).await;
    shared.alice.says(&shared.room, "both").await;

    let room = percent_encoded(&shared.room);
    let from = format!("v={}&limit=10", percent_encoded(&one.id));
    let path = format!("/_matrix/federation/v1/backfill/{room}?{from}");
    let told = shared.peer.gets(&shared.server, &path).await.expect_ok();

    assert_eq!(told["origin"], shared.server.name());
    assert_eq!(told["pdus"][0]["content"]["body"], "one");
    assert_eq!(told["pdus"][1]["type"], "m.room.member");
}

#[tokio::test]
async fn events_still_pending_at_a_restart_are_accepted_after_it() {
    let network = Network::new();
    let clock = Clock::manual(1_800_000_000_000);
    let server = network.server_with_clock(clock.clone()).await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    let (archive, mut gate) = (PeerArchive::default(), MissingEventsGate::new());
    let peer = network.peer(gate.wraps(archive.router())).await;
    let mut bob = peer.joins(&server, &room, ("bob", &archive)).await;
    bob.says(&peer, "lost");
    let found = bob.says(&peer, "found");

    let pending = [&found];
    let is_late = async {
        gate.requests.recv().await.expect("a request");
        clock.advance(Duration::from_secs(30));
    };
    let (told, ()) = tokio::join!(peer.sends(&server, &pending), is_late);
    assert_eq!(told, json!({ &*found.id: {} }));
    let server = server.restart().await;
    gate.opens();

    let alice = alice.on_server(&server);
    let mut sync = alice.syncs().await;
    while !message_bodies(timeline(&sync, &room)).contains(&"found") {
        sync = alice.long_polls_after(&sync).await;
    }
    let page = alice.messages(&room, "dir=f&limit=100").await;
    assert_eq!(message_bodies(&page["chunk"]), ["lost", "found"]);
}

#[tokio::test]
async fn an_event_refused_by_a_full_queue_is_accepted_later() {
    let shared = SharedRoom::new().await;
    let gate = MissingEventsGate::new();
    let router = gate.wraps(shared.archive.router());
    let slow = shared.network.peer(router).await;
    let found: Vec<PeerEvent> = (0..5)
        .map(|n| {
            let mut apart = shared.bob.clone();
            apart.says(&shared.peer, &format!("lost {n}"));
            apart.says(&shared.peer, &format!("found {n}"))
        })
        .collect();
    let sending = found
        .iter()
        .map(async |made| slow.sends(&shared.server, &[made]).await);
    let mut sending: FuturesUnordered<_> = sending.collect();

    let refused = sending.next().await.expect("the queue is full");
    assert!(refused.to_string().contains("error"), "{refused}");
    gate.opens();
    while let Some(told) = sending.next().await {
        assert!(!told.to_string().contains("error"), "{told}");
    }

    let mut sync = shared.alice.syncs().await;
    let mut said = shared.message_texts().await;
    while said.len() < 10 {
        sync = shared.alice.long_polls_after(&sync).await;
        said = shared.message_texts().await;
    }
    for n in 0..5 {
        assert!(said.contains(&format!("found {n}")), "{said:?}");
    }
}

#[tokio::test]
async fn an_event_that_follows_a_refused_event_is_accepted() {
    let mut shared = SharedRoom::new().await;
    let content = json!({ "msgtype": "m.text", "body": "odd" });
    let refused = shared.bob.drafts_event("org.x\0", None, &content);
    let refused = shared.peer.signs(&refused, &shared.bob.rules);
    shared.bob.advances_to(&refused);
    shared.sends_event(&refused).await;
    let tea = shared.makes_unsent_message("tea");

    let told = shared.sends_event(&tea).await;

    assert_eq!(told, json!({ &*tea.id: {} }));
    assert_eq!(shared.message_texts().await, ["tea"]);
}

#[tokio::test]
async fn only_an_event_with_an_id_used_elsewhere_is_refused() {
    for version in ["1", "2"] {
        let request = json!({ "preset": "public_chat", "room_version": version });
        let mut shared = SharedRoom::with_room(request.clone()).await;
        let other = shared.alice.creates(request).await;
        let mut bob = shared
            .peer
            .joins(&shared.server, &other, ("bob", &PeerArchive::default()))
            .await;
        let elsewhere = bob.says(&shared.peer, "elsewhere");
        shared.sends_event(&elsewhere).await;
        let content = json!({ "msgtype": "m.text", "body": "the same id" });
        let mut same = shared.bob.drafts_event("m.room.message", None, &content);
        same["event_id"] = json!(elsewhere.id);
        let same = shared.peer.signs(&same, &shared.bob.rules);
        let fine = bob.says(&shared.peer, "fine");

        let told = shared.peer.sends(&shared.server, &[&same, &fine]).await;

        assert_ne!(told[&*same.id], json!({}), "{version}: {told}");
        assert_eq!(told[&*fine.id], json!({}), "{version}: {told}");
        shared.bob.advances_to(&same);
        let tea = shared.makes_unsent_message("tea");
        let told = shared.sends_event(&tea).await;
        assert_eq!(shared.message_texts().await, ["tea"], "{version}: {told}");
    }
}
