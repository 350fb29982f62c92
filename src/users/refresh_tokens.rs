//! Access tokens and refresh tokens: issuing them, and exchanging a refresh token for new ones.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens).

use std::time::Duration;

use super::{UserEnvironment, secrets};
use crate::{
    clock::Clock,
    error::{Error, Result},
    numbers::DeviceNum,
    storage::{
        Db, JournalChange, WriteTx,
        devices::device_table,
        users::{
            accounts,
            tokens::{self, TokenHash},
        },
    },
};

/// The lifetime of an access token that has a refresh token.
pub const ACCESS_TOKEN_LIFETIME: Duration = Duration::from_hours(1);

/// The tokens of a new session or a refresh.
#[derive(Clone, Debug)]
pub struct IssuedTokens {
    pub access_token: String,
    /// The refresh token, for clients that asked for one.
    pub refresh_token: Option<String>,
    /// The lifetime of the access token; `None` means until the device logs out.
    pub expires_in: Option<Duration>,
}

impl IssuedTokens {
    /// Issues an access token and, if wanted, a refresh token for a device.
    pub(super) async fn issue(
        tx: &mut WriteTx,
        device: DeviceNum,
        with_refresh: bool,
        now: i64,
    ) -> Result<Self> {
        let access_token = secrets::random_token();
        let expires_in = with_refresh.then_some(ACCESS_TOKEN_LIFETIME);
        let expires_ts = expires_in.map(|lifetime| {
            now.saturating_add(i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX))
        });
        tokens::insert_access(tx, &secrets::hash_token(&access_token), device, expires_ts).await?;
        let refresh_token = with_refresh.then(secrets::random_token);
        if let Some(refresh_token) = &refresh_token {
            tokens::insert_refresh(tx, &secrets::hash_token(refresh_token), device).await?;
        }
        Ok(Self {
            access_token,
            refresh_token,
            expires_in,
        })
    }
}

/// Exchanges refresh tokens for new tokens.
#[derive(Clone)]
pub struct RefreshTokens {
    db: Db,
    clock: Clock,
}

impl RefreshTokens {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
        }
    }

    /// Exchanges a refresh token for a new access token and a new refresh token.
    ///
    /// "The old refresh token remains valid until the new access token or refresh token is used, at which point the old
    /// refresh token is revoked." So a client that lost the response can repeat the request.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] when the refresh token is not, or no longer, valid; [`Error::UserLocked`].
    pub async fn refresh(&self, refresh_token: &str) -> Result<IssuedTokens> {
        let hash = secrets::hash_token(refresh_token);
        let now = self.clock.now_ms();
        let mut tx = self.db.write().await?;
        let Some(old) = tokens::find_refresh(&mut tx, &hash).await? else {
            return Err(Error::UnknownToken { soft_logout: false });
        };
        if let Some(device) = device_table::get(&mut tx, old.device).await?
            && let Some(account) = accounts::find(&mut tx, device.user_num).await?
            && account.locked
        {
            return Err(Error::UserLocked);
        }
        revoke_predecessor(&mut tx, old.device, &hash).await?;
        // Tokens that were issued for it before were never used: a client that repeats the request did not receive
        // them.
        if let (Some(access), Some(refresh)) = (&old.next_access, &old.next_refresh) {
            tokens::delete_access(&mut tx, access).await?;
            tokens::delete_refresh(&mut tx, refresh).await?;
        }
        let issued = IssuedTokens::issue(&mut tx, old.device, true, now).await?;
        if let Some(next_refresh) = &issued.refresh_token {
            let next_access = secrets::hash_token(&issued.access_token);
            tokens::set_issued_tokens(
                &mut tx,
                &hash,
                &next_access,
                &secrets::hash_token(next_refresh),
            )
            .await?;
        }
        publish_token_change(&mut tx, old.device);
        tx.commit().await?;
        Ok(issued)
    }
}

