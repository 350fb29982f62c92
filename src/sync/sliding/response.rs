//! What a client is told.

use std::collections::BTreeMap;

use ruma::{
    JsOption, OwnedRoomId, OwnedUserId,
    api::client::sync::sync_events::v5::response::Extensions,
    events::{AnyStrippedStateEvent, AnySyncStateEvent, AnySyncTimelineEvent, AnyToDeviceEvent},
    serde::Raw,
};
use serde::Serialize;

/// What a client is told. There are clients that read all of its fields without a check.
#[derive(Debug, Default, Serialize)]
pub struct Response {
    /// Up to where the client then knows everything.
    pub pos: String,
    /// How many rooms the lists have.
    pub lists: BTreeMap<String, ListResult>,
    /// What is news of rooms.
    pub rooms: BTreeMap<OwnedRoomId, Room>,
    /// What is news beside them.
    pub extensions: AllExtensions,
}

/// What is news beside rooms.
#[derive(Debug, Default, Serialize)]
pub struct AllExtensions {
    /// Messages to the device; that of ruma, which leaves out an empty list, stays unused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_device: Option<ToDevice>,
    /// All others.
    #[serde(flatten)]
    pub others: Extensions,
}

/// Messages to a device.
#[derive(Debug, Serialize)]
pub struct ToDevice {
    /// What the client gives back once it has them.
    pub next_batch: String,
    /// The messages.
    pub events: Vec<Raw<AnyToDeviceEvent>>,
}

/// What a client is told of a list.
#[derive(Debug, Serialize)]
pub struct ListResult {
    /// How many rooms it has.
    pub count: u64,
}

/// What a client is told of a room.
#[derive(Debug, Default, Serialize)]
pub struct Room {
    /// Whether this is all that there is to know.
    #[serde(skip_serializing_if = "is_false")]
    pub initial: bool,
    /// What the user is to the room.
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
    /// Who may stand for a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<Hero>>,
    /// Whether the user calls it a direct chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_dm: Option<bool>,
    /// What one who is invited, or knocks, is told, under the name that clients know …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invite_state: Option<Vec<Raw<AnyStrippedStateEvent>>>,
    /// … and that which the proposal gave it in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripped_state: Option<Vec<Raw<AnyStrippedStateEvent>>>,
    /// State that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_state: Vec<Raw<AnySyncStateEvent>>,
    /// The newest events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Raw<AnySyncTimelineEvent>>,
    /// Where the events before them are found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// Whether events lack before them.
    #[serde(skip_serializing_if = "is_false")]
    pub limited: bool,
    /// Whether the client asked for more events than before, and gets them.
    #[serde(flatten)]
    pub expanded: Option<Expanded>,
    /// How many of the events came since the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_live: Option<usize>,
    /// How many have joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined_count: Option<i64>,
    /// How many are invited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invited_count: Option<i64>,
    /// How many events are unread of which the user is notified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification_count: Option<u64>,
    /// How many of these stand out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highlight_count: Option<u64>,
    /// When somebody said something last, as a number that has only an order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bump_stamp: Option<i64>,
}

/// That a timeline has more events than the client asked for before.
#[derive(Debug, Serialize)]
pub struct Expanded {
    /// Always.
    pub expanded_timeline: bool,
    /// The same, under the name of a draft.
    pub unstable_expanded_timeline: bool,
}

/// A member who may stand for the name of a room.
#[derive(Debug, Hash, Serialize)]
pub struct Hero {
    /// Who.
    pub user_id: OwnedUserId,
    /// What they are called there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    /// How they look there.
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
