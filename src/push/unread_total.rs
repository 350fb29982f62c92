//! The number of unread events of a user in all rooms, which phones show on the icon of a client.

use std::sync::Arc;

use super::PushSender;
use crate::{
    error::{Error, Result},
    matrix::NotificationCounters,
    numbers::{RoomNum, UserNum},
    rooms::UserRooms,
};

impl PushSender {
    /// Returns the number of unread events that notify a user, in all rooms.
    pub(super) async fn unread_total(&self, user: UserNum) -> Result<u64> {
        let memory = &self.rooms.memory;
        let rooms = memory.rooms_of_user(user).await?;
        let last_positions = memory.last_positions(&rooms.joined_rooms()).await?;
        let mut total: u64 = 0;
        for (num, last) in last_positions {
            // Rooms whose newest event was read need not be loaded.
            let has_news = rooms
                .get(num)
                .is_some_and(|room| room.marker.timeline < last);
            if has_news {
                total = total.saturating_add(self.unread_in_room(&rooms, num).await?);
            }
        }
        Ok(total)
    }

    async fn unread_in_room(&self, rooms: &Arc<UserRooms>, num: RoomNum) -> Result<u64> {
        let room = match self.rooms.memory.room_by_number(num).await {
            Ok(room) => room,
            // It was deleted meanwhile.
            Err(Error::NotFound(_)) => return Ok(0),
            Err(error) => return Err(error),
        };
        let view = room.view();
        let counters = NotificationCounters {
            notified: view.notified,
            mentioned: view.mentioned,
        };
        let unread = rooms.get(num).map(|room| room.unread_counts(counters));
        Ok(unread.map_or(0, |unread| unread.notification_count))
    }
}
