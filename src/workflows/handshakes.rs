//! Events that other servers have signed for users of their own, by which these come into a room, leave it or knock.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
};
use serde_json::value::RawValue;

use super::Workflows;
use crate::{
    error::{Error, Result},
    matrix::{StateMap, Verified, read_event},
    rooms::{Applicant, Handshake, Room},
};

/// An event that another server has signed, and what it says of it.
#[derive(Debug)]
pub struct SignedEvent {
    /// The server.
    pub origin: OwnedServerName,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The id of the event.
    pub event_id: OwnedEventId,
    /// The event.
    pub event: Box<RawValue>,
}

/// An event that has come into a room.
#[derive(Debug)]
pub struct TakenEvent {
    /// The room.
    pub room: Arc<Room>,
    /// The event, with this server's signature where it needs that.
    pub event: Verified,
    /// The state before it.
    pub before: StateMap,
}

impl Workflows {
    /// Takes an event into its room with which a user of another server comes in, goes, or knocks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] and [`Error::BadJson`] when it is not what the server may send, or not signed well;
    /// [`Error::Forbidden`] with the rule that refuses it; [`Error::NotFound`] when this server is not in the room.
    pub async fn take_signed(
        &self,
        handshake: Handshake,
        signed: SignedEvent,
    ) -> Result<TakenEvent> {
        let object = read_event(&signed.event)?;
        let applicant = Applicant {
            user_id: sender(&object)?,
            room_id: signed.room_id,
            origin: signed.origin,
        };
        let object = self
            .rooms
            .resident
            .countersign(handshake, &applicant, object)
            .await?;
        let room = self.rooms.memory.resident(&applicant.room_id).await?;
        let event = serde_json::to_string(&object)?;
        let event = self.federation.vetted(&room, event).await?;
        let event = self
            .federation
            .verify(&RawValue::from_string(event)?, &room.rules)
            .await
            .map_err(as_parameter)?;
        if event.pdu().event_id != signed.event_id {
            return Err(Error::invalid_param("the event has another id"));
        }
        if event.is_redacted() {
            return Err(Error::invalid_param("the event has another content hash"));
        }
        let before = self
            .rooms
            .resident
            .accept_signed(handshake, &applicant, event.clone())
            .await?;
        Ok(TakenEvent {
            room,
            event,
            before,
        })
    }
}

fn sender(object: &CanonicalJsonObject) -> Result<OwnedUserId> {
    let sender = object.get("sender").and_then(CanonicalJsonValue::as_str);
    let sender = sender.and_then(|sender| OwnedUserId::try_from(sender).ok());
    sender.ok_or_else(|| Error::invalid_param("the event has no sender"))
}

/// What is signed badly is, as the specification has it here, a wrong parameter.
pub(super) fn as_parameter(error: Error) -> Error {
    match error {
        Error::InvalidSignature(reason) => Error::InvalidParam(reason),
        other => other,
    }
}
