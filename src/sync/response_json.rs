//! The response of `/sync` as JSON.
//!
//! It is written as ruma would write it, with two exceptions: a timeline always says whether it is limited, and rooms
//! and device lists have all their lists, even empty ones. Some clients (matrix-nio) and tests do not use the default
//! for a missing field.

use std::collections::BTreeMap;

use ruma::{
    OneTimeKeyAlgorithm, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId,
    api::client::sync::sync_events::UnreadNotificationsCount,
    api::client::sync::sync_events::{
        DeviceLists,
        v3::{
            GlobalAccountData, InvitedRoom, JoinedRoom, KnockedRoom, LeftRoom, Presence, Response,
            RoomSummary, State, Sticky, Timeline, ToDevice,
        },
    },
    events::{
        AnyRoomAccountDataEvent, AnyStrippedStateEvent, AnySyncEphemeralRoomEvent,
        AnySyncStateEvent, AnySyncTimelineEvent,
    },
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::profile_updates::ProfileUpdates;
use crate::error::Result;

#[derive(Serialize)]
struct SyncResponseJson<'a> {
    next_batch: &'a str,
    #[serde(skip_serializing_if = "RoomsJson::is_empty")]
    rooms: RoomsJson<'a>,
    #[serde(skip_serializing_if = "Presence::is_empty")]
    presence: &'a Presence,
    #[serde(skip_serializing_if = "GlobalAccountData::is_empty")]
    account_data: &'a GlobalAccountData,
    #[serde(skip_serializing_if = "ToDevice::is_empty")]
    to_device: &'a ToDevice,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_lists: Option<DeviceListsJson<'a>>,
    device_one_time_keys_count: &'a BTreeMap<OneTimeKeyAlgorithm, UInt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_unused_fallback_key_types: &'a Option<Vec<OneTimeKeyAlgorithm>>,
    #[serde(
        rename = "org.matrix.msc4429.users",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    users: BTreeMap<&'a UserId, UserJson<'a>>,
}

#[derive(Serialize)]
struct UserJson<'a> {
    profile_updates: &'a BTreeMap<String, Box<RawValue>>,
}

#[derive(Serialize)]
struct RoomsJson<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    leave: BTreeMap<&'a RoomId, LeftRoomJson<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    join: BTreeMap<&'a RoomId, JoinedRoomJson<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    invite: BTreeMap<&'a RoomId, InvitedRoomJson<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    knock: BTreeMap<&'a RoomId, KnockedRoomJson<'a>>,
}

#[derive(Serialize)]
struct DeviceListsJson<'a> {
    changed: &'a [OwnedUserId],
    left: &'a [OwnedUserId],
}

#[derive(Serialize)]
struct InvitedRoomJson<'a> {
    invite_state: EventsJson<'a, AnyStrippedStateEvent>,
}

#[derive(Serialize)]
struct KnockedRoomJson<'a> {
    knock_state: EventsJson<'a, AnyStrippedStateEvent>,
}

#[derive(Serialize)]
struct LeftRoomJson<'a> {
    timeline: TimelineJson<'a>,
    #[serde(flatten)]
    state: Option<StateJson<'a>>,
    account_data: EventsJson<'a, AnyRoomAccountDataEvent>,
}

#[derive(Serialize)]
struct JoinedRoomJson<'a> {
    #[serde(skip_serializing_if = "RoomSummary::is_empty")]
    summary: &'a RoomSummary,
    unread_notifications: &'a UnreadNotificationsCount,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unread_thread_notifications: &'a BTreeMap<OwnedEventId, UnreadNotificationsCount>,
    timeline: TimelineJson<'a>,
    #[serde(flatten)]
    state: Option<StateJson<'a>>,
    account_data: EventsJson<'a, AnyRoomAccountDataEvent>,
    ephemeral: EventsJson<'a, AnySyncEphemeralRoomEvent>,
    #[serde(rename = "msc4354_sticky", skip_serializing_if = "Sticky::is_empty")]
    sticky: &'a Sticky,
}

#[derive(Serialize)]
#[serde(bound = "")]
struct EventsJson<'a, E> {
    events: &'a [Raw<E>],
}

#[derive(Serialize)]
struct TimelineJson<'a> {
    limited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<&'a str>,
    events: &'a [Raw<AnySyncTimelineEvent>],
}

#[derive(Serialize)]
enum StateJson<'a> {
    #[serde(rename = "state")]
    Before {
        events: &'a [Raw<AnySyncStateEvent>],
    },
    #[serde(rename = "state_after")]
    After {
        events: &'a [Raw<AnySyncStateEvent>],
    },
    #[serde(rename = "org.matrix.msc4222.state_after")]
    AfterUnstable {
        events: &'a [Raw<AnySyncStateEvent>],
    },
}

/// The name under which the state after a timeline is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateAfterName {
    /// The name in the specification.
    #[default]
    Stable,
    /// The earlier name in [MSC4222](https://github.com/matrix-org/matrix-spec-proposals/pull/4222).
    Unstable,
}

/// Writes a response.
///
/// # Errors
///
/// An internal error if it cannot be serialized. No action of a client can cause this.
pub fn write_response(
    response: &Response,
    profile_updates: &ProfileUpdates,
    state_after: StateAfterName,
) -> Result<String> {
    let users = profile_updates.by_user().iter();
    let users = users.map(|(user_id, profile_updates)| (&**user_id, UserJson { profile_updates }));
    let answer = SyncResponseJson {
        next_batch: &response.next_batch,
        rooms: RoomsJson {
            leave: convert_rooms(&response.rooms.leave, |room| {
                LeftRoomJson::from_room(room, state_after)
            }),
            join: convert_rooms(&response.rooms.join, |room| {
                JoinedRoomJson::from_room(room, state_after)
            }),
            invite: convert_rooms(&response.rooms.invite, InvitedRoomJson::from_room),
            knock: convert_rooms(&response.rooms.knock, KnockedRoomJson::from_room),
        },
        presence: &response.presence,
        account_data: &response.account_data,
        to_device: &response.to_device,
        device_lists: DeviceListsJson::from_device_lists(&response.device_lists),
        device_one_time_keys_count: &response.device_one_time_keys_count,
        device_unused_fallback_key_types: &response.device_unused_fallback_key_types,
        users: users.collect(),
    };
    Ok(serde_json::to_string(&answer)?)
}

