//! State that belongs to a user: its key is the user's id, or begins with it and an underscore.
//!
//! See [MSC3757](https://github.com/matrix-org/matrix-spec-proposals/pull/3757).

use std::cmp::Ordering;

use ruma::{
    OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};

use super::{OWNED_STATE_VERSIONS, Pdu, StateMap, power_levels};
use crate::error::{Error, Result};

/// The longest part of a state key after the user id, the underscore included.
const MAX_SUFFIX_BYTES: usize = 256;

/// Returns the event in the form that the common authorization rules should check: with the sender's own id as its key,
/// if the sender may write the state of the owner. Returns `None` where the common rules suffice.
///
/// # Errors
///
/// [`Error::BadJson`] for a key that begins with `@` but not with a valid user id. [`Error::Forbidden`] for the state
/// of a user whose power level is not lower.
pub(super) fn as_own_state(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    state: &StateMap,
) -> Result<Option<Pdu>> {
    let Some(state_key) = pdu.state_key.as_deref().filter(|key| key.starts_with('@')) else {
        return Ok(None);
    };
    if state_key == pdu.sender.as_str()
        || pdu.kind == TimelineEventType::RoomMember
        || !has_owned_state(state)
    {
        return Ok(None);
    }
    // If the prefix of the state_key before the first _ that follows the first : is not a valid user ID, reject.
    // If the size of the state_key without its leading user ID is greater than 256 bytes, reject.
    let owner =
        owner(state_key).filter(|owner| state_key.len() - owner.as_str().len() <= MAX_SUFFIX_BYTES);
    let owner = owner
        .ok_or_else(|| Error::BadJson("the state key does not begin with a user id".to_owned()))?;
    // If the leading user ID does not match the sender, and the sender's power level is not greater than that of
    // the user denoted by that ID, reject.
    if owner != pdu.sender && !has_more_power(&pdu.sender, &owner, rules, state) {
        return Err(Error::forbidden("the state belongs to another user"));
    }
    Ok(Some(Pdu {
        state_key: Some(pdu.sender.to_string()),
        ..pdu.clone()
    }))
}

fn has_owned_state(state: &StateMap) -> bool {
    state
        .get(&StateEventType::RoomCreate, "")
        .and_then(|create| create.content_str("room_version"))
        .is_some_and(|version| OWNED_STATE_VERSIONS.contains(&version.as_str()))
}

fn owner(state_key: &str) -> Option<OwnedUserId> {
    let colon = state_key.find(':')?;
    let end = state_key.get(colon..)?.find('_');
    let prefix = match end {
        Some(end) => state_key.get(..colon + end)?,
        None => state_key,
    };
    OwnedUserId::try_from(prefix).ok()
}

fn has_more_power(
    one: &UserId,
    other: &UserId,
    rules: &RoomVersionRules,
    state: &StateMap,
) -> bool {
    let levels = power_levels(state, rules);
    let (one, other) = (levels.for_user(one), levels.for_user(other));
    one.partial_cmp(&other) == Some(Ordering::Greater)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_the_leading_user_id_of_the_key() {
        let owner = |key: &str| owner(key).map(|owner| owner.to_string());

        assert_eq!(owner("@a_b:c_d_e").as_deref(), Some("@a_b:c"));
        assert_eq!(owner("@a:b").as_deref(), Some("@a:b"));
        assert_eq!(owner("@a:b_").as_deref(), Some("@a:b"));
        assert_eq!(owner("@a"), None);
        assert_eq!(owner("@a:b@_x"), None);
    }
}
