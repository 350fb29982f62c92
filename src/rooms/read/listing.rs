//! The entry of a room in the public room directory.

use ruma::events::{StateEventType, room::guest_access::GuestAccess};

use crate::{
    matrix::{EventVisibility, StateMap},
    storage::rooms::room_table::DirectoryEntry,
};

/// Returns whether state events of this type affect the entry of a room in the directory.
pub(crate) fn is_directory_state(kind: &StateEventType) -> bool {
    matches!(
        kind,
        StateEventType::RoomCreate
            | StateEventType::RoomMember
            | StateEventType::RoomName
            | StateEventType::RoomTopic
            | StateEventType::RoomAvatar
            | StateEventType::RoomCanonicalAlias
            | StateEventType::RoomJoinRules
            | StateEventType::RoomHistoryVisibility
            | StateEventType::RoomGuestAccess
    )
}

/// Returns the directory entry of a room with this state.
pub(crate) fn build_listing(state: &StateMap, joined_members: i64) -> DirectoryEntry {
    let text = |kind: StateEventType, field: &str| {
        state
            .get(&kind, "")
            .and_then(|pdu| pdu.content_str(field))
            .filter(|text| !text.is_empty())
    };
    DirectoryEntry {
        name: text(StateEventType::RoomName, "name"),
        topic: text(StateEventType::RoomTopic, "topic"),
        canonical_alias: text(StateEventType::RoomCanonicalAlias, "alias"),
        avatar_url: text(StateEventType::RoomAvatar, "url"),
        join_rule: text(StateEventType::RoomJoinRules, "join_rule")
            .unwrap_or_else(|| "invite".to_owned()),
        room_type: text(StateEventType::RoomCreate, "type"),
        world_readable: EventVisibility::of_state(state) == EventVisibility::WorldReadable,
        guest_can_join: text(StateEventType::RoomGuestAccess, "guest_access").as_deref()
            == Some(GuestAccess::CanJoin.as_str()),
        joined_members,
    }
}
