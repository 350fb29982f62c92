//! Tokens that serve one purpose for a while: to log another device in, or to tell another service who one is.

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
        users::short_lived_tokens::{self, Purpose},
    },
};

/// How long a token lasts that logs another device in: as long as the specification recommends.
const LOGIN_LIFETIME: Duration = Duration::from_mins(2);
/// How long a token lasts that tells another service who one is.
const OPENID_LIFETIME: Duration = Duration::from_hours(1);
/// Tokens of a user at a time.
const TOKENS: i64 = 100;

impl Users {
    /// Gives a user a token with which another device can log in once, and says how long it lasts.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until the user has shown the password, each time anew.
    pub async fn login_token(
        &self,
        session: &Session,
        auth: Option<&AuthData>,
    ) -> Result<get_login_token::v1::Response> {
        self.reauthenticate("login/get_token", session, &(), auth)
            .await?;
        let token = self.pass(session, Purpose::Login, LOGIN_LIFETIME).await?;
        Ok(get_login_token::v1::Response::new(LOGIN_LIFETIME, token))
    }

    /// Gives a user a token that tells another service who they are, and says how long it lasts.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#openid
    pub async fn openid_token(&self, session: &Session) -> Result<(String, Duration)> {
        let token = self.pass(session, Purpose::Openid, OPENID_LIFETIME).await?;
        Ok((token, OPENID_LIFETIME))
    }

    /// Returns whose token it is that another service shows.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] when it is nobody's, or has expired.
    pub async fn openid_user(&self, token: &str) -> Result<OwnedUserId> {
        let (hash, now) = (secrets::hash(token), self.inner.clock.now_ms());
        let mut db = self.inner.db.read().await?;
        let user = short_lived_tokens::find(&mut db, &hash, Purpose::Openid, now).await?;
        let user = user.ok_or(Error::UnknownToken { soft_logout: false })?;
        let text = self.inner.db.strings.get(&mut db, user).await?;
        UserId::parse(&*text).map_err(|e| Error::internal("read a stored user id", e))
    }

    /// Uses a token up that logs a device in, and returns whose it was.
    pub(super) async fn take_login_token(&self, token: &str) -> Result<(UserNum, OwnedUserId)> {
        let (hash, now) = (secrets::hash(token), self.inner.clock.now_ms());
        let mut tx = self.inner.db.write().await?;
        let user = short_lived_tokens::take(&mut tx, &hash, Purpose::Login, now).await?;
        let user = user.ok_or_else(|| Error::forbidden("the login token is not valid"))?;
        let text = self.inner.db.strings.get(&mut tx, user).await?;
        tx.commit().await?;
        let user_id = UserId::parse(&*text);
        Ok((
            user,
            user_id.map_err(|e| Error::internal("read a stored user id", e))?,
        ))
    }

    async fn pass(&self, session: &Session, purpose: Purpose, lasts: Duration) -> Result<String> {
        let token = secrets::token();
        let now = self.inner.clock.now_ms();
        let lasts = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
        let times = (now, now.saturating_add(lasts));
        let mut tx = self.inner.db.write().await?;
        if short_lived_tokens::count(&mut tx, session.user, now).await? >= TOKENS {
            return Err(Error::LimitExceeded {
                retry_after: LOGIN_LIFETIME,
            });
        }
        let hash = secrets::hash(&token);
        short_lived_tokens::insert(&mut tx, &hash, purpose, session.user, times).await?;
        tx.commit().await?;
        Ok(token)
    }
}
