//! The rooms and users about which a server may send EDUs.

use std::sync::Arc;

use ruma::{OwnedUserId, RoomId, ServerName, UserId, events::room::member::MembershipState};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{
    error::{Error, Result},
    numbers::UserNum,
    rooms::{Room, Rooms},
    workflows::WorkflowSources,
};

/// Checks what a server may send EDUs about. Cheap to clone.
#[derive(Clone)]
pub(super) struct EduOrigins {
    rooms: Rooms,
}

impl EduOrigins {
    pub(super) fn new(sources: &WorkflowSources) -> Self {
        Self {
            rooms: sources.rooms.clone(),
        }
    }

    /// Returns a room about which a server may send EDUs; `None` for any other.
    pub(super) async fn room_shared_with(
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
    pub(super) async fn user_sharing_a_room(
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
pub(super) fn is_joined_user_of(origin: &ServerName, room: &Room, user_id: &OwnedUserId) -> bool {
    user_id.server_name() == origin
        && room.view().state.membership(user_id) == MembershipState::Join
}

/// Parses the content of an EDU, or a part of it.
pub(super) fn parse<T: DeserializeOwned>(content: &RawValue) -> Option<T> {
    serde_json::from_str(content.get()).ok()
}
