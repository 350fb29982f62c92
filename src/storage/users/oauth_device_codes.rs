//! Devices that wait until their user signs them in on another device, with the OAuth 2.0 API.

use super::tokens::TokenHash;
use crate::{
    error::Result,
    numbers::{UpstreamSessionNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// A device that waits.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct DeviceCodeRow {
    /// The code that the user enters.
    pub user_code: String,
    pub client_id: String,
    /// The id of the device to be signed in.
    pub device_id: String,
    /// The time in milliseconds since the Unix epoch.
    pub expires_ts: i64,
    /// The time of the client's latest question.
    pub polled_ts: i64,
    /// The decision of the user, once there is one.
    pub is_allowed: Option<bool>,
    /// The user who allowed it.
    pub user_num: Option<UserNum>,
    /// The user's sign-in with an identity provider, if there was one.
    pub upstream_session: Option<UpstreamSessionNum>,
}

/// The decision of a user whether a device may sign in.
#[derive(Clone, Copy, Debug)]
pub struct DeviceDecision {
    pub user: UserNum,
    /// The user's sign-in with an identity provider, if there was one.
    pub upstream_session: Option<UpstreamSessionNum>,
    pub is_allowed: bool,
}

/// Stores a device that begins to wait, and deletes those that expired before `deleted_before_ts`.
pub async fn insert(
    tx: &mut WriteTx,
    hash: &TokenHash,
    waiting: &DeviceCodeRow,
    deleted_before_ts: i64,
) -> Result<()> {
    tx.query("DELETE FROM oauth_device_codes WHERE expires_ts < $1")
        .bind(deleted_before_ts)
        .execute()
        .await?;
    tx.query(
        "INSERT INTO oauth_device_codes (hash, user_code, client_id, device_id, expires_ts, polled_ts, is_allowed,
                                         user_num)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&hash[..])
    .bind(&*waiting.user_code)
    .bind(&*waiting.client_id)
    .bind(&*waiting.device_id)
    .bind(waiting.expires_ts)
    .bind(waiting.polled_ts)
    .bind(waiting.is_allowed)
    .bind(waiting.user_num)
    .execute()
    .await?;
    Ok(())
}

/// Returns the number of devices that wait for a decision.
pub async fn count_waiting(db: &mut impl ReadAccess, now: i64) -> Result<i64> {
    let count = db
        .query("SELECT COUNT(*) FROM oauth_device_codes WHERE expires_ts > $1")
        .bind(now)
        .fetch_scalar()
        .await?;
    Ok(count.unwrap_or(0))
}

/// Returns a device by its device code, even if the code has expired.
pub async fn find(db: &mut impl ReadAccess, hash: &TokenHash) -> Result<Option<DeviceCodeRow>> {
    db.query(
        "SELECT user_code, client_id, device_id, expires_ts, polled_ts, is_allowed, user_num, upstream_session
         FROM oauth_device_codes
         WHERE hash = $1",
    )
    .bind(&hash[..])
    .fetch_optional()
    .await
}

/// Returns a device that waits for a decision, by the code that the user enters.
pub async fn find_undecided(
    db: &mut impl ReadAccess,
    user_code: &str,
    now: i64,
) -> Result<Option<DeviceCodeRow>> {
    db.query(
        "SELECT user_code, client_id, device_id, expires_ts, polled_ts, is_allowed, user_num, upstream_session
         FROM oauth_device_codes
         WHERE user_code = $1 AND expires_ts > $2 AND is_allowed IS NULL",
    )
    .bind(user_code)
    .bind(now)
    .fetch_optional()
    .await
}

/// Stores the decision of a user, unless there is one. Returns whether it was stored.
pub async fn decide(
    tx: &mut WriteTx,
    user_code: &str,
    decision: DeviceDecision,
    now: i64,
) -> Result<bool> {
    let stored = tx
        .query(
            "UPDATE oauth_device_codes
             SET is_allowed = $2, user_num = $3, upstream_session = $4
             WHERE user_code = $1 AND expires_ts > $5 AND is_allowed IS NULL",
        )
        .bind(user_code)
        .bind(decision.is_allowed)
        .bind(decision.user)
        .bind(decision.upstream_session)
        .bind(now)
        .execute()
        .await?;
    Ok(stored > 0)
}

/// Records that the client asked for the decision.
pub async fn set_polled(tx: &mut WriteTx, hash: &TokenHash, now: i64) -> Result<()> {
    tx.query("UPDATE oauth_device_codes SET polled_ts = $2 WHERE hash = $1")
        .bind(&hash[..])
        .bind(now)
        .execute()
        .await?;
    Ok(())
}

/// Deletes a device that waits.
pub async fn remove(tx: &mut WriteTx, hash: &TokenHash) -> Result<()> {
    tx.query("DELETE FROM oauth_device_codes WHERE hash = $1")
        .bind(&hash[..])
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    fn waiting(user_code: &str) -> DeviceCodeRow {
        DeviceCodeRow {
            user_code: user_code.to_owned(),
            client_id: "client".to_owned(),
            device_id: "DEVICE".to_owned(),
            expires_ts: 10,
            polled_ts: 0,
            is_allowed: None,
            user_num: None,
            upstream_session: None,
        }
    }

    fn allowed_by(user: UserNum) -> DeviceDecision {
        DeviceDecision {
            user,
            upstream_session: None,
            is_allowed: true,
        }
    }

    #[tokio::test]
    async fn only_the_first_decision_counts() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        insert(&mut tx, &[1; 32], &waiting("AAAA"), 0)
            .await
            .unwrap();
        assert_eq!(count_waiting(&mut tx, 9).await.unwrap(), 1);
        assert!(find_undecided(&mut tx, "AAAA", 9).await.unwrap().is_some());

        let alice = UserNum::new(1);
        let allow = allowed_by(alice);
        let deny = DeviceDecision {
            is_allowed: false,
            ..allow
        };
        assert!(decide(&mut tx, "AAAA", allow, 9).await.unwrap());
        assert!(!decide(&mut tx, "AAAA", deny, 9).await.unwrap());

        assert_eq!(find_undecided(&mut tx, "AAAA", 9).await.unwrap(), None);
        set_polled(&mut tx, &[1; 32], 9).await.unwrap();
        let decided = find(&mut tx, &[1; 32]).await.unwrap().unwrap();
        assert_eq!(
            (decided.is_allowed, decided.user_num),
            (Some(true), Some(alice))
        );
        assert_eq!(decided.polled_ts, 9);
        remove(&mut tx, &[1; 32]).await.unwrap();
        assert_eq!(find(&mut tx, &[1; 32]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_expired_code_cannot_be_allowed() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        insert(&mut tx, &[1; 32], &waiting("AAAA"), 0)
            .await
            .unwrap();

        let is_allowed = decide(&mut tx, "AAAA", allowed_by(UserNum::new(1)), 10).await;

        assert!(!is_allowed.unwrap());
        insert(&mut tx, &[2; 32], &waiting("BBBB"), 11)
            .await
            .unwrap();
        assert_eq!(find(&mut tx, &[1; 32]).await.unwrap(), None);
    }
}
