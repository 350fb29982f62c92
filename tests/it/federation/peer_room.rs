//! A room on a peer that the test plays. The peer lets users of other servers in.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    routing::{get, put},
};
use parlour::{
    clock::Clock,
    matrix::{self, EventContext, EventDraft, Pdu, SigningKey, StateMap},
};
use ruma::{
    EventId, OwnedRoomId, OwnedUserId, RoomVersionId, UInt, UserId,
    room_version_rules::RoomVersionRules,
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::Peer;

const AUTHORISED_VIA: &str = "join_authorised_via_users_server";

/// A room of a peer, and the user who created it.
pub(crate) struct PeerRoom {
    key: Arc<SigningKey>,
    version: RoomVersionId,
    rules: RoomVersionRules,
    pub(crate) creator: OwnedUserId,
    room_id: Option<OwnedRoomId>,
    state: StateMap,
    last: Option<Pdu>,
    /// All events, the oldest first.
    pub(crate) events: Vec<(Pdu, Value)>,
    /// The number of joins that the peer accepted.
    pub(crate) join_count: usize,
    /// Whether the peer withholds the history.
    pub(crate) is_silent: bool,
}

/// A room that the test shares with the handlers of a peer.
#[derive(Clone)]
pub(crate) struct SharedPeerRoom(Arc<Mutex<PeerRoom>>);

impl SharedPeerRoom {
    pub(crate) fn new(peer: &Peer, version: &str) -> Self {
        Self(Arc::new(Mutex::new(PeerRoom::new(peer, version))))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, PeerRoom> {
        self.0.lock().expect("no test panics here")
    }

    pub(crate) fn id(&self) -> String {
        self.lock().id().to_string()
    }

    /// Returns the endpoints for joining and leaving, and for reading the history.
    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route(
                "/_matrix/federation/v2/send_join/{room}/{event}",
                put(send_join),
            )
            .route(
                "/_matrix/federation/v2/send_leave/{room}/{event}",
                put(send_leave),
            )
            .merge(Self::common_endpoints())
            .with_state(self.clone())
    }

    /// Returns the same endpoints of a server that supports only version 1 of `send_join` and `send_leave`.
    pub(crate) fn router_of_old_server(&self) -> Router {
        let joined = async |room: State<SharedPeerRoom>, event: Json<Value>| {
            Json(json!([200, send_join(room, event).await.0]))
        };
        let left = async |room: State<SharedPeerRoom>, event: Json<Value>| {
            Json(json!([200, send_leave(room, event).await.0]))
        };
        Router::new()
            .route(
                "/_matrix/federation/v1/send_join/{room}/{event}",
                put(joined),
            )
            .route(
                "/_matrix/federation/v1/send_leave/{room}/{event}",
                put(left),
            )
            .merge(Self::common_endpoints())
            .with_state(self.clone())
    }

    /// Returns the endpoints that are the same for old and new servers.
    fn common_endpoints() -> Router<Self> {
        Router::new()
            .route(
                "/_matrix/federation/v1/make_join/{room}/{user}",
                get(make_join),
            )
            .route(
                "/_matrix/federation/v1/make_leave/{room}/{user}",
                get(make_leave),
            )
            .route(
                "/_matrix/federation/v1/make_knock/{room}/{user}",
                get(make_knock),
            )
            .route(
                "/_matrix/federation/v1/send_knock/{room}/{event}",
                put(send_knock),
            )
            .route("/_matrix/federation/v1/backfill/{room}", get(backfill))
            .route("/_matrix/federation/v1/state_ids/{room}", get(state_ids))
            .route("/_matrix/federation/v1/event/{event}", get(event))
            .route(
                "/_matrix/federation/v1/timestamp_to_event/{room}",
                get(event_at_time),
            )
            .route("/_matrix/federation/v1/send/{txn}", put(transaction))
    }
}

impl PeerRoom {
    fn new(peer: &Peer, version: &str) -> Self {
        let version = RoomVersionId::try_from(version).expect("a version");
        let rules = matrix::room_version_rules(&version).expect("it is supported");
        let creator = OwnedUserId::try_from(format!("@carol:{}", peer.name)).expect("an id");
        let is_named_before = rules.event_format.require_room_create_room_id;
        let room_id = is_named_before.then(|| ruma::RoomId::new_v1(peer.key.server_name()));
        let mut room = Self {
            key: peer.key.clone(),
            version,
            rules,
            creator: creator.clone(),
            room_id,
            state: StateMap::default(),
            last: None,
            events: Vec::new(),
            join_count: 0,
            is_silent: false,
        };
        let create = json!({ "room_version": room.version, "creator": creator });
        room.sets_state("m.room.create", "", create);
        room.sets_state(
            "m.room.member",
            creator.as_str(),
            json!({ "membership": "join" }),
        );
        let levels = if is_named_before {
            json!({ "users": { &creator: 100 } })
        } else {
            json!({})
        };
        room.sets_state("m.room.power_levels", "", levels);
        room.sets_state("m.room.join_rules", "", json!({ "join_rule": "public" }));
        room
    }

    pub(crate) fn id(&self) -> &OwnedRoomId {
        self.room_id.as_ref().expect("it has been created")
    }

    /// Sets state as the creator, and returns the ID of the event.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers write the content in the call"
    )]
    pub(crate) fn sets_state(&mut self, kind: &str, state_key: &str, content: Value) -> String {
        let sender = self.creator.clone();
        self.makes_event(&sender, (kind, Some(state_key)), &content)
    }

    /// Sends a message as the creator, and returns the ID of the event.
    pub(crate) fn says(&mut self, text: &str) -> String {
        let sender = self.creator.clone();
        let content = json!({ "msgtype": "m.text", "body": text });
        self.makes_event(&sender, ("m.room.message", None), &content)
    }

    /// Redacts an event as the creator, but keeps it as it is. Returns the redaction.
    pub(crate) fn redacts(&mut self, target: &str) -> Value {
        let sender = self.creator.clone();
        let content = json!({ "redacts": target });
        self.makes_event(&sender, ("m.room.redaction", None), &content);
        self.events.last().expect("the redaction").1.clone()
    }

    fn makes_event(
        &mut self,
        sender: &UserId,
        (kind, state_key): (&str, Option<&str>),
        content: &Value,
    ) -> String {
        let key = self.key.clone();
        self.makes_event_with_key(sender, (kind, state_key), content, &key)
    }

    /// Makes an event of any user, signed with any key.
    pub(crate) fn makes_event_with_key(
        &mut self,
        sender: &UserId,
        (kind, state_key): (&str, Option<&str>),
        content: &Value,
        key: &SigningKey,
    ) -> String {
        let draft = self.draft(sender, (kind, state_key), content);
        let place = NextEventPosition::after(self);
        let site = place.site(self);
        let (pdu, json) = matrix::build_event(draft, site, key).expect("it is allowed");
        self.room_id = Some(pdu.room_id.clone());
        self.add(pdu, serde_json::from_str(&json).expect("JSON"))
    }

    fn draft(
        &self,
        sender: &UserId,
        (kind, key): (&str, Option<&str>),
        content: &Value,
    ) -> EventDraft {
        let is_chosen = self.rules.event_format.require_event_id;
        EventDraft {
            sender: sender.to_owned(),
            kind: kind.into(),
            state_key: key.map(ToOwned::to_owned),
            content: to_raw_value(content).expect("JSON"),
            redacts: None,
            sticky: None,
            timestamp: Clock::system().now(),
            event_id: is_chosen.then(|| EventId::new_v1(self.key.server_name())),
        }
    }

    /// Adds a signed event.
    fn add(&mut self, pdu: Pdu, json: Value) -> String {
        if pdu.state_key.is_some() {
            self.state.insert(Arc::new(pdu.clone()));
        }
        self.last = Some(pdu.clone());
        let event_id = pdu.event_id.to_string();
        self.events.push((pdu, json));
        event_id
    }

    /// Adds an event in the form in which another server sent it.
    pub(crate) fn accepts_event(&mut self, json: Value) -> String {
        let object = serde_json::from_value(json.clone()).expect("canonical JSON");
        let (pdu, _) = Pdu::from_object(&object, &self.rules).expect("an event");
        self.add(pdu, json)
    }

    pub(crate) fn join_template(&self, user_id: &str) -> Value {
        self.member_template(user_id, "join")
    }

    fn member_template(&self, user_id: &str, membership: &str) -> Value {
        let user_id = UserId::parse(user_id).expect("an id");
        let mut content = json!({ "membership": membership });
        if membership == "join" && self.is_restricted() {
            content[AUTHORISED_VIA] = json!(self.creator);
        }
        let draft = self.draft(
            &user_id,
            ("m.room.member", Some(user_id.as_str())),
            &content,
        );
        let place = NextEventPosition::after(self);
        let template = matrix::build_template(draft, place.site(self)).expect("it is allowed");
        let event: &RawValue = &template.event;
        json!({ "room_version": self.version, "event": event })
    }

    fn is_restricted(&self) -> bool {
        let rules = self.state.get(&"m.room.join_rules".into(), "");
        let rule = rules.and_then(|pdu| pdu.content_str("join_rule"));
        rule.as_deref() == Some("restricted")
    }

    /// Returns a join with the signature of the server that lets the user in, if that is needed.
    fn countersign_join(&self, event: Value) -> Value {
        if event["content"].get(AUTHORISED_VIA).is_none() {
            return event;
        }
        let mut object = serde_json::from_value(event).expect("canonical JSON");
        let signed = self.key.sign_event(&mut object, &self.rules);
        signed.expect("it is signed");
        serde_json::to_value(object).expect("JSON")
    }

    /// Returns the current state and its auth chain.
    fn state_and_chain(&self) -> (Vec<Value>, Vec<Value>) {
        let ids: HashSet<_> = self.state.iter().map(|pdu| pdu.event_id.clone()).collect();
        let of_state = self
            .events
            .iter()
            .filter(|(pdu, _)| pdu.state_key.is_some());
        let (state, chain): (Vec<_>, Vec<_>) =
            of_state.partition(|(pdu, _)| ids.contains(&pdu.event_id));
        let json = |(_, json): &(Pdu, Value)| json.clone();
        let state: Vec<Value> = state.into_iter().map(json).collect();
        // Other servers send events of the state twice.
        let chain = chain.into_iter().map(json).chain(state.iter().cloned());
        (state.clone(), chain.collect())
    }

    /// Returns the state before an event.
    fn state_before(&self, event_id: &str) -> Vec<String> {
        let mut state = StateMap::default();
        for (pdu, _) in self
            .events
            .iter()
            .take_while(|(pdu, _)| pdu.event_id != event_id)
        {
            if pdu.state_key.is_some() {
                state.insert(Arc::new(pdu.clone()));
            }
        }
        state.iter().map(|pdu| pdu.event_id.to_string()).collect()
    }

    /// Returns the time at which an event was made.
    pub(crate) fn time_of(&self, event_id: &str) -> u64 {
        let mut events = self.events.iter();
        let found = events.find(|(pdu, _)| pdu.event_id == event_id);
        found.expect("an event").0.origin_server_ts.0.into()
    }

    /// Returns the membership of a user in the room.
    pub(crate) fn membership(&self, user_id: &str) -> Option<String> {
        let user_id = UserId::parse(user_id).expect("an id");
        let pdu = self.state.member(&user_id)?;
        pdu.content_str("membership")
    }
}

