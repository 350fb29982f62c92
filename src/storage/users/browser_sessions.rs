//! The browsers in which users are signed in to the pages of this server.

use super::tokens::TokenHash;
use crate::{
    error::Result,
    numbers::{UpstreamSessionNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// A browser session to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewBrowserSession<'a> {
    /// The hash of the cookie.
    pub hash: &'a TokenHash,
    pub user: UserNum,
    /// The sign-in with an identity provider that began the session, if one did.
    pub upstream_session: Option<UpstreamSessionNum>,
    /// Times in milliseconds since the Unix epoch.
    pub created_ts: i64,
    pub expires_ts: i64,
}

/// A browser session that has not expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct BrowserSessionRow {
    pub user_num: UserNum,
    /// The sign-in with an identity provider that began the session, if one did.
    pub upstream_session: Option<UpstreamSessionNum>,
    /// The time in milliseconds since the Unix epoch.
    pub created_ts: i64,
}

/// Stores a browser session, and deletes those that have expired.
pub async fn insert(tx: &mut WriteTx, session: NewBrowserSession<'_>) -> Result<()> {
    tx.query("DELETE FROM browser_sessions WHERE expires_ts <= $1")
        .bind(session.created_ts)
        .execute()
        .await?;
    tx.query(
        "INSERT INTO browser_sessions (hash, user_num, upstream_session, created_ts, expires_ts)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&session.hash[..])
    .bind(session.user)
    .bind(session.upstream_session)
    .bind(session.created_ts)
    .bind(session.expires_ts)
    .execute()
    .await?;
    Ok(())
}

/// Deletes all browser sessions of a user except the latest ones.
pub async fn keep_latest(tx: &mut WriteTx, user: UserNum, count: i64) -> Result<()> {
    tx.query(
        "DELETE FROM browser_sessions
         WHERE user_num = $1
           AND hash NOT IN (
               SELECT hash FROM browser_sessions
               WHERE user_num = $1
               ORDER BY created_ts DESC, hash
               LIMIT $2)",
    )
    .bind(user)
    .bind(count)
    .execute()
    .await?;
    Ok(())
}

/// Returns a browser session, unless it has expired.
pub async fn find(
    db: &mut impl ReadAccess,
    hash: &TokenHash,
    now: i64,
) -> Result<Option<BrowserSessionRow>> {
    db.query(
        "SELECT user_num, upstream_session, created_ts
         FROM browser_sessions
         WHERE hash = $1 AND expires_ts > $2",
    )
    .bind(&hash[..])
    .bind(now)
    .fetch_optional()
    .await
}

/// Deletes a browser session.
pub async fn remove(tx: &mut WriteTx, hash: &TokenHash) -> Result<()> {
    tx.query("DELETE FROM browser_sessions WHERE hash = $1")
        .bind(&hash[..])
        .execute()
        .await?;
    Ok(())
}

/// Deletes all browser sessions of a user.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM browser_sessions WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    const ALICE: UserNum = UserNum::new(1);

    async fn add(tx: &mut WriteTx, hash: &TokenHash, created_ts: i64) {
        let session = NewBrowserSession {
            hash,
            user: ALICE,
            upstream_session: None,
            created_ts,
            expires_ts: created_ts + 100,
        };
        insert(tx, session).await.unwrap();
    }

    async fn user_of(tx: &mut WriteTx, hash: &TokenHash, now: i64) -> Option<UserNum> {
        let found = find(tx, hash, now).await.unwrap();
        found.map(|session| session.user_num)
    }

    #[tokio::test]
    async fn an_expired_browser_session_is_not_found_and_later_deleted() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        add(&mut tx, &[1; 32], 0).await;

        assert_eq!(user_of(&mut tx, &[1; 32], 99).await, Some(ALICE));
        assert_eq!(user_of(&mut tx, &[1; 32], 100).await, None);
        add(&mut tx, &[2; 32], 100).await;
        assert_eq!(user_of(&mut tx, &[1; 32], 0).await, None);
    }

    #[tokio::test]
    async fn only_the_latest_browser_sessions_are_kept() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        for created in 1..=3 {
            add(&mut tx, &[u8::try_from(created).unwrap(); 32], created).await;
        }

        keep_latest(&mut tx, ALICE, 2).await.unwrap();

        assert_eq!(user_of(&mut tx, &[1; 32], 4).await, None);
        assert_eq!(user_of(&mut tx, &[2; 32], 4).await, Some(ALICE));
        remove(&mut tx, &[2; 32]).await.unwrap();
        assert_eq!(user_of(&mut tx, &[2; 32], 4).await, None);
        remove_all(&mut tx, ALICE).await.unwrap();
        assert_eq!(user_of(&mut tx, &[3; 32], 4).await, None);
    }
}
