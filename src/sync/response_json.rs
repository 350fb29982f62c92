//! The response of `/sync` as JSON.
//!
//! It is written as ruma would write it, with two exceptions: a timeline always says whether it is limited, and rooms
//! and device lists have all their lists, even empty ones. Some clients (matrix-nio) and tests do not use the default
//! for a missing field.

use std::collections::BTreeMap;

use ruma::{
    OneTimeKeyAlgorithm, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    api::client::sync::sync_events::UnreadNotificationsCount,
    api::client::sync::sync_events::{
        DeviceLists,
        v3::{
            GlobalAccountData, InvitedRoom, JoinedRoom, KnockedRoom, LeftRoom, Presence, Response,
            RoomSummary, State, Timeline, ToDevice,
        },
    },
    events::{
        AnyRoomAccountDataEvent, AnyStrippedStateEvent, AnySyncEphemeralRoomEvent,
        AnySyncStateEvent, AnySyncTimelineEvent,
    },
    serde::Raw,
};
use serde::Serialize;

use crate::error::Result;

#[derive(Serialize)]
struct Answer<'a> {
    next_batch: &'a str,
    #[serde(skip_serializing_if = "Rooms::is_empty")]
    rooms: Rooms<'a>,
    #[serde(skip_serializing_if = "Presence::is_empty")]
    presence: &'a Presence,
    #[serde(skip_serializing_if = "GlobalAccountData::is_empty")]
    account_data: &'a GlobalAccountData,
    #[serde(skip_serializing_if = "ToDevice::is_empty")]
    to_device: &'a ToDevice,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_lists: Option<WrittenDeviceLists<'a>>,
    device_one_time_keys_count: &'a BTreeMap<OneTimeKeyAlgorithm, UInt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_unused_fallback_key_types: &'a Option<Vec<OneTimeKeyAlgorithm>>,
}

#[derive(Serialize)]
struct Rooms<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    leave: BTreeMap<&'a RoomId, Left<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    join: BTreeMap<&'a RoomId, Joined<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    invite: BTreeMap<&'a RoomId, Invited<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    knock: BTreeMap<&'a RoomId, Knocked<'a>>,
}

#[derive(Serialize)]
struct WrittenDeviceLists<'a> {
    changed: &'a [OwnedUserId],
    left: &'a [OwnedUserId],
}

#[derive(Serialize)]
struct Invited<'a> {
    invite_state: Listed<'a, AnyStrippedStateEvent>,
}

#[derive(Serialize)]
struct Knocked<'a> {
    knock_state: Listed<'a, AnyStrippedStateEvent>,
}

#[derive(Serialize)]
struct Left<'a> {
    timeline: Told<'a>,
    #[serde(flatten)]
    state: Option<ToldState<'a>>,
    account_data: Listed<'a, AnyRoomAccountDataEvent>,
}

#[derive(Serialize)]
struct Joined<'a> {
    #[serde(skip_serializing_if = "RoomSummary::is_empty")]
    summary: &'a RoomSummary,
    unread_notifications: &'a UnreadNotificationsCount,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unread_thread_notifications: &'a BTreeMap<OwnedEventId, UnreadNotificationsCount>,
    timeline: Told<'a>,
    #[serde(flatten)]
    state: Option<ToldState<'a>>,
    account_data: Listed<'a, AnyRoomAccountDataEvent>,
    ephemeral: Listed<'a, AnySyncEphemeralRoomEvent>,
}

#[derive(Serialize)]
#[serde(bound = "")]
struct Listed<'a, E> {
    events: &'a [Raw<E>],
}

#[derive(Serialize)]
struct Told<'a> {
    limited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<&'a str>,
    events: &'a [Raw<AnySyncTimelineEvent>],
}

#[derive(Serialize)]
enum ToldState<'a> {
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
pub enum StateAfter {
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
pub fn write(response: &Response, state_after: StateAfter) -> Result<String> {
    let answer = Answer {
        next_batch: &response.next_batch,
        rooms: Rooms {
            leave: borrowed(&response.rooms.leave, |room| Left::of(room, state_after)),
            join: borrowed(&response.rooms.join, |room| Joined::of(room, state_after)),
            invite: borrowed(&response.rooms.invite, Invited::of),
            knock: borrowed(&response.rooms.knock, Knocked::of),
        },
        presence: &response.presence,
        account_data: &response.account_data,
        to_device: &response.to_device,
        device_lists: WrittenDeviceLists::of(&response.device_lists),
        device_one_time_keys_count: &response.device_one_time_keys_count,
        device_unused_fallback_key_types: &response.device_unused_fallback_key_types,
    };
    Ok(serde_json::to_string(&answer)?)
}

fn borrowed<'a, T, W>(
    rooms: &'a BTreeMap<OwnedRoomId, T>,
    of: impl Fn(&'a T) -> W,
) -> BTreeMap<&'a RoomId, W> {
    rooms
        .iter()
        .map(|(room_id, room)| (&**room_id, of(room)))
        .collect()
}

impl Rooms<'_> {
    fn is_empty(&self) -> bool {
        self.leave.is_empty()
            && self.join.is_empty()
            && self.invite.is_empty()
            && self.knock.is_empty()
    }
}

impl<'a> WrittenDeviceLists<'a> {
    fn of(lists: &'a DeviceLists) -> Option<Self> {
        (!lists.is_empty()).then(|| Self {
            changed: &lists.changed,
            left: &lists.left,
        })
    }
}

impl<'a> Invited<'a> {
    fn of(room: &'a InvitedRoom) -> Self {
        Self {
            invite_state: Listed {
                events: &room.invite_state.events,
            },
        }
    }
}

impl<'a> Knocked<'a> {
    fn of(room: &'a KnockedRoom) -> Self {
        Self {
            knock_state: Listed {
                events: &room.knock_state.events,
            },
        }
    }
}

impl<'a> Left<'a> {
    fn of(room: &'a LeftRoom, state_after: StateAfter) -> Self {
        Self {
            timeline: Told::of(&room.timeline),
            state: ToldState::of(&room.state, state_after),
            account_data: Listed {
                events: &room.account_data.events,
            },
        }
    }
}

impl<'a> Joined<'a> {
    fn of(room: &'a JoinedRoom, state_after: StateAfter) -> Self {
        Self {
            summary: &room.summary,
            unread_notifications: &room.unread_notifications,
            unread_thread_notifications: &room.unread_thread_notifications,
            timeline: Told::of(&room.timeline),
            state: ToldState::of(&room.state, state_after),
            account_data: Listed {
                events: &room.account_data.events,
            },
            ephemeral: Listed {
                events: &room.ephemeral.events,
            },
        }
    }
}

impl<'a> Told<'a> {
    fn of(timeline: &'a Timeline) -> Self {
        Self {
            limited: timeline.limited,
            prev_batch: timeline.prev_batch.as_deref(),
            events: &timeline.events,
        }
    }
}

impl<'a> ToldState<'a> {
    fn of(state: &'a State, state_after: StateAfter) -> Option<Self> {
        match state {
            State::After(state) if state_after == StateAfter::Unstable => {
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

    #[test]
    fn lists_that_clients_count_on_are_there_even_if_they_are_empty() {
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

        let written: Value =
            serde_json::from_str(&write(&response, StateAfter::Stable).unwrap()).unwrap();

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
        let unstable = write(&response, StateAfter::Unstable).unwrap();
        let unstable: Value = serde_json::from_str(&unstable).unwrap();
        assert_eq!(
            unstable["rooms"]["leave"]["!c:b"]["org.matrix.msc4222.state_after"],
            json!({ "events": [] })
        );
    }
}
