//! Access tokens and refresh tokens, stored as hashes only, and registration tokens.

use crate::{
    error::Result,
    numbers::DeviceNum,
    storage::{ReadAccess, WriteTx, number_list},
};

/// The SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// A registration token.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RegistrationToken {
    /// The token itself.
    pub token: String,
    /// The number of allowed uses; `None` is any number.
    pub uses_allowed: Option<i64>,
    /// The number of uses.
    pub completed: i64,
    /// The expiry time; `None` is never.
    pub expires_ts: Option<i64>,
    /// Whether users who register with it become administrators.
    pub makes_admin: bool,
}

/// A refresh token.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RefreshToken {
    pub device: DeviceNum,
    /// The hash of the access token that was issued for it.
    pub next_access: Option<Vec<u8>>,
    /// The hash of the refresh token that was issued for it.
    pub next_refresh: Option<Vec<u8>>,
}

/// Stores an access token.
pub async fn insert_access(
    tx: &mut WriteTx,
    hash: &TokenHash,
    device: DeviceNum,
    expires_ts: Option<i64>,
) -> Result<()> {
    tx.query(
        "INSERT INTO access_tokens (hash, device, expires_ts)
         VALUES ($1, $2, $3)",
    )
    .bind(&hash[..])
    .bind(device)
    .bind(expires_ts)
    .execute()
    .await?;
    Ok(())
}

/// A stored access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct AccessTokenRow {
    pub device: DeviceNum,
    /// The time in milliseconds since the Unix epoch; `None` if it does not expire.
    pub expires_ts: Option<i64>,
}

/// Returns an access token.
pub async fn find_access(
    db: &mut impl ReadAccess,
    hash: &TokenHash,
) -> Result<Option<AccessTokenRow>> {
    db.query(
        "SELECT device, expires_ts
         FROM access_tokens
         WHERE hash = $1",
    )
    .bind(&hash[..])
    .fetch_optional()
    .await
}

/// Deletes the access tokens of a device, except this one.
pub async fn delete_access_except(tx: &mut WriteTx, device: DeviceNum, kept: &[u8]) -> Result<()> {
    tx.query(
        "DELETE FROM access_tokens
         WHERE device = $1 AND hash <> $2",
    )
    .bind(device)
    .bind(kept)
    .execute()
    .await?;
    Ok(())
}

/// Deletes one access token.
pub async fn delete_access(tx: &mut WriteTx, hash: &[u8]) -> Result<()> {
    tx.query("DELETE FROM access_tokens WHERE hash = $1")
        .bind(hash)
        .execute()
        .await?;
    Ok(())
}

/// Stores a refresh token.
pub async fn insert_refresh(tx: &mut WriteTx, hash: &TokenHash, device: DeviceNum) -> Result<()> {
    tx.query(
        "INSERT INTO refresh_tokens (hash, device, next_access, next_refresh)
         VALUES ($1, $2, NULL, NULL)",
    )
    .bind(&hash[..])
    .bind(device)
    .execute()
    .await?;
    Ok(())
}

/// Returns a refresh token.
pub async fn find_refresh(
    db: &mut impl ReadAccess,
    hash: &TokenHash,
) -> Result<Option<RefreshToken>> {
    db.query(
        "SELECT device, next_access, next_refresh
         FROM refresh_tokens
         WHERE hash = $1",
    )
    .bind(&hash[..])
    .fetch_optional()
    .await
}

/// Stores the tokens that were issued for a refresh token.
pub async fn set_issued_tokens(
    tx: &mut WriteTx,
    hash: &TokenHash,
    next_access: &TokenHash,
    next_refresh: &TokenHash,
) -> Result<()> {
    tx.query(
        "UPDATE refresh_tokens
         SET next_access = $2, next_refresh = $3
         WHERE hash = $1",
    )
    .bind(&hash[..])
    .bind(&next_access[..])
    .bind(&next_refresh[..])
    .execute()
    .await?;
    Ok(())
}

/// Returns the refresh token of a device for which this access or refresh token was issued.
pub async fn predecessor(
    db: &mut impl ReadAccess,
    device: DeviceNum,
    given: &TokenHash,
) -> Result<Option<RefreshToken>> {
    db.query(
        "SELECT device, next_access, next_refresh
         FROM refresh_tokens
         WHERE device = $1 AND (next_access = $2 OR next_refresh = $2)",
    )
    .bind(device)
    .bind(&given[..])
    .fetch_optional()
    .await
}

/// Deletes the refresh tokens of a device, except this one.
pub async fn delete_refresh_except(tx: &mut WriteTx, device: DeviceNum, kept: &[u8]) -> Result<()> {
    tx.query(
        "DELETE FROM refresh_tokens
         WHERE device = $1 AND hash <> $2",
    )
    .bind(device)
    .bind(kept)
    .execute()
    .await?;
    Ok(())
}

/// Deletes one refresh token.
pub async fn delete_refresh(tx: &mut WriteTx, hash: &[u8]) -> Result<()> {
    tx.query("DELETE FROM refresh_tokens WHERE hash = $1")
        .bind(hash)
        .execute()
        .await?;
    Ok(())
}

