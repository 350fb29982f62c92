//! Invites that expire.

use ruma::{OwnedEventId, OwnedUserId, RoomId};

use super::{WorkflowSources, profiles::UserProfiles, remote::RemoteInvitations};
use crate::{
    error::Result,
    rooms::{MemberChange, MembershipAction, Rooms},
    users::Session,
};

/// A request to invite a user until a time.
#[derive(Debug)]
pub struct ExpiringInviteRequest {
    /// The user to invite.
    pub user_id: OwnedUserId,
    /// The time at which the invite expires, in milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// The reason for the invite.
    pub reason: Option<String>,
}

/// Sends invites that expire. Cheap to clone.
#[derive(Clone)]
pub struct RoomInvitations {
    rooms: Rooms,
    profiles: UserProfiles,
    remote_invitations: RemoteInvitations,
}

impl RoomInvitations {
    pub(super) fn new(
        sources: &WorkflowSources,
        profiles: &UserProfiles,
        remote_invitations: &RemoteInvitations,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            profiles: profiles.clone(),
            remote_invitations: remote_invitations.clone(),
        }
    }

    /// Invites a user to a room until a time; returns the event id of the invite.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::InvalidParam`] for a time in the past or more than a year ahead;
    /// [`crate::error::Error::Forbidden`] with the rule that refuses the invite.
    pub async fn invite_until(
        &self,
        session: &Session,
        room_id: &RoomId,
        request: ExpiringInviteRequest,
    ) -> Result<OwnedEventId> {
        let ExpiringInviteRequest {
            user_id,
            expires_at,
            reason,
        } = request;
        let profile = self.profiles.member_profile(&user_id).await;
        let mut invitation = MemberChange::for_self(&user_id, MembershipAction::Invite, profile);
        invitation.sender.clone_from(&session.user_id);
        invitation.reason = reason;
        if !self.rooms.memory.is_local(&user_id) {
            let event = self
                .rooms
                .invitations
                .expiring_invitation_event(invitation, expires_at)?;
            return self
                .remote_invitations
                .invite_remote_user(room_id, event)
                .await;
        }
        self.rooms
            .invitations
            .invite_until(room_id, invitation, expires_at)
            .await
    }
}
