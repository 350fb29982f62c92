//! A user of a peer in a room of a server: the peer's copy of the room, the events that its users make, and the
//! endpoints with which the peer answers requests for them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use parlour::{
    clock::Clock,
    matrix::{self, Pdu, StateMap, auth_types},
};
use reqwest::Method;
use ruma::{
    EventId, OwnedEventId, RoomVersionId, UserId, canonical_json::CanonicalJsonObject,
    room_version_rules::RoomVersionRules,
};
use serde_json::{Value, json};

use super::{Network, Peer};
use crate::{
    chat::{encoded, new_transaction},
    harness::{Answer, Server},
};

/// The events that a peer knows, and the requests that it received.
#[derive(Clone, Default)]
pub(crate) struct Archive {
    inner: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    events: HashMap<String, Value>,
    /// The state before each event.
    states: HashMap<String, Vec<String>>,
    withheld: HashSet<String>,
    /// Events before this one are returned, but not by `get_missing_events`.
    first_told: Option<String>,
    asked: Vec<String>,
}

/// A user of a peer in a room, with the peer's position in the room.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) id: String,
    pub(crate) room: String,
    pub(crate) rules: RoomVersionRules,
    pub(crate) state: StateMap,
    pub(crate) prev_events: Vec<String>,
    pub(crate) depth: u64,
    archive: Archive,
}

/// An event that a peer has made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) json: Value,
}

impl Network {
    /// Starts a peer that answers requests for its events.
    pub(crate) async fn archivist(&self) -> (Peer, Archive) {
        let archive = Archive::default();
        (self.peer(archive.router()).await, archive)
    }
}

impl Archive {
    pub(crate) fn router(&self) -> Router {
        let path = |rest: &str| format!("/_matrix/federation/v1/{rest}");
        Router::new()
            .route(&path("event/{event_id}"), get(event))
            .route(&path("event_auth/{room_id}/{event_id}"), get(event_auth))
            .route(&path("state/{room_id}"), get(state))
            .route(&path("state_ids/{room_id}"), get(state_ids))
            .route(&path("get_missing_events/{room_id}"), post(missing_events))
            .route(&path("backfill/{room_id}"), get(backfill))
            .with_state(self.clone())
    }

    /// Withholds an event from all requests.
    pub(crate) fn withholds(&self, made: &Made) {
        self.lock().withheld.insert(made.id.clone());
    }

    /// Lets `get_missing_events` go no further back than to this event.
    pub(crate) fn tells_back_to(&self, made: &Made) {
        self.lock().first_told = Some(made.id.clone());
    }

    /// Returns the requests received so far, and clears them.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().asked)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.inner.lock().expect("no test panics here")
    }
}

impl Known {
    fn told(&self, ids: &[String]) -> Vec<Value> {
        let told = ids.iter().filter(|id| !self.withheld.contains(*id));
        told.filter_map(|id| self.events.get(id).cloned()).collect()
    }

    fn chain(&self, ids: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        let mut next: VecDeque<String> = ids.iter().cloned().collect();
        while let Some(id) = next.pop_front() {
            let event = self.events.get(&id).unwrap_or(&Value::Null);
            for auth in texts(&event["auth_events"]) {
                if self.events.contains_key(&auth) && !found.contains(&auth) {
                    found.push(auth.clone());
                    next.push_back(auth);
                }
            }
        }
        found
    }
}

/// Returns the event IDs in a list. Room versions 1 and 2 list pairs whose first item is the ID.
fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_str().or_else(|| item[0].as_str()))
        .map(ToOwned::to_owned)
        .collect()
}

fn not_found() -> Response {
    (
        StatusCode::NOT_FOUND,
        Json(json!({ "errcode": "M_NOT_FOUND", "error": "no" })),
    )
        .into_response()
}

async fn event(State(archive): State<Archive>, Path(id): Path<String>) -> Response {
    let mut known = archive.lock();
    known.asked.push(format!("event {id}"));
    match known.told(&[id]).pop() {
        Some(event) => Json(json!({ "origin": "peer", "origin_server_ts": 1, "pdus": [event] }))
            .into_response(),
        None => not_found(),
    }
}

async fn event_auth(
    State(archive): State<Archive>,
    Path((_, id)): Path<(String, String)>,
) -> Response {
    let mut known = archive.lock();
    known.asked.push(format!("event_auth {id}"));
    if !known.events.contains_key(&id) {
        return not_found();
    }
    let chain = known.chain(&[id]);
    Json(json!({ "auth_chain": known.told(&chain) })).into_response()
}

async fn state_ids(
    State(archive): State<Archive>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let mut known = archive.lock();
    let id = &query["event_id"];
    known.asked.push(format!("state_ids {id}"));
    let Some(state) = known.states.get(id) else {
        return not_found();
    };
    Json(json!({ "pdu_ids": state, "auth_chain_ids": known.chain(state) })).into_response()
}

