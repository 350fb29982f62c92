//! Servers that send nonsense or forged events, or answer slowly, endlessly or wrongly: every event gets the right
//! answer, and the cost is bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::Request, routing::any};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use tokio::net::TcpListener;

use super::{
    FEDERATION_PORT, Peer, peer_user::PeerEvent, transactions::SharedRoom, unused_address,
};

impl SharedRoom {
    /// Asserts that the room still accepts events.
    async fn assert_room_works(&mut self) {
        let made = self.bob.says(&self.peer, "still here");
        let told = self.peer.sends(&self.server, &[&made]).await;
        assert_eq!(told[&*made.id], json!({}));
        assert_eq!(
            self.message_texts().await.last().expect("a message"),
            "still here"
        );
    }
}

/// Returns values that are invalid in at least one field of an event.
fn odd_values() -> Vec<Value> {
    let long = "x".repeat(300);
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(9_007_199_254_740_991_u64),
        json!(""),
        json!("\u{0}"),
        json!("@:"),
        json!(long),
        json!(format!("@{long}:example.org")),
        json!([]),
        json!([[]]),
        json!(["$a", "$a"]),
        json!([7, null, {}]),
        json!(vec!["$unknown"; 30]),
        json!({}),
        json!({ "a": { "b": [] } }),
    ]
}

/// Returns events with each field missing or odd, once with a new signature and once with the original one.
fn event_variations(shared: &SharedRoom) -> Vec<PeerEvent> {
    let content = json!({ "msgtype": "m.text", "body": "odd" });
    let event = shared.bob.drafts_event("m.room.message", None, &content);
    let signed = shared.peer.signs(&event, &shared.bob.rules);
    let fields: Vec<String> = signed
        .json
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect();
    let mut variations = Vec::new();
    for field in fields
        .iter()
        .map(String::as_str)
        .chain(["state_key", "redacts"])
    {
        let mut changed: Vec<Value> = Vec::new();
        let mut without = event.clone();
        without.as_object_mut().expect("an object").remove(field);
        changed.push(without);
        for odd in odd_values() {
            let mut with = event.clone();
            with[field] = odd;
            changed.push(with);
        }
        for event in changed {
            let mut as_before = signed.clone();
            let is_kept = |(field, value): &(&String, &Value)| {
                !["hashes", "signatures"].contains(&field.as_str()) || **value != json!({})
            };
            let fields = event.as_object().expect("an object").iter();
            for (field, value) in fields.filter(is_kept) {
                as_before.json[field] = value.clone();
            }
            variations.push(as_before);
            variations.extend(shared.peer.tries_to_sign(&event, &shared.bob.rules));
        }
    }
    variations
}

#[tokio::test]
async fn events_with_missing_odd_or_forged_fields_do_no_harm() {
    let mut shared = SharedRoom::new().await;
    let variations = event_variations(&shared);
    assert!(variations.len() > 200);

    for (n, some) in variations.chunks(40).enumerate() {
        let pdus: Vec<&Value> = some.iter().map(|made| &made.json).collect();
        let id = format!("odd{n}");
        let answer = shared
            .peer
            .tries_to_send(&shared.server, &id, &json!(pdus))
            .await;
        let told = answer.expect_ok();
        assert!(told["pdus"].is_object());
    }

    // An odd event with a new signature may be allowed. A forged one is not.
    for text in shared.message_texts().await {
        assert_eq!(text, "odd");
    }
    shared.assert_room_works().await;
}

/// Returns random JSON, which mostly names the room.
fn random_pdu(random: &mut StdRng, room: &str) -> Value {
    let mut event = random_json(random, 4);
    if event.is_object() && random.random_bool(0.7) {
        event["room_id"] = json!(room);
    }
    event
}

#[tokio::test]
async fn random_json_is_never_accepted_as_an_event() {
    let mut shared = SharedRoom::new().await;
    let mut random = StdRng::seed_from_u64(7);
    for n in 0..20 {
        let pdus: Vec<Value> = (0..20)
            .map(|_| random_pdu(&mut random, &shared.room))
            .collect();
        let id = format!("random{n}");
        let pdus = json!(pdus);
        let answer = shared.peer.tries_to_send(&shared.server, &id, &pdus).await;
        answer.expect_ok();
    }

    assert!(shared.message_texts().await.is_empty());
    shared.assert_room_works().await;
}

fn random_json(random: &mut StdRng, depth: u32) -> Value {
    let fields = [
        "type",
        "sender",
        "content",
        "prev_events",
        "auth_events",
        "depth",
        "hashes",
        "state_key",
        "signatures",
        "origin_server_ts",
        "room_id",
        "event_id",
    ];
    let kind = if depth == 0 { 4 } else { 6 };
    match random.random_range(0..kind) {
        0 => Value::Null,
        1 => json!(random.random::<i32>()),
        2 => json!(fields[random.random_range(0..fields.len())]),
        3 => json!(random.random::<bool>()),
        4 => (0..random.random_range(0..4))
            .map(|_| random_json(random, depth - 1))
            .collect(),
        _ => {
            let mut object = json!({});
            for field in fields {
                if random.random_bool(0.5) {
                    object[field] = random_json(random, depth - 1);
                }
            }
            object
        }
    }
}

