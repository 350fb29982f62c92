//! The deletion of rooms: removing the members, and everything that is stored about the room.
//!
//! This file alone knows every table with data of a room. Data are deleted in batches, so that no write takes long;
//! each function returns the number of rows that it removed.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, StateChainNum, UserNum},
    storage::{ReadAccess, WriteTx, number_list},
};

/// The most rows that a batch removes from a table.
pub const MAX_ROWS_PER_BATCH: i64 = 200;

/// A room that is being deleted.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RoomDeletionRow {
    /// The number of the room.
    pub num: RoomNum,
    pub room_id: String,
    /// The user in whose name the members are removed.
    pub remover: String,
    /// The reason that is sent to the members.
    pub reason: String,
    /// The stage that the deletion has reached.
    pub stage: i64,
}

impl RoomDeletionRow {
    /// The members are being removed.
    pub const EMPTYING_STAGE: i64 = 0;
    /// The stored data are being removed.
    pub const PURGING_STAGE: i64 = 1;
    /// Nothing is left.
    pub const DONE_STAGE: i64 = 2;
}

/// A user's membership of a room, with the member event.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RoomMemberRow {
    /// The user's number.
    pub user_num: UserNum,
    pub user_id: String,
    /// `join`, `invite`, `leave`, `ban` or `knock`.
    pub membership: String,
    /// The position of the last change.
    pub position: Position,
    /// The id of the member event.
    pub event_id: Option<String>,
    /// The canonical JSON of the member event.
    pub json: Option<String>,
}

/// A deleted room, as it is reported to a former member.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RemovedRoomRow {
    /// The former number of the room.
    pub room: RoomNum,
    pub room_id: String,
    /// The position at which the user left.
    pub position: Position,
    /// The member event in the client format.
    pub event: Option<String>,
}

/// Marks a room for deletion. Returns whether it was not marked before.
pub async fn begin(tx: &mut WriteTx, deletion: &RoomDeletionRow) -> Result<bool> {
    let begun = tx
        .query(
            "INSERT INTO deleted_rooms (num, room_id, remover, reason, stage)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (num) DO NOTHING",
        )
        .bind(deletion.num)
        .bind(&deletion.room_id)
        .bind(&deletion.remover)
        .bind(&deletion.reason)
        .bind(deletion.stage)
        .execute()
        .await?;
    Ok(begun == 1)
}

/// Returns the unfinished deletions.
pub async fn unfinished_deletions(db: &mut impl ReadAccess) -> Result<Vec<RoomDeletionRow>> {
    db.query(
        "SELECT num, room_id, remover, reason, stage FROM deleted_rooms WHERE stage < 2 ORDER BY num",
    )
    .fetch_all()
    .await
}

/// Stores the stage of a deletion.
pub async fn set_stage(tx: &mut WriteTx, room: RoomNum, stage: i64) -> Result<()> {
    tx.query("UPDATE deleted_rooms SET stage = $2 WHERE num = $1")
        .bind(room)
        .bind(stage)
        .execute()
        .await?;
    Ok(())
}

/// Returns users with any membership of a room.
pub async fn members(
    db: &mut impl ReadAccess,
    room: RoomNum,
    limit: i64,
) -> Result<Vec<RoomMemberRow>> {
    db.query(
        "SELECT m.user_num, s.text AS user_id, m.membership, m.position, e.event_id, e.json
         FROM memberships m
         JOIN strings s ON s.num = m.user_num
         LEFT JOIN events e ON e.position = m.event
         WHERE m.room = $1
         ORDER BY m.membership, m.user_num LIMIT $2",
    )
    .bind(room)
    .bind(limit)
    .fetch_all()
    .await
}

