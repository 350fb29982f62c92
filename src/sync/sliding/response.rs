//! The response of sliding sync.

use std::collections::BTreeMap;

use crate::numbers::Position;
use ruma::{
    JsOption, OwnedRoomId, OwnedUserId,
    api::client::sync::sync_events::v5::response::Extensions,
    events::{AnyStrippedStateEvent, AnySyncStateEvent, AnySyncTimelineEvent, AnyToDeviceEvent},
    serde::Raw,
};
use serde::Serialize;

/// A sliding sync response. Some clients read all of its fields without a check.
#[derive(Debug, Default, Serialize)]
pub struct SlidingSyncResponse {
    /// The position up to which the client has then received everything.
    pub pos: String,
    /// The lists, with the number of their rooms.
    pub lists: BTreeMap<String, ListResult>,
    /// The changes of rooms.
    pub rooms: BTreeMap<OwnedRoomId, SlidingRoom>,
    /// The changes of the extensions.
    pub extensions: AllExtensions,
}

/// The extensions of a response.
#[derive(Debug, Default, Serialize)]
pub struct AllExtensions {
    /// The to-device messages. The field of ruma's type, which omits an empty list, stays unused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_device: Option<ToDevice>,
    /// All other extensions.
    #[serde(flatten)]
    pub others: Extensions,
}

/// To-device messages.
#[derive(Debug, Serialize)]
pub struct ToDevice {
    /// The token that the client sends back when it has received the messages.
    pub next_batch: String,
    pub events: Vec<Raw<AnyToDeviceEvent>>,
}

/// The result for one list.
#[derive(Debug, Serialize)]
pub struct ListResult {
    /// The number of rooms in the list.
    pub count: u64,
}

/// The changes of one room.
#[derive(Debug, Default, Serialize)]
pub struct SlidingRoom {
    /// Whether these are all the data of the room.
    #[serde(skip_serializing_if = "is_false")]
    pub initial: bool,
    /// The user's membership.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<String>,
    /// The lists that the room is in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<String>,
    /// `m.room.name`.
    #[serde(skip_serializing_if = "JsOption::is_undefined")]
    pub name: JsOption<String>,
    /// `m.room.avatar`.
    #[serde(skip_serializing_if = "JsOption::is_undefined")]
    pub avatar: JsOption<String>,
    /// The members that can represent a missing name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<Hero>>,
    /// Whether the user's account data lists it as a direct chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_dm: Option<bool>,
    /// The stripped state for a user who is invited or knocks, under the name in the drafts, which clients use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invite_state: Option<Vec<Raw<AnyStrippedStateEvent>>>,
    /// The same stripped state, under the final name of the proposal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripped_state: Option<Vec<Raw<AnyStrippedStateEvent>>>,
    /// The state that was requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_state: Vec<Raw<AnySyncStateEvent>>,
    /// The newest events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Raw<AnySyncTimelineEvent>>,
    /// The token for the events before them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// Whether events before them are missing.
    #[serde(skip_serializing_if = "is_false")]
    pub limited: bool,
    /// Set when the client asked for more events than before and receives them.
    #[serde(flatten)]
    pub expanded: Option<ExpandedTimeline>,
    /// The number of the events that are newer than the last response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_live: Option<usize>,
    /// The number of joined members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined_count: Option<i64>,
    /// The number of invited users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invited_count: Option<i64>,
    /// The number of unread events that notify the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_count: Option<u64>,
    /// The number of unread events with a highlight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highlight_count: Option<u64>,
    /// The time of the latest activity, as a number that only defines an order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bump_stamp: Option<Position>,
}

/// The mark of a timeline that has more events than the client asked for before.
#[derive(Debug, Serialize)]
pub struct ExpandedTimeline {
    /// Always true.
    pub expanded_timeline: bool,
    /// The same field, under the name of a draft.
    pub unstable_expanded_timeline: bool,
}

/// A member who can represent the missing name of a room.
#[derive(Debug, Hash, Serialize)]
pub struct Hero {
    pub user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}
