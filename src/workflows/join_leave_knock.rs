//! Events that other servers have signed for their own users, to join or leave a room, or to knock on it.

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

/// An event that another server has signed, and the parameters of its request.
#[derive(Debug)]
pub struct SignedEvent {
    pub origin: OwnedServerName,
    pub room_id: OwnedRoomId,
    pub event_id: OwnedEventId,
    pub event: Box<RawValue>,
}

/// An event that was accepted into a room.
#[derive(Debug)]
pub struct TakenEvent {
    pub room: Arc<Room>,
    /// The event, with this server's signature if it is required.
    pub event: Verified,
    /// The state before the event.
    pub before: StateMap,
}

impl Workflows {
    /// Accepts an event with which a user of another server joins, leaves, or knocks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] and [`Error::BadJson`] when the event is invalid or not properly signed;
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
            return Err(Error::invalid_param(
                "the event's id differs from the one in the path",
            ));
        }
        if event.is_redacted() {
            return Err(Error::invalid_param("the event's content hash is wrong"));
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

/// Converts an invalid signature into an invalid parameter, as the specification demands for these endpoints.
pub(super) fn as_parameter(error: Error) -> Error {
    match error {
        Error::InvalidSignature(reason) => Error::InvalidParam(reason),
        other => other,
    }
}
