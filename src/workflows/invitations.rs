//! Invitations that expire.

use ruma::{OwnedEventId, OwnedUserId, RoomId};

use super::Workflows;
use crate::{
    error::Result,
    rooms::{Action, MemberChange},
    users::Session,
};

impl Workflows {
    /// Invites a user to a room until a time; returns the id of the invitation.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::InvalidParam`] for a time that has passed or is more than a year away;
    /// [`crate::error::Error::Forbidden`] with the rule that refuses the invitation.
    pub async fn invite_until(
        &self,
        session: &Session,
        room_id: &RoomId,
        (user_id, expires_at): (&OwnedUserId, i64),
        reason: Option<String>,
    ) -> Result<OwnedEventId> {
        let profile = self.member_profile(user_id).await;
        let mut invitation = MemberChange::own(user_id, Action::Invite, profile);
        invitation.sender.clone_from(&session.user_id);
        invitation.reason = reason;
        if !self.rooms.memory.is_local(user_id) {
            let event = self
                .rooms
                .invitations
                .invitation_until(invitation, expires_at)?;
            return self.invite_to(room_id, event).await;
        }
        self.rooms
            .invitations
            .invite_until(room_id, invitation, expires_at)
            .await
    }
}
