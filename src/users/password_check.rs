//! Checking the password of a user.

use std::sync::Arc;

use ruma::{OwnedServerName, OwnedUserId};

use super::{AccountLookup, UserEnvironment, passwords::Passwords, usernames};
use crate::{
    error::{Error, Result},
    numbers::{UpstreamSessionNum, UserNum},
    storage::users::accounts::Account,
};

/// Checks the passwords of users.
#[derive(Clone)]
pub(super) struct PasswordCheck {
    server_name: OwnedServerName,
    passwords: Arc<Passwords>,
    lookup: AccountLookup,
    /// Whether passwords are accepted.
    is_enabled: bool,
}

/// A user who has proven their identity.
#[derive(Clone, Debug)]
pub(super) struct VerifiedUser {
    pub(super) user_num: UserNum,
    pub(super) user_id: OwnedUserId,
    /// The user's sign-in with an identity provider, if there was one.
    pub(super) upstream_session: Option<UpstreamSessionNum>,
}

impl PasswordCheck {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, lookup: &AccountLookup) -> Self {
        Self {
            server_name: environment.server_name.clone(),
            passwords: environment.passwords.clone(),
            lookup: lookup.clone(),
            is_enabled: environment.config.oauth.password_login,
        }
    }

    /// Returns whether a user can authenticate with a password.
    pub(super) fn is_usable(&self, account: &Account) -> bool {
        self.is_enabled && account.password_hash.is_some()
    }

    /// Returns the user with a name, if the password is correct.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user or the password is wrong, which takes the same time, or when passwords are not
    /// accepted; [`Error::UserDeactivated`].
    pub(super) async fn check(&self, name: &str, password: String) -> Result<VerifiedUser> {
        if !self.is_enabled {
            let reason = "this server accepts no passwords: sign in on its web page";
            return Err(Error::forbidden(reason));
        }
        let wrong = || Error::forbidden("the user name or the password is wrong");
        let user_id = usernames::named_user_id(name, &self.server_name);
        let account = match &user_id {
            Some(user_id) => self.lookup.account(user_id).await?,
            None => None,
        };
        let hash = account
            .as_ref()
            .and_then(|account| account.password_hash.clone());
        let is_right = self.passwords.verify(password, hash).await?;
        let (Some(account), Some(user_id)) = (account, user_id) else {
            return Err(wrong());
        };
        if account.deactivated {
            // The password is deleted. It is no secret that the name is taken, because it can never be registered
            // again.
            return Err(Error::UserDeactivated);
        }
        if !is_right {
            return Err(wrong());
        }
        Ok(VerifiedUser {
            user_num: account.user_num,
            user_id,
            upstream_session: None,
        })
    }
}
