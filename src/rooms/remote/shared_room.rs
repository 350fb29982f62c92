//! Checks that another server takes part in a room that this server is in.

use std::sync::Arc;

use ruma::{RoomId, ServerName};

use super::FederationReader;
use crate::{
    error::{Error, Result},
    rooms::{Room, read::server_acl::check_server_allowed},
};

impl FederationReader {
    /// Returns a room of this server after checking that another server is in it, and that the
    /// room's ACL does not deny that server.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the other server is not in the room or is denied;
    /// [`Error::NotFound`] when this server is not in it.
    pub async fn shared_room(&self, origin: &ServerName, room_id: &RoomId) -> Result<Arc<Room>> {
        let room = self.room_open_to(origin, room_id).await?;
        if !room.view().servers.contains_key(origin) {
            return Err(Error::forbidden(format!("{origin} is not in the room")));
        }
        Ok(room)
    }

    /// Returns a room of this server whose ACL does not deny another server.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the ACL denies the other server; [`Error::NotFound`] when this
    /// server is not in the room.
    pub async fn room_open_to(&self, origin: &ServerName, room_id: &RoomId) -> Result<Arc<Room>> {
        let room = self.memory.resident_room(room_id).await?;
        check_server_allowed(&room.view().state, origin)?;
        Ok(room)
    }
}
