//! The account data of users, globally and by room.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, UserNum},
    storage::{ReadAccess, WriteTx, text_list},
};

/// The content of account data that was removed. Later syncs must report the removal.
pub const REMOVED_CONTENT: &str = "{}";
/// The room number of global account data.
const GLOBAL_ROOM_NUM: RoomNum = RoomNum::new(0);

/// A piece of account data in the table.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct AccountData {
    /// The room's number; 0 is global.
    room: RoomNum,
    /// The type of the account data event.
    pub kind: String,
    /// The content, as JSON.
    pub content: String,
    /// The position of the last change.
    pub position: Position,
}

impl AccountData {
    /// Returns the room of the account data; `None` is global.
    pub fn room(&self) -> Option<RoomNum> {
        (self.room != GLOBAL_ROOM_NUM).then_some(self.room)
    }
}

/// Returns the content of a piece of account data.
pub async fn get(
    db: &mut impl ReadAccess,
    user: UserNum,
    room: Option<RoomNum>,
    kind: &str,
) -> Result<Option<String>> {
    db.query(
        "SELECT content
         FROM account_data
         WHERE user_num = $1 AND room = $2 AND kind = $3",
    )
    .bind(user)
    .bind(room.unwrap_or(GLOBAL_ROOM_NUM))
    .bind(kind)
    .fetch_scalar()
    .await
}

/// The content of a type of global account data of a user.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct GlobalAccountData {
    pub user_num: UserNum,
    pub user_id: String,
    /// The content, as JSON.
    pub content: String,
}

/// Returns the global account data of a type of all users who have any.
pub async fn of_all_users(db: &mut impl ReadAccess, kind: &str) -> Result<Vec<GlobalAccountData>> {
    // The user ids are joined here, since there may be a row for every user.
    db.query(
        "SELECT a.user_num, s.text AS user_id, a.content
         FROM account_data a
         JOIN strings s ON s.num = a.user_num
         WHERE a.room = $1 AND a.kind = $2",
    )
    .bind(GLOBAL_ROOM_NUM)
    .bind(kind)
    .fetch_all()
    .await
}

/// Stores a piece of account data.
pub async fn set(
    tx: &mut WriteTx,
    user: UserNum,
    room: Option<RoomNum>,
    kind: &str,
    content: &str,
) -> Result<Position> {
    let position = tx.next_position();
    tx.query(
        "INSERT INTO account_data (user_num, room, kind, content, position, bytes)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (user_num, room, kind) DO UPDATE
         SET content = excluded.content, position = excluded.position, bytes = excluded.bytes",
    )
    .bind(user)
    .bind(room.unwrap_or(GLOBAL_ROOM_NUM))
    .bind(kind)
    .bind(content)
    .bind(position)
    .bind(i64::try_from(content.len()).unwrap_or(i64::MAX))
    .execute()
    .await?;
    Ok(position)
}

/// The amount of a user's account data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct AccountDataSize {
    /// The number of pieces, including removed ones, because syncs must report these.
    pub count: i64,
    /// The total length of the contents in bytes.
    pub bytes: i64,
}

/// Returns the amount of a user's account data.
pub async fn size(db: &mut impl ReadAccess, user: UserNum) -> Result<AccountDataSize> {
    let size = db
        .query(
            "SELECT COUNT(*) AS count, CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes
         FROM account_data WHERE user_num = $1",
        )
        .bind(user)
        .fetch_optional()
        .await?;
    Ok(size.unwrap_or_default())
}

/// Returns the user's account data that changed after one position and up to another, in order. From the beginning,
/// removed account data is left out.
pub async fn changed_between(
    db: &mut impl ReadAccess,
    user: UserNum,
    after: Position,
    up_to: Position,
) -> Result<Vec<AccountData>> {
    db.query(
        "SELECT room, kind, content, position
         FROM account_data
         WHERE user_num = $1 AND position > $2 AND position <= $3 AND ($2 > 0 OR content <> $4)
         ORDER BY position",
    )
    .bind(user)
    .bind(after)
    .bind(up_to)
    .bind(REMOVED_CONTENT)
    .fetch_all()
    .await
}

/// Account data that was removed.
#[derive(Clone, Debug)]
pub struct RemovedAccountData {
    /// The position of the removal.
    pub position: Position,
    /// The types that there were.
    pub kinds: Vec<String>,
}

/// Removes the user's global account data of these types.
pub async fn remove_global(
    tx: &mut WriteTx,
    user: UserNum,
    kinds: &[String],
) -> Result<RemovedAccountData> {
    let position = tx.next_position();
    let kinds = tx
        .query(
            "UPDATE account_data
             SET content = $4, position = $5
             WHERE user_num = $1 AND room = $2 AND content <> $4
               AND kind IN (SELECT value FROM json_each($3))
             RETURNING kind",
        )
        .bind(user)
        .bind(GLOBAL_ROOM_NUM)
        .bind(text_list(kinds))
        .bind(REMOVED_CONTENT)
        .bind(position)
        .fetch_scalars()
        .await?;
    Ok(RemovedAccountData { position, kinds })
}

/// Removes all of a user's account data.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM account_data WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn global_account_data_is_separate_from_room_account_data() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        set(&mut tx, UserNum::new(1), None, "k", "1").await.unwrap();
        let place = set(&mut tx, UserNum::new(1), Some(RoomNum::new(7)), "k", "2")
            .await
            .unwrap();

        let global = get(&mut tx, UserNum::new(1), None, "k").await.unwrap();
        assert_eq!(global.as_deref(), Some("1"));
        let changed = changed_between(&mut tx, UserNum::new(1), place.previous(), place)
            .await
            .unwrap();
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].room(), Some(RoomNum::new(7)));
        remove_all(&mut tx, UserNum::new(1)).await.unwrap();
        assert_eq!(
            get(&mut tx, UserNum::new(1), Some(RoomNum::new(7)), "k")
                .await
                .unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn a_change_takes_a_new_position() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        let first = set(&mut tx, UserNum::new(1), None, "k", "1").await.unwrap();
        let second = set(&mut tx, UserNum::new(1), None, "k", "2").await.unwrap();

        assert!(second > first);
        let all = changed_between(&mut tx, UserNum::new(1), Position::ZERO, second)
            .await
            .unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].content.as_str(), all[0].room()), ("2", None));
    }

    #[tokio::test]
    async fn removed_account_data_is_reported_once() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let before = set(&mut tx, UserNum::new(1), None, "k", "1").await.unwrap();

        let kinds = ["k".to_owned(), "unknown".to_owned()];
        let removed = remove_global(&mut tx, UserNum::new(1), &kinds)
            .await
            .unwrap();

        assert_eq!(removed.kinds, ["k"]);
        let changed = changed_between(&mut tx, UserNum::new(1), before, removed.position)
            .await
            .unwrap();
        assert_eq!(changed[0].content, REMOVED_CONTENT);
        assert!(
            changed_between(&mut tx, UserNum::new(1), Position::ZERO, removed.position)
                .await
                .unwrap()
                .is_empty()
        );
        let again = remove_global(&mut tx, UserNum::new(1), &kinds)
            .await
            .unwrap();
        assert!(again.kinds.is_empty());
    }
}