/// The position of the next event in the room's graph.
struct NextEventPosition {
    prev_events: Vec<ruma::OwnedEventId>,
    hashes: Vec<String>,
    depth: UInt,
}

impl NextEventPosition {
    fn after(room: &PeerRoom) -> Self {
        let last = room.last.as_ref();
        Self {
            prev_events: last.map(|last| last.event_id.clone()).into_iter().collect(),
            hashes: last
                .and_then(|last| last.reference_hash.clone())
                .into_iter()
                .collect(),
            depth: last.map_or(UInt::MIN, |last| last.depth) + UInt::from(1_u32),
        }
    }

    fn site<'a>(&'a self, room: &'a PeerRoom) -> EventContext<'a> {
        EventContext {
            room_id: room.room_id.as_ref(),
            rules: &room.rules,
            state: &room.state,
            prev_events: &self.prev_events,
            prev_hashes: &self.hashes,
            depth: self.depth,
        }
    }
}

async fn make_join(
    State(room): State<SharedPeerRoom>,
    Path((_, user)): Path<(String, String)>,
) -> Json<Value> {
    Json(room.lock().member_template(&user, "join"))
}

async fn send_join(State(room): State<SharedPeerRoom>, Json(event): Json<Value>) -> Json<Value> {
    let mut room = room.lock();
    let (state, auth_chain) = room.state_and_chain();
    let event = room.countersign_join(event);
    room.accepts_event(event.clone());
    room.join_count += 1;
    Json(json!({
        "origin": "x", "state": state, "auth_chain": auth_chain, "event": event,
        "members_omitted": false,
    }))
}

