//! Invites users of other servers: their server signs the invitation before it is stored in the
//! room.
//!
//! [Inviting to a room](https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room)

use std::sync::Arc;

use ruma::{
    OwnedEventId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;

use super::{ResidentServer, make_and_send_join::is_stripped_state_type};
use crate::{
    error::{Error, Result},
    matrix::{CompletedEvent, VerifiedEvent},
    rooms::{EventToSend, ReceiveHints, ReceiveOutcome, Room},
};

/// An invitation that another server has to sign before it is stored in the room.
#[derive(Debug)]
pub struct DraftInvitation {
    pub room: Arc<Room>,
    /// The event, signed by this server.
    pub event: CompletedEvent,
    /// The state of the room that the invited user may see.
    pub room_state: Vec<Box<RawValue>>,
}

impl ResidentServer {
    /// Makes an invitation for the invited user's server to sign.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] with the rule that refuses it.
    pub async fn draft_invitation(
        &self,
        room_id: &RoomId,
        event: EventToSend,
    ) -> Result<DraftInvitation> {
        let room = self.memory.room_of_member(room_id).await?;
        // The room continues while the other server decides: the invitation then becomes a fork of
        // the graph.
        let tip = room.tip.lock().await.clone();
        if tip.state.membership(&event.sender) != MembershipState::Join {
            return Err(Error::forbidden("you are not in this room"));
        }
        self.log.check_invite_permission(&event).await?;
        let sender = event.sender.clone();
        let invited = event.state_key.as_deref();
        let invited = invited.and_then(|user_id| <&UserId>::try_from(user_id).ok());
        let server = invited
            .map_or(self.memory.server_name(), UserId::server_name)
            .to_owned();
        let accepted = self.log.build_event(&room, &tip, event).await?;
        let shown = tip
            .state
            .iter()
            .filter(|pdu| is_stripped_state_type(&pdu.state_type()))
            .filter(|pdu| pdu.state_key.as_deref() == Some(""))
            .chain(tip.state.get(&StateEventType::RoomMember, sender.as_str()));
        let shown: Vec<OwnedEventId> = shown.map(|pdu| pdu.event_id.clone()).collect();
        Ok(DraftInvitation {
            event: CompletedEvent {
                event_id: accepted.pdu.event_id,
                event: RawValue::from_string(accepted.json)?,
            },
            room_state: self
                .federation
                .load_events_for_server(&server, &shown)
                .await?,
            room,
        })
    }

    /// Stores an invitation in its room after the invited user's server has signed it.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the room no longer allows it.
    pub async fn accept_invitation(&self, invitation: VerifiedEvent) -> Result<OwnedEventId> {
        let event_id = invitation.pdu().event_id.clone();
        // This server made the event, so it also sends it to the others.
        let hints = ReceiveHints {
            is_passed_on: true,
            ..ReceiveHints::default()
        };
        let received = self
            .receiver
            .receive(self.memory.server_name(), invitation, hints)
            .await?;
        match received {
            ReceiveOutcome::Accepted => Ok(event_id),
            ReceiveOutcome::Duplicate => self
                .receiver
                .check_accepted(&event_id)
                .await
                .map(|()| event_id),
            ReceiveOutcome::SoftFailed(reason) | ReceiveOutcome::Rejected(reason) => {
                Err(Error::Forbidden(reason))
            }
            ReceiveOutcome::Missing { .. } => Err(Error::Unavailable(
                "events of the room are missing, try again later".to_owned(),
            )),
        }
    }
}
