//! The required state: which state events of a room a client wants.

use std::{collections::HashSet, sync::Arc};

use ruma::{EventId, UserId, events::StateEventType};
use serde::Deserialize;

use crate::matrix::{Pdu, StateMap};

/// The required state of one list or room subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "RequiredStateJson")]
pub(super) struct RequiredState {
    include: Vec<RequiredStateElement>,
    exclude: Vec<RequiredStateElement>,
    /// Whether only the members that the timeline needs are wanted.
    lazy_members: bool,
}

/// The required state of all lists and subscriptions that contain a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CombinedRequiredState {
    parts: Vec<RequiredState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "StateElementJson")]
struct RequiredStateElement {
    /// `None` matches every type.
    kind: Option<StateEventType>,
    state_key: StateKeyPattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum StateKeyPattern {
    Any,
    /// The user id of the requesting user.
    Me,
    Exactly(String),
}

/// The required state as JSON: an object in the proposal, pairs of a type and a state key in its drafts.
#[derive(Deserialize)]
#[serde(untagged)]
enum RequiredStateJson {
    Pairs(Vec<(String, String)>),
    Object {
        #[serde(default)]
        include: Vec<RequiredStateElement>,
        #[serde(default)]
        exclude: Vec<RequiredStateElement>,
        #[serde(default)]
        lazy_members: bool,
    },
}

#[derive(Deserialize)]
struct StateElementJson {
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
}

impl From<StateElementJson> for RequiredStateElement {
    fn from(wire: StateElementJson) -> Self {
        Self {
            kind: wire.kind.map(StateEventType::from),
            state_key: wire
                .state_key
                .map_or(StateKeyPattern::Any, StateKeyPattern::Exactly),
        }
    }
}

impl From<RequiredStateJson> for RequiredState {
    fn from(wire: RequiredStateJson) -> Self {
        let pairs = match wire {
            RequiredStateJson::Object {
                include,
                exclude,
                lazy_members,
            } => {
                return Self {
                    include,
                    exclude,
                    lazy_members,
                };
            }
            RequiredStateJson::Pairs(pairs) => pairs,
        };
        let mut required = Self::default();
        for (kind, state_key) in pairs {
            if kind == "m.room.member" && state_key == "$LAZY" {
                required.lazy_members = true;
                continue;
            }
            let state_key = match state_key.as_str() {
                "*" => StateKeyPattern::Any,
                "$ME" => StateKeyPattern::Me,
                _ => StateKeyPattern::Exactly(state_key),
            };
            required.include.push(RequiredStateElement {
                kind: (kind != "*").then(|| StateEventType::from(kind)),
                state_key,
            });
        }
        required
    }
}

impl RequiredStateElement {
    fn matches(&self, kind: &StateEventType, state_key: &str, user_id: &UserId) -> bool {
        self.kind.as_ref().is_none_or(|wanted| wanted == kind)
            && self
                .wanted_state_key(user_id)
                .is_none_or(|wanted| wanted == state_key)
    }

    /// Returns the state key that is wanted; `None` means every one.
    fn wanted_state_key<'a>(&'a self, user_id: &'a UserId) -> Option<&'a str> {
        match &self.state_key {
            StateKeyPattern::Any => None,
            StateKeyPattern::Me => Some(user_id.as_str()),
            StateKeyPattern::Exactly(state_key) => Some(state_key),
        }
    }

    /// Returns whether the element matches all members.
    fn matches_all_members(&self) -> bool {
        let is_member = |kind: &StateEventType| *kind == StateEventType::RoomMember;
        self.state_key == StateKeyPattern::Any && self.kind.as_ref().is_none_or(is_member)
    }
}

impl RequiredState {
    /// Returns the number of elements.
    pub(super) fn len(&self) -> usize {
        self.include.len() + self.exclude.len()
    }

    fn wants(&self, kind: &StateEventType, state_key: &str, user_id: &UserId) -> bool {
        let is_member = *kind == StateEventType::RoomMember;
        // With lazy loading, a wildcard does not include the members: the timeline decides which are needed.
        let counts = |element: &&RequiredStateElement| {
            !(is_member && self.lazy_members && element.matches_all_members())
        };
        let mut include = self.include.iter().filter(counts);
        include.any(|element| element.matches(kind, state_key, user_id))
            && !self
                .exclude
                .iter()
                .any(|element| element.matches(kind, state_key, user_id))
    }
}

impl CombinedRequiredState {
    /// Returns the approximate memory that it takes, in bytes.
    pub(super) fn byte_size(&self) -> usize {
        let element = |element: &RequiredStateElement| {
            let state_key = match &element.state_key {
                StateKeyPattern::Exactly(state_key) => state_key.len(),
                StateKeyPattern::Any | StateKeyPattern::Me => 0,
            };
            let kind = element.kind.as_ref().map(ToString::to_string);
            size_of::<RequiredStateElement>() + kind.map_or(0, |kind| kind.len()) + state_key
        };
        let elements = |part: &RequiredState| -> usize {
            part.include.iter().chain(&part.exclude).map(element).sum()
        };
        self.parts.iter().map(elements).sum()
    }

    pub(super) fn combine<'a>(parts: impl IntoIterator<Item = &'a RequiredState>) -> Self {
        let mut combined = Self::default();
        for part in parts {
            if !combined.parts.contains(part) {
                combined.parts.push(part.clone());
            }
        }
        combined
    }

