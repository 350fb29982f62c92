//! The request of sliding sync, in the form of the proposal and in that of its drafts, which clients use.

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, api::client::sync::sync_events::v5::request::Extensions, presence::PresenceState,
};
use serde::Deserialize;

use super::required_state::RequiredState;
use crate::error::{Error, Result};

/// The largest number of lists and of room subscriptions of a request, as the proposal sets them.
pub(super) const MAX_LISTS: usize = 100;
const MAX_ROOM_SUBSCRIPTIONS: usize = 100;
/// The largest number of ranges of a list.
const MAX_LIST_RANGES: usize = 100;
/// The largest number of entries in each part of a filter.
const MAX_FILTER_ENTRIES: usize = 100;
/// The largest number of elements in the required state of a room.
const MAX_REQUIRED_STATE: usize = 200;
/// The largest number of lists or rooms that an extension names.
const MAX_EXTENSION_ENTRIES: usize = 200;
/// The longest connection id and the longest name of a list, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The largest number of events of a timeline.
const MAX_TIMELINE_EVENTS: u64 = 100;

/// A sliding sync request.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SlidingSyncRequest {
    /// The id that distinguishes the connections of a device.
    #[serde(default)]
    pub conn_id: Option<String>,
    /// The position up to which the client has received everything; `None` starts a connection.
    #[serde(default)]
    pub pos: Option<String>,
    /// The time to wait for changes, in milliseconds.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// The presence of the user while they sync.
    #[serde(default)]
    pub set_presence: Option<PresenceState>,
    /// The lists of rooms, each with ranges of indexes in the sorted rooms of the user.
    #[serde(default)]
    pub lists: BTreeMap<String, RequestedList>,
    /// The rooms that are wanted in any case.
    #[serde(default)]
    pub room_subscriptions: BTreeMap<OwnedRoomId, RoomConfig>,
    /// The extensions that are wanted.
    #[serde(default)]
    pub extensions: Extensions,
    /// The size of the request in bytes, which counts towards the memory of the connection.
    #[serde(skip)]
    pub bytes: usize,
}

/// A list of rooms.
#[derive(Clone, Debug, Deserialize)]
pub struct RequestedList {
    #[serde(default)]
    range: Option<(u64, u64)>,
    /// The form of the drafts.
    #[serde(default)]
    ranges: Option<Vec<(u64, u64)>>,
    #[serde(flatten)]
    pub(super) config: RoomConfig,
    #[serde(default)]
    pub(super) filters: Option<ListFilters>,
}

/// The parameters for one room.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RoomConfig {
    timeline_limit: u64,
    #[serde(default)]
    pub(super) required_state: RequiredState,
}

/// The filters of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct ListFilters {
    pub(super) is_dm: Option<bool>,
    pub(super) spaces: Option<Vec<String>>,
    pub(super) is_encrypted: Option<bool>,
    #[serde(alias = "is_invite")]
    pub(super) is_invited: Option<bool>,
    pub(super) room_types: Option<Vec<Option<String>>>,
    pub(super) not_room_types: Option<Vec<Option<String>>>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) not_tags: Option<Vec<String>>,
}

impl SlidingSyncRequest {
    /// Checks that the request stays within the limits of this server.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when it does not.
    pub(super) fn check(&self) -> Result<()> {
        let too_many = |what: &str| Err(Error::invalid_param(format!("there are too many {what}")));
        if self.lists.len() > MAX_LISTS {
            return too_many("lists");
        }
        if self.room_subscriptions.len() > MAX_ROOM_SUBSCRIPTIONS {
            return too_many("room_subscriptions");
        }
        if self
            .conn_id
            .as_ref()
            .is_some_and(|id| id.len() > MAX_NAME_BYTES)
        {
            return Err(Error::invalid_param("conn_id is too long"));
        }
        for (name, list) in &self.lists {
            if !is_opaque_id(name) {
                return Err(Error::invalid_param(
                    "the name of a list must be an opaque identifier",
                ));
            }
            list.check()?;
        }
        let configs = self.room_subscriptions.values();
        let configs = configs.chain(self.lists.values().map(|list| &list.config));
        for config in configs {
            if config.required_state.len() > MAX_REQUIRED_STATE {
                return too_many("elements in required_state");
            }
        }
        if extension_entry_counts(&self.extensions).any(|entries| entries > MAX_EXTENSION_ENTRIES) {
            return too_many("lists or rooms in an extension");
        }
        Ok(())
    }

    /// Returns the presence to set for the user, `online` by default.
    pub(super) fn presence(&self) -> PresenceState {
        self.set_presence.clone().unwrap_or(PresenceState::Online)
    }
}

