//! The positions at which the keys of users last changed.

use crate::{
    error::Result,
    numbers::{Position, UserNum},
    storage::{JournalChange, ReadAccess, WriteTx},
};

/// The watcher of a change that concerns everyone who shares a room with the user.
const ALL_WATCHERS: UserNum = UserNum::new(0);
/// A placeholder for the device id in a change of a user's cross-signing keys.
pub const CROSS_SIGNING_DEVICE_ID: &str = "";

/// Stores and announces a change of a user's keys, for everyone who shares a room with the user or for one watcher.
pub async fn record_change(
    tx: &mut WriteTx,
    user: UserNum,
    watcher: Option<UserNum>,
) -> Result<Position> {
    let position = tx.next_position();
    tx.query(
        "INSERT INTO device_list_changes (user_num, watcher, position)
         VALUES ($1, $2, $3)
         ON CONFLICT (user_num, watcher) DO UPDATE
         SET position = excluded.position",
    )
    .bind(user)
    .bind(watcher.unwrap_or(ALL_WATCHERS))
    .bind(position)
    .execute()
    .await?;
    tx.publish(position, JournalChange::DeviceList { user, watcher });
    Ok(position)
}

/// Stores and announces changes of a user's devices, or with [`CROSS_SIGNING_DEVICE_ID`] of the user's
/// cross-signing keys. Each change has its own position.
pub async fn record_device_changes<S: AsRef<str>>(
    tx: &mut WriteTx,
    user: UserNum,
    device_ids: &[S],
) -> Result<()> {
    let Some((last, others)) = device_ids.split_last() else {
        return Ok(());
    };
    for device_id in others {
        let position = tx.next_position();
        record_device_change(tx, user, device_id.as_ref(), position).await?;
    }
    let position = record_change(tx, user, None).await?;
    record_device_change(tx, user, last.as_ref(), position).await
}

async fn record_device_change(
    tx: &mut WriteTx,
    user: UserNum,
    device_id: &str,
    position: Position,
) -> Result<()> {
    tx.query(
        "INSERT INTO device_changes (user_num, device_id, position)
         VALUES ($1, $2, $3)
         ON CONFLICT (user_num, device_id) DO UPDATE
         SET position = excluded.position",
    )
    .bind(user)
    .bind(device_id)
    .bind(position)
    .execute()
    .await?;
    Ok(())
}

/// Returns the position of the last change of a user's devices that other servers are sent.
pub async fn last_device_change(
    db: &mut impl ReadAccess,
    user: UserNum,
) -> Result<Option<Position>> {
    let last: Option<Option<Position>> = db
        .query("SELECT MAX(position) FROM device_changes WHERE user_num = $1 AND device_id <> ''")
        .bind(user)
        .fetch_scalar()
        .await?;
    Ok(last.flatten())
}

/// Returns the position of the last change of a user's devices or cross-signing keys that other servers are sent.
pub async fn last_device_or_key_change(
    db: &mut impl ReadAccess,
    user: UserNum,
) -> Result<Option<Position>> {
    let newest: Option<Option<Position>> = db
        .query("SELECT MAX(position) FROM device_changes WHERE user_num = $1")
        .bind(user)
        .fetch_scalar()
        .await?;
    Ok(newest.flatten())
}

/// A device whose keys or name changed.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ChangedDevice {
    pub device_id: String,
    /// The position of the change.
    pub position: Position,
}

