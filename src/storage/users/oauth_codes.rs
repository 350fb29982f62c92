//! Authorization codes of the OAuth 2.0 API, which clients exchange for tokens.

use super::tokens::TokenHash;
use crate::{
    error::Result,
    numbers::{UpstreamSessionNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// An authorization code.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct AuthorizationCodeRow {
    pub client_id: String,
    pub redirect_uri: String,
    /// The hash of the client's secret, as the client sent it.
    pub code_challenge: String,
    pub user_num: UserNum,
    /// The user's sign-in with an identity provider, if there was one.
    pub upstream_session: Option<UpstreamSessionNum>,
    /// The id of the device to be signed in.
    pub device_id: String,
    /// The time in milliseconds since the Unix epoch.
    pub expires_ts: i64,
    pub is_used: bool,
}

/// Stores an authorization code, and deletes those that expired before `deleted_before_ts`.
pub async fn insert(
    tx: &mut WriteTx,
    hash: &TokenHash,
    code: &AuthorizationCodeRow,
    deleted_before_ts: i64,
) -> Result<()> {
    tx.query("DELETE FROM oauth_codes WHERE expires_ts < $1")
        .bind(deleted_before_ts)
        .execute()
        .await?;
    tx.query(
        "INSERT INTO oauth_codes (hash, client_id, redirect_uri, code_challenge, user_num, upstream_session,
                                  device_id, expires_ts, is_used)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&hash[..])
    .bind(&*code.client_id)
    .bind(&*code.redirect_uri)
    .bind(&*code.code_challenge)
    .bind(code.user_num)
    .bind(code.upstream_session)
    .bind(&*code.device_id)
    .bind(code.expires_ts)
    .bind(code.is_used)
    .execute()
    .await?;
    Ok(())
}

/// Returns an authorization code, even if it has expired or was used.
pub async fn find(
    db: &mut impl ReadAccess,
    hash: &TokenHash,
) -> Result<Option<AuthorizationCodeRow>> {
    db.query(
        "SELECT client_id, redirect_uri, code_challenge, user_num, upstream_session, device_id, expires_ts, is_used
         FROM oauth_codes
         WHERE hash = $1",
    )
    .bind(&hash[..])
    .fetch_optional()
    .await
}

/// Records that a code was exchanged.
pub async fn mark_used(tx: &mut WriteTx, hash: &TokenHash) -> Result<()> {
    tx.query("UPDATE oauth_codes SET is_used = TRUE WHERE hash = $1")
        .bind(&hash[..])
        .execute()
        .await?;
    Ok(())
}

/// Deletes all codes of a user.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM oauth_codes WHERE user_num = $1")
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
    async fn a_used_code_is_kept_until_it_is_long_expired() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let code = AuthorizationCodeRow {
            client_id: "client".to_owned(),
            redirect_uri: "com.example:/".to_owned(),
            code_challenge: "hash".to_owned(),
            user_num: UserNum::new(1),
            upstream_session: None,
            device_id: "DEVICE".to_owned(),
            expires_ts: 10,
            is_used: false,
        };
        insert(&mut tx, &[1; 32], &code, 0).await.unwrap();
        assert_eq!(find(&mut tx, &[1; 32]).await.unwrap(), Some(code.clone()));

        mark_used(&mut tx, &[1; 32]).await.unwrap();
        insert(&mut tx, &[2; 32], &code, 10).await.unwrap();
        let used = find(&mut tx, &[1; 32]).await.unwrap().unwrap();
        assert!(used.is_used);

        insert(&mut tx, &[3; 32], &code, 11).await.unwrap();
        assert_eq!(find(&mut tx, &[1; 32]).await.unwrap(), None);
        remove_all(&mut tx, UserNum::new(1)).await.unwrap();
        assert_eq!(find(&mut tx, &[3; 32]).await.unwrap(), None);
    }
}
