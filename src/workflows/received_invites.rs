//! Invites that other servers send to users of this one.

use ruma::{
    RoomVersionId, ServerName,
    api::federation::thirdparty::exchange_invite::v1 as exchange_invite,
    canonical_json::CanonicalJsonObject,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    WorkflowSources,
    join_leave_knock::{SignedEvent, as_invalid_param},
    remote::RemoteInvitations,
};
use crate::{
    application_services::ServiceQueries,
    error::{Error, Result},
    federation::Federation,
    matrix::{self, Pdu},
    rooms::{EventToSend, RemoteMembershipEvent, Rooms},
    users::Users,
};

/// The largest number of state events that come with an invite.
const MAX_STATE_EVENTS: usize = 100;

/// An invite that another server sends.
#[derive(Debug)]
pub struct ReceivedInvitation {
    pub version: RoomVersionId,
    /// The invite event.
    pub signed: SignedEvent,
    /// The stripped state of the room.
    pub room_state: Vec<Box<RawValue>>,
}

/// The content of a third-party invite.
#[derive(Deserialize, Serialize)]
struct ThirdPartyInviteContent {
    membership: MembershipState,
    third_party_invite: Map<String, Value>,
}

/// Accepts invites of other servers. Cheap to clone.
#[derive(Clone)]
pub struct InvitationReceiver {
    users: Users,
    rooms: Rooms,
    federation: Federation,
    remote_invitations: RemoteInvitations,
    service_queries: ServiceQueries,
}

impl InvitationReceiver {
    pub(super) fn new(sources: &WorkflowSources, remote_invitations: &RemoteInvitations) -> Self {
        Self {
            users: sources.users.clone(),
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            remote_invitations: remote_invitations.clone(),
            service_queries: sources.service_queries.clone(),
        }
    }

    /// Accepts an invite for a user of this server, and returns it with this server's signature.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the invite is invalid; [`Error::IncompatibleRoomVersion`]; [`Error::Forbidden`] and
    /// [`Error::InviteBlocked`] when the user may not be invited; [`Error::NotFound`] when the user does not exist.
    pub async fn receive_invitation(
        &self,
        invitation: ReceivedInvitation,
    ) -> Result<Box<RawValue>> {
        let ReceivedInvitation {
            version,
            signed,
            mut room_state,
        } = invitation;
        let rules = matrix::room_version_rules(&version)
            .ok_or_else(|| Error::IncompatibleRoomVersion(version.clone()))?;
        let event = self
            .federation
            .verify_event(&signed.event, &rules)
            .await
            .map_err(as_invalid_param)?;
        let pdu = event.pdu();
        if (&pdu.room_id, &pdu.event_id) != (&signed.room_id, &signed.event_id) {
            return Err(Error::invalid_param(
                "the event's room id or event id differs from the path",
            ));
        }
        if let Some(user_id) = pdu
            .member()
            .filter(|user_id| self.rooms.memory.is_local(user_id))
        {
            self.service_queries.create_user_on_demand(user_id).await?;
            self.users.lookup.user_num(user_id).await?;
        }
        room_state.truncate(MAX_STATE_EVENTS);
        self.check_room_state(&room_state, pdu, &signed.origin, &rules)
            .await?;
        let from = RemoteMembershipEvent {
            version,
            event,
            stripped_state: room_state,
        };
        self.rooms
            .remote_memberships
            .receive_invitation(&signed.origin, from)
            .await
    }

    /// Invites a user of another server in the name of the local user who sent a third-party invite. The other server
    /// requests this once the user has claimed the address. The auth rules of the room check the claim.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when the request is not such an invite, or not by a user of this server;
    /// [`Error::Forbidden`] when the rules refuse it.
    pub async fn exchange_third_party_invite(
        &self,
        origin: &ServerName,
        request: exchange_invite::Request,
    ) -> Result<()> {
        let (sender, invited) = (&request.sender, &request.state_key);
        if request.kind != StateEventType::RoomMember || !self.rooms.memory.is_local(sender) {
            return Err(Error::invalid_param(
                "the event is not an invite by a user of this server",
            ));
        }
        if invited.server_name() != origin {
            return Err(Error::forbidden(
                "the invited user does not belong to the requesting server",
            ));
        }
        self.rooms
            .federation
            .room_open_to(origin, &request.room_id)
            .await?;
        let content: ThirdPartyInviteContent =
            serde_json::from_str(request.content.json().get())
                .map_err(|error| Error::BadJson(error.to_string()))?;
        if content.membership != MembershipState::Invite {
            return Err(Error::invalid_param("the membership is not invite"));
        }
        let invitation = EventToSend::state(
            sender.clone(),
            &StateEventType::RoomMember,
            invited.as_str(),
            to_raw_value(&content)?,
        );
        self.remote_invitations
            .invite_remote_user(&request.room_id, invitation)
            .await?;
        Ok(())
    }

    /// Checks the state that comes with an invite, in room versions where the room id is the hash of the create event.
    /// So no other room can be shown under this id.
    async fn check_room_state(
        &self,
        room_state: &[Box<RawValue>],
        invitation: &Pdu,
        origin: &ServerName,
        rules: &RoomVersionRules,
    ) -> Result<()> {
        if !rules.authorization.room_create_event_id_as_room_id {
            return Ok(());
        }
        let mut has_create = false;
        for event in self
            .federation
            .verify_events(room_state.to_vec(), rules)
            .await
        {
            let pdu = event.pdu();
            if pdu.room_id != invitation.room_id {
                let text = "the state that comes with the invite belongs to another room";
                return Err(Error::invalid_param(text));
            }
            has_create |= pdu.kind == TimelineEventType::RoomCreate;
        }
        if has_create {
            return Ok(());
        }
        // Servers that do not implement the rule send stripped state, which cannot be checked.
        tracing::debug!(%origin, "an invite comes without the m.room.create event");
        let are_stripped = room_state.iter().all(|event| !is_signed(event));
        if are_stripped {
            return Ok(());
        }
        Err(Error::invalid_param(
            "the m.room.create event must come with the invite",
        ))
    }
}

fn is_signed(event: &RawValue) -> bool {
    let object: Option<CanonicalJsonObject> = serde_json::from_str(event.get()).ok();
    object.is_some_and(|object| object.contains_key("signatures"))
}
