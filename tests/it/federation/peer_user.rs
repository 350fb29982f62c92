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
    chat::{new_transaction, percent_encoded},
    harness::{HttpAnswer, Server},
};

/// The events that a peer knows, and the requests that it received.
#[derive(Clone, Default)]
pub(crate) struct PeerArchive {
    inner: Arc<Mutex<ArchivedEvents>>,
}

#[derive(Default)]
struct ArchivedEvents {
    events: HashMap<String, Value>,
    /// The state before each event.
    states: HashMap<String, Vec<String>>,
    withheld: HashSet<String>,
    /// Events before this one are returned, but not by `get_missing_events`.
    oldest_missing_event: Option<String>,
    requests: Vec<String>,
}

/// A user of a peer in a room, with the peer's position in the room.
#[derive(Clone)]
pub(crate) struct PeerUser {
    pub(crate) id: String,
    pub(crate) room: String,
    pub(crate) rules: RoomVersionRules,
    pub(crate) state: StateMap,
    pub(crate) prev_events: Vec<String>,
    pub(crate) depth: u64,
    archive: PeerArchive,
}

/// An event that a peer has made.
#[derive(Clone, Debug)]
pub(crate) struct PeerEvent {
    pub(crate) id: String,
    pub(crate) json: Value,
}

impl Network {
    /// Starts a peer that answers requests for its events.
    pub(crate) async fn peer_with_archive(&self) -> (Peer, PeerArchive) {
        let archive = PeerArchive::default();
        (self.peer(archive.router()).await, archive)
    }
}

impl PeerArchive {
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
    pub(crate) fn withholds(&self, made: &PeerEvent) {
        self.lock().withheld.insert(made.id.clone());
    }

    /// Lets `get_missing_events` go no further back than to this event.
    pub(crate) fn limits_missing_events_to(&self, made: &PeerEvent) {
        self.lock().oldest_missing_event = Some(made.id.clone());
    }

    /// Returns the requests received so far, and clears them.
    pub(crate) fn takes_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().requests)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ArchivedEvents> {
        self.inner.lock().expect("no test panics here")
    }
}

impl ArchivedEvents {
    fn available_events(&self, ids: &[String]) -> Vec<Value> {
        let told = ids.iter().filter(|id| !self.withheld.contains(*id));
        told.filter_map(|id| self.events.get(id).cloned()).collect()
    }

    fn auth_chain_ids(&self, ids: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        let auth_events = ids.iter().flat_map(|id| self.auth_event_ids(id));
        let mut next: VecDeque<String> = auth_events.collect();
        while let Some(id) = next.pop_front() {
            if !found.contains(&id) {
                next.extend(self.auth_event_ids(&id));
                found.push(id);
            }
        }
        found
    }

    /// Returns the auth events of an event that this server has.
    fn auth_event_ids(&self, id: &str) -> Vec<String> {
        let event = self.events.get(id).unwrap_or(&Value::Null);
        let ids = event_ids(&event["auth_events"]).into_iter();
        ids.filter(|id| self.events.contains_key(id)).collect()
    }
}

/// Returns the event IDs in a list. Room versions 1 and 2 list pairs whose first item is the ID.
fn event_ids(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_str().or_else(|| item[0].as_str()))
        .map(ToOwned::to_owned)
        .collect()
}

fn not_found_answer() -> Response {
    (
        StatusCode::NOT_FOUND,
        Json(json!({ "errcode": "M_NOT_FOUND", "error": "no" })),
    )
        .into_response()
}

async fn event(State(archive): State<PeerArchive>, Path(id): Path<String>) -> Response {
    let mut known = archive.lock();
    known.requests.push(format!("event {id}"));
    match known.available_events(&[id]).pop() {
        Some(event) => Json(json!({ "origin": "peer", "origin_server_ts": 1, "pdus": [event] }))
            .into_response(),
        None => not_found_answer(),
    }
}

async fn event_auth(
    State(archive): State<PeerArchive>,
    Path((_, id)): Path<(String, String)>,
) -> Response {
    let mut known = archive.lock();
    known.requests.push(format!("event_auth {id}"));
    if !known.events.contains_key(&id) {
        return not_found_answer();
    }
    let chain = known.auth_chain_ids(&[id]);
    Json(json!({ "auth_chain": known.available_events(&chain) })).into_response()
}

