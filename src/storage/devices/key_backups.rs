//! Backups of room keys, which only their owner can decrypt.

use sqlx::AssertSqlSafe;

use crate::{
    error::Result,
    numbers::{BackupVersionNum, UserNum},
    storage::{ReadAccess, WriteTx, text_list, values_clause},
};

/// The number of rows that one statement inserts.
const ROWS_PER_STATEMENT: usize = 64;

/// A version of a user's backup.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct BackupRow {
    pub version: BackupVersionNum,
    /// The encryption algorithm of the keys.
    pub algorithm: String,
    /// The algorithm-dependent data, as JSON.
    pub auth_data: String,
    /// The number of changes of its keys.
    pub etag: i64,
    /// The number of keys in it.
    pub key_count: i64,
    pub deleted: bool,
}

/// A key in a backup.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct BackupKeyRow {
    pub room_id: String,
    pub session_id: String,
    /// The index of the first message that it decrypts.
    pub first_message_index: i64,
    /// The number of times that it was forwarded.
    pub forwarded_count: i64,
    /// Whether the device that it came from was verified.
    pub is_verified: bool,
    /// The encrypted key, as JSON.
    pub session_data: String,
}

/// Stores a new version.
pub async fn insert(
    tx: &mut WriteTx,
    user: UserNum,
    version: BackupVersionNum,
    algorithm: &str,
    auth_data: &str,
) -> Result<()> {
    tx.query(
        "INSERT INTO key_backups (user_num, version, algorithm, auth_data, etag, key_count, deleted)
         VALUES ($1, $2, $3, $4, 0, 0, FALSE)",
    )
    .bind(user)
    .bind(version)
    .bind(algorithm)
    .bind(auth_data)
    .execute()
    .await?;
    Ok(())
}

/// Returns the number of the newest version that a user ever had.
pub async fn newest_version(
    db: &mut impl ReadAccess,
    user: UserNum,
) -> Result<Option<BackupVersionNum>> {
    db.query("SELECT version FROM key_backups WHERE user_num = $1 ORDER BY version DESC LIMIT 1")
        .bind(user)
        .fetch_scalar()
        .await
}

/// Returns the number of a user's versions that are not deleted.
pub async fn count(db: &mut impl ReadAccess, user: UserNum) -> Result<i64> {
    let count = db
        .query("SELECT COUNT(*) FROM key_backups WHERE user_num = $1 AND NOT deleted")
        .bind(user)
        .fetch_scalar()
        .await?;
    Ok(count.unwrap_or_default())
}

/// Returns the newest version of a user that is not deleted.
pub async fn latest(db: &mut impl ReadAccess, user: UserNum) -> Result<Option<BackupRow>> {
    db.query(
        "SELECT version, algorithm, auth_data, etag, key_count, deleted
         FROM key_backups
         WHERE user_num = $1 AND NOT deleted
         ORDER BY version DESC
         LIMIT 1",
    )
    .bind(user)
    .fetch_optional()
    .await
}

/// Returns a version of a user, including a deleted one.
pub async fn get(
    db: &mut impl ReadAccess,
    user: UserNum,
    version: BackupVersionNum,
) -> Result<Option<BackupRow>> {
    db.query(
        "SELECT version, algorithm, auth_data, etag, key_count, deleted
         FROM key_backups
         WHERE user_num = $1 AND version = $2",
    )
    .bind(user)
    .bind(version)
    .fetch_optional()
    .await
}

/// Replaces the `auth_data` of a version.
pub async fn set_auth_data(
    tx: &mut WriteTx,
    user: UserNum,
    version: BackupVersionNum,
    auth_data: &str,
) -> Result<()> {
    tx.query("UPDATE key_backups SET auth_data = $3 WHERE user_num = $1 AND version = $2")
        .bind(user)
        .bind(version)
        .bind(auth_data)
        .execute()
        .await?;
    Ok(())
}

/// The numbers that change with the keys of a backup.
#[derive(Clone, Copy, Debug)]
pub struct BackupCounts {
    /// It grows with every change of the keys.
    pub etag: i64,
    pub key_count: i64,
}

/// Stores the number of changes and the number of keys of a version.
pub async fn set_counts(
    tx: &mut WriteTx,
    user: UserNum,
    version: BackupVersionNum,
    counts: BackupCounts,
) -> Result<()> {
    tx.query(
        "UPDATE key_backups
         SET etag = $3, key_count = $4
         WHERE user_num = $1 AND version = $2",
    )
    .bind(user)
    .bind(version)
    .bind(counts.etag)
    .bind(counts.key_count)
    .execute()
    .await?;
    Ok(())
}

