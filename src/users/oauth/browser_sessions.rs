//! Browsers in which users are signed in to the pages of this server. A cookie identifies them.

use std::time::Duration;

use ruma::{OwnedServerName, OwnedUserId, UserId};

use crate::{
    clock::Clock,
    error::{Error, Result},
    numbers::UpstreamSessionNum,
    storage::{
        Db,
        users::{
            accounts,
            browser_sessions::{self, NewBrowserSession as NewBrowserSessionRow},
        },
    },
    users::{
        Session, UserEnvironment, UserLogin, VerifiedUser, account_restrictions::must_be_usable,
        password_check::PasswordCheck, secrets, usernames,
    },
};

/// The lifetime of a browser session.
const BROWSER_SESSION_LIFETIME: Duration = Duration::from_hours(24 * 14);
/// The time for which a sign-in with an identity provider counts instead of the password, in milliseconds.
const RECENT_SIGN_IN_MS: i64 = 5 * 60 * 1000;
/// The largest number of browser sessions of a user. Beyond it, the oldest are ended.
const MAX_BROWSER_SESSIONS: i64 = 50;

/// The browser sessions of users.
#[derive(Clone)]
pub struct BrowserSessions {
    db: Db,
    clock: Clock,
    server_name: OwnedServerName,
    login: UserLogin,
    password_check: PasswordCheck,
}

/// A browser session that was started.
#[derive(Clone, Debug)]
pub struct NewBrowserSession {
    pub user_id: OwnedUserId,
    /// The secret for the cookie.
    pub secret: String,
    pub lifetime: Duration,
}

/// A user who is signed in in a browser.
#[derive(Debug)]
pub struct BrowserUser {
    /// The session of the user, which has no device.
    pub session: Session,
    /// Whether the user has a password and may use it.
    pub has_password: bool,
    /// The sign-in with an identity provider that began the session, if one did.
    pub upstream_session: Option<UpstreamSessionNum>,
    /// The time at which the user signed in, in milliseconds since the Unix epoch.
    signed_in_ts: i64,
}

impl BrowserUser {
    /// Returns whether the user has signed in with an identity provider a short time ago.
    pub fn signed_in_with_provider_recently(&self, now: i64) -> bool {
        let age = now.saturating_sub(self.signed_in_ts);
        self.upstream_session.is_some() && age < RECENT_SIGN_IN_MS
    }
}

impl BrowserSessions {
    /// Creates the service.
    pub(in crate::users) fn new(environment: &UserEnvironment, login: &UserLogin) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            server_name: environment.server_name.clone(),
            login: login.clone(),
            password_check: login.password_check.clone(),
        }
    }

    /// Returns the user whom a sign-in names by user name, user id or e-mail address, whether or not there is such an
    /// account.
    pub async fn named_user(&self, name: &str) -> Result<Option<OwnedUserId>> {
        let name = name.trim();
        if !name.starts_with('@')
            && name.contains('@')
            && let Some(user_id) = self.login.find_by_email(name).await?
        {
            return Ok(Some(user_id));
        }
        Ok(usernames::named_user_id(name, &self.server_name))
    }

    /// Signs a user in.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user or the password is wrong, which takes the same time;
    /// [`Error::UserDeactivated`]; [`Error::UserLocked`].
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn sign_in(
        &self,
        user_id: Option<&UserId>,
        password: String,
    ) -> Result<NewBrowserSession> {
        // The empty name is nobody's: the password is checked as for any unknown user, which takes the same time.
        let name = user_id.map_or("", UserId::as_str);
        let user = self.password_check.check(name, password).await?;
        self.start(user).await
    }

    /// Checks the password of a signed-in user again, before a dangerous change.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when it is wrong.
    pub async fn check_password(&self, session: &Session, password: String) -> Result<()> {
        let name = session.user_id.as_str();
        self.password_check.check(name, password).await.map(drop)
    }

    /// Signs in a user who has just registered.
    ///
    /// # Errors
    ///
    /// [`Error::UserDeactivated`] or [`Error::UserLocked`].
    pub async fn start_for(&self, user_id: OwnedUserId) -> Result<NewBrowserSession> {
        let mut db = self.db.read().await?;
        let user_num = self.db.strings.find_user(&mut db, user_id.as_str()).await?;
        drop(db);
        let user_num = user_num.ok_or(Error::UserDeactivated)?;
        let user = VerifiedUser {
            user_num,
            user_id,
            upstream_session: None,
        };
        self.start(user).await
    }

    /// Starts a browser session of a user who has proven their identity.
    ///
    /// # Errors
    ///
    /// [`Error::UserDeactivated`] or [`Error::UserLocked`].
    pub(super) async fn start(&self, user: VerifiedUser) -> Result<NewBrowserSession> {
        let secret = secrets::random_token();
        let now = self.clock.now_ms();
        let lifetime = i64::try_from(BROWSER_SESSION_LIFETIME.as_millis()).unwrap_or(i64::MAX);
        let mut tx = self.db.write().await?;
        must_be_usable(&mut tx, user.user_num).await?;
        let row = NewBrowserSessionRow {
            hash: &secrets::hash_token(&secret),
            user: user.user_num,
            upstream_session: user.upstream_session,
            created_ts: now,
            expires_ts: now.saturating_add(lifetime),
        };
        browser_sessions::insert(&mut tx, row).await?;
        browser_sessions::keep_latest(&mut tx, user.user_num, MAX_BROWSER_SESSIONS).await?;
        tx.commit().await?;
        Ok(NewBrowserSession {
            user_id: user.user_id,
            secret,
            lifetime: BROWSER_SESSION_LIFETIME,
        })
    }

    /// Returns the user whose cookie a browser has sent, or `None` if the session is over.
    pub async fn find(&self, secret: &str) -> Result<Option<BrowserUser>> {
        let hash = secrets::hash_token(secret);
        let mut db = self.db.read().await?;
        let now = self.clock.now_ms();
        let Some(row) = browser_sessions::find(&mut db, &hash, now).await? else {
            return Ok(None);
        };
        let user_num = row.user_num;
        let account = accounts::find(&mut db, user_num).await?;
        let Some(account) = account.filter(|account| !account.deactivated && !account.locked)
        else {
            return Ok(None);
        };
        let user_id = self.db.strings.user_id(&mut db, user_num).await?;
        Ok(Some(BrowserUser {
            has_password: self.password_check.is_usable(&account),
            upstream_session: row.upstream_session,
            signed_in_ts: row.created_ts,
            session: Session::of_browser(user_id, &account),
        }))
    }

    /// Ends a browser session.
    pub async fn end(&self, secret: &str) -> Result<()> {
        let mut tx = self.db.write().await?;
        browser_sessions::remove(&mut tx, &secrets::hash_token(secret)).await?;
        tx.commit().await
    }
}
