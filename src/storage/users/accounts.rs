//! The accounts of this server: passwords, administrators, guests and restrictions.

use crate::{
    error::Result,
    numbers::{Position, UserNum},
    storage::{ReadAccess, WriteTx, number_list},
};

/// An account.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a column, and independent of the others"
)]
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Account {
    pub user_num: UserNum,
    /// The argon2id hash in PHC form; `None` if there is no password to log in with.
    pub password_hash: Option<String>,
    /// Whether the user is an administrator.
    pub admin: bool,
    /// Whether it is a guest account.
    pub guest: bool,
    pub deactivated: bool,
    /// Whether an administrator has suspended it: the user may read, but not write.
    pub suspended: bool,
    /// Whether an administrator has locked it: the user may only log out.
    pub locked: bool,
    /// The journal position of a deactivation with the request to be erased.
    pub erased_position: Option<Position>,
    /// The creation time.
    pub created_ts: i64,
}

/// Returns the account of a user.
pub async fn find(db: &mut impl ReadAccess, user: UserNum) -> Result<Option<Account>> {
    db.query(
        "SELECT user_num, password_hash, admin, guest, deactivated, suspended, locked, erased_position,
                created_ts
         FROM accounts
         WHERE user_num = $1",
    )
    .bind(user)
    .fetch_optional()
    .await
}

/// Stores an account. Returns `false` if the user already has one.
pub async fn insert(tx: &mut WriteTx, account: &Account) -> Result<bool> {
    let inserted = tx
        .query(
            "INSERT INTO accounts
                 (user_num, password_hash, admin, guest, deactivated, erased_position, created_ts)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (user_num) DO NOTHING",
        )
        .bind(account.user_num)
        .bind(account.password_hash.as_deref())
        .bind(account.admin)
        .bind(account.guest)
        .bind(account.deactivated)
        .bind(account.erased_position)
        .bind(account.created_ts)
        .execute()
        .await?;
    Ok(inserted == 1)
}

/// Returns whether there is an active administrator.
pub async fn has_admin(db: &mut impl ReadAccess) -> Result<bool> {
    let found: Option<i64> = db
        .query(
            "SELECT user_num
             FROM accounts
             WHERE admin AND NOT deactivated
             LIMIT 1",
        )
        .fetch_scalar()
        .await?;
    Ok(found.is_some())
}

/// Returns those of the users who have an account that is not deactivated. `users` is a list parameter, see
/// [`number_list`].
pub async fn active_users(db: &mut impl ReadAccess, users: &str) -> Result<Vec<UserNum>> {
    db.query(
        "SELECT user_num
         FROM accounts
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND NOT deactivated",
    )
    .bind(users)
    .fetch_scalars()
    .await
}

/// Returns those of the users who are guests.
pub async fn guests_among(db: &mut impl ReadAccess, users: &[UserNum]) -> Result<Vec<UserNum>> {
    db.query(
        "SELECT user_num
         FROM accounts
         WHERE user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1)) AND guest
           AND NOT deactivated",
    )
    .bind(number_list(users.iter().copied()))
    .fetch_scalars()
    .await
}

/// Changes the password of an account.
pub async fn set_password(tx: &mut WriteTx, user: UserNum, password_hash: &str) -> Result<()> {
    tx.query(
        "UPDATE accounts
         SET password_hash = $2
         WHERE user_num = $1",
    )
    .bind(user)
    .bind(password_hash)
    .execute()
    .await?;
    Ok(())
}

/// Turns a guest account into a user account.
pub async fn upgrade_guest(tx: &mut WriteTx, user: UserNum, password_hash: &str) -> Result<bool> {
    let changed = tx
        .query(
            "UPDATE accounts
             SET guest = FALSE, password_hash = $2
             WHERE user_num = $1 AND guest AND NOT deactivated",
        )
        .bind(user)
        .bind(password_hash)
        .execute()
        .await?;
    Ok(changed == 1)
}

/// Sets whether an account is suspended.
pub async fn set_suspended(tx: &mut WriteTx, user: UserNum, suspended: bool) -> Result<()> {
    tx.query("UPDATE accounts SET suspended = $2 WHERE user_num = $1")
        .bind(user)
        .bind(suspended)
        .execute()
        .await?;
    Ok(())
}