/// Returns the router of a peer that always has more missing events, and its request counter.
fn endless_history(shared: &SharedRoom, width: usize) -> (Router, Arc<AtomicU64>) {
    let asked = Arc::new(AtomicU64::new(0));
    let (bob, peer, count) = (shared.bob.clone(), shared.peer.key.clone(), asked.clone());
    let missing = move |Json(body): Json<Value>| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        let latest = body["latest_events"].as_array().map_or(0, Vec::len);
        let mut events = Vec::new();
        for m in 0..20_u64 {
            let mut event = bob.drafts_event("m.room.message", None, &json!({ "body": "deep" }));
            let prev = |k: usize| format!("${n}-{m}-{k}-{}", "a".repeat(43));
            let prev: Vec<String> = (0..width).map(prev).collect();
            event["prev_events"] = json!(prev);
            event["origin_server_ts"] = json!(n * 1_000 + m + latest as u64);
            let text = event.to_string();
            let mut object = serde_json::from_str(&text).expect("canonical JSON");
            peer.hash_and_sign(&mut object, &bob.rules)
                .expect("it is signed");
            events.push(object);
        }
        std::future::ready(Json(json!({ "events": events })))
    };
    let router = Router::new().route(
        "/_matrix/federation/v1/get_missing_events/{room_id}",
        axum::routing::post(missing),
    );
    (router, asked)
}

#[tokio::test]
async fn fetching_an_endless_past_stops_after_some_requests() {
    for width in [1, 20] {
        let mut shared = SharedRoom::new().await;
        let (router, asked) = endless_history(&shared, width);
        let liar = shared.network.peer(router).await;
        shared.bob.clone().says(&shared.peer, "lost");
        let mut apart = shared.bob.clone();
        apart.says(&shared.peer, "lost");
        let made = apart.says(&shared.peer, "found");

        let told = liar.sends(&shared.server, &[&made]).await;

        assert_eq!(told, json!({ &*made.id: {} }));
        let asked = asked.load(Ordering::SeqCst);
        assert!((1..=30).contains(&asked), "{asked} requests");
        assert!(shared.message_texts().await.is_empty());
        shared.assert_room_works().await;
    }
}

#[tokio::test]
async fn a_peer_that_answers_with_garbage_does_no_harm() {
    let mut shared = SharedRoom::new().await;
    let random = Arc::new(std::sync::Mutex::new(StdRng::seed_from_u64(11)));
    let garbage = move |_: Request| {
        let garbage = random_json(&mut random.lock().expect("no test panics here"), 5);
        std::future::ready(Json(garbage))
    };
    let liar = shared
        .network
        .peer(Router::new().fallback(any(garbage)))
        .await;
    let mut apart = shared.bob.clone();
    for n in 0..5 {
        apart.says(&shared.peer, &format!("lost {n}"));
        let mut event = apart.drafts_event("m.room.message", None, &json!({ "body": "found" }));
        event["auth_events"] = json!([format!("${n}{}", "a".repeat(42))]);
        let made = shared.peer.signs(&event, &shared.bob.rules);
        liar.sends(&shared.server, &[&made]).await;
    }

    assert!(shared.message_texts().await.is_empty());
    shared.assert_room_works().await;
}

#[tokio::test]
async fn a_silent_server_does_not_delay_events_of_other_servers() {
    let shared = SharedRoom::new().await;
    let silent = Router::new().fallback(any(async || {
        tokio::time::sleep(Duration::from_mins(10)).await;
    }));
    let silent = shared.network.peer(silent).await;
    let mut apart = shared.bob.clone();
    apart.says(&shared.peer, "lost");
    let made = apart.says(&shared.peer, "found");
    let pending = [&made];
    let mut waiting = Box::pin(silent.sends(&shared.server, &pending));
    let is_waiting = futures_util::poll!(waiting.as_mut()).is_pending();
    assert!(is_waiting);

    let tea = shared.bob.clone().says(&shared.peer, "tea");
    let of_others = [&tea];
    let sending = shared.peer.sends(&shared.server, &of_others);

    tokio::select! {
        _ = waiting => panic!("the silent server sent an answer"),
        told = sending => assert_eq!(told[&*tea.id], json!({})),
    }
    assert_eq!(shared.message_texts().await, ["tea"]);
}

#[tokio::test]
async fn requests_from_silent_servers_do_not_delay_events() {
    const SILENT_SERVERS: usize = 150;
    let shared = SharedRoom::new().await;
    let mut silent = Vec::new();
    for _ in 0..SILENT_SERVERS {
        let address = unused_address();
        let listener = TcpListener::bind((address, FEDERATION_PORT)).await;
        silent.push((
            Peer::new(&address.to_string()),
            listener.expect("it is free"),
        ));
    }
    let path = "/_matrix/federation/v1/query/profile?user_id=@a:b";
    let asking = silent
        .iter()
        .map(|(peer, _)| peer.gets(&shared.server, path));
    let mut asking: FuturesUnordered<_> = asking.collect();
    let mut asked: FuturesUnordered<_> = silent.iter().map(|(_, at)| at.accept()).collect();
    let mut held = Vec::new();
    while held.len() < SILENT_SERVERS / 3 {
        tokio::select! {
            _ = asking.next() => panic!("a silent server sent an answer"),
            asked = asked.next() => held.push(asked),
        }
    }
    // The event comes from a server whose keys are not known yet.
    let newcomer = shared.network.peer(Router::new()).await;
    let mut carol = shared.bob.clone();
    carol.id = newcomer.user("carol");
    let member = json!({ "membership": "join" });
    let join = carol
        .clone()
        .makes_event(&newcomer, "m.room.member", (Some(&carol.id), &member));
    let pending = [&join];

    let sending = shared.peer.sends(&shared.server, &pending);
    tokio::select! {
        _ = asking.next() => panic!("a silent server sent an answer"),
        told = sending => assert_eq!(told, json!({ &*join.id: {} })),
    }
}
