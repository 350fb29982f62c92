//! Other servers, which sign events with their own keys.

use ruma::{
    OwnedServerName,
    canonical_json::CanonicalJsonObject,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{PublicKeyMap, hash_and_sign_event},
};
use serde_json::{Value, json};

use super::*;
use crate::matrix::{self, StateMap, VerifiedEvent, auth_types};

/// Another server.
pub(crate) struct RemoteServer {
    pub(crate) name: OwnedServerName,
    pair: Ed25519KeyPair,
}

/// The end of a line of events in a room: the events that the next one follows, and the state there.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventLine {
    pub(crate) state: StateMap,
    pub(crate) prev_events: Vec<OwnedEventId>,
    pub(crate) depth: u64,
}

/// A room as other servers have it.
pub(crate) struct RemoteRoom {
    pub(crate) id: Option<OwnedRoomId>,
    pub(crate) rules: RoomVersionRules,
}

impl RemoteServer {
    pub(crate) fn new(name: &str) -> Self {
        let document = Ed25519KeyPair::generate();
        Self {
            name: OwnedServerName::try_from(name).unwrap(),
            pair: Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap(),
        }
    }

    pub(crate) fn user(&self, localpart: &str) -> OwnedUserId {
        OwnedUserId::try_from(format!("@{localpart}:{}", self.name)).unwrap()
    }

    pub(crate) fn keys(&self) -> PublicKeyMap {
        let key = Base64::new(self.pair.public_key().to_vec());
        let of_server = [("ed25519:1".to_owned(), key)].into();
        [(self.name.to_string(), of_server)].into()
    }

    /// Signs an event as it is.
    pub(crate) fn sign_event(&self, event: Value, rules: &RoomVersionRules) -> CanonicalJsonObject {
        let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
        let (name, rules) = (self.name.as_str(), &rules.redaction);
        hash_and_sign_event(name, &self.pair, &mut object, rules).unwrap();
        object
    }

    /// Makes an event at the end of a line, with the auth events that should allow it there.
    pub(crate) fn make_event(
        &self,
        room: &RemoteRoom,
        line: &EventLine,
        (sender, kind, state_key): (&UserId, &str, Option<&str>),
        content: Value,
    ) -> VerifiedEvent {
        let event = self.draft_event(room, line, (sender, kind, state_key), content);
        self.sign_and_verify(event, room)
    }

    pub(crate) fn sign_and_verify(&self, event: Value, room: &RemoteRoom) -> VerifiedEvent {
        let signed = self.sign_event(event, &room.rules);
        VerifiedEvent::verify(signed, &room.rules, &self.keys()).unwrap()
    }

    pub(crate) fn draft_event(
        &self,
        room: &RemoteRoom,
        line: &EventLine,
        (sender, kind, state_key): (&UserId, &str, Option<&str>),
        content: Value,
    ) -> Value {
        let mut event = json!({
            "type": kind, "sender": sender, "origin": self.name, "depth": line.depth + 1,
            "origin_server_ts": 1_000 + line.depth, "prev_events": line.prev_events, "auth_events": [],
            "hashes": {},
        });
        event["content"] = content;
        if let Some(room_id) = &room.id {
            event["room_id"] = json!(room_id);
        }
        if let Some(state_key) = state_key {
            event["state_key"] = json!(state_key);
        }
        let scratch = room.id.clone().unwrap_or_else(|| {
            let id = "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
            OwnedRoomId::try_from(id).unwrap()
        });
        let mut named = event.clone();
        named["room_id"] = json!(scratch);
        let id = OwnedEventId::try_from("$scratch").unwrap();
        let pdu = Pdu::parse(id, &named.to_string()).unwrap();
        let types = auth_types(&pdu, &room.rules).unwrap_or_default();
        let held = types
            .iter()
            .filter_map(|(kind, key)| line.state.get(kind, key));
        let auth_events: Vec<_> = held.map(|pdu| pdu.event_id.clone()).collect();
        event["auth_events"] = json!(auth_events);
        event
    }