async fn state(
    State(archive): State<Archive>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let mut known = archive.lock();
    let id = &query["event_id"];
    known.asked.push(format!("state {id}"));
    let Some(state) = known.states.get(id) else {
        return not_found();
    };
    let chain = known.told(&known.chain(state));
    Json(json!({ "pdus": known.told(state), "auth_chain": chain })).into_response()
}

/// Returns events and their predecessors, the newest first.
async fn backfill(
    State(archive): State<Archive>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let known = archive.lock();
    let named = query.into_iter().filter(|(name, _)| name == "v");
    let mut next: VecDeque<String> = named.map(|(_, id)| id).collect();
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    while let Some(id) = next.pop_front() {
        let Some(event) = known.events.get(&id).filter(|_| seen.insert(id.clone())) else {
            continue;
        };
        next.extend(texts(&event["prev_events"]));
        if !known.withheld.contains(&id) {
            found.push(event.clone());
        }
    }
    Json(json!({ "origin": "peer", "origin_server_ts": 1, "pdus": found })).into_response()
}

async fn missing_events(State(archive): State<Archive>, Json(body): Json<Value>) -> Response {
    let mut known = archive.lock();
    let latest = texts(&body["latest_events"]);
    known.asked.push(format!("missing {}", latest.join(" ")));
    let limit = body["limit"].as_u64().unwrap_or(10).min(20);
    let mut seen: HashSet<String> = texts(&body["earliest_events"]).into_iter().collect();
    let mut next: VecDeque<String> = latest
        .iter()
        .filter_map(|id| known.events.get(id))
        .flat_map(|event| texts(&event["prev_events"]))
        .collect();
    let mut found = Vec::new();
    while let Some(id) = next.pop_front() {
        if found.len() as u64 == limit {
            break;
        }
        let Some(event) = known.events.get(&id).filter(|_| seen.insert(id.clone())) else {
            continue;
        };
        if known.first_told.as_ref() != Some(&id) {
            next.extend(texts(&event["prev_events"]));
        }
        if !known.withheld.contains(&id) {
            found.push(event.clone());
        }
    }
    found.reverse();
    Json(json!({ "events": found })).into_response()
}

impl Peer {
    pub(crate) async fn puts(&self, server: &Server, path: &str, body: &Value) -> Answer {
        self.asks(server, Method::PUT, path, &body.to_string())
            .await
    }

    pub(crate) fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.name)
    }

    /// Signs an event as it is.
    pub(crate) fn signs(&self, event: &Value, rules: &RoomVersionRules) -> Made {
        self.tries_to_sign(event, rules).expect("it is an event")
    }

    /// Signs an event as it is, if it can be signed.
    pub(crate) fn tries_to_sign(&self, event: &Value, rules: &RoomVersionRules) -> Option<Made> {
        let mut object: CanonicalJsonObject = serde_json::from_str(&event.to_string()).ok()?;
        self.key.hash_and_sign(&mut object, rules).ok()?;
        let id = Pdu::id_of(&object, rules).ok()?.to_string();
        let json = serde_json::to_value(object).ok()?;
        Some(Made { id, json })
    }

    /// Requests the template of an event by which a user joins, leaves or knocks.
    pub(crate) async fn prepares(
        &self,
        server: &Server,
        what: &str,
        (room, user): (&str, &str),
    ) -> Answer {
        let versions: Vec<String> = (1..=12).map(|n| format!("ver={n}")).collect();
        let path = format!(
            "/_matrix/federation/v1/make_{what}/{}/{}?{}",
            encoded(room),
            encoded(user),
            versions.join("&")
        );
        self.gets(server, &path).await
    }

    /// Signs a template.
    pub(crate) fn completes(&self, prepared: &Value) -> Made {
        let version: RoomVersionId =
            serde_json::from_value(prepared["room_version"].clone()).expect("a version");
        let mut event = prepared["event"].clone();
        event["origin"] = json!(self.name);
        let rules = matrix::room_version_rules(&version).expect("it is known");
        if rules.event_format.require_event_id {
            event["event_id"] = json!(EventId::new_v1(self.key.server_name()));
        }
        self.signs(&event, &rules)
    }

    /// Sends a signed event by which a user joins, leaves or knocks.
    pub(crate) async fn submits(
        &self,
        server: &Server,
        endpoint: &str,
        (room, made): (&str, &Made),
    ) -> Answer {
        let path = submission(endpoint, room, &made.id);
        self.puts(server, &path, &made.json).await
    }

    /// Joins a room of a server, and stores the state that the server returns.
    pub(crate) async fn joins(
        &self,
        server: &Server,
        room: &str,
        (localpart, archive): (&str, &Archive),
    ) -> Guest {
        let id = self.user(localpart);
        let prepared = self.prepares(server, "join", (room, &id)).await.expect_ok();
        let join = self.completes(&prepared);
        let answer = self.submits(server, "v2/send_join", (room, &join)).await;
        let answer = answer.expect_ok();
        let version: RoomVersionId =
            serde_json::from_value(prepared["room_version"].clone()).expect("a version");
        let mut guest = Guest {
            id,
            room: room.to_owned(),
            rules: matrix::room_version_rules(&version).expect("it is known"),
            state: StateMap::default(),
            prev_events: Vec::new(),
            depth: 0,
            archive: archive.clone(),
        };
        for list in ["auth_chain", "state"] {
            for event in answer[list].as_array().expect("a list") {
                guest.learns(event, list == "state");
            }
        }
        guest.follows(&join);
        guest
    }

    /// Sends events, and returns the server's result for each.
    pub(crate) async fn sends(&self, server: &Server, events: &[&Made]) -> Value {
        let events: Vec<&Value> = events.iter().map(|made| &made.json).collect();
        self.tries_to_send(server, &new_transaction(), &json!(events))
            .await
            .expect_ok()["pdus"]
            .clone()
    }

    pub(crate) async fn tries_to_send(&self, server: &Server, id: &str, pdus: &Value) -> Answer {
        let path = format!("/_matrix/federation/v1/send/{id}");
        let body = json!({ "origin": self.name, "origin_server_ts": 1, "pdus": pdus });
        self.puts(server, &path, &body).await
    }
}