/// Deletes a version and its keys. The row of the version is kept until there are `kept` newer ones.
pub async fn delete(
    tx: &mut WriteTx,
    user: UserNum,
    version: BackupVersionNum,
    kept: i64,
) -> Result<()> {
    delete_keys(tx, user, version, BackupKeySelection::All).await?;
    tx.query("UPDATE key_backups SET deleted = TRUE WHERE user_num = $1 AND version = $2")
        .bind(user)
        .bind(version)
        .execute()
        .await?;
    tx.query(
        "DELETE FROM key_backups
         WHERE user_num = $1 AND deleted AND version < (
             SELECT MAX(version) FROM key_backups WHERE user_num = $1) - $2",
    )
    .bind(user)
    .bind(kept)
    .execute()
    .await?;
    Ok(())
}

/// Deletes all backups of a user.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM backup_keys WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    tx.query("DELETE FROM key_backups WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

/// A selection of the keys of a backup.
#[derive(Clone, Copy, Debug)]
pub enum BackupKeySelection<'a> {
    /// All keys.
    All,
    /// The keys of a room.
    Room(&'a str),
    /// The key of a session in a room.
    Session(&'a str, &'a str),
}

/// Returns the selected keys of a version.
pub async fn keys(
    db: &mut impl ReadAccess,
    user: UserNum,
    version: BackupVersionNum,
    part: BackupKeySelection<'_>,
) -> Result<Vec<BackupKeyRow>> {
    let (sql, values): (&'static str, Vec<&str>) = match part {
        BackupKeySelection::All => (
            "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data
             FROM backup_keys
             WHERE user_num = $1 AND version = $2",
            Vec::new(),
        ),
        BackupKeySelection::Room(room_id) => (
            "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data
             FROM backup_keys
             WHERE user_num = $1 AND version = $2 AND room_id = $3",
            vec![room_id],
        ),
        BackupKeySelection::Session(room_id, session_id) => (
            "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data
             FROM backup_keys
             WHERE user_num = $1 AND version = $2 AND room_id = $3 AND session_id = $4",
            vec![room_id, session_id],
        ),
    };
    let query = db.query(sql).bind(user).bind(version);
    let query = values
        .into_iter()
        .fold(query, crate::storage::DbQuery::bind);
    query.fetch_all().await
}

/// Returns the keys of a version in these rooms and sessions. Every room is combined with every session, so there must
/// not be many of both.
pub async fn keys_of_sessions(
    db: &mut impl ReadAccess,
    user: UserNum,
    version: BackupVersionNum,
    room_ids: &[&str],
    session_ids: &[&str],
) -> Result<Vec<BackupKeyRow>> {
    db.query(
        "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data
         FROM backup_keys
         WHERE user_num = $1 AND version = $2
           AND room_id IN (SELECT value FROM json_each($3))
           AND session_id IN (SELECT value FROM json_each($4))",
    )
    .bind(user)
    .bind(version)
    .bind(text_list(room_ids))
    .bind(text_list(session_ids))
    .fetch_all()
    .await
}

/// Stores keys in place of those of the same room and session.
pub async fn set_keys(
    tx: &mut WriteTx,
    user: UserNum,
    version: BackupVersionNum,
    keys: &[BackupKeyRow],
) -> Result<()> {
    for chunk in keys.chunks(ROWS_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO backup_keys (user_num, version, room_id, session_id, first_message_index, forwarded_count,
                                      is_verified, session_data) {}
             ON CONFLICT (user_num, version, room_id, session_id) DO UPDATE
             SET first_message_index = excluded.first_message_index, forwarded_count = excluded.forwarded_count,
                 is_verified = excluded.is_verified, session_data = excluded.session_data",
            values_clause(chunk.len(), 8)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for key in chunk {
            query = query
                .bind(user)
                .bind(version)
                .bind(&*key.room_id)
                .bind(&*key.session_id)
                .bind(key.first_message_index)
                .bind(key.forwarded_count)
                .bind(key.is_verified)
                .bind(&*key.session_data);
        }
        query.execute().await?;
    }
    Ok(())
}

