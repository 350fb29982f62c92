//! Serves the events of erased users to other servers: redacted, unless the server was in the room
//! already when the user was erased.
//!
//! [Deactivation](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate)

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedRoomId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;

use super::FederationReader;
use crate::{
    error::{Error, Result},
    matrix::{self, Pdu},
    numbers::Position,
    rooms::{Room, memory::ErasedUsers},
};

/// State types that determine the authorisation rules of a room, its encryption, or its relation to
/// other rooms. Redacting them would remove more than the sender's words: servers would disagree on
/// what is allowed, or messages would be sent unencrypted.
const KEPT_STATE_TYPES: [StateEventType; 12] = [
    StateEventType::RoomCreate,
    StateEventType::RoomPowerLevels,
    StateEventType::RoomJoinRules,
    StateEventType::RoomThirdPartyInvite,
    StateEventType::RoomHistoryVisibility,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomServerAcl,
    StateEventType::RoomEncryption,
    StateEventType::RoomTombstone,
    StateEventType::RoomCanonicalAlias,
    StateEventType::SpaceChild,
    StateEventType::SpaceParent,
];
/// Fields of a member event that its authorisation depends on: not every room version keeps them in
/// a redaction.
const KEPT_MEMBER_FIELDS: [&str; 2] = ["join_authorised_via_users_server", "third_party_invite"];

/// Redacts events of erased users for one server.
pub(crate) struct ErasedUserRedactor<'a> {
    reader: &'a FederationReader,
    server: &'a ServerName,
    erased_users: Arc<ErasedUsers>,
    /// Rooms that were loaded already.
    rooms: HashMap<OwnedRoomId, Arc<Room>>,
    /// For a room and the position at which a user was erased, whether the server was in the room then.
    was_in_room: HashMap<(OwnedRoomId, Position), bool>,
}

impl FederationReader {
    /// Returns a redactor for one server.
    pub(crate) fn erased_user_redactor<'a>(
        &'a self,
        server: &'a ServerName,
    ) -> ErasedUserRedactor<'a> {
        ErasedUserRedactor {
            reader: self,
            server,
            erased_users: self.memory.erased_users(),
            rooms: HashMap::new(),
            was_in_room: HashMap::new(),
        }
    }
}

impl ErasedUserRedactor<'_> {
    pub(crate) fn server(&self) -> &ServerName {
        self.server
    }

    /// Returns an event as the server may receive it: redacted if its sender is erased and the
    /// server was not in the room at that time.
    pub(crate) async fn redact_if_erased(
        &mut self,
        event_id: &OwnedEventId,
        json: Box<RawValue>,
    ) -> Result<Box<RawValue>> {
        if self.erased_users.is_empty() {
            return Ok(json);
        }
        let pdu = Pdu::parse(event_id.clone(), json.get())?;
        let Some(erased_at) = self.erased_users.get(&pdu.sender).copied() else {
            return Ok(json);
        };
        if is_kept(&pdu) || self.server_was_in_room(&pdu.room_id, erased_at).await? {
            return Ok(json);
        }
        let room = self.load_room(&pdu.room_id).await?;
        let redacted = matrix::redact_json(json.get(), &room.rules)?;
        Ok(RawValue::from_string(redacted)?)
    }

    async fn load_room(&mut self, room_id: &OwnedRoomId) -> Result<Arc<Room>> {
        if let Some(room) = self.rooms.get(room_id) {
            return Ok(room.clone());
        }
        let room = self.reader.memory.room(room_id).await?;
        self.rooms.insert(room_id.clone(), room.clone());
        Ok(room)
    }

    /// Returns whether the server was in a room at a position of the journal.
    async fn server_was_in_room(
        &mut self,
        room_id: &OwnedRoomId,
        position: Position,
    ) -> Result<bool> {
        let key = (room_id.clone(), position);
        if let Some(was_there) = self.was_in_room.get(&key) {
            return Ok(*was_there);
        }
        let room = self.load_room(room_id).await?;
        let stay = room.view().servers.get(self.server).copied();
        let was_there = match stay {
            // The value 0 means that the start is not in memory.
            Some(stay) if stay.since != Position::ZERO => stay.since <= position,
            _ => {
                let state = self.reader.state.state_at(&room, position).await?;
                let mut members = state.of_type(&StateEventType::RoomMember);
                members.any(|pdu| {
                    pdu.membership() == Some(MembershipState::Join)
                        && pdu.member().map(UserId::server_name) == Some(self.server)
                })
            }
        };
        self.was_in_room.insert(key, was_there);
        Ok(was_there)
    }
}

/// Returns whether a state event is never redacted.
fn is_kept(pdu: &Pdu) -> bool {
    if pdu.state_key.is_none() {
        return false;
    }
    let kind = pdu.state_type();
    let allows_itself = || {
        let mut fields = KEPT_MEMBER_FIELDS.iter();
        let content: Result<serde_json::Map<_, _>, Error> =
            serde_json::from_str(pdu.content.get()).map_err(Error::from);
        content.is_ok_and(|content| fields.any(|field| content.contains_key(*field)))
    };
    KEPT_STATE_TYPES.contains(&kind) || (kind == StateEventType::RoomMember && allows_itself())
}
