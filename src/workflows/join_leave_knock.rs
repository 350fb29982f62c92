//! Events that other servers have signed for their own users, to join or leave a room, or to knock on it.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
};
use serde_json::value::RawValue;

use super::WorkflowSources;
use crate::{
    error::{Error, Result},
    federation::Federation,
    matrix::{StateMap, VerifiedEvent, read_event},
    rooms::{MembershipHandshake, RemoteApplicant, Room, Rooms},
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
pub struct AcceptedSignedEvent {
    pub room: Arc<Room>,
    /// The event, with this server's signature if it is required.
    pub event: VerifiedEvent,
    /// The state before the event.
    pub before: StateMap,
}

/// Accepts events that other servers have signed. Cheap to clone.
#[derive(Clone)]
pub struct SignedEventReceiver {
    rooms: Rooms,
    federation: Federation,
}

impl SignedEventReceiver {
    pub(super) fn new(sources: &WorkflowSources) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
        }
    }

    /// Accepts an event with which a user of another server joins, leaves, or knocks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] and [`Error::BadJson`] when the event is invalid or not properly signed;
    /// [`Error::Forbidden`] with the rule that refuses it; [`Error::NotFound`] when this server is not in the room.
    pub async fn accept_signed_event(
        &self,
        handshake: MembershipHandshake,
        signed: SignedEvent,
    ) -> Result<AcceptedSignedEvent> {
        let object = read_event(&signed.event)?;
        let applicant = RemoteApplicant {
            user_id: sender_of(&object)?,
            room_id: signed.room_id,
            origin: signed.origin,
        };
        let object = self
            .rooms
            .resident
            .countersign(handshake, &applicant, object)
            .await?;
        let room = self.rooms.memory.resident_room(&applicant.room_id).await?;
        let event = serde_json::to_string(&object)?;
        let event = self.federation.with_policy_signature(&room, event).await?;
        let event = self
            .federation
            .verify_event(&RawValue::from_string(event)?, &room.rules)
            .await
            .map_err(as_invalid_param)?;
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
            .accept_signed_event(handshake, &applicant, event.clone())
            .await?;
        Ok(AcceptedSignedEvent {
            room,
            event,
            before,
        })
    }
}

fn sender_of(object: &CanonicalJsonObject) -> Result<OwnedUserId> {
    let sender = object.get("sender").and_then(CanonicalJsonValue::as_str);
    let sender = sender.and_then(|sender| OwnedUserId::try_from(sender).ok());
    sender.ok_or_else(|| Error::invalid_param("the event has no sender"))
}

/// Converts an invalid signature into an invalid parameter, as the specification demands for these endpoints.
pub(super) fn as_invalid_param(error: Error) -> Error {
    match error {
        Error::InvalidSignature(reason) => Error::InvalidParam(reason),
        other => other,
    }
}