/// Sets whether an account is locked.
pub async fn set_locked(tx: &mut WriteTx, user: UserNum, locked: bool) -> Result<()> {
    tx.query("UPDATE accounts SET locked = $2 WHERE user_num = $1")
        .bind(user)
        .bind(locked)
        .execute()
        .await?;
    Ok(())
}

/// Stores when a user was last seen on a device that is deleted.
pub async fn record_last_seen(tx: &mut WriteTx, user: UserNum, ts: i64) -> Result<()> {
    tx.query("UPDATE accounts SET last_seen_ts = $2 WHERE user_num = $1 AND last_seen_ts < $2")
        .bind(user)
        .bind(ts)
        .execute()
        .await?;
    Ok(())
}

/// Marks an account as deactivated, and removes its password.
pub async fn deactivate(
    tx: &mut WriteTx,
    user: UserNum,
    erased_position: Option<Position>,
) -> Result<()> {
    tx.query(
        "UPDATE accounts
         SET deactivated = TRUE, erased_position = $2, password_hash = NULL
         WHERE user_num = $1",
    )
    .bind(user)
    .bind(erased_position)
    .execute()
    .await?;
    Ok(())
}

/// A user who asked to be erased.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ErasedUserRow {
    pub user_id: String,
    /// The position of the request.
    pub erased_position: Position,
}

/// Returns the users who asked to be erased.
pub async fn erased_users(db: &mut impl ReadAccess) -> Result<Vec<ErasedUserRow>> {
    db.query(
        "SELECT s.text AS user_id, a.erased_position FROM accounts a JOIN strings s ON s.num = a.user_num
         WHERE a.erased_position IS NOT NULL",
    )
    .fetch_all()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn account(user_num: UserNum) -> Account {
        Account {
            user_num,
            password_hash: Some("hash".to_owned()),
            admin: false,
            guest: false,
            deactivated: false,
            suspended: false,
            locked: false,
            erased_position: None,
            created_ts: 5,
        }
    }

    #[tokio::test]
    async fn a_user_has_one_account() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();

        assert!(insert(&mut tx, &account(UserNum::new(1))).await.unwrap());
        assert!(!insert(&mut tx, &account(UserNum::new(1))).await.unwrap());
        assert_eq!(
            find(&mut tx, UserNum::new(1)).await.unwrap(),
            Some(account(UserNum::new(1)))
        );
        assert_eq!(find(&mut tx, UserNum::new(2)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_deactivated_administrator_does_not_count() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let admin = Account {
            admin: true,
            ..account(UserNum::new(1))
        };

        assert!(!has_admin(&mut tx).await.unwrap());
        insert(&mut tx, &admin).await.unwrap();
        assert!(has_admin(&mut tx).await.unwrap());
        assert_eq!(
            active_users(&mut tx, "[1,2]").await.unwrap(),
            [UserNum::new(1)]
        );
        deactivate(&mut tx, UserNum::new(1), Some(Position::new(7)))
            .await
            .unwrap();

        assert!(!has_admin(&mut tx).await.unwrap());
        assert!(active_users(&mut tx, "[1,2]").await.unwrap().is_empty());
        let gone = find(&mut tx, UserNum::new(1)).await.unwrap().unwrap();
        assert_eq!(gone.password_hash, None);
        assert!(gone.deactivated && gone.erased_position == Some(Position::new(7)));
    }

    #[tokio::test]
    async fn only_a_guest_is_upgraded() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let guest = Account {
            guest: true,
            password_hash: None,
            ..account(UserNum::new(1))
        };
        insert(&mut tx, &guest).await.unwrap();

        assert!(
            upgrade_guest(&mut tx, UserNum::new(1), "hash")
                .await
                .unwrap()
        );
        assert!(
            !upgrade_guest(&mut tx, UserNum::new(1), "other")
                .await
                .unwrap()
        );
        assert_eq!(
            find(&mut tx, UserNum::new(1)).await.unwrap(),
            Some(account(UserNum::new(1)))
        );
    }
}
