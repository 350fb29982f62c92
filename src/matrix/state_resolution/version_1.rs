//! State resolution of room version 1, which `ruma` does not have.
//!
//! It reads the events in conflict only: first the auth events, one type after the other, and then the rest. Auth
//! events are taken in order of depth as long as each one allows the next. Of the others, the deepest event that is
//! allowed counts.
//!
//! See the [specification](https://spec.matrix.org/v1.19/rooms/v1/#state-resolution).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use ruma::{events::StateEventType, room_version_rules::RoomVersionRules};
use sha1::{Digest, Sha1};

use crate::matrix::{Pdu, StateMap, authorize, state_map::StateMapKey};

/// The types by which events are authorized, in the order in which they are resolved.
const AUTH_TYPES: [StateEventType; 3] = [
    StateEventType::RoomPowerLevels,
    StateEventType::RoomJoinRules,
    StateEventType::RoomMember,
];

/// Resolves states that differ under some keys.
pub(super) fn resolve(
    rules: &RoomVersionRules,
    sets: &[StateMap],
    keys: &HashSet<StateMapKey>,
) -> StateMap {
    let mut state = sets.first().cloned().unwrap_or_default();
    let mut conflicts: BTreeMap<StateMapKey, Vec<Arc<Pdu>>> = BTreeMap::new();
    for key in keys {
        let (kind, state_key) = key;
        let mut seen = BTreeSet::new();
        let held = sets.iter().filter_map(|set| set.get(kind, state_key));
        let held = held.filter(|pdu| seen.insert(pdu.event_id.clone()));
        let held: Vec<Arc<Pdu>> = held.cloned().collect();
        // A key that is missing in some states is not in conflict.
        let only = held.first().filter(|_| held.len() == 1);
        state.set_or_remove(kind, state_key, only);
        if held.len() > 1 {
            conflicts.insert(key.clone(), held);
        }
    }
    for auth_type in AUTH_TYPES {
        // Events of one type do not depend on how others of it are resolved.
        let before = state.clone();
        for ((kind, state_key), events) in &conflicts {
            if *kind == auth_type {
                let resolved = resolve_auth_event(rules, &before, events.clone());
                state.set_or_remove(kind, state_key, resolved.as_ref());
            }
        }
    }
    let before = state.clone();
    for ((kind, state_key), events) in &conflicts {
        if !AUTH_TYPES.contains(kind) {
            let resolved = resolve_other_event(rules, &before, events.clone());
            state.set_or_remove(kind, state_key, resolved.as_ref());
        }
    }
    state
}

/// Returns the last event of a series, from the least deep on, in which each event allows the next.
fn resolve_auth_event(
    rules: &RoomVersionRules,
    state: &StateMap,
    mut events: Vec<Arc<Pdu>>,
) -> Option<Arc<Pdu>> {
    events.sort_by_cached_key(|pdu| (pdu.depth, Reverse(event_id_hash(pdu))));
    let mut events = events.into_iter();
    let mut resolved = events.next()?;
    for event in events {
        let mut state = state.clone();
        state.insert(resolved.clone());
        if authorize(&event, rules, &state).is_err() {
            break;
        }
        resolved = event;
    }
    Some(resolved)
}

/// Returns the deepest event that is allowed; if none is, the least deep.
fn resolve_other_event(
    rules: &RoomVersionRules,
    state: &StateMap,
    mut events: Vec<Arc<Pdu>>,
) -> Option<Arc<Pdu>> {
    events.sort_by_cached_key(|pdu| (Reverse(pdu.depth), event_id_hash(pdu)));
    let mut allowed = events.iter();
    let allowed = allowed.find(|pdu| authorize(pdu, rules, state).is_ok());
    allowed.or(events.last()).cloned()
}