/// Deletes all access and refresh tokens of these devices.
pub async fn delete_of_devices(tx: &mut WriteTx, devices: &[DeviceNum]) -> Result<()> {
    let devices = number_list(devices.iter().copied());
    tx.query(
        "DELETE FROM access_tokens
         WHERE device IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(devices.clone())
    .execute()
    .await?;
    tx.query(
        "DELETE FROM refresh_tokens
         WHERE device IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(devices)
    .execute()
    .await?;
    Ok(())
}

/// Stores a registration token.
pub async fn insert_registration(tx: &mut WriteTx, token: &RegistrationToken) -> Result<()> {
    tx.query(
        "INSERT INTO registration_tokens (token, uses_allowed, completed, expires_ts, makes_admin)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&*token.token)
    .bind(token.uses_allowed)
    .bind(token.completed)
    .bind(token.expires_ts)
    .bind(token.makes_admin)
    .execute()
    .await?;
    Ok(())
}

/// Returns a registration token, if it has uses left and has not expired.
pub async fn valid_registration(
    db: &mut impl ReadAccess,
    token: &str,
    now: i64,
) -> Result<Option<RegistrationToken>> {
    db.query(
        "SELECT token, uses_allowed, completed, expires_ts, makes_admin
         FROM registration_tokens
         WHERE token = $1
           AND (uses_allowed IS NULL OR completed < uses_allowed)
           AND (expires_ts IS NULL OR expires_ts > $2)",
    )
    .bind(token)
    .bind(now)
    .fetch_optional()
    .await
}

/// Returns an unused registration token for administrators.
pub async fn unused_admin_registration(db: &mut impl ReadAccess) -> Result<Option<String>> {
    db.query(
        "SELECT token
         FROM registration_tokens
         WHERE makes_admin AND completed = 0 AND expires_ts IS NULL
         ORDER BY token
         LIMIT 1",
    )
    .fetch_scalar()
    .await
}

/// Deletes the unused registration tokens for administrators.
pub async fn delete_unused_admin_registrations(tx: &mut WriteTx) -> Result<()> {
    tx.query("DELETE FROM registration_tokens WHERE makes_admin AND completed = 0")
        .execute()
        .await?;
    Ok(())
}

/// Counts a use of a registration token, if it has one left. Returns whether it is for administrators.
pub async fn use_registration(tx: &mut WriteTx, token: &str, now: i64) -> Result<Option<bool>> {
    tx.query(
        "UPDATE registration_tokens
         SET completed = completed + 1
         WHERE token = $1
           AND (uses_allowed IS NULL OR completed < uses_allowed)
           AND (expires_ts IS NULL OR expires_ts > $2)
         RETURNING makes_admin",
    )
    .bind(token)
    .bind(now)
    .fetch_scalar()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        numbers::UserNum,
        storage::{devices::device_table, testing::TestDb},
    };

    #[tokio::test]
    async fn tokens_go_with_their_device() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let device = device_table::upsert(&mut tx, UserNum::new(1), "A", None, 1)
            .await
            .unwrap();
        insert_access(&mut tx, &[1; 32], device, Some(7))
            .await
            .unwrap();
        insert_refresh(&mut tx, &[2; 32], device).await.unwrap();

        let found = find_access(&mut tx, &[1; 32]).await.unwrap();
        let expected = AccessTokenRow {
            device,
            expires_ts: Some(7),
        };
        assert_eq!(found, Some(expected));
        device_table::delete(&mut tx, UserNum::new(1), vec![device])
            .await
            .unwrap();

        assert_eq!(find_access(&mut tx, &[1; 32]).await.unwrap(), None);
        assert_eq!(find_refresh(&mut tx, &[2; 32]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_predecessor_of_an_issued_token_is_found() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let device = device_table::upsert(&mut tx, UserNum::new(1), "A", None, 1)
            .await
            .unwrap();
        insert_access(&mut tx, &[1; 32], device, None)
            .await
            .unwrap();
        insert_access(&mut tx, &[3; 32], device, None)
            .await
            .unwrap();
        insert_refresh(&mut tx, &[2; 32], device).await.unwrap();
        insert_refresh(&mut tx, &[4; 32], device).await.unwrap();
        set_issued_tokens(&mut tx, &[2; 32], &[3; 32], &[4; 32])
            .await
            .unwrap();

        assert!(
            predecessor(&mut tx, device, &[3; 32])
                .await
                .unwrap()
                .is_some()
        );
        assert!(
            predecessor(&mut tx, device, &[4; 32])
                .await
                .unwrap()
                .is_some()
        );
        assert!(
            predecessor(&mut tx, device, &[1; 32])
                .await
                .unwrap()
                .is_none()
        );

        delete_refresh_except(&mut tx, device, &[4; 32])
            .await
            .unwrap();
        delete_access_except(&mut tx, device, &[3; 32])
            .await
            .unwrap();
        assert!(find_refresh(&mut tx, &[2; 32]).await.unwrap().is_none());
        assert!(find_access(&mut tx, &[1; 32]).await.unwrap().is_none());
        assert!(find_access(&mut tx, &[3; 32]).await.unwrap().is_some());

        delete_access(&mut tx, &[3; 32]).await.unwrap();
        delete_refresh(&mut tx, &[4; 32]).await.unwrap();
        delete_of_devices(&mut tx, &[device]).await.unwrap();
        assert!(find_access(&mut tx, &[3; 32]).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_registration_token_expires_by_uses_or_time() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let token = RegistrationToken {
            token: "t".to_owned(),
            uses_allowed: Some(1),
            completed: 0,
            expires_ts: Some(100),
            makes_admin: true,
        };
        insert_registration(&mut tx, &token).await.unwrap();

        assert_eq!(
            valid_registration(&mut tx, "t", 99).await.unwrap(),
            Some(token)
        );
        assert_eq!(valid_registration(&mut tx, "t", 100).await.unwrap(), None);
        assert_eq!(use_registration(&mut tx, "t", 1).await.unwrap(), Some(true));
        assert_eq!(use_registration(&mut tx, "t", 1).await.unwrap(), None);
        assert_eq!(unused_admin_registration(&mut tx).await.unwrap(), None);
    }
}
