//! Rooms that a user is invited to, or knocks on: their stripped state, and whether the user accepts the invite.

use ruma::{OwnedUserId, events::AnyStrippedStateEvent, serde::Raw};

use crate::{
    matrix::{IgnoreSettings, InviteTreatment},
    rooms::UserRoom,
    users::Session,
};

/// Returns whether the user accepts invites from the inviter.
pub(super) fn accepts_invite(
    ignore_settings: Option<&IgnoreSettings>,
    session: &Session,
    user_room: &UserRoom,
) -> bool {
    let Some(ignore_settings) = ignore_settings else {
        return true;
    };
    let user_id = session.user_id.as_str();
    let state: Vec<Raw<AnyStrippedStateEvent>> = stripped_state(user_room);
    let text =
        |event: &Raw<AnyStrippedStateEvent>, field| event.get_field::<String>(field).ok().flatten();
    let is_invitation = |event: &&Raw<AnyStrippedStateEvent>| {
        text(event, "type").as_deref() == Some("m.room.member")
            && text(event, "state_key").as_deref() == Some(user_id)
    };
    let inviter = state.iter().find(is_invitation);
    let inviter = inviter.and_then(|event| OwnedUserId::try_from(text(event, "sender")?).ok());
    inviter
        .is_none_or(|inviter| ignore_settings.invite_treatment(&inviter) == InviteTreatment::Shown)
}

/// Returns the stripped state of a room for a user who is invited or knocks.
pub(super) fn stripped_state<T>(user_room: &UserRoom) -> Vec<Raw<T>> {
    let json = user_room.stripped_state.as_deref().unwrap_or("[]");
    serde_json::from_str(json).unwrap_or_default()
}