/// Stores the update about a deleted room that a user is sent.
pub async fn insert_removal(
    tx: &mut WriteTx,
    user: UserNum,
    room: RoomNum,
    position: Position,
    event: Option<&str>,
) -> Result<()> {
    tx.query(
        "INSERT INTO removed_members (user_num, room, position, event) VALUES ($1, $2, $3, $4)
         ON CONFLICT (user_num, room) DO NOTHING",
    )
    .bind(user)
    .bind(room)
    .bind(position)
    .bind(event)
    .execute()
    .await?;
    Ok(())
}

/// Removes the memberships of users in a room.
pub async fn remove_memberships(tx: &mut WriteTx, room: RoomNum, users: &[UserNum]) -> Result<()> {
    tx.query(
        "DELETE FROM memberships
         WHERE room = $1 AND user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($2))",
    )
    .bind(room)
    .bind(number_list(users.iter().copied()))
    .execute()
    .await?;
    Ok(())
}

/// Removes the row of the room: after this the room no longer exists.
pub async fn remove_room(tx: &mut WriteTx, room: RoomNum) -> Result<()> {
    tx.query("DELETE FROM rooms WHERE num = $1")
        .bind(room)
        .execute()
        .await?;
    Ok(())
}

/// Returns the deleted rooms that a user was in.
pub async fn removed_rooms(db: &mut impl ReadAccess, user: UserNum) -> Result<Vec<RemovedRoomRow>> {
    db.query(
        "SELECT m.room, d.room_id, m.position, m.event
         FROM removed_members m JOIN deleted_rooms d ON d.num = m.room
         WHERE m.user_num = $1",
    )
    .bind(user)
    .fetch_all()
    .await
}

/// Returns the deleted rooms that a user left after a position.
pub async fn rooms_removed_since(
    db: &mut impl ReadAccess,
    user: UserNum,
    after: Position,
) -> Result<Vec<RoomNum>> {
    db.query("SELECT room FROM removed_members WHERE user_num = $1 AND position > $2")
        .bind(user)
        .bind(after)
        .fetch_scalars()
        .await
}

/// Returns the users with data of their own about a room. It scans whole tables, so it must not run inside a write.
pub async fn users_with_data(db: &mut impl ReadAccess, room: RoomNum) -> Result<Vec<UserNum>> {
    db.query(
        "SELECT user_num FROM account_data WHERE room = $1
         UNION SELECT user_num FROM read_markers WHERE room = $1
         UNION SELECT user_num FROM thread_markers WHERE room = $1
         UNION SELECT user_num FROM unread_exceptions WHERE room = $1
         UNION SELECT user_num FROM personal_notifications WHERE room = $1
         UNION SELECT user_num FROM thread_subscriptions WHERE room = $1
         UNION SELECT user_num FROM delayed_events WHERE room = $1",
    )
    .bind(room)
    .fetch_scalars()
    .await
}

/// Removes the data of these users about a room.
pub async fn purge_user_data(tx: &mut WriteTx, room: RoomNum, users: &[UserNum]) -> Result<u64> {
    let users = number_list(users.iter().copied());
    let mut removed = 0;
    for sql in [
        "DELETE FROM account_data WHERE (user_num, room, kind) IN (
             SELECT user_num, room, kind FROM account_data
             WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($2)) AND room = $1 LIMIT $3)",
        "DELETE FROM read_markers WHERE (user_num, room) IN (
             SELECT user_num, room FROM read_markers
             WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($2)) AND room = $1 LIMIT $3)",
        "DELETE FROM thread_markers WHERE (user_num, room, thread) IN (
             SELECT user_num, room, thread FROM thread_markers
             WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($2)) AND room = $1 LIMIT $3)",
        "DELETE FROM unread_exceptions WHERE (user_num, room, timeline) IN (
             SELECT user_num, room, timeline FROM unread_exceptions
             WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($2)) AND room = $1 LIMIT $3)",
        "DELETE FROM personal_notifications WHERE (user_num, timeline, room) IN (
             SELECT user_num, timeline, room FROM personal_notifications
             WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($2)) AND room = $1 LIMIT $3)",
        "DELETE FROM thread_subscriptions WHERE (user_num, room, root) IN (
             SELECT user_num, room, root FROM thread_subscriptions
             WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($2)) AND room = $1 LIMIT $3)",
        "DELETE FROM delayed_events WHERE num IN (
             SELECT num FROM delayed_events
             WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($2)) AND room = $1 LIMIT $3)",
    ] {
        let piece = tx.query(sql).bind(room).bind(&*users).bind(MAX_ROWS_PER_BATCH);
        removed += piece.execute().await?;
    }
    Ok(removed)
}

