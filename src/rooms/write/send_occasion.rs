//! The reason for which the server sends an event. It decides whether the event is still needed.

use std::sync::Arc;

use ruma::{OwnedEventId, events::StateEventType};

use super::member_change::{MembershipAction, is_redundant_change};
use crate::{
    error::Result,
    matrix::Pdu,
    numbers::DelayedEventNum,
    rooms::{
        log::{invite_expiry, new_event::EventToSend},
        memory::room::RoomTip,
    },
};

/// The reason for which the server sends an event.
#[derive(Clone, Debug)]
pub(crate) enum SendOccasion {
    /// A user requests it.
    Request,
    /// A user requests this change of a membership.
    Membership(MembershipAction),
    /// The server sends it for a user who did not request it just now.
    Background,
    /// The delayed event with this number is due.
    Delayed(DelayedEventNum),
    /// This invitation has expired.
    InvitationExpiry(OwnedEventId),
    /// The room is being deleted.
    Deletion,
}

impl SendOccasion {
    /// Checks at the tip of the room that the reason for the event still exists.
    pub(super) fn check_still_valid(&self, tip: &RoomTip, event: &EventToSend) -> Result<()> {
        match self {
            Self::InvitationExpiry(invitation) => {
                invite_expiry::check_is_current(&tip.state, event, invitation)
            }
            Self::Request
            | Self::Membership(_)
            | Self::Background
            | Self::Delayed(_)
            | Self::Deletion => Ok(()),
        }
    }

    /// Returns the current member event, if it already is what a membership change requests.
    pub(super) fn existing_member_event<'a>(
        &self,
        tip: &'a RoomTip,
        event: &EventToSend,
    ) -> Option<&'a Arc<Pdu>> {
        let Self::Membership(action) = self else {
            return None;
        };
        let member = tip
            .state
            .get(&StateEventType::RoomMember, event.state_key.as_deref()?)?;
        matches!(
            is_redundant_change(member.membership().as_ref(), *action),
            Ok(true)
        )
        .then_some(member)
    }

    /// Returns whether the event is sent without a request of its sender, so that it marks nothing as read.
    pub(super) fn is_unattended(&self) -> bool {
        match self {
            Self::Background | Self::Delayed(_) | Self::InvitationExpiry(_) | Self::Deletion => {
                true
            }
            Self::Request | Self::Membership(_) => false,
        }
    }

    pub(super) fn delayed_event_num(&self) -> Option<DelayedEventNum> {
        match self {
            Self::Delayed(num) => Some(*num),
            _ => None,
        }
    }
}
