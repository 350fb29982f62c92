//! When the keys of users last changed, for those who track them.

use super::{Change, Position, Read, UserNum, WriteTx};
use crate::error::Result;

/// The watcher of a change of which everyone is told.
const EVERYONE: UserNum = 0;

/// Notes and tells that a user's keys changed: for everyone who shares a room with the user, or one watcher alone.
pub async fn note_change(
    tx: &mut WriteTx,
    user: UserNum,
    watcher: Option<UserNum>,
) -> Result<Position> {
    let position = tx.position();
    tx.query(
        "INSERT INTO device_list_changes (user_num, watcher, position)
         VALUES ($1, $2, $3)
         ON CONFLICT (user_num, watcher) DO UPDATE
         SET position = excluded.position",
    )
    .bind(user)
    .bind(watcher.unwrap_or(EVERYONE))
    .bind(position)
    .execute()
    .await?;
    tx.publish(position, Change::DeviceList { user, watcher });
    Ok(position)
}

/// Returns when the keys of a user last changed for everyone who may see them.
pub async fn last_change(db: &mut impl Read, user: UserNum) -> Result<Option<Position>> {
    db.query("SELECT position FROM device_list_changes WHERE user_num = $1 AND watcher = 0")
        .bind(user)
        .fetch_scalar()
        .await
}

/// Returns the users whose keys changed after a position and of whom a user is told: the user, those who share a
/// room with the user, and those whose keys the user signed.
pub async fn changed(db: &mut impl Read, user: UserNum, after: Position) -> Result<Vec<UserNum>> {
    let mut changed: Vec<UserNum> = db
        .query(
            "SELECT c.user_num
             FROM device_list_changes c
             WHERE c.watcher = 0 AND c.position > $2
               AND (c.user_num = $1 OR EXISTS (
                   SELECT 1
                   FROM memberships m
                   JOIN memberships mine ON mine.room = m.room
                   WHERE m.user_num = c.user_num AND m.membership = 'join'
                     AND mine.user_num = $1 AND mine.membership = 'join'))",
        )
        .bind(user)
        .bind(after)
        .fetch_scalars()
        .await?;
    let signed: Vec<UserNum> = db
        .query(
            "SELECT user_num
             FROM device_list_changes
             WHERE watcher = $1 AND position > $2",
        )
        .bind(user)
        .bind(after)
        .fetch_scalars()
        .await?;
    changed.extend(signed);
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{memberships, testing::TestDb};

    #[tokio::test]
    async fn those_are_told_who_share_a_room_or_signed() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for (user, membership) in [(1, "join"), (2, "join"), (3, "leave")] {
            memberships::set(&mut tx, (user, 7), membership, (1, None), None)
                .await
                .unwrap();
        }
        let first = note_change(&mut tx, 1, None).await.unwrap();
        let second = note_change(&mut tx, 2, None).await.unwrap();
        note_change(&mut tx, 3, Some(1)).await.unwrap();

        assert_eq!(changed(&mut tx, 1, 0).await.unwrap(), [1, 2, 3]);
        assert_eq!(changed(&mut tx, 2, 0).await.unwrap(), [1, 2]);
        assert_eq!(changed(&mut tx, 2, first).await.unwrap(), [2]);
        assert!(changed(&mut tx, 2, second).await.unwrap().is_empty());
        assert_eq!(last_change(&mut tx, 2).await.unwrap(), Some(second));
        assert_eq!(last_change(&mut tx, 3).await.unwrap(), None);
        assert!(changed(&mut tx, 3, 0).await.unwrap().is_empty());
    }
}