/// Removes the data of a room that the members share.
pub async fn purge_shared_data(tx: &mut WriteTx, room: RoomNum) -> Result<u64> {
    let mut removed = 0;
    for sql in [
        "DELETE FROM receipts WHERE (room, user_num, kind, thread) IN (
             SELECT room, user_num, kind, thread FROM receipts WHERE room = $1 LIMIT $2)",
        "DELETE FROM threads WHERE (room, root) IN (
             SELECT room, root FROM threads WHERE room = $1 LIMIT $2)",
        "DELETE FROM aliases WHERE alias IN (SELECT alias FROM aliases WHERE room = $1 LIMIT $2)",
        "DELETE FROM application_service_rooms WHERE (service, network, room) IN (
             SELECT service, network, room FROM application_service_rooms WHERE room = $1 LIMIT $2)",
        "DELETE FROM memberships WHERE (user_num, room) IN (
             SELECT user_num, room FROM memberships WHERE room = $1 LIMIT $2)",
        "DELETE FROM expiring_invitations WHERE (room, user_num) IN (
             SELECT room, user_num FROM expiring_invitations WHERE room = $1 LIMIT $2)",
        "DELETE FROM invite_links WHERE num IN (
             SELECT num FROM invite_links WHERE room = $1 LIMIT $2)",
        "DELETE FROM server_notice_rooms WHERE user_num IN (
             SELECT user_num FROM server_notice_rooms WHERE room = $1 LIMIT $2)",
        "DELETE FROM related_redactions WHERE (room, target, sender) IN (
             SELECT room, target, sender FROM related_redactions WHERE room = $1 LIMIT $2)",
        "DELETE FROM gaps WHERE (room, event_id) IN (
             SELECT room, event_id FROM gaps WHERE room = $1 LIMIT $2)",
        "DELETE FROM waiting_redactions WHERE (room, target, event_id) IN (
             SELECT room, target, event_id FROM waiting_redactions WHERE room = $1 LIMIT $2)",
        "DELETE FROM arrived_events WHERE position IN (
             SELECT position FROM arrived_events WHERE room = $1 LIMIT $2)",
        "DELETE FROM sticky_events WHERE event_id IN (
             SELECT event_id FROM sticky_events WHERE room = $1 LIMIT $2)",
        "DELETE FROM unsent_rooms WHERE (server, room) IN (
             SELECT server, room FROM unsent_rooms WHERE room = $1 LIMIT $2)",
    ] {
        removed += tx
            .query(sql)
            .bind(room)
            .bind(MAX_ROWS_PER_BATCH)
            .execute()
            .await?;
    }
    Ok(removed)
}

/// Returns the state chains of a room in the order in which they must be deleted: the parents before the chains that
/// branch from them, because a parent may be found only through these chains.
pub async fn state_chains(db: &mut impl ReadAccess, room: RoomNum) -> Result<Vec<StateChainNum>> {
    db.query(
        "WITH RECURSIVE named (id) AS (
             SELECT s.chain FROM events e JOIN state_snapshots s ON s.id = e.state WHERE e.room = $1
             UNION
             SELECT s.chain FROM events e JOIN state_snapshots s ON s.id = e.state_after WHERE e.room = $1
             UNION
             SELECT s.chain FROM events e JOIN state_snapshots s ON s.id = e.position WHERE e.room = $1
         ), found (id) AS (
             SELECT id FROM named
             UNION
             SELECT s.chain FROM found f
             JOIN state_chains c ON c.id = f.id
             JOIN state_snapshots s ON s.id = c.parent
         )
         SELECT c.id FROM found f JOIN state_chains c ON c.id = f.id ORDER BY c.depth, c.id",
    )
    .bind(room)
    .fetch_scalars()
    .await
}

