//! Looking up accounts by user id, and their properties.

use ruma::{OwnedServerName, UserId};

use super::UserEnvironment;
use crate::{
    error::{Error, Result},
    numbers::UserNum,
    storage::{
        Db,
        users::accounts::{self, Account},
    },
};

/// Finds the accounts of this server.
#[derive(Clone)]
pub struct AccountLookup {
    db: Db,
    server_name: OwnedServerName,
}

impl AccountLookup {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            server_name: environment.server_name.clone(),
        }
    }

    /// Returns those of the users who are guests.
    pub async fn guests_among(&self, users: &[UserNum]) -> Result<Vec<UserNum>> {
        let mut db = self.db.read().await?;
        accounts::guests_among(&mut db, users).await
    }

    /// Returns whether an account is active and not a guest's, suspended or locked.
    pub async fn may_act(&self, user: UserNum) -> Result<bool> {
        let mut db = self.db.read().await?;
        let account = accounts::find(&mut db, user).await?;
        Ok(account.is_some_and(|account| {
            !(account.deactivated || account.suspended || account.locked || account.guest)
        }))
    }

    /// Returns the number of a user of this server whose account is active.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for all other users.
    pub async fn user_num(&self, user_id: &UserId) -> Result<UserNum> {
        let unknown = || Error::not_found("there is no such user");
        if user_id.server_name() != self.server_name {
            return Err(unknown());
        }
        match self.account(user_id).await? {
            Some(account) if !account.deactivated => Ok(account.user_num),
            _ => Err(unknown()),
        }
    }

    /// Returns whether a user of this server has an account, even a deactivated one.
    pub async fn has_account(&self, user_id: &UserId) -> Result<bool> {
        Ok(self.account(user_id).await?.is_some())
    }

    /// Returns the account with a user id, even if it is deactivated.
    pub(super) async fn account(&self, user_id: &UserId) -> Result<Option<Account>> {
        let mut db = self.db.read().await?;
        let strings = &self.db.strings;
        match strings.find_user(&mut db, user_id.as_str()).await? {
            Some(user) => accounts::find(&mut db, user).await,
            None => Ok(None),
        }
    }
}
