//! A change of a membership, and the member event for it.

use std::collections::HashMap;

use ruma::{
    OwnedMxcUri, OwnedUserId, UserId,
    events::{
        StateEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};
use serde_json::{Map, Value, value::to_raw_value};

use crate::{
    error::{Error, Result},
    rooms::EventToSend,
};

/// The profiles of users in a room, by user id.
pub(crate) type MemberProfiles = HashMap<OwnedUserId, MemberProfile>;

/// The profile of a user in a room.
#[derive(Clone, Debug, Default)]
pub struct MemberProfile {
    /// The display name.
    pub displayname: Option<String>,
    /// The avatar.
    pub avatar_url: Option<OwnedMxcUri>,
}

/// A kind of membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipAction {
    /// The sender joins or shows a new profile.
    Join,
    /// The sender invites the target.
    Invite,
    /// The sender leaves or declines an invitation.
    Leave,
    /// The sender removes the target.
    Kick,
    /// The sender removes the target, who may not join again.
    Ban,
    /// The sender lifts a ban.
    Unban,
    /// The sender asks for an invitation.
    Knock,
}

impl MembershipAction {
    /// Returns the membership of the target after the action.
    fn resulting_membership(self) -> MembershipState {
        match self {
            Self::Join => MembershipState::Join,
            Self::Invite => MembershipState::Invite,
            Self::Leave | Self::Kick | Self::Unban => MembershipState::Leave,
            Self::Ban => MembershipState::Ban,
            Self::Knock => MembershipState::Knock,
        }
    }
}

/// A change of a user's membership.
#[derive(Clone, Debug)]
pub struct MemberChange {
    /// The user who makes the change.
    pub sender: OwnedUserId,
    /// The user whose membership changes.
    pub target: OwnedUserId,
    /// The kind of the change.
    pub action: MembershipAction,
    /// The profile of the target; only for a join or an invitation.
    pub profile: MemberProfile,
    /// The reason for the change.
    pub reason: Option<String>,
    /// Whether an invitation is to a direct chat.
    pub is_direct: bool,
    /// Other fields that the client sets in the content of the member event.
    pub extra: Map<String, Value>,
}

/// Fields of a member event that a client cannot set when it joins, because only the server sets them.
const SERVER_SET_FIELDS: [&str; 7] = [
    "membership",
    "displayname",
    "avatar_url",
    "is_direct",
    "join_authorised_via_users_server",
    "third_party_signed",
    "third_party_invite",
];

impl MemberChange {
    /// Returns a change of a user's own membership.
    pub fn for_self(user_id: &UserId, action: MembershipAction, profile: MemberProfile) -> Self {
        let (sender, target) = (user_id.to_owned(), user_id.to_owned());
        Self {
            sender,
            target,
            action,
            profile,
            reason: None,
            is_direct: false,
            extra: Map::new(),
        }
    }

    /// Returns the content of the member event for this change.
    pub fn into_content(self) -> Result<Map<String, Value>> {
        let mut content = RoomMemberEventContent::new(self.action.resulting_membership());
        content.displayname = self.profile.displayname;
        content.avatar_url = self.profile.avatar_url;
        content.reason = self.reason;
        content.is_direct = self.is_direct.then_some(true);
        let mut whole = self.extra;
        for field in SERVER_SET_FIELDS {
            whole.remove(field);
        }
        if let Value::Object(content) = serde_json::to_value(&content)? {
            whole.extend(content);
        }
        Ok(whole)
    }

    /// Returns the member event for this change.
    pub fn into_event(self) -> Result<EventToSend> {
        let (sender, target) = (self.sender.clone(), self.target.clone());
        let content = to_raw_value(&self.into_content()?)?;
        Ok(EventToSend::state(
            sender,
            &StateEventType::RoomMember,
            target.as_str(),
            content,
        ))
    }
}

/// Returns whether an action would change nothing.
///
/// # Errors
///
/// Returns [`Error::Forbidden`] if the action is impossible with the current membership.
pub(crate) fn is_redundant_change(
    before: Option<&MembershipState>,
    action: MembershipAction,
) -> Result<bool> {
    let refuse = |reason: &str| Err(Error::forbidden(reason));
    match (action, before) {
        (MembershipAction::Join, Some(MembershipState::Join))
        | (MembershipAction::Leave, Some(MembershipState::Leave)) => Ok(true),
        (MembershipAction::Leave, None) => refuse("you are not in this room"),
        (MembershipAction::Kick, None | Some(MembershipState::Leave | MembershipState::Ban)) => {
            refuse("the user is not in this room")
        }
        (MembershipAction::Unban, before) if before != Some(&MembershipState::Ban) => {
            refuse("the user is not banned from this room")
        }
        _ => Ok(false),
    }
}

/// Returns the member event with which a user leaves or is kicked.
pub(crate) fn leave_event(
    sender: OwnedUserId,
    target: &OwnedUserId,
    reason: &str,
) -> Result<EventToSend> {
    let action = if sender == *target {
        MembershipAction::Leave
    } else {
        MembershipAction::Kick
    };
    let mut change = MemberChange::for_self(target, action, MemberProfile::default());
    change.sender = sender;
    change.reason = Some(reason.to_owned());
    change.into_event()
}
