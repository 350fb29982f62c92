//! The state of a room at one point: a map that shares its structure with its clones, and therefore with earlier and
//! later states.

use std::sync::Arc;

use rpds::HashTrieMapSync;
use ruma::{
    UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::de::DeserializeOwned;

use super::Pdu;

/// The type and the state key of a state event.
pub type StateMapKey = (StateEventType, String);

/// State events by type and state key. A clone copies only a pointer, and a change copies only the path to the changed
/// entry.
#[derive(Clone, Debug, Default)]
pub struct StateMap {
    by_type: HashTrieMapSync<StateEventType, HashTrieMapSync<String, Arc<Pdu>>>,
}

impl StateMap {
    /// Returns the event with this type and key.
    pub fn get(&self, kind: &StateEventType, state_key: &str) -> Option<&Arc<Pdu>> {
        self.by_type.get(kind)?.get(state_key)
    }

    /// Returns the content of the event with this type and an empty key.
    pub fn content<T: DeserializeOwned>(&self, kind: &StateEventType) -> Option<T> {
        self.get(kind, "")?.content_as()
    }

    /// Inserts a state event. Returns the one that it replaces.
    pub fn insert(&mut self, pdu: Arc<Pdu>) -> Option<Arc<Pdu>> {
        let state_key = pdu.state_key.clone()?;
        let kind = pdu.state_type();
        let mut keys = self.by_type.get(&kind).cloned().unwrap_or_default();
        let replaced = keys.get(&state_key).cloned();
        keys.insert_mut(state_key, pdu);
        self.by_type.insert_mut(kind, keys);
        replaced
    }

    /// Removes the event with this type and key.
    pub fn remove(&mut self, kind: &StateEventType, state_key: &str) {
        if let Some(mut keys) = self.by_type.get(kind).cloned()
            && keys.remove_mut(state_key)
        {
            self.by_type.insert_mut(kind.clone(), keys);
        }
    }

    /// Inserts the event of a key, or removes it if there is none.
    pub fn set_or_remove(
        &mut self,
        kind: &StateEventType,
        state_key: &str,
        event: Option<&Arc<Pdu>>,
    ) {
        match event {
            Some(pdu) => drop(self.insert(pdu.clone())),
            None => self.remove(kind, state_key),
        }
    }

    /// Returns the keys under which another state has a different event.
    ///
    /// Types whose maps both states share are skipped without a comparison.
    pub fn differing_keys(&self, other: &Self) -> Vec<StateMapKey> {
        let mut keys = Vec::new();
        if self.by_type.ptr_eq(&other.by_type) {
            return keys;
        }
        let none = HashTrieMapSync::default();
        for (kind, mine) in &self.by_type {
            let theirs = other.by_type.get(kind).unwrap_or(&none);
            if mine.ptr_eq(theirs) {
                continue;
            }
            let differs = |key: &str, pdu| {
                let theirs = theirs.get(key);
                theirs.is_none_or(|theirs| !is_same_event(pdu, theirs))
            };
            let changed = mine.iter().filter(|(key, pdu)| differs(key, pdu));
            keys.extend(changed.map(|(key, _)| (kind.clone(), key.clone())));
            let new = theirs.keys().filter(|key| !mine.contains_key(*key));
            keys.extend(new.map(|key| (kind.clone(), key.clone())));
        }
        for (kind, theirs) in &other.by_type {
            if !self.by_type.contains_key(kind) {
                keys.extend(theirs.keys().map(|key| (kind.clone(), key.clone())));
            }
        }
        keys
    }

    /// Returns all state events.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pdu>> {
        self.by_type.values().flat_map(HashTrieMapSync::values)
    }

    /// Returns all state events of a type.
    pub fn of_type(&self, kind: &StateEventType) -> impl Iterator<Item = &Arc<Pdu>> {
        self.by_type
            .get(kind)
            .into_iter()
            .flat_map(HashTrieMapSync::values)
    }

    /// Returns the number of state events.
    pub fn len(&self) -> usize {
        self.by_type.values().map(HashTrieMapSync::size).sum()
    }

    /// Returns whether there is no state event.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a user's member event.
    pub fn member(&self, user_id: &UserId) -> Option<&Arc<Pdu>> {
        self.get(&StateEventType::RoomMember, user_id.as_str())
    }

    /// Returns a user's membership, which is `leave` for a user without a member event.
    pub fn membership(&self, user_id: &UserId) -> MembershipState {
        self.member(user_id)
            .and_then(|pdu| pdu.membership())
            .unwrap_or(MembershipState::Leave)
    }
}

fn is_same_event(one: &Arc<Pdu>, other: &Arc<Pdu>) -> bool {
    Arc::ptr_eq(one, other) || one.event_id == other.event_id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_event(kind: &str, key: &str, id: &str) -> Arc<Pdu> {
        let json = serde_json::json!({
            "room_id": "!r:a", "sender": "@u:a", "type": kind, "state_key": key, "origin_server_ts": 1,
            "depth": 1, "prev_events": [], "auth_events": [], "content": {"membership": "join"},
        });
        Arc::new(Pdu::parse(ruma::OwnedEventId::try_from(id).unwrap(), &json.to_string()).unwrap())
    }

    #[test]
    fn a_clone_does_not_change_with_the_original() {
        let mut state = StateMap::default();
        state.insert(state_event("m.room.name", "", "$one"));
        let before = state.clone();

        let replaced = state.insert(state_event("m.room.name", "", "$two"));

        assert_eq!(replaced.unwrap().event_id, "$one");
        assert_eq!(
            before.get(&StateEventType::RoomName, "").unwrap().event_id,
            "$one"
        );
        assert_eq!(
            state.get(&StateEventType::RoomName, "").unwrap().event_id,
            "$two"
        );
    }

    #[test]
    fn a_user_without_a_member_event_has_left() {
        let mut state = StateMap::default();
        state.insert(state_event("m.room.member", "@u:a", "$one"));

        assert_eq!(
            state.membership(ruma::user_id!("@u:a")),
            MembershipState::Join
        );
        assert_eq!(
            state.membership(ruma::user_id!("@v:a")),
            MembershipState::Leave
        );
    }

    #[test]
    fn states_differ_in_keys_that_changed_after_the_clone() {
        let mut one = StateMap::default();
        one.insert(state_event("m.room.member", "@u:a", "$one"));
        one.insert(state_event("m.room.name", "", "$name"));
        let mut other = one.clone();
        one.insert(state_event("m.room.member", "@v:a", "$two"));
        other.insert(state_event("m.room.topic", "", "$three"));
        other.insert(state_event("m.room.member", "@u:a", "$four"));

        let mut keys: Vec<String> = one
            .differing_keys(&other)
            .into_iter()
            .map(|(kind, key)| format!("{kind} {key}"))
            .collect();
        keys.sort();

        assert_eq!(
            keys,
            ["m.room.member @u:a", "m.room.member @v:a", "m.room.topic "]
        );
        assert!(one.differing_keys(&one.clone()).is_empty());
    }
}
