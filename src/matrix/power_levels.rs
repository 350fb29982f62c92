//! The power levels of a room.

use std::collections::BTreeMap;

use ruma::{
    Int, OwnedUserId,
    events::{
        StateEventType,
        room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource},
    },
    room_version_rules::RoomVersionRules,
    state_res::events::RoomCreateEvent,
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::StateMap;
use crate::error::{Error, Result};

/// `m.room.power_levels` as clients may send it: levels are numbers, and not strings as in old rooms.
#[derive(Deserialize)]
#[expect(dead_code, reason = "only whether it can be read matters")]
struct StrictPowerLevels {
    ban: Option<Int>,
    events_default: Option<Int>,
    invite: Option<Int>,
    kick: Option<Int>,
    redact: Option<Int>,
    state_default: Option<Int>,
    users_default: Option<Int>,
    #[serde(default)]
    events: BTreeMap<String, Int>,
    #[serde(default)]
    users: BTreeMap<OwnedUserId, Int>,
    #[serde(default)]
    notifications: BTreeMap<String, Int>,
}

/// Checks the content of an `m.room.power_levels` event that a client sends.
///
/// # Errors
///
/// [`Error::BadJson`] when a value does not have the type that the specification requires.
pub fn check_power_levels(content: &RawValue) -> Result<()> {
    match serde_json::from_str::<StrictPowerLevels>(content.get()) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::BadJson(format!("m.room.power_levels: {error}"))),
    }
}

/// Returns the power levels in effect in a state.
pub fn power_levels(state: &StateMap, rules: &RoomVersionRules) -> RoomPowerLevels {
    let creators = state
        .get(&StateEventType::RoomCreate, "")
        .and_then(|create| {
            RoomCreateEvent::new(&**create)
                .creators(&rules.authorization)
                .ok()
        })
        .unwrap_or_default();
    let content = state.content::<RoomPowerLevelsEventContent>(&StateEventType::RoomPowerLevels);
    let source = content.map_or(RoomPowerLevelsSource::None, RoomPowerLevelsSource::Original);
    RoomPowerLevels::new(source, &rules.authorization, creators)
}