/// Returns the path to which a member event is sent.
pub(crate) fn submission(endpoint: &str, room: &str, event_id: &str) -> String {
    let (room, event_id) = (encoded(room), encoded(event_id));
    format!("/_matrix/federation/{endpoint}/{room}/{event_id}")
}

impl Guest {
    /// Stores an event that another server returned.
    fn learns(&mut self, event: &Value, is_state: bool) -> Arc<Pdu> {
        let text = event.to_string();
        let object: CanonicalJsonObject = serde_json::from_str(&text).expect("canonical JSON");
        let (pdu, _) = Pdu::from_object(&object, &self.rules).expect("an event");
        let pdu = Arc::new(pdu);
        let mut known = self.archive.lock();
        known.events.insert(pdu.event_id.to_string(), event.clone());
        if is_state {
            self.state.insert(pdu.clone());
        }
        pdu
    }

    /// Stores an event, and lets the next event follow it.
    pub(crate) fn follows(&mut self, made: &Made) {
        let ids = self.state.iter().map(|pdu| pdu.event_id.to_string());
        let ids = ids.collect();
        self.archive.lock().states.insert(made.id.clone(), ids);
        let is_state = made.json.get("state_key").is_some();
        let pdu = self.learns(&made.json, is_state);
        self.prev_events = vec![made.id.clone()];
        self.depth = u64::from(pdu.depth);
    }

    /// Makes an unsigned event at the peer's position, and does not advance to it.
    pub(crate) fn drafts(&self, kind: &str, state_key: Option<&str>, content: &Value) -> Value {
        let mut event = json!({
            "type": kind, "sender": self.id, "room_id": self.room, "depth": self.depth + 1,
            "origin_server_ts": Clock::system().now_ms(), "prev_events": self.prev_events,
            "auth_events": [], "hashes": {}, "content": content,
        });
        if let Some(state_key) = state_key {
            event["state_key"] = json!(state_key);
        }
        let id = OwnedEventId::try_from("$draft").expect("an id");
        let pdu = Pdu::parse(id, &event.to_string()).expect("an event");
        let types = auth_types(&pdu, &self.rules).unwrap_or_default();
        let held = types
            .iter()
            .filter_map(|(kind, key)| self.state.get(kind, key));
        let ids: Vec<_> = held.map(|pdu| pdu.event_id.to_string()).collect();
        event["auth_events"] = self.references(&ids);
        event["prev_events"] = self.references(&self.prev_events);
        if self.rules.event_format.require_event_id {
            let server = UserId::parse(&*self.id).expect("an id");
            event["event_id"] = json!(EventId::new_v1(server.server_name()));
        }
        event
    }

    /// Returns references to events in the format of the room version.
    fn references(&self, ids: &[String]) -> Value {
        if self.rules.event_format.require_event_id {
            let pairs: Vec<Value> = ids.iter().map(|id| json!([id, { "sha256": "" }])).collect();
            json!(pairs)
        } else {
            json!(ids)
        }
    }

    /// Makes a signed event, and lets the next event follow it.
    pub(crate) fn makes(
        &mut self,
        peer: &Peer,
        kind: &str,
        (state_key, content): (Option<&str>, &Value),
    ) -> Made {
        let made = peer.signs(&self.drafts(kind, state_key, content), &self.rules);
        self.follows(&made);
        made
    }

    /// Makes a signed message, and lets the next event follow it.
    pub(crate) fn says(&mut self, peer: &Peer, text: &str) -> Made {
        let content = json!({ "msgtype": "m.text", "body": text });
        self.makes(peer, "m.room.message", (None, &content))
    }

    /// Returns the ID of a state event.
    pub(crate) fn state_event(&self, kind: &str, state_key: &str) -> String {
        let held = self.state.get(&kind.into(), state_key);
        held.expect("it is in the state").event_id.to_string()
    }
}
