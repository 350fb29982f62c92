//! Receives EDUs of other servers: typing, receipts, presence, to-device messages, device lists and keys.
//!
//! A server may only send EDUs about its own users. Those about a room must be from a member of it, and from a server
//! that the room's server ACL permits. Malformed EDUs are ignored; the others are still processed.
//!
//! See [EDUs](https://spec.matrix.org/v1.19/server-server-api/#edus).

mod device_edus;
mod receipts;
mod typing_and_presence;

use std::sync::Arc;

use ruma::{
    OwnedUserId, RoomId, ServerName, UserId, api::federation::transactions::edu::Edu,
    events::room::member::MembershipState, serde::Raw,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

pub(super) use self::receipts::EarlyReceipts;
use super::Workflows;
use crate::{
    error::{Error, Result},
    matrix::canonical_object,
    rooms::Room,
    storage::UserNum,
};

/// "The list must not be more than 100 EDUs."
const MAX_EDUS: usize = 100;

#[derive(Deserialize)]
struct EduEnvelope<'a> {
    edu_type: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// The contents of the EDUs by type, in their order.
#[derive(Default)]
struct EdusByType {
    typing: Vec<Box<RawValue>>,
    receipts: Vec<Box<RawValue>>,
    presence: Vec<Box<RawValue>>,
    to_device: Vec<Box<RawValue>>,
    device_lists: Vec<Box<RawValue>>,
    signing_keys: Vec<Box<RawValue>>,
}

impl Workflows {
    /// Processes the EDUs of another server. Malformed ones are ignored.
    ///
    /// # Errors
    ///
    /// When they cannot be stored: the server has to send them again.
    #[tracing::instrument(skip_all, fields(server = %origin, count = edus.len()), err(level = "debug"))]
    pub async fn receive_edus(&self, origin: &ServerName, edus: Vec<Raw<Edu>>) -> Result<()> {
        let mut sorted = EdusByType::default();
        for edu in edus.iter().take(MAX_EDUS) {
            let Ok(envelope) = serde_json::from_str::<EduEnvelope<'_>>(edu.json().get()) else {
                continue;
            };
            let kind = match &*envelope.edu_type {
                "m.typing" => &mut sorted.typing,
                "m.receipt" => &mut sorted.receipts,
                "m.presence" => &mut sorted.presence,
                "m.direct_to_device" => &mut sorted.to_device,
                "m.device_list_update" => &mut sorted.device_lists,
                "m.signing_key_update" | "org.matrix.signing_key_update" => {
                    &mut sorted.signing_keys
                }
                _ => continue,
            };
            if let Some(content) = canonical_object(envelope.content) {
                kind.push(content);
            } else {
                let edu_type = &envelope.edu_type;
                tracing::debug!(edu_type, "dropped an EDU that is nested too deeply");
            }
        }
        self.receive_messages(origin, &sorted.to_device).await?;
        self.receive_device_lists(origin, &sorted.device_lists)
            .await?;
        self.receive_signing_keys(origin, &sorted.signing_keys)
            .await?;
        self.receive_typing(origin, &sorted.typing).await?;
        self.receive_presence(origin, &sorted.presence).await?;
        self.receive_receipts(origin, &sorted.receipts).await
    }

    /// Returns a room about which a server may send EDUs; `None` for any other.
    async fn room_shared_with(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
    ) -> Result<Option<Arc<Room>>> {
        match self.rooms.federation.shared_room(origin, room_id).await {
            Ok(room) => Ok(Some(room)),
            Err(Error::NotFound(_) | Error::Forbidden(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the number of a user of a server who shares a room with local users; `None` for any other.
    async fn user_sharing_a_room(
        &self,
        origin: &ServerName,
        user_id: &UserId,
    ) -> Result<Option<UserNum>> {
        if user_id.server_name() != origin {
            return Ok(None);
        }
        let Some(user) = self.rooms.memory.user_number(user_id).await? else {
            return Ok(None);
        };
        let shares = self.rooms.memory.shares_room_with_us(user, None).await?;
        Ok(shares.then_some(user))
    }
}

/// Returns whether a user belongs to a server and has joined a room.
fn is_joined_user_of(origin: &ServerName, room: &Room, user_id: &OwnedUserId) -> bool {
    user_id.server_name() == origin
        && room.view().state.membership(user_id) == MembershipState::Join
}

fn parse<T: DeserializeOwned>(content: &RawValue) -> Option<T> {
    serde_json::from_str(content.get()).ok()
}