fn convert_rooms<'a, T, W>(
    rooms: &'a BTreeMap<OwnedRoomId, T>,
    of: impl Fn(&'a T) -> W,
) -> BTreeMap<&'a RoomId, W> {
    rooms
        .iter()
        .map(|(room_id, room)| (&**room_id, of(room)))
        .collect()
}

impl RoomsJson<'_> {
    fn is_empty(&self) -> bool {
        self.leave.is_empty()
            && self.join.is_empty()
            && self.invite.is_empty()
            && self.knock.is_empty()
    }
}

impl<'a> DeviceListsJson<'a> {
    fn from_device_lists(lists: &'a DeviceLists) -> Option<Self> {
        (!lists.is_empty()).then(|| Self {
            changed: &lists.changed,
            left: &lists.left,
        })
    }
}

impl<'a> InvitedRoomJson<'a> {
    fn from_room(room: &'a InvitedRoom) -> Self {
        Self {
            invite_state: EventsJson {
                events: &room.invite_state.events,
            },
        }
    }
}

impl<'a> KnockedRoomJson<'a> {
    fn from_room(room: &'a KnockedRoom) -> Self {
        Self {
            knock_state: EventsJson {
                events: &room.knock_state.events,
            },
        }
    }
}

impl<'a> LeftRoomJson<'a> {
    fn from_room(room: &'a LeftRoom, state_after: StateAfterName) -> Self {
        Self {
            timeline: TimelineJson::from_timeline(&room.timeline),
            state: StateJson::from_state(&room.state, state_after),
            account_data: EventsJson {
                events: &room.account_data.events,
            },
        }
    }
}

impl<'a> JoinedRoomJson<'a> {
    fn from_room(room: &'a JoinedRoom, state_after: StateAfterName) -> Self {
        Self {
            summary: &room.summary,
            unread_notifications: &room.unread_notifications,
            unread_thread_notifications: &room.unread_thread_notifications,
            timeline: TimelineJson::from_timeline(&room.timeline),
            state: StateJson::from_state(&room.state, state_after),
            account_data: EventsJson {
                events: &room.account_data.events,
            },
            ephemeral: EventsJson {
                events: &room.ephemeral.events,
            },
            sticky: &room.sticky,
        }
    }
}

impl<'a> TimelineJson<'a> {
    fn from_timeline(timeline: &'a Timeline) -> Self {
        Self {
            limited: timeline.limited,
            prev_batch: timeline.prev_batch.as_deref(),
            events: &timeline.events,
        }
    }
}

impl<'a> StateJson<'a> {
    fn from_state(state: &'a State, state_after: StateAfterName) -> Option<Self> {
        match state {
            State::After(state) if state_after == StateAfterName::Unstable => {
                Some(Self::AfterUnstable {
                    events: &state.events,
                })
            }
            State::Before(state) => Some(Self::Before {
                events: &state.events,
            }),
            State::After(state) => Some(Self::After {
                events: &state.events,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written_json(response: &Response, state_after: StateAfterName) -> Value {
        let written = write_response(response, &ProfileUpdates::default(), state_after);
        serde_json::from_str(&written.unwrap()).unwrap()
    }

    #[test]
    fn empty_lists_are_written() {
        let room = |id: &str| OwnedRoomId::try_from(id).unwrap();
        let mut response = Response::new("t".to_owned());
        response.rooms.join.insert(room("!a:b"), JoinedRoom::new());
        response.rooms.leave.insert(room("!b:b"), LeftRoom::new());
        let mut after = LeftRoom::new();
        after.state = State::After(ruma::api::client::sync::sync_events::v3::StateEvents::new());
        response.rooms.leave.insert(room("!c:b"), after);
        response
            .rooms
            .invite
            .insert(room("!d:b"), InvitedRoom::new());
        response
            .rooms
            .knock
            .insert(room("!e:b"), KnockedRoom::new());
        response.device_lists.changed = vec![ruma::user_id!("@a:b").to_owned()];

        let written = written_json(&response, StateAfterName::Stable);

        let timeline = json!({ "limited": false, "events": [] });
        let expected = json!({
            "next_batch": "t",
            "rooms": {
                "join": { "!a:b": {
                    "unread_notifications": {}, "timeline": timeline, "state": { "events": [] },
                    "account_data": { "events": [] }, "ephemeral": { "events": [] },
                } },
                "leave": {
                    "!b:b": {
                        "timeline": timeline, "state": { "events": [] },
                        "account_data": { "events": [] },
                    },
                    "!c:b": {
                        "timeline": timeline, "state_after": { "events": [] },
                        "account_data": { "events": [] },
                    },
                },
                "invite": { "!d:b": { "invite_state": { "events": [] } } },
                "knock": { "!e:b": { "knock_state": { "events": [] } } },
            },
            "device_lists": { "changed": ["@a:b"], "left": [] },
            "device_one_time_keys_count": {},
        });
        assert_eq!(written, expected);
        let unstable = written_json(&response, StateAfterName::Unstable);
        assert_eq!(
            unstable["rooms"]["leave"]["!c:b"]["org.matrix.msc4222.state_after"],
            json!({ "events": [] })
        );
    }
}
