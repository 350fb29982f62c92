//! A sliding sync client for tests.

use serde_json::{Value, json};

use crate::harness::{HttpAnswer, User};

pub(crate) const SLIDING_SYNC_PATH: &str =
    "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// A connection that continues at the position of the last answer.
pub(crate) struct SlidingTestConnection<'a> {
    user: &'a User,
    /// The request body without the position.
    pub(crate) body: Value,
    pub(crate) pos: Option<String>,
}

/// Returns the request for a list with a range of rooms, a timeline limit and required state.
pub(crate) fn list_config(range: [u64; 2], timeline_limit: u64, required_state: &Value) -> Value {
    json!({ "ranges": [range], "timeline_limit": timeline_limit, "required_state": required_state })
}

impl User {
    /// Opens a connection with one list, called `all`.
    pub(crate) fn opens_list(&self, list: &Value) -> SlidingTestConnection<'_> {
        self.opens_connection(json!({ "lists": { "all": list } }))
    }

    /// Opens a connection with one list of all rooms and one event of each.
    pub(crate) fn opens_all_rooms_list(&self) -> SlidingTestConnection<'_> {
        self.opens_list(&list_config([0, 99], 1, &json!([])))
    }

    /// Opens a connection with one extension only.
    pub(crate) fn opens_with_extension(
        &self,
        name: &str,
        config: &Value,
    ) -> SlidingTestConnection<'_> {
        self.opens_connection(json!({ "extensions": { name: config } }))
    }

    pub(crate) fn opens_connection(&self, body: Value) -> SlidingTestConnection<'_> {
        SlidingTestConnection {
            user: self,
            body,
            pos: None,
        }
    }

    pub(crate) async fn sends_sliding_sync(&self, query: &str, body: Value) -> HttpAnswer {
        self.client
            .post(&format!("{SLIDING_SYNC_PATH}?{query}"), body)
            .await
    }
}

impl SlidingTestConnection<'_> {
    /// Returns the changes without waiting for any.
    pub(crate) async fn poll(&mut self) -> Value {
        self.poll_with_query("timeout=0").await
    }

    /// Waits for changes and returns them.
    pub(crate) async fn poll_until_news(&mut self) -> Value {
        self.poll_with_query("timeout=30000").await
    }

    async fn poll_with_query(&mut self, query: &str) -> Value {
        let answer = self.try_poll(query).await.expect_ok();
        self.pos = Some(answer["pos"].as_str().expect("a position").to_owned());
        answer
    }

    /// Sends the request and keeps the position.
    pub(crate) async fn poll_without_advancing(&self) -> Value {
        self.try_poll("timeout=0").await.expect_ok()
    }

    pub(crate) async fn try_poll(&self, query: &str) -> HttpAnswer {
        let pos = self.pos.as_ref();
        let pos = pos.map_or_else(String::new, |pos| format!("&pos={pos}"));
        self.user
            .sends_sliding_sync(&format!("{query}{pos}"), self.body.clone())
            .await
    }
}

/// Returns the IDs of the rooms in an answer.
pub(crate) fn room_ids(answer: &Value) -> Vec<&str> {
    let rooms = answer["rooms"].as_object().into_iter().flatten();
    rooms.map(|(room_id, _)| room_id.as_str()).collect()
}

/// Returns the types and state keys of a room's state in an answer.
pub(crate) fn state_keys(answer: &Value, room: &str) -> Vec<(String, String)> {
    let events = answer["rooms"][room]["required_state"].as_array();
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let events = events.map(Vec::as_slice).unwrap_or_default().iter();
    let mut keys: Vec<(String, String)> = events
        .map(|event| (text(&event["type"]), text(&event["state_key"])))
        .collect();
    keys.sort_unstable();
    keys
}

/// Returns the users whose member events of a room an answer contains.
pub(crate) fn member_ids(answer: &Value, room: &str) -> Vec<String> {
    let keys = state_keys(answer, room).into_iter();
    keys.filter(|(kind, _)| kind == "m.room.member")
        .map(|(_, key)| key)
        .collect()
}