/// Removes entries of a state chain, then its snapshots, and finally the chain itself.
pub async fn purge_chain(tx: &mut WriteTx, chain: StateChainNum) -> Result<u64> {
    for sql in [
        "DELETE FROM state_entries WHERE (chain, kind, state_key, snapshot) IN (
             SELECT chain, kind, state_key, snapshot FROM state_entries WHERE chain = $1 LIMIT $2)",
        "DELETE FROM state_snapshots WHERE id IN (
             SELECT id FROM state_snapshots WHERE chain = $1 LIMIT $2)",
        "DELETE FROM state_chains WHERE id IN (
             SELECT id FROM state_chains WHERE id = $1 LIMIT $2)",
    ] {
        let removed = tx
            .query(sql)
            .bind(chain)
            .bind(MAX_ROWS_PER_BATCH)
            .execute()
            .await?;
        if removed > 0 {
            return Ok(removed);
        }
    }
    Ok(0)
}

/// Removes events, and everything that is stored by their positions.
pub async fn purge_events(tx: &mut WriteTx, room: RoomNum) -> Result<u64> {
    let positions: Vec<Position> = tx
        .query("SELECT position FROM events WHERE room = $1 LIMIT $2")
        .bind(room)
        .bind(MAX_ROWS_PER_BATCH)
        .fetch_scalars()
        .await?;
    if positions.is_empty() {
        return Ok(0);
    }
    let removed = positions.len();
    let positions = number_list(positions);
    for sql in [
        "DELETE FROM text_index WHERE rowid IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
        "DELETE FROM relations WHERE child IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
        "DELETE FROM events WHERE position IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    ] {
        tx.query(sql).bind(&*positions).execute().await?;
    }
    Ok(u64::try_from(removed).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn a_deletion_begins_once_and_is_listed_until_done() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let deletion = RoomDeletionRow {
            num: RoomNum::new(7),
            room_id: "!r:here".to_owned(),
            remover: "@a:here".to_owned(),
            reason: "x".to_owned(),
            stage: RoomDeletionRow::EMPTYING_STAGE,
        };

        assert!(begin(&mut tx, &deletion).await.unwrap());
        assert!(!begin(&mut tx, &deletion).await.unwrap());
        assert_eq!(unfinished_deletions(&mut tx).await.unwrap(), [deletion]);
        insert_removal(
            &mut tx,
            UserNum::new(1),
            RoomNum::new(7),
            Position::new(5),
            Some("{}"),
        )
        .await
        .unwrap();
        insert_removal(
            &mut tx,
            UserNum::new(1),
            RoomNum::new(7),
            Position::new(6),
            None,
        )
        .await
        .unwrap();
        set_stage(&mut tx, RoomNum::new(7), RoomDeletionRow::DONE_STAGE)
            .await
            .unwrap();

        assert!(unfinished_deletions(&mut tx).await.unwrap().is_empty());
        let removed = removed_rooms(&mut tx, UserNum::new(1)).await.unwrap();
        assert_eq!(removed.len(), 1);
        assert_eq!(removed[0].position, Position::new(5));
        assert_eq!(removed[0].room_id, "!r:here");
        assert_eq!(
            rooms_removed_since(&mut tx, UserNum::new(1), Position::new(4))
                .await
                .unwrap(),
            [RoomNum::new(7)]
        );
        assert!(
            rooms_removed_since(&mut tx, UserNum::new(1), Position::new(5))
                .await
                .unwrap()
                .is_empty()
        );
    }
}