async fn make_leave(
    State(room): State<SharedPeerRoom>,
    Path((_, user)): Path<(String, String)>,
) -> Json<Value> {
    Json(room.lock().member_template(&user, "leave"))
}

async fn send_leave(State(room): State<SharedPeerRoom>, Json(event): Json<Value>) -> Json<Value> {
    room.lock().accepts_event(event);
    Json(json!({}))
}

async fn make_knock(
    State(room): State<SharedPeerRoom>,
    Path((_, user)): Path<(String, String)>,
) -> Json<Value> {
    Json(room.lock().member_template(&user, "knock"))
}

async fn send_knock(State(room): State<SharedPeerRoom>, Json(event): Json<Value>) -> Json<Value> {
    let mut room = room.lock();
    let (state, _) = room.state_and_chain();
    let told = state
        .into_iter()
        .filter(|event| event["type"] != "m.room.member");
    let told: Vec<Value> = told.collect();
    room.accepts_event(event);
    Json(json!({ "knock_room_state": told }))
}

async fn backfill(
    State(room): State<SharedPeerRoom>,
    Query(asked): Query<Vec<(String, String)>>,
) -> Json<Value> {
    let room = room.lock();
    let from: Vec<&str> = query_values(&asked, "v");
    let limit: usize = query_values(&asked, "limit")
        .first()
        .expect("a limit")
        .parse()
        .expect("a number");
    let last = room
        .events
        .iter()
        .rposition(|(pdu, _)| from.contains(&pdu.event_id.as_str()));
    let upto = last.filter(|_| !room.is_silent).map_or(0, |last| last + 1);
    let told: Vec<&Value> = room.events[..upto]
        .iter()
        .rev()
        .take(limit)
        .map(|(_, json)| json)
        .collect();
    Json(json!({ "origin": "x", "origin_server_ts": 1, "pdus": told }))
}

