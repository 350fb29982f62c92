//! Changes to memberships that users request.

use ruma::{OwnedUserId, RoomId};
use serde_json::{Map, Value};

use super::{
    WorkflowSources,
    profiles::UserProfiles,
    remote::{RemoteInvitations, RemoteLeaves},
    server_notices::ServerNotices,
};
use crate::{
    application_services::ServiceQueries,
    ephemeral::EphemeralState,
    error::Result,
    rooms::{MemberChange, MemberProfile, MembershipAction, Rooms},
    users::Session,
};

/// A change to a membership that a user requests.
#[derive(Clone, Debug)]
pub struct MembershipRequest {
    /// The user whose membership changes.
    pub target: OwnedUserId,
    pub action: MembershipAction,
    pub reason: Option<String>,
    /// Additional content of the member event of a join.
    pub extra: Map<String, Value>,
}

impl MembershipRequest {
    /// Returns a request without additional content in the member event.
    pub fn new(target: OwnedUserId, action: MembershipAction, reason: Option<String>) -> Self {
        Self {
            target,
            action,
            reason,
            extra: Map::new(),
        }
    }
}

/// Changes memberships as users request. Cheap to clone.
#[derive(Clone)]
pub struct MembershipChanges {
    rooms: Rooms,
    ephemeral: EphemeralState,
    profiles: UserProfiles,
    notices: ServerNotices,
    leaves: RemoteLeaves,
    remote_invitations: RemoteInvitations,
    service_queries: ServiceQueries,
}

impl MembershipChanges {
    pub(super) fn new(
        sources: &WorkflowSources,
        profiles: &UserProfiles,
        notices: &ServerNotices,
        leaves: &RemoteLeaves,
        remote_invitations: &RemoteInvitations,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            ephemeral: sources.ephemeral.clone(),
            profiles: profiles.clone(),
            notices: notices.clone(),
            leaves: leaves.clone(),
            remote_invitations: remote_invitations.clone(),
            service_queries: sources.service_queries.clone(),
        }
    }

    /// Changes a membership as a user requests.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`](crate::error::Error::Forbidden) with the rule that refuses it.
    pub async fn change_membership(
        &self,
        session: &Session,
        room_id: &RoomId,
        request: MembershipRequest,
    ) -> Result<()> {
        if request.action == MembershipAction::Leave {
            self.notices.check_leave(session, room_id).await?;
            if self
                .leaves
                .has_remote_invite_or_knock(session, room_id)
                .await?
            {
                return self
                    .leaves
                    .leave_remote_room(session, room_id, request.reason)
                    .await;
            }
        }
        if request.action == MembershipAction::Invite {
            self.service_queries
                .create_user_on_demand(&request.target)
                .await?;
        }
        let is_shown = matches!(
            request.action,
            MembershipAction::Join | MembershipAction::Invite | MembershipAction::Knock
        );
        let profile = if is_shown {
            self.profiles.member_profile(&request.target).await
        } else {
            MemberProfile::default()
        };
        let (target, is_gone) = (request.target.clone(), !is_shown);
        let change = MemberChange {
            sender: session.user_id.clone(),
            target: request.target,
            action: request.action,
            profile,
            reason: request.reason,
            is_direct: false,
            extra: request.extra,
        };
        let is_remote = !self.rooms.memory.is_local(&change.target);
        if change.action == MembershipAction::Invite && is_remote {
            self.remote_invitations
                .invite_remote_user(room_id, change.into_event()?)
                .await?;
        } else {
            self.rooms
                .memberships
                .change_membership(room_id, change)
                .await?;
        }
        if is_gone {
            let room = self.rooms.memory.room_number(room_id).await?;
            self.ephemeral.typing.set_typing(room, &target, None);
        }
        Ok(())
    }
}
