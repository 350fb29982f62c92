//! Sign-ins with identity providers, and the devices that they have signed in.
//!
//! The browser session, the codes and the tokens of such a sign-in are deleted with it. Its devices are not, because
//! more belongs to a device than its tokens.

use crate::{
    error::{Error, Result},
    numbers::{DeviceNum, UpstreamSessionNum, UserNum},
    storage::{ReadAccess, WriteTx},
};

/// A sign-in to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewUpstreamSession<'a> {
    /// The id of the provider in the configuration.
    pub provider: &'a str,
    /// The id of the account at the provider.
    pub subject: &'a str,
    /// The id of the session at the provider.
    pub provider_session: Option<&'a str>,
    pub user: UserNum,
    /// The time in milliseconds since the Unix epoch.
    pub started_ts: i64,
}

/// A stored sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct UpstreamSessionRow {
    pub num: UpstreamSessionNum,
    pub user_num: UserNum,
}

/// Stores a sign-in, and deletes those that began before `deleted_before_ts` and have no devices.
pub async fn insert(
    tx: &mut WriteTx,
    session: NewUpstreamSession<'_>,
    deleted_before_ts: i64,
) -> Result<UpstreamSessionNum> {
    tx.query(
        "DELETE FROM oauth_upstream_sessions
         WHERE started_ts < $1
           AND NOT EXISTS (
               SELECT 1 FROM oauth_upstream_devices
               WHERE oauth_upstream_devices.upstream_session = oauth_upstream_sessions.num)",
    )
    .bind(deleted_before_ts)
    .execute()
    .await?;
    let stored = tx
        .query(
            "INSERT INTO oauth_upstream_sessions (provider, subject, provider_session, user_num, started_ts)
             VALUES ($1, $2, $3, $4, $5)
             RETURNING num",
        )
        .bind(session.provider)
        .bind(session.subject)
        .bind(session.provider_session)
        .bind(session.user)
        .bind(session.started_ts)
        .fetch_scalar()
        .await?;
    stored.ok_or_else(|| Error::internal("store a sign-in", "the sign-in has no number"))
}

/// Returns the sign-ins of an account at a provider.
pub async fn of_subject(
    db: &mut impl ReadAccess,
    provider: &str,
    subject: &str,
) -> Result<Vec<UpstreamSessionRow>> {
    db.query(
        "SELECT num, user_num
         FROM oauth_upstream_sessions
         WHERE provider = $1 AND subject = $2",
    )
    .bind(provider)
    .bind(subject)
    .fetch_all()
    .await
}

/// Returns the sign-ins of a session at a provider.
pub async fn of_provider_session(
    db: &mut impl ReadAccess,
    provider: &str,
    provider_session: &str,
) -> Result<Vec<UpstreamSessionRow>> {
    db.query(
        "SELECT num, user_num
         FROM oauth_upstream_sessions
         WHERE provider = $1 AND provider_session = $2",
    )
    .bind(provider)
    .bind(provider_session)
    .fetch_all()
    .await
}

/// Returns the devices that a sign-in has signed in.
pub async fn devices(
    db: &mut impl ReadAccess,
    session: UpstreamSessionNum,
) -> Result<Vec<DeviceNum>> {
    db.query("SELECT device FROM oauth_upstream_devices WHERE upstream_session = $1")
        .bind(session)
        .fetch_scalars()
        .await
}

/// Records the sign-in that has signed in a device, or that there was none.
pub async fn set_of_device(
    tx: &mut WriteTx,
    device: DeviceNum,
    session: Option<UpstreamSessionNum>,
) -> Result<()> {
    tx.query("DELETE FROM oauth_upstream_devices WHERE device = $1")
        .bind(device)
        .execute()
        .await?;
    let Some(session) = session else {
        return Ok(());
    };
    tx.query("INSERT INTO oauth_upstream_devices (device, upstream_session) VALUES ($1, $2)")
        .bind(device)
        .bind(session)
        .execute()
        .await?;
    Ok(())
}

/// Deletes a sign-in, with its browser session, codes and tokens.
pub async fn remove(tx: &mut WriteTx, session: UpstreamSessionNum) -> Result<()> {
    tx.query("DELETE FROM oauth_upstream_sessions WHERE num = $1")
        .bind(session)
        .execute()
        .await?;
    Ok(())
}

/// Deletes all sign-ins of a user.
pub async fn remove_all(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    tx.query("DELETE FROM oauth_upstream_sessions WHERE user_num = $1")
        .bind(user)
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{
        devices::device_table,
        testing::TestDb,
        users::browser_sessions::{self, NewBrowserSession},
    };

    const ALICE: UserNum = UserNum::new(1);

    async fn start(
        tx: &mut WriteTx,
        provider_session: Option<&str>,
        started_ts: i64,
    ) -> UpstreamSessionNum {
        let new = NewUpstreamSession {
            provider: "one",
            subject: "a",
            provider_session,
            user: ALICE,
            started_ts,
        };
        insert(tx, new, started_ts - 10).await.unwrap()
    }

    async fn sessions(tx: &mut WriteTx) -> Vec<UpstreamSessionNum> {
        let found = of_subject(tx, "one", "a").await.unwrap();
        found.into_iter().map(|session| session.num).collect()
    }

    #[tokio::test]
    async fn a_sign_in_is_found_by_account_and_by_session() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let first = start(&mut tx, Some("s1"), 1).await;
        let second = start(&mut tx, None, 2).await;

        assert_eq!(sessions(&mut tx).await, [first, second]);
        let found = of_provider_session(&mut tx, "one", "s1").await.unwrap();
        assert_eq!((found.len(), found[0].num), (1, first));
        let other = of_provider_session(&mut tx, "other", "s1").await.unwrap();
        assert_eq!(other, []);
        remove(&mut tx, first).await.unwrap();
        assert_eq!(sessions(&mut tx).await, [second]);
        remove_all(&mut tx, ALICE).await.unwrap();
        assert_eq!(sessions(&mut tx).await, []);
    }

    #[tokio::test]
    async fn a_browser_session_is_deleted_with_its_sign_in() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let upstream_session = start(&mut tx, None, 1).await;
        let session = NewBrowserSession {
            hash: &[1; 32],
            user: ALICE,
            upstream_session: Some(upstream_session),
            created_ts: 1,
            expires_ts: 100,
        };
        browser_sessions::insert(&mut tx, session).await.unwrap();

        remove(&mut tx, upstream_session).await.unwrap();

        let found = browser_sessions::find(&mut tx, &[1; 32], 2).await;
        assert_eq!(found.unwrap(), None);
    }

    #[tokio::test]
    async fn an_old_sign_in_is_kept_as_long_as_its_device() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let device = device_table::upsert(&mut tx, ALICE, "A", None, 1).await;
        let device = device.unwrap();
        let first = start(&mut tx, None, 1).await;
        set_of_device(&mut tx, device, Some(first)).await.unwrap();
        start(&mut tx, None, 2).await;

        let latest = start(&mut tx, None, 100).await;
        assert_eq!(sessions(&mut tx).await, [first, latest]);
        assert_eq!(devices(&mut tx, first).await.unwrap(), [device]);
        set_of_device(&mut tx, device, Some(latest)).await.unwrap();
        assert_eq!(devices(&mut tx, first).await.unwrap(), []);
        assert_eq!(devices(&mut tx, latest).await.unwrap(), [device]);
        set_of_device(&mut tx, device, None).await.unwrap();
        assert_eq!(devices(&mut tx, latest).await.unwrap(), []);
    }
}