    /// Makes a room with a creator of this server. Returns it with the end of its events, and the events.
    pub(crate) fn create_room(&self, version: &str) -> (RemoteRoom, EventLine, Vec<VerifiedEvent>) {
        let version = RoomVersionId::try_from(version).unwrap();
        let rules = matrix::room_version_rules(&version).unwrap();
        let named_before = rules.event_format.require_room_create_room_id;
        let id = named_before.then(|| RoomId::new_v1(&self.name));
        let mut room = RemoteRoom { id, rules };
        let carol = self.user("carol");
        let (mut line, mut events) = (EventLine::default(), Vec::new());
        let mut levels = json!({"users": {&carol: 100}});
        if !named_before {
            levels = json!({});
        }
        let first = [
            (
                "m.room.create",
                String::new(),
                json!({"room_version": version, "creator": carol}),
            ),
            (
                "m.room.member",
                carol.to_string(),
                json!({"membership": "join"}),
            ),
            ("m.room.power_levels", String::new(), levels),
            (
                "m.room.join_rules",
                String::new(),
                json!({"join_rule": "public"}),
            ),
        ];
        for (kind, key, content) in first {
            let event = self.make_event(&room, &line, (&carol, kind, Some(&key)), content);
            room.id = Some(event.pdu().room_id.clone());
            line = line.after(&event);
            events.push(event);
        }
        (room, line, events)
    }
}

impl RemoteRoom {
    pub(crate) fn from_room(room: &Room) -> Self {
        Self {
            id: Some(room.room_id.clone()),
            rules: room.rules.clone(),
        }
    }
}

impl EventLine {
    /// Returns the line after one more event.
    pub(crate) fn after(&self, event: &VerifiedEvent) -> Self {
        let mut state = self.state.clone();
        if event.pdu().state_key.is_some() {
            state.insert(Arc::new(event.pdu().clone()));
        }
        Self {
            state,
            prev_events: vec![event.pdu().event_id.clone()],
            depth: self.depth + 1,
        }
    }
}

impl TestServer {
    pub(crate) fn keys(&self) -> PublicKeyMap {
        let key = Base64::new(self.public_key.clone());
        let of_server = [("ed25519:1".to_owned(), key)].into();
        [(self.rooms.memory.server_name().to_string(), of_server)].into()
    }

    /// Returns the end of the events of a room on this server.
    pub(crate) async fn event_line(&self, room_id: &RoomId) -> EventLine {
        let room = self.rooms.memory.room(room_id).await.unwrap();
        let tip = room.tip.lock().await;
        EventLine {
            state: tip.state.clone(),
            prev_events: tip.forward_extremities.clone(),
            depth: tip.depth,
        }
    }

    pub(crate) async fn receive_event(
        &self,
        from: &RemoteServer,
        event: &VerifiedEvent,
    ) -> ReceiveOutcome {
        self.receive_with_hints(from, event, ReceiveHints::default())
            .await
            .unwrap()
    }

    pub(crate) async fn receive_with_hints(
        &self,
        from: &RemoteServer,
        event: &VerifiedEvent,
        hints: ReceiveHints,
    ) -> Result<ReceiveOutcome> {
        self.rooms
            .receiver
            .receive(&from.name, event.clone(), hints)
            .await
    }

    /// Makes a room that everyone may join, with a user of another server in it.
    pub(crate) async fn create_shared_room(
        &self,
        remote: &RemoteServer,
        version: &str,
    ) -> (RemoteRoom, OwnedUserId) {
        let room_id = self
            .create_room(json!({"room_version": version}))
            .await
            .unwrap();
        let public = EventToSend::state(
            alice(),
            &StateEventType::RoomJoinRules,
            "",
            to_raw_value(&json!({"join_rule": "public"})).unwrap(),
        );
        self.rooms.sender.send(&room_id, public).await.unwrap();
        let room = RemoteRoom::from_room(&self.rooms.memory.room(&room_id).await.unwrap());
        let dora = remote.user("dora");
        let line = self.event_line(&room_id).await;
        let join = remote.make_event(
            &room,
            &line,
            (&dora, "m.room.member", Some(dora.as_str())),
            json!({"membership": "join"}),
        );
        assert_eq!(
            self.receive_event(remote, &join).await,
            ReceiveOutcome::Accepted
        );
        (room, dora)
    }
}

/// Returns the content of a text message.
pub(crate) fn text_content(body: &str) -> Value {
    json!({"msgtype": "m.text", "body": body})
}
