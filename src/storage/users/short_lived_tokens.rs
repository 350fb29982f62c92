//! Tokens that are valid for one purpose and a short time, stored as hashes only.

use super::tokens::TokenHash;
use crate::{
    error::Result,
    numbers::{UpstreamSessionNum, UserNum},
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

/// A token to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewShortLivedToken<'a> {
    pub hash: &'a TokenHash,
    pub purpose: TokenPurpose,
    pub user: UserNum,
    /// The user's sign-in with an identity provider, if there was one.
    pub upstream_session: Option<UpstreamSessionNum>,
    /// The time in milliseconds since the Unix epoch.
    pub expires_ts: i64,
}

/// The owner of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct TokenOwner {
    pub user_num: UserNum,
    /// The owner's sign-in with an identity provider, if there was one.
    pub upstream_session: Option<UpstreamSessionNum>,
}

/// Stores a token, and deletes the user's expired ones.
pub async fn insert(tx: &mut WriteTx, token: NewShortLivedToken<'_>, now: i64) -> Result<()> {
    tx.query("DELETE FROM passing_tokens WHERE user_num = $1 AND expires_ts <= $2")
        .bind(token.user)
        .bind(now)
        .execute()
        .await?;
    tx.query(
        "INSERT INTO passing_tokens (hash, purpose, user_num, upstream_session, expires_ts)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&token.hash[..])
    .bind(token.purpose.as_str())
    .bind(token.user)
    .bind(token.upstream_session)
    .bind(token.expires_ts)
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
) -> Result<Option<TokenOwner>> {
    tx.query(
        "DELETE FROM passing_tokens
         WHERE hash = $1 AND purpose = $2 AND expires_ts > $3
         RETURNING user_num, upstream_session",
    )
    .bind(&hash[..])
    .bind(purpose.as_str())
    .bind(now)
    .fetch_optional()
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

    fn new_token(
        hash: &TokenHash,
        purpose: TokenPurpose,
        expires_ts: i64,
    ) -> NewShortLivedToken<'_> {
        NewShortLivedToken {
            hash,
            purpose,
            user: UserNum::new(7),
            upstream_session: None,
            expires_ts,
        }
    }

    #[tokio::test]
    async fn a_token_is_consumed_once_for_its_purpose_before_expiry() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let (hash, login) = ([1; 32], TokenPurpose::Login);
        insert(&mut tx, new_token(&hash, login, 10), 0)
            .await
            .unwrap();

        let other = consume(&mut tx, &hash, TokenPurpose::Openid, 5)
            .await
            .unwrap();
        assert_eq!(other, None);
        assert_eq!(consume(&mut tx, &hash, login, 10).await.unwrap(), None);
        let owner = consume(&mut tx, &hash, login, 9).await.unwrap();
        assert_eq!(owner.map(|owner| owner.user_num), Some(UserNum::new(7)));
        assert_eq!(consume(&mut tx, &hash, login, 9).await.unwrap(), None);
    }

    #[tokio::test]
    async fn expired_tokens_are_deleted_on_insert() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let openid = TokenPurpose::Openid;
        insert(&mut tx, new_token(&[1; 32], openid, 10), 0)
            .await
            .unwrap();
        insert(&mut tx, new_token(&[2; 32], openid, 20), 10)
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
