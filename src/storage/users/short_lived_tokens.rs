//! Tokens that are valid for one purpose and a short time, stored as hashes only.

use super::tokens::TokenHash;
use crate::{
    error::Result,
    numbers::UserNum,
    storage::{ReadAccess, WriteTx},
};

/// The purpose of a short-lived token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPurpose {
    /// To log in another device, once.
    Login,
    /// To prove one's identity to another service by `OpenID`.
    Openid,
}

impl TokenPurpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Openid => "openid",
        }
    }
}

/// Stores a token, and deletes the user's expired ones.
pub async fn insert(
    tx: &mut WriteTx,
    hash: &TokenHash,
    purpose: TokenPurpose,
    user: UserNum,
    times: (i64, i64),
) -> Result<()> {
    let (now, expires_ts) = times;
    tx.query("DELETE FROM passing_tokens WHERE user_num = $1 AND expires_ts <= $2")
        .bind(user)
        .bind(now)
        .execute()
        .await?;
    tx.query(
        "INSERT INTO passing_tokens (hash, purpose, user_num, expires_ts)
         VALUES ($1, $2, $3, $4)",
    )
    .bind(&hash[..])
    .bind(purpose.as_str())
    .bind(user)
    .bind(expires_ts)
    .execute()
    .await?;
    Ok(())
}

/// Returns the number of a user's tokens that have not expired.
pub async fn count(db: &mut impl ReadAccess, user: UserNum, now: i64) -> Result<i64> {
    let count = db
        .query("SELECT COUNT(*) FROM passing_tokens WHERE user_num = $1 AND expires_ts > $2")
        .bind(user)
        .bind(now)
        .fetch_scalar()
        .await?;
    Ok(count.unwrap_or(0))
}

/// Returns the owner of a token, unless it has expired.
pub async fn find(
    db: &mut impl ReadAccess,
    hash: &TokenHash,
    purpose: TokenPurpose,
    now: i64,
) -> Result<Option<UserNum>> {
    db.query(
        "SELECT user_num
         FROM passing_tokens
         WHERE hash = $1 AND purpose = $2 AND expires_ts > $3",
    )
    .bind(&hash[..])
    .bind(purpose.as_str())
    .bind(now)
    .fetch_scalar()
    .await
}

/// Deletes a token and returns its owner, unless it has expired.
pub async fn consume(
    tx: &mut WriteTx,
    hash: &TokenHash,
    purpose: TokenPurpose,
    now: i64,
) -> Result<Option<UserNum>> {
    tx.query(
        "DELETE FROM passing_tokens
         WHERE hash = $1 AND purpose = $2 AND expires_ts > $3
         RETURNING user_num",
    )
    .bind(&hash[..])
    .bind(purpose.as_str())
    .bind(now)
    .fetch_scalar()
    .await
}

/// Removes all tokens of a user.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM passing_tokens WHERE user_num = $1")
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
    async fn a_token_is_consumed_once_for_its_purpose_before_expiry() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let (hash, login) = ([1; 32], TokenPurpose::Login);
        insert(&mut tx, &hash, login, UserNum::new(7), (0, 10))
            .await
            .unwrap();

        let other = consume(&mut tx, &hash, TokenPurpose::Openid, 5)
            .await
            .unwrap();
        assert_eq!(other, None);
        assert_eq!(consume(&mut tx, &hash, login, 10).await.unwrap(), None);
        assert_eq!(
            consume(&mut tx, &hash, login, 9).await.unwrap(),
            Some(UserNum::new(7))
        );
        assert_eq!(consume(&mut tx, &hash, login, 9).await.unwrap(), None);
    }

    #[tokio::test]
    async fn expired_tokens_are_deleted_on_insert() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let openid = TokenPurpose::Openid;
        insert(&mut tx, &[1; 32], openid, UserNum::new(7), (0, 10))
            .await
            .unwrap();
        insert(&mut tx, &[2; 32], openid, UserNum::new(7), (10, 20))
            .await
            .unwrap();

        assert_eq!(count(&mut tx, UserNum::new(7), 0).await.unwrap(), 1);
        assert_eq!(
            find(&mut tx, &[2; 32], openid, 15).await.unwrap(),
            Some(UserNum::new(7))
        );
        remove_all(&mut tx, UserNum::new(7)).await.unwrap();
        assert_eq!(count(&mut tx, UserNum::new(7), 0).await.unwrap(), 0);
    }
}