async fn state_ids(
    State(room): State<SharedPeerRoom>,
    Query(asked): Query<Vec<(String, String)>>,
) -> Json<Value> {
    let room = room.lock();
    let event_id = query_values(&asked, "event_id")[0].to_owned();
    let state = room.state_before(&event_id);
    let chain: Vec<String> = room
        .events
        .iter()
        .take_while(|(pdu, _)| pdu.event_id != event_id)
        .filter(|(pdu, _)| pdu.state_key.is_some())
        .map(|(pdu, _)| pdu.event_id.to_string())
        .collect();
    Json(json!({ "pdu_ids": state, "auth_chain_ids": chain }))
}

async fn event(State(room): State<SharedPeerRoom>, Path(event_id): Path<String>) -> Json<Value> {
    let room = room.lock();
    let mut events = room.events.iter().filter(|_| !room.is_silent);
    let found = events.find(|(pdu, _)| pdu.event_id == event_id);
    let pdus: Vec<&Value> = found.iter().map(|(_, json)| json).collect();
    Json(json!({ "origin": "x", "origin_server_ts": 1, "pdus": pdus }))
}

async fn event_at_time(
    State(room): State<SharedPeerRoom>,
    Query(asked): Query<Vec<(String, String)>>,
) -> Json<Value> {
    let room = room.lock();
    let ts: u64 = query_values(&asked, "ts")[0].parse().expect("a number");
    let is_after = |(pdu, _): &&(Pdu, Value)| u64::from(pdu.origin_server_ts.0) >= ts;
    let found = &room.events.iter().find(is_after).expect("an event").0;
    Json(json!({ "event_id": found.event_id, "origin_server_ts": found.origin_server_ts }))
}

async fn transaction() -> Json<Value> {
    Json(json!({ "pdus": {} }))
}

fn query_values<'a>(asked: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let named = asked.iter().filter(|(key, _)| key == name);
    named.map(|(_, value)| &**value).collect()
}