async fn state_ids(
    State(archive): State<PeerArchive>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let mut known = archive.lock();
    let id = &query["event_id"];
    known.requests.push(format!("state_ids {id}"));
    let Some(state) = known.states.get(id) else {
        return not_found_answer();
    };
    Json(json!({ "pdu_ids": state, "auth_chain_ids": known.auth_chain_ids(state) })).into_response()
}

async fn state(
    State(archive): State<PeerArchive>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let mut known = archive.lock();
    let id = &query["event_id"];
    known.requests.push(format!("state {id}"));
    let Some(state) = known.states.get(id) else {
        return not_found_answer();
    };
    let chain = known.available_events(&known.auth_chain_ids(state));
    Json(json!({ "pdus": known.available_events(state), "auth_chain": chain })).into_response()
}

/// Returns events and their predecessors, the newest first.
async fn backfill(
    State(archive): State<PeerArchive>,
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
        next.extend(event_ids(&event["prev_events"]));
        if !known.withheld.contains(&id) {
            found.push(event.clone());
        }
    }
    Json(json!({ "origin": "peer", "origin_server_ts": 1, "pdus": found })).into_response()
}

async fn missing_events(State(archive): State<PeerArchive>, Json(body): Json<Value>) -> Response {
    let mut known = archive.lock();
    let latest = event_ids(&body["latest_events"]);
    known.requests.push(format!("missing {}", latest.join(" ")));
    let limit = body["limit"].as_u64().unwrap_or(10).min(20);
    let mut seen: HashSet<String> = event_ids(&body["earliest_events"]).into_iter().collect();
    let mut next: VecDeque<String> = latest
        .iter()
        .filter_map(|id| known.events.get(id))
        .flat_map(|event| event_ids(&event["prev_events"]))
        .collect();
    let mut found = Vec::new();
    while let Some(id) = next.pop_front() {
        if found.len() as u64 == limit {
            break;
        }
        let Some(event) = known.events.get(&id).filter(|_| seen.insert(id.clone())) else {
            continue;
        };
        if known.oldest_missing_event.as_ref() != Some(&id) {
            next.extend(event_ids(&event["prev_events"]));
        }
        if !known.withheld.contains(&id) {
            found.push(event.clone());
        }
    }
    found.reverse();
    Json(json!({ "events": found })).into_response()
}

impl Peer {
    pub(crate) async fn puts(&self, server: &Server, path: &str, body: &Value) -> HttpAnswer {
        self.sends_request(server, Method::PUT, path, &body.to_string())
            .await
    }

    pub(crate) fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.name)
    }

    /// Signs an event as it is.
    pub(crate) fn signs(&self, event: &Value, rules: &RoomVersionRules) -> PeerEvent {
        self.tries_to_sign(event, rules).expect("it is an event")
    }

    /// Signs an event as it is, if it can be signed.
    pub(crate) fn tries_to_sign(
        &self,
        event: &Value,
        rules: &RoomVersionRules,
    ) -> Option<PeerEvent> {
        let mut object: CanonicalJsonObject = serde_json::from_str(&event.to_string()).ok()?;
        self.key.hash_and_sign(&mut object, rules).ok()?;
        let id = Pdu::id_of(&object, rules).ok()?.to_string();
        let json = serde_json::to_value(object).ok()?;
        Some(PeerEvent { id, json })
    }

    /// Requests the template of an event by which a user joins, leaves or knocks.
    pub(crate) async fn requests_template(
        &self,
        server: &Server,
        what: &str,
        (room, user): (&str, &str),
    ) -> HttpAnswer {
        let versions: Vec<String> = (1..=12).map(|n| format!("ver={n}")).collect();
        let path = format!(
            "/_matrix/federation/v1/make_{what}/{}/{}?{}",
            percent_encoded(room),
            percent_encoded(user),
            versions.join("&")
        );
        self.gets(server, &path).await
    }

    /// Signs a template.
    pub(crate) fn signs_template(&self, prepared: &Value) -> PeerEvent {
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
    pub(crate) async fn sends_member_event(
        &self,
        server: &Server,
        endpoint: &str,
        (room, made): (&str, &PeerEvent),
    ) -> HttpAnswer {
        let path = member_event_path(endpoint, room, &made.id);
        self.puts(server, &path, &made.json).await
    }

    /// Joins a room of a server, and stores the state that the server returns.
    pub(crate) async fn joins(
        &self,
        server: &Server,
        room: &str,
        (localpart, archive): (&str, &PeerArchive),
    ) -> PeerUser {
        let id = self.user(localpart);
        let prepared = self
            .requests_template(server, "join", (room, &id))
            .await
            .expect_ok();
        let join = self.signs_template(&prepared);
        let answer = self
            .sends_member_event(server, "v2/send_join", (room, &join))
            .await;
        let answer = answer.expect_ok();
        let version: RoomVersionId =
            serde_json::from_value(prepared["room_version"].clone()).expect("a version");
        let mut guest = PeerUser {
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
                guest.stores_event(event, list == "state");
            }
        }
        guest.advances_to(&join);
        guest
    }

    /// Sends events, and returns the server's result for each.
    pub(crate) async fn sends(&self, server: &Server, events: &[&PeerEvent]) -> Value {
        let events: Vec<&Value> = events.iter().map(|made| &made.json).collect();
        self.tries_to_send(server, &new_transaction(), &json!(events))
            .await
            .expect_ok()["pdus"]
            .clone()
    }

    pub(crate) async fn tries_to_send(
        &self,
        server: &Server,
        id: &str,
        pdus: &Value,
    ) -> HttpAnswer {
        let path = format!("/_matrix/federation/v1/send/{id}");
        let body = json!({ "origin": self.name, "origin_server_ts": 1, "pdus": pdus });
        self.puts(server, &path, &body).await
    }
}