fn event_id_hash(pdu: &Pdu) -> Vec<u8> {
    Sha1::digest(pdu.event_id.as_bytes()).to_vec()
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedEventId, RoomVersionId};
    use serde_json::{Value, json};

    use super::*;

    /// The sender, the type and the state key of an event.
    #[derive(Clone, Copy)]
    struct EventSource<'a> {
        sender: &'a str,
        kind: &'a str,
        key: &'a str,
    }

    fn source<'a>(sender: &'a str, kind: &'a str, key: &'a str) -> EventSource<'a> {
        EventSource { sender, kind, key }
    }

    fn event(name: &str, depth: u32, source: EventSource<'_>, content: Value) -> Arc<Pdu> {
        let EventSource { sender, kind, key } = source;
        let mut event = json!({
            "type": kind, "sender": sender, "state_key": key, "depth": depth, "room_id": "!r:a",
            "origin_server_ts": 1, "prev_events": [], "auth_events": [], "hashes": { "sha256": "" },
        });
        event["content"] = content;
        let id = OwnedEventId::try_from(format!("${name}:a")).unwrap();
        Arc::new(Pdu::parse(id, &event.to_string()).unwrap())
    }

    const ALICE_ID: &str = "@alice:a";
    const BOB_ID: &str = "@bob:a";

    /// Returns a room in which Alice has all power, and Bob may set the topic.
    fn room() -> StateMap {
        let create = source(ALICE_ID, "m.room.create", "");
        let levels = json!({ "users": { ALICE_ID: 100, BOB_ID: 50 } });
        let joined = json!({ "membership": "join" });
        let mut state = StateMap::default();
        for pdu in [
            event("create", 1, create, json!({ "creator": ALICE_ID })),
            event(
                "alice",
                2,
                source(ALICE_ID, "m.room.member", ALICE_ID),
                joined.clone(),
            ),
            event(
                "levels",
                3,
                source(ALICE_ID, "m.room.power_levels", ""),
                levels,
            ),
            event(
                "rules",
                4,
                source(ALICE_ID, "m.room.join_rules", ""),
                json!({ "join_rule": "public" }),
            ),
            event("bob", 5, source(BOB_ID, "m.room.member", BOB_ID), joined),
        ] {
            state.insert(pdu);
        }
        state
    }

    fn room_with(pdus: &[&Arc<Pdu>]) -> StateMap {
        let mut state = room();
        for pdu in pdus {
            state.insert((*pdu).clone());
        }
        state
    }

    fn resolved(sets: &[StateMap], kind: &StateEventType, key: &str) -> Option<String> {
        let version = RoomVersionId::V1.rules().unwrap();
        let mut keys = HashSet::new();
        for other in &sets[1..] {
            keys.extend(sets[0].differing_keys(other));
        }
        let forward = resolve(&version, sets, &keys);
        let mut turned = sets.to_vec();
        turned.reverse();
        let backward = resolve(&version, &turned, &keys);
        assert!(forward.differing_keys(&backward).is_empty());
        forward.get(kind, key).map(|pdu| pdu.event_id.to_string())
    }

    #[test]
    fn the_deepest_event_that_is_allowed_counts() {
        let topic = source(BOB_ID, "m.room.topic", "");
        let one = event("one", 6, topic, json!({ "topic": "one" }));
        let two = event("two", 7, topic, json!({ "topic": "two" }));

        let kind = StateEventType::RoomTopic;
        assert_eq!(
            resolved(&[room_with(&[&one]), room_with(&[&two])], &kind, "").as_deref(),
            Some("$two:a")
        );
        assert_eq!(
            resolved(&[room_with(&[&one]), room()], &kind, "").as_deref(),
            Some("$one:a")
        );
    }

    #[test]
    fn an_event_whose_sender_lost_power_does_not_count() {
        let less = json!({ "users": { ALICE_ID: 100 } });
        let less = event("less", 6, source(ALICE_ID, "m.room.power_levels", ""), less);
        let by_alice = event(
            "alices",
            6,
            source(ALICE_ID, "m.room.topic", ""),
            json!({ "topic": "a" }),
        );
        let by_bob = event(
            "bobs",
            9,
            source(BOB_ID, "m.room.topic", ""),
            json!({ "topic": "b" }),
        );
        let sets = [room_with(&[&less, &by_alice]), room_with(&[&by_bob])];

        let topic = resolved(&sets, &StateEventType::RoomTopic, "");
        let levels = resolved(&sets, &StateEventType::RoomPowerLevels, "");

        assert_eq!(levels.as_deref(), Some("$less:a"));
        assert_eq!(topic.as_deref(), Some("$alices:a"));
    }

    #[test]
    fn auth_events_count_until_one_is_not_allowed() {
        let levels = |name, depth, sender, users: Value| {
            event(
                name,
                depth,
                source(sender, "m.room.power_levels", ""),
                json!({ "users": users }),
            )
        };
        let less = levels("less", 6, ALICE_ID, json!({ ALICE_ID: 100 }));
        // Bob would need power that the event before takes from him.
        let more = levels(
            "more",
            7,
            BOB_ID,
            json!({ ALICE_ID: 100, BOB_ID: 50, "@eve:a": 50 }),
        );

        let kind = StateEventType::RoomPowerLevels;
        let found = resolved(&[room_with(&[&less]), room_with(&[&more])], &kind, "");

        assert_eq!(found.as_deref(), Some("$less:a"));
    }

    #[test]
    fn a_ban_outweighs_simultaneous_events_of_the_banned_user() {
        let ban = json!({ "membership": "ban" });
        let ban = event("ban", 6, source(ALICE_ID, "m.room.member", BOB_ID), ban);
        let name = json!({ "membership": "join", "displayname": "B" });
        let name = event("name", 7, source(BOB_ID, "m.room.member", BOB_ID), name);

        let kind = StateEventType::RoomMember;
        let found = resolved(&[room_with(&[&ban]), room_with(&[&name])], &kind, BOB_ID);

        assert_eq!(found.as_deref(), Some("$ban:a"));
    }
}
