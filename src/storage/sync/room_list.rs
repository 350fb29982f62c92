//! The rooms of a user for a room list.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, StringNum, UserNum},
    storage::{ReadAccess, number_list},
};

/// A room in which a user has a membership.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RoomListRow {
    pub room: RoomNum,
    pub room_id: String,
    /// `type` of `m.room.create`.
    pub room_type: Option<String>,
    /// The position of the newest event.
    pub last_position: Position,
    /// The sender of the user's member event.
    pub sender: Option<UserNum>,
}

/// Returns the rooms of a user with any membership.
pub async fn rooms_of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<RoomListRow>> {
    db.query(
        "SELECT m.room, r.room_id, r.room_type, r.last_position, e.sender
         FROM memberships m
         JOIN rooms r ON r.num = m.room
         LEFT JOIN events e ON e.position = m.event
         WHERE m.user_num = $1",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Returns those of the rooms that have had a state event with this type and key.
pub async fn rooms_with_state(
    db: &mut impl ReadAccess,
    rooms: &[RoomNum],
    kind: StringNum,
    state_key: StringNum,
) -> Result<Vec<RoomNum>> {
    db.query(
        "SELECT DISTINCT room
         FROM events
         WHERE room IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
           AND kind = $2 AND state_key = $3 AND status = 0",
    )
    .bind(number_list(rooms.iter().copied()))
    .bind(kind)
    .bind(state_key)
    .fetch_scalars()
    .await
}
