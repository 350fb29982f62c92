//! Short-lived tokens for one purpose: to log another device in, or to prove the user's identity to another service.

use std::time::Duration;

use ruma::{
    OwnedUserId, UserId,
    api::client::{session::get_login_token, uiaa::AuthData},
};

use super::{Session, Users, secrets};
use crate::{
    error::{Error, Result},
    storage::{
        UserNum,
        users::short_lived_tokens::{self, TokenPurpose},
    },
};

/// The lifetime of a login token, as the specification recommends.
const LOGIN_TOKEN_LIFETIME: Duration = Duration::from_mins(2);
/// The lifetime of an `OpenID` token.
const OPENID_TOKEN_LIFETIME: Duration = Duration::from_hours(1);
/// The largest number of valid tokens of a user.
const MAX_TOKENS_PER_USER: i64 = 100;

impl Users {
    /// Issues a token with which another device can log in once, and returns its lifetime.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until the user has authenticated with the password, which is needed for each token.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token).
    pub async fn login_token(
        &self,
        session: &Session,
        auth: Option<&AuthData>,
    ) -> Result<get_login_token::v1::Response> {
        self.reauthenticate("login/get_token", session, &(), auth)
            .await?;
        let token = self
            .issue_token(session, TokenPurpose::Login, LOGIN_TOKEN_LIFETIME)
            .await?;
        Ok(get_login_token::v1::Response::new(
            LOGIN_TOKEN_LIFETIME,
            token,
        ))
    }

    /// Issues a token that proves the user's identity to another service, and returns its lifetime.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#openid).
    pub async fn openid_token(&self, session: &Session) -> Result<(String, Duration)> {
        let token = self
            .issue_token(session, TokenPurpose::Openid, OPENID_TOKEN_LIFETIME)
            .await?;
        Ok((token, OPENID_TOKEN_LIFETIME))
    }

    /// Returns the user whose token another service presents.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] when the token is unknown or has expired.
    pub async fn openid_user(&self, token: &str) -> Result<OwnedUserId> {
        let (hash, now) = (secrets::hash_token(token), self.inner.clock.now_ms());
        let mut db = self.inner.db.read().await?;
        let user = short_lived_tokens::find(&mut db, &hash, TokenPurpose::Openid, now).await?;
        let user = user.ok_or(Error::UnknownToken { soft_logout: false })?;
        let text = self.inner.db.strings.user_id(&mut db, user).await?;
        UserId::parse(&*text).map_err(|e| Error::internal("read a stored user id", e))
    }

    /// Redeems a login token and returns its user.
    pub(super) async fn redeem_login_token(&self, token: &str) -> Result<(UserNum, OwnedUserId)> {
        let (hash, now) = (secrets::hash_token(token), self.inner.clock.now_ms());
        let mut tx = self.inner.db.write().await?;
        let user = short_lived_tokens::consume(&mut tx, &hash, TokenPurpose::Login, now).await?;
        let user = user.ok_or_else(|| Error::forbidden("the login token is not valid"))?;
        let text = self.inner.db.strings.user_id(&mut tx, user).await?;
        tx.commit().await?;
        let user_id = UserId::parse(&*text);
        Ok((
            user,
            user_id.map_err(|e| Error::internal("read a stored user id", e))?,
        ))
    }

    async fn issue_token(
        &self,
        session: &Session,
        purpose: TokenPurpose,
        lasts: Duration,
    ) -> Result<String> {
        let token = secrets::random_token();
        let now = self.inner.clock.now_ms();
        let lasts = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
        let times = (now, now.saturating_add(lasts));
        let mut tx = self.inner.db.write().await?;
        if short_lived_tokens::count(&mut tx, session.user, now).await? >= MAX_TOKENS_PER_USER {
            return Err(Error::LimitExceeded {
                retry_after: LOGIN_TOKEN_LIFETIME,
            });
        }
        let hash = secrets::hash_token(&token);
        short_lived_tokens::insert(&mut tx, &hash, purpose, session.user, times).await?;
        tx.commit().await?;
        Ok(token)
    }
}
