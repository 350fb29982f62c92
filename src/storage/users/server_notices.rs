//! The rooms in which users receive server notices.

use crate::{
    error::Result,
    numbers::{RoomNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// Returns the room in which a user receives server notices.
pub async fn room_of(db: &mut impl ReadAccess, user: UserNum) -> Result<Option<RoomNum>> {
    db.query("SELECT room FROM server_notice_rooms WHERE user_num = $1")
        .bind(user)
        .fetch_scalar()
        .await
}

/// Returns whether a room is for server notices.
pub async fn is_notice_room(db: &mut impl ReadAccess, room: RoomNum) -> Result<bool> {
    let found: Option<i64> = db
        .query("SELECT user_num FROM server_notice_rooms WHERE room = $1")
        .bind(room)
        .fetch_scalar()
        .await?;
    Ok(found.is_some())
}

/// Stores the room in which a user receives server notices.
pub async fn set_room(tx: &mut WriteTx, user: UserNum, room: RoomNum) -> Result<()> {
    tx.query(
        "INSERT INTO server_notice_rooms (user_num, room) VALUES ($1, $2)
         ON CONFLICT (user_num) DO UPDATE SET room = excluded.room",
    )
    .bind(user)
    .bind(room)
    .execute()
    .await?;
    Ok(())
}
