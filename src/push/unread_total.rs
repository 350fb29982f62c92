//! The number of unread events of a user in all rooms, which phones show on the icon of a client, and the rooms.

use std::sync::Arc;

use super::PushSender;
use crate::{
    error::{Error, Result},
    matrix::NotificationCounters,
    numbers::{RoomNum, UserNum},
    rooms::{Room, UserRooms},
};

/// A room with unread events that notify a user.
pub(super) struct UnreadRoom {
    pub(super) room: Arc<Room>,
    pub(super) count: u64,
}

impl PushSender {
    /// Returns the number of unread events that notify a user, in all rooms.
    pub(super) async fn unread_total(&self, user: UserNum) -> Result<u64> {
        let rooms = self.unread_rooms(user).await?;
        let counts = rooms.iter().map(|room| room.count);
        Ok(counts.fold(0, u64::saturating_add))
    }

    /// Returns the rooms in which there are unread events that notify a user.
    pub(super) async fn unread_rooms(&self, user: UserNum) -> Result<Vec<UnreadRoom>> {
        let memory = &self.rooms.memory;
        let rooms = memory.rooms_of_user(user).await?;
        let last_positions = memory.last_positions(&rooms.joined_rooms()).await?;
        let mut unread = Vec::new();
        for (num, last) in last_positions {
            // Rooms whose newest event was read need not be loaded.
            let has_news = rooms
                .get(num)
                .is_some_and(|room| room.marker.timeline < last);
            if has_news {
                unread.extend(self.unread_in_room(&rooms, num).await?);
            }
        }
        Ok(unread)
    }

    /// Returns a room with the number of its unread events, if there are any.
    async fn unread_in_room(
        &self,
        rooms: &Arc<UserRooms>,
        num: RoomNum,
    ) -> Result<Option<UnreadRoom>> {
        let room = match self.rooms.memory.room_by_number(num).await {
            Ok(room) => room,
            // It was deleted meanwhile.
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let counters = {
            let view = room.view();
            NotificationCounters {
                notified: view.notified,
                mentioned: view.mentioned,
            }
        };
        let unread = rooms.get(num).map(|room| room.unread_counts(counters));
        let count = unread.map_or(0, |unread| unread.notification_count);
        Ok((count > 0).then_some(UnreadRoom { room, count }))
    }
}
