//! The events that notified one user, by mentions or by rules of the user's own.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, UserNum},
    storage::{ReadAccess, WriteTx, values_clause},
};

/// The number of notifications that are kept of a user: more than anybody scrolls back through. Mentions are rare, but a
/// keyword can match very many events.
pub const MAX_NOTIFICATIONS_OF_USER: i64 = 2_000;
/// The average number of notifications of a user between deletions of the oldest ones.
const DELETION_INTERVAL: i64 = 256;
/// The number of rows that one statement stores.
const ROWS_PER_STATEMENT: usize = 32;

/// A user whom an event notifies.
#[derive(Clone, Copy, Debug)]
pub struct NotifiedUserRow {
    pub user: UserNum,
    pub highlight: bool,
}

/// An event that notified a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct PersonalNotificationRow {
    /// The place in the timeline of the room.
    pub timeline: Position,
    pub room: RoomNum,
}

/// Stores the users whom an event notifies. Sometimes, the oldest notifications of some of them are deleted.
pub async fn insert(
    tx: &mut WriteTx,
    room: RoomNum,
    timeline: Position,
    users: &[NotifiedUserRow],
) -> Result<()> {
    for chunk in users.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO personal_notifications (user_num, timeline, room, highlight) {}
             ON CONFLICT (user_num, timeline, room) DO NOTHING",
            values_clause(chunk.len(), 4)
        );
        let mut query = tx.query(sqlx::AssertSqlSafe(sql));
        for notified in chunk {
            query = query
                .bind(notified.user)
                .bind(timeline)
                .bind(room)
                .bind(notified.highlight);
        }
        query.execute().await?;
    }
    for notified in users {
        // The number of the user is added, so that not all users of a large room are cleaned up at the same time.
        let turn = timeline.as_i64().wrapping_add(notified.user.as_i64());
        if turn % DELETION_INTERVAL == 0 {
            delete_oldest(tx, notified.user, MAX_NOTIFICATIONS_OF_USER).await?;
        }
    }
    Ok(())
}

/// Deletes the notifications of a user except the newest ones.
async fn delete_oldest(tx: &mut WriteTx, user: UserNum, kept: i64) -> Result<()> {
    tx.query(
        "DELETE FROM personal_notifications
         WHERE user_num = $1 AND timeline <= (
             SELECT timeline FROM personal_notifications
             WHERE user_num = $1 ORDER BY timeline DESC LIMIT 1 OFFSET $2)",
    )
    .bind(user)
    .bind(kept)
    .execute()
    .await?;
    Ok(())
}

/// Deletes all notifications of a user.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM personal_notifications WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

/// Returns the notifications of a user up to a place, the newest first.
pub async fn up_to_place(
    db: &mut impl ReadAccess,
    user: UserNum,
    place: Position,
    limit: i64,
) -> Result<Vec<PersonalNotificationRow>> {
    db.query(
        "SELECT timeline, room FROM personal_notifications
         WHERE user_num = $1 AND timeline <= $2
         ORDER BY timeline DESC, room DESC LIMIT $3",
    )
    .bind(user)
    .bind(place)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the highlighted notifications of a user up to a place, the newest first.
pub async fn highlights_up_to_place(
    db: &mut impl ReadAccess,
    user: UserNum,
    place: Position,
    limit: i64,
) -> Result<Vec<PersonalNotificationRow>> {
    db.query(
        "SELECT timeline, room FROM personal_notifications
         WHERE user_num = $1 AND timeline <= $2 AND highlight
         ORDER BY timeline DESC, room DESC LIMIT $3",
    )
    .bind(user)
    .bind(place)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the position after which notifications are stored.
pub async fn start_position(db: &mut impl ReadAccess) -> Result<Position> {
    let position = db
        .query("SELECT position FROM personal_notification_start")
        .fetch_scalar()
        .await?;
    Ok(position.unwrap_or(Position::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    const ALICE: UserNum = UserNum::new(1);
    const BOB: UserNum = UserNum::new(2);
    const ROOM: RoomNum = RoomNum::new(7);

    async fn notify(tx: &mut WriteTx, place: i64, user: UserNum, highlight: bool) {
        let users = [NotifiedUserRow { user, highlight }];
        insert(tx, ROOM, Position::new(place), &users)
            .await
            .unwrap();
    }

    fn places(rows: &[PersonalNotificationRow]) -> Vec<i64> {
        rows.iter().map(|row| row.timeline.as_i64()).collect()
    }

    #[tokio::test]
    async fn the_newest_notifications_of_a_user_come_first() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for place in 1..=5 {
            notify(&mut tx, place, ALICE, place == 2).await;
        }
        notify(&mut tx, 4, BOB, true).await;
        notify(&mut tx, 4, BOB, true).await;

        let up_to = Position::new(4);
        let found = up_to_place(&mut tx, ALICE, up_to, 3).await.unwrap();
        assert_eq!(places(&found), [4, 3, 2]);
        let found = highlights_up_to_place(&mut tx, ALICE, up_to, 3)
            .await
            .unwrap();
        assert_eq!(places(&found), [2]);
        remove_all(&mut tx, ALICE).await.unwrap();
        let found = up_to_place(&mut tx, ALICE, Position::MAX, 3).await.unwrap();
        assert_eq!(found, []);
        let found = up_to_place(&mut tx, BOB, Position::MAX, 3).await.unwrap();
        assert_eq!(places(&found), [4]);
        assert_eq!(start_position(&mut tx).await.unwrap(), Position::ZERO);
    }

    #[tokio::test]
    async fn the_oldest_notifications_are_deleted_now_and_then() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        for place in 1..=10 {
            notify(&mut tx, place, ALICE, false).await;
        }
        delete_oldest(&mut tx, ALICE, 3).await.unwrap();
        delete_oldest(&mut tx, ALICE, 3).await.unwrap();
        delete_oldest(&mut tx, BOB, 3).await.unwrap();

        let found = up_to_place(&mut tx, ALICE, Position::MAX, 10)
            .await
            .unwrap();
        assert_eq!(places(&found), [10, 9, 8]);
    }

    #[tokio::test]
    async fn a_user_has_a_bounded_number_of_notifications() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let last = MAX_NOTIFICATIONS_OF_USER + 2 * DELETION_INTERVAL;

        for place in 1..=last {
            notify(&mut tx, place, ALICE, false).await;
        }

        let found = up_to_place(&mut tx, ALICE, Position::MAX, last)
            .await
            .unwrap();
        let count = i64::try_from(found.len()).unwrap();
        assert!(count >= MAX_NOTIFICATIONS_OF_USER);
        assert!(count < MAX_NOTIFICATIONS_OF_USER + DELETION_INTERVAL);
    }
}
