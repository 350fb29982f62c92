//! The room in which each user gets server notices.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#server-notices).

use ruma::{OwnedUserId, RoomId, events::tag::TagInfo};

use super::{UserEnvironment, room_tags};
use crate::{
    error::Result,
    numbers::{RoomNum, UserNum},
    storage::{Db, rooms::room_table, users::server_notices},
};

/// The tag by which clients recognize the room.
const NOTICE_TAG: &str = "m.server_notice";

/// The rooms in which users get server notices.
#[derive(Clone)]
pub struct NoticeRooms {
    db: Db,
    sender: Option<OwnedUserId>,
}

impl NoticeRooms {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            sender: environment.notices_sender.clone(),
        }
    }

    /// Returns the user who sends server notices, if the configuration names one.
    pub fn sender(&self) -> Option<&OwnedUserId> {
        self.sender.as_ref()
    }

    /// Returns the room in which a user gets server notices.
    pub async fn room_of(&self, user: UserNum) -> Result<Option<RoomNum>> {
        let mut db = self.db.read().await?;
        server_notices::room_of(&mut db, user).await
    }

    /// Returns whether a room is for server notices.
    pub async fn is_notice_room(&self, room: RoomNum) -> Result<bool> {
        if self.sender.is_none() {
            return Ok(false);
        }
        let mut db = self.db.read().await?;
        server_notices::is_notice_room(&mut db, room).await
    }

    /// Stores the room in which a user gets server notices, and tags it for their clients.
    pub async fn set_room(&self, user: UserNum, room_id: &RoomId) -> Result<()> {
        let mut tx = self.db.write().await?;
        if let Some(room) = room_table::find_number(&mut tx, room_id.as_str()).await? {
            server_notices::set_room(&mut tx, user, room).await?;
            room_tags::add_tag(&mut tx, user, room, NOTICE_TAG, TagInfo::new()).await?;
        }
        tx.commit().await
    }
}
