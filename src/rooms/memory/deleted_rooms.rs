//! Rooms that are being deleted. A request for such a room by its id finds no room.

use std::collections::HashMap;

use tokio::sync::watch;

use crate::{
    error::Result,
    numbers::RoomNum,
    storage::{Db, rooms::room_deletion},
};

/// The rooms that are being deleted, or were deleted since the server started.
pub(crate) struct DeletedRooms {
    /// For each room, whether its deletion is complete.
    rooms: watch::Sender<HashMap<RoomNum, bool>>,
}

impl DeletedRooms {
    pub(crate) async fn load(db: &Db) -> Result<Self> {
        let mut conn = db.read().await?;
        let unfinished = room_deletion::unfinished_deletions(&mut conn).await?;
        let rooms = unfinished.into_iter().map(|deletion| (deletion.num, false));
        Ok(Self {
            rooms: watch::Sender::new(rooms.collect()),
        })
    }

    /// Returns whether a room is being deleted, or is gone.
    pub(crate) fn contains(&self, room: RoomNum) -> bool {
        self.rooms.borrow().contains_key(&room)
    }

    /// Returns a receiver that sees each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<HashMap<RoomNum, bool>> {
        self.rooms.subscribe()
    }

    pub(crate) fn forget(&self, room: RoomNum) {
        self.rooms.send_modify(|rooms| {
            rooms.remove(&room);
        });
    }

    /// Records that a room is being deleted, or that its deletion is complete.
    pub(crate) fn record(&self, room: RoomNum, is_done: bool) {
        self.rooms.send_modify(|rooms| {
            rooms.insert(room, is_done);
        });
    }
}
