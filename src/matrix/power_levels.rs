//! Who may do what in a room.

use ruma::{
    events::{
        StateEventType,
        room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource},
    },
    room_version_rules::RoomVersionRules,
    state_res::events::RoomCreateEvent,
};

use super::StateMap;

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
