//! The sessions in which users confirm their e-mail addresses.

use super::tokens::TokenHash;
use crate::{
    error::Result,
    storage::{ReadAccess, WriteTx},
};

/// The values that identify a session of a client.
#[derive(Clone, Copy, Debug)]
pub struct ValidationKey<'a> {
    pub client_secret_hash: &'a TokenHash,
    pub address: &'a str,
    /// The name of the purpose for which the address is validated.
    pub purpose: &'a str,
}

/// A session to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewValidation<'a> {
    pub session_id: &'a str,
    pub key: ValidationKey<'a>,
    pub token_hash: &'a TokenHash,
    pub send_attempt: i64,
    pub next_link: Option<&'a str>,
    /// The time in milliseconds since the Unix epoch.
    pub expires_ts: i64,
}

/// A stored session.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ValidationRow {
    pub session_id: String,
    pub address: String,
    pub purpose: String,
    pub token_hash: Vec<u8>,
    pub send_attempt: i64,
    /// The number of wrong tokens.
    pub failures: i64,
    pub next_link: Option<String>,
    /// The time at which the token was presented, if it was.
    pub validated_ts: Option<i64>,
}

/// Stores a session, in place of an earlier one of the same client for the same address and purpose. Deletes those that
/// have expired.
pub async fn set(tx: &mut WriteTx, new: NewValidation<'_>, now: i64) -> Result<()> {
    tx.query("DELETE FROM email_validations WHERE expires_ts <= $1")
        .bind(now)
        .execute()
        .await?;
    tx.query(
        "INSERT INTO email_validations
             (session_id, client_secret_hash, address, purpose, token_hash, send_attempt, failures, next_link,
              expires_ts)
         VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8)
         ON CONFLICT (client_secret_hash, address, purpose) DO UPDATE
         SET token_hash = excluded.token_hash, send_attempt = excluded.send_attempt, failures = 0,
             next_link = excluded.next_link, expires_ts = excluded.expires_ts",
    )
    .bind(new.session_id)
    .bind(&new.key.client_secret_hash[..])
    .bind(new.key.address)
    .bind(new.key.purpose)
    .bind(&new.token_hash[..])
    .bind(new.send_attempt)
    .bind(new.next_link)
    .bind(new.expires_ts)
    .execute()
    .await?;
    Ok(())
}

/// Returns the session of a client, unless it has expired.
pub async fn find_by_key(
    db: &mut impl ReadAccess,
    key: ValidationKey<'_>,
    now: i64,
) -> Result<Option<ValidationRow>> {
    db.query(
        "SELECT session_id, address, purpose, token_hash, send_attempt, failures, next_link, validated_ts
         FROM email_validations
         WHERE client_secret_hash = $1 AND address = $2 AND purpose = $3 AND expires_ts > $4",
    )
    .bind(&key.client_secret_hash[..])
    .bind(key.address)
    .bind(key.purpose)
    .bind(now)
    .fetch_optional()
    .await
}

/// Returns a session, unless it has expired.
pub async fn find(
    db: &mut impl ReadAccess,
    session_id: &str,
    now: i64,
) -> Result<Option<ValidationRow>> {
    db.query(
        "SELECT session_id, address, purpose, token_hash, send_attempt, failures, next_link, validated_ts
         FROM email_validations
         WHERE session_id = $1 AND expires_ts > $2",
    )
    .bind(session_id)
    .bind(now)
    .fetch_optional()
    .await
}

/// Returns a session if the client knows its secret, unless it has expired.
pub async fn find_with_secret(
    db: &mut impl ReadAccess,
    session_id: &str,
    client_secret_hash: &TokenHash,
    now: i64,
) -> Result<Option<ValidationRow>> {
    db.query(
        "SELECT session_id, address, purpose, token_hash, send_attempt, failures, next_link, validated_ts
         FROM email_validations
         WHERE session_id = $1 AND client_secret_hash = $2 AND expires_ts > $3",
    )
    .bind(session_id)
    .bind(&client_secret_hash[..])
    .bind(now)
    .fetch_optional()
    .await
}

/// Counts a wrong token.
pub async fn add_failure(tx: &mut WriteTx, session_id: &str) -> Result<()> {
    tx.query("UPDATE email_validations SET failures = failures + 1 WHERE session_id = $1")
        .bind(session_id)
        .execute()
        .await?;
    Ok(())
}

/// Records that the token of a session was presented.
pub async fn set_validated(
    tx: &mut WriteTx,
    session_id: &str,
    validated_ts: i64,
    expires_ts: i64,
) -> Result<()> {
    tx.query(
        "UPDATE email_validations SET validated_ts = $2, expires_ts = $3 WHERE session_id = $1",
    )
    .bind(session_id)
    .bind(validated_ts)
    .bind(expires_ts)
    .execute()
    .await?;
    Ok(())
}

/// Deletes the sessions for an address and a purpose.
pub async fn remove(tx: &mut WriteTx, address: &str, purpose: &str) -> Result<()> {
    tx.query("DELETE FROM email_validations WHERE address = $1 AND purpose = $2")
        .bind(address)
        .bind(purpose)
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    const SECRET_HASH: TokenHash = [1; 32];

    fn new_session(send_attempt: i64, expires_ts: i64) -> NewValidation<'static> {
        NewValidation {
            session_id: if send_attempt == 1 { "one" } else { "other" },
            key: ValidationKey {
                client_secret_hash: &SECRET_HASH,
                address: "a@b",
                purpose: "add",
            },
            token_hash: &[2; 32],
            send_attempt,
            next_link: None,
            expires_ts,
        }
    }

    #[tokio::test]
    async fn a_later_attempt_keeps_the_session_id() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let (first, second) = (new_session(1, 10), new_session(2, 20));
        set(&mut tx, first, 0).await.unwrap();
        add_failure(&mut tx, "one").await.unwrap();
        set(&mut tx, second, 0).await.unwrap();

        let found = find_by_key(&mut tx, first.key, 15).await.unwrap().unwrap();
        assert_eq!((&*found.session_id, found.send_attempt), ("one", 2));
        assert_eq!(found.failures, 0);
        assert!(find(&mut tx, "one", 20).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_session_is_validated_and_found_with_its_secret() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        set(&mut tx, new_session(1, 10), 0).await.unwrap();
        set_validated(&mut tx, "one", 5, 30).await.unwrap();

        let right = find_with_secret(&mut tx, "one", &SECRET_HASH, 20).await;
        assert_eq!(right.unwrap().unwrap().validated_ts, Some(5));
        let wrong = find_with_secret(&mut tx, "one", &[9; 32], 20).await;
        assert!(wrong.unwrap().is_none());
        remove(&mut tx, "a@b", "password").await.unwrap();
        assert!(find(&mut tx, "one", 20).await.unwrap().is_some());
        remove(&mut tx, "a@b", "add").await.unwrap();
        assert!(find(&mut tx, "one", 20).await.unwrap().is_none());
    }
}