/// Returns the path to which a member event is sent.
pub(crate) fn member_event_path(endpoint: &str, room: &str, event_id: &str) -> String {
    let (room, event_id) = (percent_encoded(room), percent_encoded(event_id));
    format!("/_matrix/federation/{endpoint}/{room}/{event_id}")
}

impl PeerUser {
    /// Stores an event that another server returned.
    fn stores_event(&mut self, event: &Value, is_state: bool) -> Arc<Pdu> {
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
    pub(crate) fn advances_to(&mut self, made: &PeerEvent) {
        let ids = self.state.iter().map(|pdu| pdu.event_id.to_string());
        let ids = ids.collect();
        self.archive.lock().states.insert(made.id.clone(), ids);
        let is_state = made.json.get("state_key").is_some();
        let pdu = self.stores_event(&made.json, is_state);
        self.prev_events = vec![made.id.clone()];
        self.depth = u64::from(pdu.depth);
    }

    /// Makes an unsigned event at the peer's position, and does not advance to it.
    pub(crate) fn drafts_event(
        &self,
        kind: &str,
        state_key: Option<&str>,
        content: &Value,
    ) -> Value {
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
        event["auth_events"] = self.event_references(&ids);
        event["prev_events"] = self.event_references(&self.prev_events);
        if self.rules.event_format.require_event_id {
            let server = UserId::parse(&*self.id).expect("an id");
            event["event_id"] = json!(EventId::new_v1(server.server_name()));
        }
        event
    }

    /// Returns references to events in the format of the room version.
    fn event_references(&self, ids: &[String]) -> Value {
        if self.rules.event_format.require_event_id {
            let pairs: Vec<Value> = ids.iter().map(|id| json!([id, { "sha256": "" }])).collect();
            json!(pairs)
        } else {
            json!(ids)
        }
    }

    /// Makes a signed event, and lets the next event follow it.
    pub(crate) fn makes_event(
        &mut self,
        peer: &Peer,
        kind: &str,
        (state_key, content): (Option<&str>, &Value),
    ) -> PeerEvent {
        let made = peer.signs(&self.drafts_event(kind, state_key, content), &self.rules);
        self.advances_to(&made);
        made
    }

    /// Makes a signed message, and lets the next event follow it.
    pub(crate) fn says(&mut self, peer: &Peer, text: &str) -> PeerEvent {
        let content = json!({ "msgtype": "m.text", "body": text });
        self.makes_event(peer, "m.room.message", (None, &content))
    }

    /// Returns the ID of a state event.
    pub(crate) fn state_event_id(&self, kind: &str, state_key: &str) -> String {
        let held = self.state.get(&kind.into(), state_key);
        held.expect("it is in the state").event_id.to_string()
    }
}
