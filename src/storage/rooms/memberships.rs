//! The memberships of users in rooms.

use sqlx::AssertSqlSafe;

use crate::{
    error::Result,
    numbers::{Position, PositionRange, RoomNum, UserNum},
    storage::{ReadAccess, WriteTx, interned_strings::NumberedUser, number_list, values_clause},
};

/// The number of memberships that one statement stores.
const MEMBERS_PER_STATEMENT: usize = 100;

/// A user's membership of a room.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct MembershipRow {
    pub room: RoomNum,
    /// `join`, `invite`, `leave`, `ban` or `knock`.
    pub membership: String,
    /// The journal position of the change.
    pub position: Position,
    /// The stripped state of an invite or knock, as a JSON list.
    pub stripped_state: Option<String>,
    /// Whether the user forgot the room.
    pub forgotten: bool,
}

/// A user's membership of a room to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewMembership<'a> {
    pub user: UserNum,
    pub room: RoomNum,
    pub membership: &'a str,
    /// The journal position of the change.
    pub position: Position,
    /// The position of the member event, if it is stored.
    pub event: Option<Position>,
    /// The stripped state of an invite or knock, as a JSON list.
    pub stripped_state: Option<&'a str>,
}

/// One of many memberships of a room that are stored together.
#[derive(Clone, Debug)]
pub struct MembershipOfMany {
    pub user: UserNum,
    pub membership: String,
    /// The position of the member event.
    pub event: Position,
}

/// A stored member event.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct MemberEventRow {
    pub event_id: String,
    /// The canonical JSON.
    pub json: String,
}

/// Stores a user's membership of a room.
pub async fn set(tx: &mut WriteTx, new: NewMembership<'_>) -> Result<()> {
    tx.query(
        "INSERT INTO memberships (user_num, room, membership, position, event, stripped_state, forgotten)
         VALUES ($1, $2, $3, $4, $5, $6, FALSE)
         ON CONFLICT (user_num, room) DO UPDATE
         SET membership = excluded.membership, position = excluded.position, event = excluded.event,
             stripped_state = excluded.stripped_state, forgotten = FALSE",
    )
    .bind(new.user)
    .bind(new.room)
    .bind(new.membership)
    .bind(new.position)
    .bind(new.event)
    .bind(new.stripped_state)
    .execute()
    .await?;
    Ok(())
}

/// Returns some of the users who share a room with users of this server, after a user number.
pub async fn users_sharing_local_rooms(
    db: &mut impl ReadAccess,
    after: UserNum,
    limit: i64,
) -> Result<Vec<NumberedUser>> {
    db.query(
        "SELECT DISTINCT m.user_num, s.text AS user_id
         FROM memberships m
         JOIN strings s ON s.num = m.user_num
         WHERE m.membership = 'join' AND m.user_num > $1
           AND m.room IN (SELECT ours.room
                          FROM memberships ours
                          JOIN accounts a ON a.user_num = ours.user_num
                          WHERE ours.membership = 'join')
         ORDER BY m.user_num LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all()
    .await
}

/// Stores the memberships of many users of a room without announcing them.
pub async fn set_all(
    tx: &mut WriteTx,
    room: RoomNum,
    position: Position,
    members: &[MembershipOfMany],
) -> Result<()> {
    for chunk in members.chunks(MEMBERS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO memberships (user_num, room, membership, position, event, forgotten) {}
             ON CONFLICT (user_num, room) DO UPDATE
             SET membership = excluded.membership, position = excluded.position, event = excluded.event,
                 stripped_state = NULL, forgotten = FALSE",
            values_clause(chunk.len(), 6)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for member in chunk {
            query = query
                .bind(member.user)
                .bind(room)
                .bind(member.membership.as_str())
                .bind(position)
                .bind(member.event)
                .bind(false);
        }
        query.execute().await?;
    }
    Ok(())
}

/// Returns the member event of a user's membership.
pub async fn member_event(
    db: &mut impl ReadAccess,
    user: UserNum,
    room: RoomNum,
) -> Result<Option<MemberEventRow>> {
    db.query(
        "SELECT e.event_id, e.json FROM memberships m JOIN events e ON e.position = m.event
         WHERE m.user_num = $1 AND m.room = $2",
    )
    .bind(user)
    .bind(room)
    .fetch_optional()
    .await
}

/// An invitation of a local user to a room that this server is not in.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RemoteInvitationRow {
    pub user_num: UserNum,
    pub room: RoomNum,
    /// The journal position.
    pub position: Position,
    /// The stripped state of the room, as a JSON list.
    pub stripped_state: String,
    pub event_id: String,
    /// The canonical JSON of the member event.
    pub json: String,
}

/// Returns the invitations to rooms that this server is not in, that arrived in a range of positions and are still
/// open.
pub async fn remote_invitations_between(
    db: &mut impl ReadAccess,
    range: PositionRange,
) -> Result<Vec<RemoteInvitationRow>> {
    db.query(
        "SELECT m.user_num, m.room, m.position, m.stripped_state, e.event_id, e.json
         FROM memberships m
         JOIN events e ON e.position = m.event
         WHERE m.stripped_state IS NOT NULL AND m.position > $1 AND m.position <= $2
           AND m.membership = 'invite' AND e.timeline IS NULL
         ORDER BY m.position",
    )
    .bind(range.after)
    .bind(range.up_to)
    .fetch_all()
    .await
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
pub async fn of_user(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<MembershipRow>> {
    db.query(
        "SELECT room, membership, position, stripped_state, forgotten FROM memberships
         WHERE user_num = $1",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Returns a user's rooms in which an event, a receipt, or the user's own membership is newer than a position.
pub async fn rooms_changed_since(
    db: &mut impl ReadAccess,
    user: UserNum,
    after: Position,
) -> Result<Vec<RoomNum>> {
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

/// Returns the users among `others` who have joined a room that the given user has joined, too.
pub async fn users_sharing_rooms_with(
    db: &mut impl ReadAccess,
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
    .bind(number_list(others.iter().copied()))
    .fetch_scalars()
    .await
}
