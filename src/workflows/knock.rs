//! Asking to be let into a room.

use ruma::{OwnedRoomId, RoomId, RoomOrAliasId};

use super::{Wish, Workflows};
use crate::{error::Result, rooms::Action, users::Session};

impl Workflows {
    /// Lets a user knock on a room, named by its id or an alias.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Forbidden`] with the rule that refuses it.
    pub async fn knock(
        &self,
        session: &Session,
        room: &RoomOrAliasId,
        reason: Option<String>,
    ) -> Result<OwnedRoomId> {
        let room_id = match <&RoomId>::try_from(room) {
            Ok(room_id) => room_id.to_owned(),
            Err(alias) => self.resolve_alias(alias).await?.0,
        };
        let wish = Wish::new(session.user_id.clone(), Action::Knock, reason);
        self.change_membership(session, &room_id, wish).await?;
        Ok(room_id)
    }
}