impl RequestedList {
    fn check(&self) -> Result<()> {
        let ranges = self.ranges.as_deref().unwrap_or_default();
        let mut all = ranges.iter().chain(&self.range);
        if ranges.len() > MAX_LIST_RANGES || all.any(|(start, end)| start > end) {
            return Err(Error::invalid_param("a list has too many or wrong ranges"));
        }
        let longest = self.filters.as_ref().map_or(0, ListFilters::longest_filter);
        if longest > MAX_FILTER_ENTRIES {
            return Err(Error::invalid_param("the filters of a list are too long"));
        }
        Ok(())
    }

    /// Returns whether the room at an index is wanted. Without any range all are.
    pub(super) fn contains_index(&self, index: u64) -> bool {
        let within = |(start, end): &(u64, u64)| (*start..=*end).contains(&index);
        match (&self.range, &self.ranges) {
            (None, None) => true,
            (range, ranges) => range.iter().chain(ranges.iter().flatten()).any(within),
        }
    }

    /// Returns whether two lists have the same parameters and filters, regardless of their ranges.
    pub(super) fn has_same_parameters(&self, other: &Self) -> bool {
        self.config == other.config && self.filters == other.filters
    }
}

impl RoomConfig {
    /// Returns the largest number of events of the timeline.
    pub(super) fn timeline_limit(&self) -> u32 {
        u32::try_from(self.timeline_limit.min(MAX_TIMELINE_EVENTS)).unwrap_or(u32::MAX)
    }
}

impl ListFilters {
    fn longest_filter(&self) -> usize {
        let texts = [&self.spaces, &self.tags, &self.not_tags];
        let texts = texts.into_iter().flatten().map(Vec::len);
        let types = [&self.room_types, &self.not_room_types];
        let types = types.into_iter().flatten().map(Vec::len);
        texts.chain(types).max().unwrap_or(0)
    }
}

fn extension_entry_counts(extensions: &Extensions) -> impl Iterator<Item = usize> {
    let lists = [
        &extensions.account_data.lists,
        &extensions.receipts.lists,
        &extensions.typing.lists,
    ];
    let rooms = [
        &extensions.account_data.rooms,
        &extensions.receipts.rooms,
        &extensions.typing.rooms,
    ];
    let lists = lists.into_iter().flatten().map(Vec::len);
    lists.chain(rooms.into_iter().flatten().map(Vec::len))
}

/// Returns whether a text is an opaque identifier. See the
/// [specification](https://spec.matrix.org/v1.19/appendices/#opaque-identifiers).
fn is_opaque_id(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn list(fields: &Value) -> RequestedList {
        let mut list = json!({ "timeline_limit": 1 });
        list.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        serde_json::from_value(list).unwrap()
    }

    fn shown_indexes(list: &RequestedList) -> Vec<u64> {
        (0..6).filter(|index| list.contains_index(*index)).collect()
    }

    #[test]
    fn a_list_has_one_range_or_several_or_shows_all() {
        assert_eq!(shown_indexes(&list(&json!({ "range": [1, 2] }))), [1, 2]);
        let ranges = json!({ "ranges": [[0, 0], [4, 9]] });
        assert_eq!(shown_indexes(&list(&ranges)), [0, 4, 5]);
        assert!(shown_indexes(&list(&json!({ "ranges": [] }))).is_empty());
        assert_eq!(shown_indexes(&list(&json!({}))).len(), 6);
    }

    #[test]
    fn both_names_of_a_filter_are_known() {
        let draft = list(&json!({ "filters": { "is_invite": true } }));
        let proposed = list(&json!({ "filters": { "is_invited": true }, "range": [0, 1] }));

        assert!(draft.has_same_parameters(&proposed));
    }

    #[test]
    fn an_excessive_request_is_refused() {
        let refused = |request: Value| {
            let request: SlidingSyncRequest = serde_json::from_value(request).unwrap();
            request.check().is_err()
        };
        let lists = |name: &str, list: Value| json!({ "lists": { name: list } });
        let many: Vec<Value> = (0..=200)
            .map(|n| json!(["m.room.name", n.to_string()]))
            .collect();

        assert!(!refused(lists("a-z_0.9~", json!({ "timeline_limit": 1 }))));
        assert!(refused(lists("a list", json!({ "timeline_limit": 1 }))));
        let turned = json!({ "timeline_limit": 1, "range": [2, 1] });
        assert!(refused(lists("a", turned)));
        let named = json!({ "timeline_limit": 1, "required_state": many });
        assert!(refused(lists("a", named)));
        assert!(refused(json!({ "conn_id": "x".repeat(256) })));
        let tags: Vec<String> = (0..=100).map(|n| n.to_string()).collect();
        let tagged = json!({ "timeline_limit": 1, "filters": { "tags": tags } });
        assert!(refused(lists("a", tagged)));
    }
}