/// Deletes the selected keys of a version, and returns their number.
pub async fn delete_keys(
    tx: &mut WriteTx,
    user: UserNum,
    version: BackupVersionNum,
    part: BackupKeySelection<'_>,
) -> Result<u64> {
    let (sql, values): (&'static str, Vec<&str>) = match part {
        BackupKeySelection::All => (
            "DELETE FROM backup_keys WHERE user_num = $1 AND version = $2",
            Vec::new(),
        ),
        BackupKeySelection::Room(room_id) => (
            "DELETE FROM backup_keys WHERE user_num = $1 AND version = $2 AND room_id = $3",
            vec![room_id],
        ),
        BackupKeySelection::Session(room_id, session_id) => (
            "DELETE FROM backup_keys
             WHERE user_num = $1 AND version = $2 AND room_id = $3 AND session_id = $4",
            vec![room_id, session_id],
        ),
    };
    let query = tx.query(sql).bind(user).bind(version);
    let query = values
        .into_iter()
        .fold(query, crate::storage::DbQuery::bind);
    query.execute().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn key(room_id: &str, session_id: &str, first_message_index: i64) -> BackupKeyRow {
        BackupKeyRow {
            room_id: room_id.to_owned(),
            session_id: session_id.to_owned(),
            first_message_index,
            forwarded_count: 0,
            is_verified: true,
            session_data: "{}".to_owned(),
        }
    }

    #[tokio::test]
    async fn keys_are_found_by_room_and_session() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        insert(
            &mut tx,
            UserNum::new(1),
            BackupVersionNum::new(1),
            "a",
            "{}",
        )
        .await
        .unwrap();
        let stored = [key("!a", "s", 1), key("!a", "t", 2), key("!b", "s", 3)];
        set_keys(&mut tx, UserNum::new(1), BackupVersionNum::new(1), &stored)
            .await
            .unwrap();
        set_keys(
            &mut tx,
            UserNum::new(1),
            BackupVersionNum::new(1),
            &[key("!b", "s", 2)],
        )
        .await
        .unwrap();

        let found = async |tx: &mut WriteTx, part: BackupKeySelection<'_>| {
            keys(tx, UserNum::new(1), BackupVersionNum::new(1), part)
                .await
                .unwrap()
                .len()
        };
        assert_eq!(found(&mut tx, BackupKeySelection::All).await, 3);
        assert_eq!(found(&mut tx, BackupKeySelection::Room("!a")).await, 2);
        assert_eq!(
            found(&mut tx, BackupKeySelection::Session("!a", "t")).await,
            1
        );
        let both = keys_of_sessions(
            &mut tx,
            UserNum::new(1),
            BackupVersionNum::new(1),
            &["!a", "!b"],
            &["s"],
        )
        .await
        .unwrap();
        assert_eq!(both.len(), 2);
        let deleted = delete_keys(
            &mut tx,
            UserNum::new(1),
            BackupVersionNum::new(1),
            BackupKeySelection::Room("!a"),
        )
        .await
        .unwrap();
        assert_eq!(deleted, 2);
        remove_all(&mut tx, UserNum::new(1)).await.unwrap();
        assert_eq!(found(&mut tx, BackupKeySelection::All).await, 0);
    }

    #[tokio::test]
    async fn a_deleted_version_is_kept_for_a_while() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for version in (1..=4).map(BackupVersionNum::new) {
            insert(&mut tx, UserNum::new(1), version, "a", "{}")
                .await
                .unwrap();
        }
        set_auth_data(
            &mut tx,
            UserNum::new(1),
            BackupVersionNum::new(3),
            "{\"b\":1}",
        )
        .await
        .unwrap();
        set_counts(
            &mut tx,
            UserNum::new(1),
            BackupVersionNum::new(3),
            BackupCounts {
                etag: 5,
                key_count: 6,
            },
        )
        .await
        .unwrap();

        for version in [1, 4].map(BackupVersionNum::new) {
            delete(&mut tx, UserNum::new(1), version, 2).await.unwrap();
        }

        assert_eq!(
            get(&mut tx, UserNum::new(1), BackupVersionNum::new(1))
                .await
                .unwrap(),
            None
        );
        assert!(
            get(&mut tx, UserNum::new(1), BackupVersionNum::new(4))
                .await
                .unwrap()
                .unwrap()
                .deleted
        );
        let latest = latest(&mut tx, UserNum::new(1)).await.unwrap().unwrap();
        assert_eq!(latest.version, BackupVersionNum::new(3));
        assert_eq!((latest.etag, latest.key_count), (5, 6));
        assert_eq!(
            newest_version(&mut tx, UserNum::new(1)).await.unwrap(),
            Some(BackupVersionNum::new(4))
        );
        assert_eq!(count(&mut tx, UserNum::new(1)).await.unwrap(), 2);
    }
}