    /// Returns whether members are loaded lazily. They are not if another list or subscription wants all of them.
    pub(super) fn is_lazy_loading(&self) -> bool {
        let wants_all = |part: &RequiredState| {
            !part.lazy_members
                && part
                    .include
                    .iter()
                    .any(RequiredStateElement::matches_all_members)
        };
        self.parts.iter().any(|part| part.lazy_members) && !self.parts.iter().any(wants_all)
    }

    /// Returns whether a state event is wanted even if the timeline does not need it.
    pub(super) fn wants(&self, pdu: &Pdu, user_id: &UserId) -> bool {
        let (kind, state_key) = (pdu.state_type(), pdu.state_key.as_deref());
        let state_key = state_key.unwrap_or_default();
        self.parts
            .iter()
            .any(|part| part.wants(&kind, state_key, user_id))
    }

    /// Returns the wanted part of a state. Only wildcards need a search of the state; other elements are looked up.
    pub(super) fn select(&self, state: &StateMap, user_id: &UserId) -> Vec<Arc<Pdu>> {
        let mut found: Vec<Arc<Pdu>> = Vec::new();
        let mut seen: HashSet<&EventId> = HashSet::new();
        let include = self.parts.iter().flat_map(|part| &part.include);
        for element in include {
            let matching: Box<dyn Iterator<Item = &Arc<Pdu>>> =
                match (&element.kind, element.wanted_state_key(user_id)) {
                    (Some(kind), Some(state_key)) => {
                        Box::new(state.get(kind, state_key).into_iter())
                    }
                    (Some(kind), None) => Box::new(state.of_type(kind)),
                    (None, _) => Box::new(state.iter()),
                };
            let new = matching.filter(|pdu| self.wants(pdu, user_id) && seen.insert(&pdu.event_id));
            found.extend(new.cloned());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::{Value, json};

    use super::*;

    fn state() -> StateMap {
        let mut state = StateMap::default();
        let events = [
            ("m.room.create", ""),
            ("m.room.name", ""),
            ("m.room.member", "@me:a"),
            ("m.room.member", "@you:a"),
            ("org.example", "@me:a"),
        ];
        for (kind, state_key) in events {
            let json = json!({
                "room_id": "!r:a", "sender": "@me:a", "type": kind, "state_key": state_key, "depth": 1,
                "origin_server_ts": 1, "prev_events": [], "auth_events": [], "content": {},
            });
            let id = format!("${kind}{state_key}").try_into().unwrap();
            state.insert(Arc::new(Pdu::parse(id, &json.to_string()).unwrap()));
        }
        state
    }

    fn combined(parts: &[Value]) -> CombinedRequiredState {
        let parts: Vec<RequiredState> = parts
            .iter()
            .map(|part| serde_json::from_value(part.clone()).unwrap())
            .collect();
        CombinedRequiredState::combine(&parts)
    }

    fn selected(parts: &[Value]) -> Vec<String> {
        let selected = combined(parts).select(&state(), user_id!("@me:a"));
        let mut ids: Vec<String> = selected
            .iter()
            .map(|pdu| pdu.event_id.to_string())
            .collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn pairs_name_a_type_and_a_key_with_their_wildcards() {
        let pairs = json!([
            ["m.room.name", ""],
            ["m.room.member", "$ME"],
            ["m.room.topic", ""]
        ]);
        assert_eq!(selected(&[pairs]), ["$m.room.member@me:a", "$m.room.name"]);
        let members = json!([["m.room.member", "*"]]);
        assert_eq!(selected(&[members]).len(), 2);
        assert_eq!(selected(&[json!([["*", "$ME"]])]).len(), 2);
        assert_eq!(selected(&[json!([["*", "*"]])]).len(), 5);
        assert!(selected(&[json!([])]).is_empty());
    }

    #[test]
    fn an_object_includes_and_excludes() {
        let all_but_create = json!({ "include": [{}], "exclude": [{ "type": "m.room.create" }] });
        assert_eq!(selected(&[all_but_create]).len(), 4);
        let of_key = json!({ "include": [{ "state_key": "@me:a" }] });
        assert_eq!(
            selected(&[of_key]),
            ["$m.room.member@me:a", "$org.example@me:a"]
        );
    }

    #[test]
    fn lazy_loading_excludes_members_from_wildcards() {
        let own_member = json!({ "type": "m.room.member", "state_key": "@me:a" });
        let lazily = json!({ "include": [{}, own_member], "lazy_members": true });
        assert_eq!(
            selected(&[lazily]),
            [
                "$m.room.create",
                "$m.room.member@me:a",
                "$m.room.name",
                "$org.example@me:a"
            ]
        );
        let lazily = json!([["*", "*"], ["m.room.member", "$LAZY"]]);
        // The state key `@me:a` also matches another event, which is not a member event.
        assert_eq!(selected(&[lazily]).len(), 3);
    }

    #[test]
    fn combined_required_state_is_the_union() {
        let name = json!([["m.room.name", ""]]);
        let all_but_name = json!({ "include": [{}], "exclude": [{ "type": "m.room.name" }] });
        assert_eq!(selected(&[name.clone(), all_but_name]).len(), 5);

        let lazily = json!([["m.room.member", "$LAZY"]]);
        let all = json!([["m.room.member", "*"]]);
        assert!(combined(&[lazily.clone(), name]).is_lazy_loading());
        assert!(!combined(&[lazily, all]).is_lazy_loading());
    }
}