/// Returns the devices of a user that changed after a position, the oldest change first.
pub async fn devices_changed_after(
    db: &mut impl ReadAccess,
    user: UserNum,
    after: Position,
    limit: i64,
) -> Result<Vec<ChangedDevice>> {
    db.query(
        "SELECT device_id, position FROM device_changes
         WHERE user_num = $1 AND position > $2
         ORDER BY position LIMIT $3",
    )
    .bind(user)
    .bind(after)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the users whose keys changed after a position, except for changes that concern one watcher only.
pub async fn users_changed_after(
    db: &mut impl ReadAccess,
    after: Position,
) -> Result<Vec<UserNum>> {
    db.query("SELECT user_num FROM device_list_changes WHERE watcher = 0 AND position > $1")
        .bind(after)
        .fetch_scalars()
        .await
}

/// Returns the users whose last key change is after one position, and not after another, and concerns a user. These are
/// the user, those who share a room with the user, and those whose keys the user signed.
pub async fn users_changed_between(
    db: &mut impl ReadAccess,
    user: UserNum,
    after: Position,
    until: Position,
) -> Result<Vec<UserNum>> {
    let mut changed: Vec<UserNum> = db
        .query(
            "SELECT c.user_num
             FROM device_list_changes c
             WHERE c.watcher = 0 AND c.position > $2 AND c.position <= $3
               AND (c.user_num = $1 OR EXISTS (
                   SELECT 1
                   FROM memberships m
                   JOIN memberships mine ON mine.room = m.room
                   WHERE m.user_num = c.user_num AND m.membership = 'join'
                     AND mine.user_num = $1 AND mine.membership = 'join'))",
        )
        .bind(user)
        .bind(after)
        .bind(until)
        .fetch_scalars()
        .await?;
    let signed: Vec<UserNum> = db
        .query(
            "SELECT user_num
             FROM device_list_changes
             WHERE watcher = $1 AND position > $2 AND position <= $3",
        )
        .bind(user)
        .bind(after)
        .bind(until)
        .fetch_scalars()
        .await?;
    changed.extend(signed);
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        numbers::RoomNum,
        storage::{rooms::memberships, testing::TestDb},
    };

    #[tokio::test]
    async fn changes_concern_users_who_share_a_room_or_signed() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for (user, membership) in [(1, "join"), (2, "join"), (3, "leave")] {
            let new = memberships::NewMembership {
                user: UserNum::new(user),
                room: RoomNum::new(7),
                membership,
                position: Position::new(1),
                event: None,
                stripped_state: None,
            };
            memberships::set(&mut tx, new).await.unwrap();
        }
        let first = record_change(&mut tx, UserNum::new(1), None).await.unwrap();
        let second = record_change(&mut tx, UserNum::new(2), None).await.unwrap();
        let third = record_change(&mut tx, UserNum::new(3), Some(UserNum::new(1)))
            .await
            .unwrap();

        for (user, after, up_to, expected) in [
            (1, Position::ZERO, third, &[1, 2, 3][..]),
            (1, Position::ZERO, second, &[1, 2]),
            (1, Position::ZERO, first, &[1]),
            (2, Position::ZERO, third, &[1, 2]),
            (2, first, third, &[2]),
            (2, second, third, &[]),
            (3, Position::ZERO, third, &[]),
        ] {
            let changed = users_changed_between(&mut tx, UserNum::new(user), after, up_to).await;
            let changed: Vec<i64> = changed.unwrap().into_iter().map(UserNum::as_i64).collect();
            assert_eq!(changed, expected);
        }
        assert_eq!(
            users_changed_after(&mut tx, first).await.unwrap(),
            [UserNum::new(2)]
        );
    }

    #[tokio::test]
    async fn each_device_change_has_its_own_position() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        record_device_changes(&mut tx, UserNum::new(1), &["A", "B"])
            .await
            .unwrap();
        record_device_changes(&mut tx, UserNum::new(1), &[CROSS_SIGNING_DEVICE_ID])
            .await
            .unwrap();

        let all = devices_changed_after(&mut tx, UserNum::new(1), Position::ZERO, 9)
            .await
            .unwrap();
        let ids: Vec<&str> = all.iter().map(|changed| &*changed.device_id).collect();
        assert_eq!(ids, ["A", "B", CROSS_SIGNING_DEVICE_ID]);
        let last = last_device_change(&mut tx, UserNum::new(1)).await.unwrap();
        assert_eq!(last, Some(all[1].position), "that of the list of devices");
        let newest = last_device_or_key_change(&mut tx, UserNum::new(1))
            .await
            .unwrap();
        assert_eq!(newest, Some(all[2].position));
        let newer = devices_changed_after(&mut tx, UserNum::new(1), all[0].position, 1)
            .await
            .unwrap();
        assert_eq!(newer, all[1..2]);
        assert_eq!(
            last_device_change(&mut tx, UserNum::new(2)).await.unwrap(),
            None
        );
        assert_eq!(
            last_device_or_key_change(&mut tx, UserNum::new(2))
                .await
                .unwrap(),
            None
        );
    }
}