/// Records the first use of an access token, which revokes the tokens that it replaces.
pub(super) async fn record_first_use(db: &Db, device: DeviceNum, access: &TokenHash) -> Result<()> {
    let mut reading = db.read().await?;
    let replaces = tokens::predecessor(&mut reading, device, access).await?;
    drop(reading);
    if replaces.is_none() {
        return Ok(());
    }
    let mut tx = db.write().await?;
    revoke_predecessor(&mut tx, device, access).await?;
    publish_token_change(&mut tx, device);
    tx.commit().await
}

/// Removes the tokens of a device from the cache once the change is committed.
fn publish_token_change(tx: &mut WriteTx, device: DeviceNum) {
    let position = tx.next_position();
    tx.publish(position, JournalChange::TokensChanged { device });
}

/// Revokes the tokens that an access or refresh token replaces.
async fn revoke_predecessor(tx: &mut WriteTx, device: DeviceNum, used: &TokenHash) -> Result<()> {
    let Some(old) = tokens::predecessor(tx, device, used).await? else {
        return Ok(());
    };
    if let (Some(access), Some(refresh)) = (&old.next_access, &old.next_refresh) {
        tokens::delete_access_except(tx, device, access).await?;
        tokens::delete_refresh_except(tx, device, refresh).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::users::testing::TestUsers;

    /// A user with a client that supports refresh tokens.
    struct RefreshingUser {
        test: TestUsers,
        /// The tokens from the registration.
        first: IssuedTokens,
    }

    impl RefreshingUser {
        async fn new() -> Self {
            let test = TestUsers::new(|_| {}).await;
            let request = json!({
                "username": "alice", "refresh_token": true, "auth": {"type": "m.login.dummy"},
            });
            let first = test.register_with(request).await.unwrap().tokens;
            Self { test, first }
        }

        async fn is_accepted(&self, issued: &IssuedTokens) -> bool {
            let sessions = &self.test.users.sessions;
            sessions.authenticate(&issued.access_token).await.is_ok()
        }

        async fn refresh(&self, issued: &IssuedTokens) -> Result<IssuedTokens> {
            let refresh_token = issued.refresh_token.as_deref().unwrap();
            self.test.users.refresh_tokens.refresh(refresh_token).await
        }
    }

    #[tokio::test]
    async fn an_expired_access_token_is_a_soft_logout() {
        let alice = RefreshingUser::new().await;
        assert_eq!(alice.first.expires_in, Some(ACCESS_TOKEN_LIFETIME));
        assert!(alice.is_accepted(&alice.first).await);

        alice.test.advance(ACCESS_TOKEN_LIFETIME);

        let sessions = &alice.test.users.sessions;
        let refused = sessions.authenticate(&alice.first.access_token).await;
        let soft = matches!(refused, Err(Error::UnknownToken { soft_logout: true }));
        assert!(soft);
        assert!(alice.refresh(&alice.first).await.is_ok());
    }

    #[tokio::test]
    async fn old_tokens_are_valid_until_the_new_one_is_used() {
        let alice = RefreshingUser::new().await;
        let new = alice.refresh(&alice.first).await.unwrap();

        assert!(alice.is_accepted(&alice.first).await);
        assert!(alice.is_accepted(&new).await);

        assert!(!alice.is_accepted(&alice.first).await);
        assert!(alice.refresh(&alice.first).await.is_err());
        assert!(alice.refresh(&new).await.is_ok());
    }

    #[tokio::test]
    async fn a_lost_refresh_response_can_be_requested_again() {
        let alice = RefreshingUser::new().await;
        let lost = alice.refresh(&alice.first).await.unwrap();

        let again = alice.refresh(&alice.first).await.unwrap();

        assert!(!alice.is_accepted(&lost).await);
        assert!(alice.is_accepted(&again).await);
    }

    #[tokio::test]
    async fn using_a_new_refresh_token_revokes_the_old_one() {
        let alice = RefreshingUser::new().await;
        let second = alice.refresh(&alice.first).await.unwrap();

        let third = alice.refresh(&second).await.unwrap();

        assert!(alice.refresh(&alice.first).await.is_err());
        assert!(!alice.is_accepted(&alice.first).await);
        assert!(alice.is_accepted(&second).await);
        assert!(alice.is_accepted(&third).await);
    }
}
