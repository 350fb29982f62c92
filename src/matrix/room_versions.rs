//! The room versions that this server supports.
//!
//! See the [specification](https://spec.matrix.org/v1.19/rooms/).

use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};

/// The stable versions.
pub const STABLE_VERSIONS: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// The versions in which a state event belongs to the user whose id its key begins with.
///
/// See [MSC3757](https://github.com/matrix-org/matrix-spec-proposals/pull/3757).
pub const OWNED_STATE_VERSIONS: [&str; 2] = ["org.matrix.msc3757.10", "org.matrix.msc3757.11"];

/// Returns the rules of a version, if this server supports it.
pub fn room_version_rules(version: &RoomVersionId) -> Option<RoomVersionRules> {
    if STABLE_VERSIONS.contains(version) {
        return version.rules();
    }
    match OWNED_STATE_VERSIONS
        .iter()
        .position(|owned| *owned == version.as_str())?
    {
        0 => Some(RoomVersionRules::V10),
        _ => Some(RoomVersionRules::V11),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_supported_versions_have_rules() {
        let rules_of =
            |version: &str| room_version_rules(&RoomVersionId::try_from(version).unwrap());

        assert!(rules_of("2").is_some());
        assert!(rules_of("12").is_some());
        assert!(rules_of("org.matrix.msc3757.11").is_some());
        assert!(rules_of("1").is_some());
        assert!(rules_of("13").is_none());
        assert!(rules_of("org.example.new").is_none());
    }
}
