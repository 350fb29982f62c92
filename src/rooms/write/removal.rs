//! Finds a member who may remove a user, when the server itself has a reason to remove them.

use std::cmp::Reverse;

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use crate::{
    matrix::{self, StateMap},
    rooms::memory::room::Room,
};

/// Returns a member of this server who may remove a user from a room: the preferred one if they may do so, else the
/// most powerful one.
pub(crate) fn find_remover(
    room: &Room,
    state: &StateMap,
    target: &UserId,
    preferred: Option<&UserId>,
) -> Option<OwnedUserId> {
    let levels = matrix::power_levels(state, &room.rules);
    let may = |user_id: &UserId| {
        state.membership(user_id) == MembershipState::Join
            && levels.user_can_kick_user(user_id, target)
    };
    let view = room.view();
    let mut members = view.local_members.values();
    if let Some(preferred) = preferred.filter(|preferred| may(preferred))
        && members.any(|user_id| user_id == preferred)
    {
        return Some(preferred.to_owned());
    }
    let able = view.local_members.values().filter(|user_id| may(user_id));
    able.max_by_key(|user_id| (levels.for_user(user_id), Reverse((*user_id).clone())))
        .cloned()
}
