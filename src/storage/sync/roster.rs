//! The rooms of a user as a list of rooms shows them.

use crate::{
    error::Result,
    storage::{Position, Read, RoomNum, UserNum, list_of_numbers},
};

/// A room that a user has something to do with.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RosterRow {
    /// The room.
    pub room: RoomNum,
    /// Its id.
    pub room_id: String,
    /// `type` of `m.room.create`.
    pub room_type: Option<String>,
    /// The position of its newest event.
    pub last_position: Position,
    /// Who sent the user's member event.
    pub sender: Option<UserNum>,
}

/// Returns the rooms of a user, whatever the user is to them.
pub async fn of_user(db: &mut impl Read, user: UserNum) -> Result<Vec<RosterRow>> {
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

/// Returns those of some rooms that have had a state event of a type and key.
pub async fn with_state(
    db: &mut impl Read,
    rooms: &[RoomNum],
    kind: i64,
    state_key: i64,
) -> Result<Vec<RoomNum>> {
    db.query(
        "SELECT DISTINCT room
         FROM events
         WHERE room IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
           AND kind = $2 AND state_key = $3 AND status = 0",
    )
    .bind(list_of_numbers(rooms.iter().copied()))
    .bind(kind)
    .bind(state_key)
    .fetch_scalars()
    .await
}
