//! The state of a room at one moment: an immutable map that shares its structure with its neighbours.

use std::sync::Arc;

use rpds::HashTrieMapSync;
use ruma::{
    UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::de::DeserializeOwned;

use super::Pdu;

/// State events by type and state key. A clone is a pointer; a change copies only its path.
#[derive(Clone, Debug, Default)]
pub struct StateMap {
    by_type: HashTrieMapSync<StateEventType, HashTrieMapSync<String, Arc<Pdu>>>,
}

impl StateMap {
    /// Returns the event of this type and key.
    pub fn get(&self, kind: &StateEventType, state_key: &str) -> Option<&Arc<Pdu>> {
        self.by_type.get(kind)?.get(state_key)
    }

    /// Returns the content of the event of this type with an empty key.
    pub fn content<T: DeserializeOwned>(&self, kind: &StateEventType) -> Option<T> {
        self.get(kind, "")?.content_as()
    }

    /// Puts a state event in its place; returns the one that it replaces.
    pub fn insert(&mut self, pdu: Arc<Pdu>) -> Option<Arc<Pdu>> {
        let state_key = pdu.state_key.clone()?;
        let kind = pdu.state_type();
        let mut keys = self.by_type.get(&kind).cloned().unwrap_or_default();
        let replaced = keys.get(&state_key).cloned();
        keys.insert_mut(state_key, pdu);
        self.by_type.insert_mut(kind, keys);
        replaced
    }

    /// Empties the place of this type and key.
    pub fn remove(&mut self, kind: &StateEventType, state_key: &str) {
        if let Some(mut keys) = self.by_type.get(kind).cloned()
            && keys.remove_mut(state_key)
        {
            self.by_type.insert_mut(kind.clone(), keys);
        }
    }

    /// Returns every state event.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pdu>> {
        self.by_type.values().flat_map(HashTrieMapSync::values)
    }

    /// Returns every state event of a type.
    pub fn of_type(&self, kind: &StateEventType) -> impl Iterator<Item = &Arc<Pdu>> {
        self.by_type
            .get(kind)
            .into_iter()
            .flat_map(HashTrieMapSync::values)
    }

    /// Returns how many state events there are.
    pub fn len(&self) -> usize {
        self.by_type.values().map(HashTrieMapSync::size).sum()
    }

    /// Returns whether there is no state.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a user's member event.
    pub fn member(&self, user_id: &UserId) -> Option<&Arc<Pdu>> {
        self.get(&StateEventType::RoomMember, user_id.as_str())
    }

    /// Returns a user's membership; one who never had any has left.
    pub fn membership(&self, user_id: &UserId) -> MembershipState {
        self.member(user_id)
            .and_then(|pdu| pdu.membership())
            .unwrap_or(MembershipState::Leave)
    }
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
    fn an_older_clone_keeps_what_it_held() {
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
}
