//! The room in which each user gets server notices.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#server-notices).

use ruma::{OwnedUserId, RoomId, UserId, events::tag::TagInfo};

use super::{Users, account_data};
use crate::{
    error::Result,
    storage::{RoomNum, UserNum, rooms::room_table, users::server_notices},
};

/// The tag by which clients recognize the room.
const NOTICE_TAG: &str = "m.server_notice";

impl Users {
    /// Returns the number of a user of this server.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::NotFound`] when there is no such account.
    pub async fn user_num(&self, user_id: &UserId) -> Result<UserNum> {
        self.active_user_num(user_id).await
    }

    /// Returns the user who sends server notices, if the configuration names one.
    pub fn notices_sender(&self) -> Option<&OwnedUserId> {
        self.inner.notices_sender.as_ref()
    }

    /// Returns the room in which a user gets server notices.
    pub async fn notice_room(&self, user: UserNum) -> Result<Option<RoomNum>> {
        let mut db = self.inner.db.read().await?;
        server_notices::room_of(&mut db, user).await
    }

    /// Returns whether a room is for server notices.
    pub async fn is_notice_room(&self, room: RoomNum) -> Result<bool> {
        if self.inner.notices_sender.is_none() {
            return Ok(false);
        }
        let mut db = self.inner.db.read().await?;
        server_notices::is_notice_room(&mut db, room).await
    }

    /// Stores the room in which a user gets server notices, and tags it for their clients.
    pub async fn set_notice_room(&self, user: UserNum, room_id: &RoomId) -> Result<()> {
        let mut tx = self.inner.db.write().await?;
        if let Some(room) = room_table::find_number(&mut tx, room_id.as_str()).await? {
            server_notices::set_room(&mut tx, user, room).await?;
            account_data::add_tag(&mut tx, user, room, (NOTICE_TAG, TagInfo::new())).await?;
        }
        tx.commit().await
    }
}
