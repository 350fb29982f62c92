//! Inviting users of other servers.
//!
//! See [Inviting to a room](https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room).

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId, api::client::room::create_room,
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use super::membership_locks::MembershipLocks;
use crate::{
    error::{Error, Result},
    federation::{Federation, OutgoingInvite, RequestFailure},
    matrix::Pdu,
    rooms::{EventToSend, MemberChange, MemberProfile, MembershipAction, Rooms},
    tasks::Tasks,
    users::Session,
    workflows::WorkflowSources,
};

/// Invites users of other servers. Cheap to clone.
#[derive(Clone)]
pub struct RemoteInvitations {
    rooms: Rooms,
    federation: Federation,
    tasks: Tasks,
    locks: MembershipLocks,
}

impl RemoteInvitations {
    pub(in crate::workflows) fn new(sources: &WorkflowSources, locks: &MembershipLocks) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            tasks: sources.tasks.clone(),
            locks: locks.clone(),
        }
    }

    /// Returns whether an event invites a user of another server.
    pub(in super::super) fn is_remote_invitation(&self, event: &EventToSend) -> bool {
        event.membership() == Some(MembershipState::Invite) && self.remote_invitee(event).is_some()
    }

    async fn member_event(&self, room_id: &RoomId, user_id: &UserId) -> Result<Option<Arc<Pdu>>> {
        let room = self.rooms.memory.room_of_member(room_id).await?;
        let view = room.view();
        Ok(view.state.member(user_id).cloned())
    }

    fn remote_invitee<'a>(&self, event: &'a EventToSend) -> Option<&'a UserId> {
        let invited = <&UserId>::try_from(event.state_key.as_deref()?).ok()?;
        (!self.rooms.memory.is_local(invited)).then_some(invited)
    }

    /// Invites a user of another server; returns the event id of the invite.
    pub(in super::super) async fn invite_remote_user(
        &self,
        room_id: &RoomId,
        event: EventToSend,
    ) -> Result<OwnedEventId> {
        let (service, room_id) = (self.clone(), room_id.to_owned());
        // In a task of its own: an invite that the other server has accepted must also be added to the room.
        let inviting = self
            .tasks
            .spawn(async move { service.invite_in_turn(&room_id, event).await });
        inviting
            .await
            .map_err(|source| Error::internal("invite a user of another server", source))?
    }

    async fn invite_in_turn(&self, room_id: &RoomId, event: EventToSend) -> Result<OwnedEventId> {
        let invited = self.remote_invitee(&event);
        let invited = invited.ok_or_else(|| {
            Error::invalid_param("the invited user does not belong to another server")
        })?;
        let server = invited.server_name().to_owned();
        let before = self.member_event(room_id, invited).await?;
        let _guard = self.locks.lock_membership(room_id, invited).await?;
        if let Some(now) = self.member_event(room_id, invited).await?
            && before.is_none_or(|before| before.event_id != now.event_id)
            && now.sender == event.sender
            && now.membership() == Some(MembershipState::Invite)
        {
            // An equal request was faster.
            return Ok(now.event_id.clone());
        }
        let draft = self.rooms.resident.draft_invitation(room_id, event).await?;
        let (room, federation) = (&draft.room, &self.federation);
        let invitation = OutgoingInvite {
            room_id,
            room_version: &room.version,
            event: &draft.event,
            room_state: &draft.room_state,
        };
        let accepted = federation.send_invite(&server, invitation).await;
        let event = accepted.map_err(invite_error)?;
        let event = federation
            .with_policy_signature(room, event.get().to_owned())
            .await?;
        let event = RawValue::from_string(event)?;
        let event = federation.verify_event(&event, &room.rules).await?;
        self.rooms.resident.accept_invitation(event).await
    }

    /// Returns the invites of users of other servers in a request to create a room.
    pub(in super::super) fn draft_remote_invitations(
        &self,
        session: &Session,
        request: &create_room::v3::Request,
        profiles: &HashMap<OwnedUserId, MemberProfile>,
    ) -> Vec<MemberChange> {
        let elsewhere = request
            .invite
            .iter()
            .filter(|id| !self.rooms.memory.is_local(id));
        let invitation = |user_id: &OwnedUserId| {
            let profile = profiles.get(user_id).cloned().unwrap_or_default();
            MemberChange {
                sender: session.user_id.clone(),
                is_direct: request.is_direct,
                ..MemberChange::for_self(user_id, MembershipAction::Invite, profile)
            }
        };
        elsewhere.map(invitation).collect()
    }

    /// Invites users of other servers to a new room. The room exists already, so failed invites are only logged.
    pub(in super::super) async fn invite_remote_users(
        &self,
        room_id: &RoomId,
        invitations: Vec<MemberChange>,
    ) {
        for invitation in invitations {
            let user_id = invitation.target.clone();
            let invited = match invitation.into_event() {
                Ok(event) => self.invite_remote_user(room_id, event).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = invited {
                tracing::warn!(%room_id, %user_id, %error, "a user could not be invited to a new room");
            }
        }
    }
}

/// Returns the error to report to the inviter, if it is about the invite.
fn invite_error(failure: RequestFailure) -> Error {
    let code = match &failure {
        RequestFailure::Refused(refusal) => &*refusal.errcode,
        RequestFailure::Unreachable(_) | RequestFailure::Unwritable(_) => "",
    };
    match code {
        "M_INVITE_BLOCKED" => Error::InviteBlocked,
        "ORG.MATRIX.MSC4155.M_INVITE_BLOCKED" => Error::InviteFiltered,
        "M_INCOMPATIBLE_ROOM_VERSION" => Error::UnsupportedRoomVersion(
            "the server of the invited user does not support the room version".to_owned(),
        ),
        _ => failure.into(),
    }
}
