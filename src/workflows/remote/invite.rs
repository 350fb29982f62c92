//! Inviting users of other servers.
//!
//! See [Inviting to a room](https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room).

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId, api::client::room::create_room,
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use crate::{
    error::{Error, Result},
    federation::Failure,
    matrix::Pdu,
    rooms::{Action, MemberChange, MemberProfile, NewEvent},
    users::Session,
    workflows::Workflows,
};

impl Workflows {
    /// Sends an event to a room. An invite of a user of another server is first sent to that server.
    ///
    /// # Errors
    ///
    /// As [`crate::rooms::Rooms::send`]; and [`Error::Unreachable`] when the server of the invited user does not
    /// answer.
    pub async fn send(&self, room_id: &RoomId, event: NewEvent) -> Result<OwnedEventId> {
        let is_invitation = event.membership() == Some(MembershipState::Invite);
        if is_invitation && self.invited_elsewhere(&event).is_some() {
            return self.invite_to(room_id, event).await;
        }
        self.rooms.sender.send(room_id, event).await
    }

    async fn member_event(&self, room_id: &RoomId, user_id: &UserId) -> Result<Option<Arc<Pdu>>> {
        let room = self.rooms.memory.room_of_member(room_id).await?;
        let view = room.view();
        Ok(view.state.member(user_id).cloned())
    }

    fn invited_elsewhere<'a>(&self, event: &'a NewEvent) -> Option<&'a UserId> {
        let invited = <&UserId>::try_from(event.state_key.as_deref()?).ok()?;
        (!self.rooms.memory.is_local(invited)).then_some(invited)
    }

    /// Invites a user of another server; returns the event id of the invite.
    pub(in super::super) async fn invite_to(
        &self,
        room_id: &RoomId,
        event: NewEvent,
    ) -> Result<OwnedEventId> {
        let (workflows, room_id) = (self.clone(), room_id.to_owned());
        // In a task of its own: an invite that the other server has accepted must also be added to the room.
        let inviting = self
            .tasks
            .spawn(async move { workflows.invite_now(&room_id, event).await });
        inviting
            .await
            .map_err(|source| Error::internal("invite a user of another server", source))?
    }

    async fn invite_now(&self, room_id: &RoomId, event: NewEvent) -> Result<OwnedEventId> {
        let invited = self.invited_elsewhere(&event);
        let invited = invited.ok_or_else(|| {
            Error::invalid_param("the invited user does not belong to another server")
        })?;
        let server = invited.server_name().to_owned();
        let before = self.member_event(room_id, invited).await?;
        let _turn = self.turn_at_membership(room_id, invited).await?;
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
        let taken = federation
            .send_invite(
                &server,
                (room_id, &room.version),
                &draft.event,
                draft.room_state,
            )
            .await;
        let event = taken.map_err(refused)?;
        let event = federation.vetted(room, event.get().to_owned()).await?;
        let event = RawValue::from_string(event)?;
        let event = federation.verify(&event, &room.rules).await?;
        self.rooms.resident.accept_invitation(event).await
    }

    /// Returns the invites of users of other servers in a request to create a room.
    pub(in super::super) fn remote_invitations(
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
                ..MemberChange::own(user_id, Action::Invite, profile)
            }
        };
        elsewhere.map(invitation).collect()
    }

    /// Invites users of other servers to a new room. The room exists already, so failed invites are only logged.
    pub(in super::super) async fn invite_all(
        &self,
        room_id: &RoomId,
        invitations: Vec<MemberChange>,
    ) {
        for invitation in invitations {
            let user_id = invitation.target.clone();
            let invited = match invitation.event() {
                Ok(event) => self.invite_to(room_id, event).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = invited {
                tracing::warn!(%room_id, %user_id, %error, "a user could not be invited to a new room");
            }
        }
    }
}

/// Returns the error to report to the inviter, if it is about the invite.
fn refused(failure: Failure) -> Error {
    let code = match &failure {
        Failure::Refused(refusal) => &*refusal.errcode,
        Failure::Unreachable(_) | Failure::Unwritable(_) => "",
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
