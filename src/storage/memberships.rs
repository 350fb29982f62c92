//! Who is what in which room.

use super::{Read, RoomNum, UserNum, WriteTx, list_of_numbers};
use crate::error::Result;

/// A user's membership of a room.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct MembershipRow {
    /// The room.
    pub room: RoomNum,
    /// `join`, `invite`, `leave`, `ban` or `knock`.
    pub membership: String,
    /// The journal position of the change.
    pub position: i64,
    /// JSON list of stripped state, for an invitation or a knock.
    pub stripped_state: Option<String>,
    /// Whether the user asked to forget the room.
    pub forgotten: bool,
}

/// Stores a membership.
pub async fn set(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    membership: &str,
    position: i64,
    stripped_state: Option<&str>,
) -> Result<()> {
    tx.query(
        "INSERT INTO memberships (user_num, room, membership, position, event, stripped_state, forgotten)
         VALUES ($1, $2, $3, $4, $4, $5, FALSE)
         ON CONFLICT (user_num, room) DO UPDATE
         SET membership = excluded.membership, position = excluded.position, event = excluded.event,
             stripped_state = excluded.stripped_state, forgotten = FALSE",
    )
    .bind(user)
    .bind(room)
    .bind(membership)
    .bind(position)
    .bind(stripped_state)
    .execute()
    .await?;
    Ok(())
}

/// Marks a room as forgotten by a user who is not in it.
pub async fn forget(tx: &mut WriteTx, user: UserNum, room: RoomNum) -> Result<()> {
    tx.query("UPDATE memberships SET forgotten = TRUE WHERE user_num = $1 AND room = $2")
        .bind(user)
        .bind(room)
        .execute()
        .await?;
    Ok(())
}

/// Returns all memberships of a user.
pub async fn of_user(db: &mut impl Read, user: UserNum) -> Result<Vec<MembershipRow>> {
    db.query(
        "SELECT room, membership, position, stripped_state, forgotten FROM memberships
         WHERE user_num = $1",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Returns the rooms of a user in which an event, a receipt, or the user's own membership is newer than a position.
pub async fn changed_since(db: &mut impl Read, user: UserNum, after: i64) -> Result<Vec<RoomNum>> {
    db.query(
        "SELECT m.room FROM memberships m JOIN rooms r ON r.num = m.room
         WHERE m.user_num = $1
           AND (m.position > $2
                OR (m.membership = 'join' AND (r.last_position > $2 OR EXISTS (
                    SELECT 1 FROM receipts t WHERE t.room = m.room AND t.position > $2))))",
    )
    .bind(user)
    .bind(after)
    .fetch_scalars()
    .await
}

/// Returns those of some users who have joined a room that a user has joined, too.
pub async fn sharing(
    db: &mut impl Read,
    user: UserNum,
    others: &[UserNum],
) -> Result<Vec<UserNum>> {
    db.query(
        "SELECT DISTINCT theirs.user_num
         FROM memberships theirs
         JOIN memberships mine ON mine.room = theirs.room AND mine.user_num = $1
         WHERE theirs.user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($2))
           AND theirs.membership = 'join' AND mine.membership = 'join'",
    )
    .bind(user)
    .bind(list_of_numbers(others.iter().copied()))
    .fetch_scalars()
    .await
}
