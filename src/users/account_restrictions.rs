//! Account moderation by administrators: suspending and locking accounts, and listing their sessions.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#account-moderation).

use ruma::{OwnedServerName, UserId};

use super::{AccountLookup, Session, UserEnvironment};
use crate::{
    clock::Clock,
    error::{Error, Result},
    numbers::UserNum,
    storage::{
        Db, WriteTx,
        devices::device_table,
        rooms::delayed_events,
        users::accounts::{self, Account},
    },
};

/// A restriction of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountRestriction {
    /// The user may read and leave, but not write.
    Suspended,
    /// The user may only log out.
    Locked,
}

/// Checks that a user may start a session: the account exists and is neither locked nor deactivated.
///
/// # Errors
///
/// [`Error::UserLocked`]; [`Error::UserDeactivated`].
pub(super) async fn must_be_usable(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    match accounts::find(tx, user).await? {
        Some(account) if account.locked => Err(Error::UserLocked),
        Some(account) if !account.deactivated => Ok(()),
        _ => Err(Error::UserDeactivated),
    }
}

/// Moderation of accounts by administrators.
#[derive(Clone)]
pub struct AccountModeration {
    db: Db,
    clock: Clock,
    server_name: OwnedServerName,
    lookup: AccountLookup,
}

impl AccountModeration {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, lookup: &AccountLookup) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            server_name: environment.server_name.clone(),
            lookup: lookup.clone(),
        }
    }

    /// Returns whether an account has a restriction, for an administrator.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for other users, and for accounts of administrators; [`Error::InvalidParam`] for users of
    /// other servers; [`Error::NotFound`].
    pub async fn restriction(
        &self,
        session: &Session,
        user_id: &UserId,
        restriction: AccountRestriction,
    ) -> Result<bool> {
        let account = self.moderated_account(session, user_id).await?;
        Ok(match restriction {
            AccountRestriction::Suspended => account.suspended,
            AccountRestriction::Locked => account.locked,
        })
    }

    /// Sets or removes a restriction of an account. It also applies to open connections, and cancels the user's delayed
    /// events.
    ///
    /// # Errors
    ///
    /// Like [`AccountModeration::restriction`].
    #[tracing::instrument(skip_all, fields(user_id = %user_id), err(level = "debug"))]
    pub async fn set_restriction(
        &self,
        session: &Session,
        user_id: &UserId,
        restriction: AccountRestriction,
        is_on: bool,
    ) -> Result<()> {
        let user = self.moderated_account(session, user_id).await?.user_num;
        let mut tx = self.db.write().await?;
        match restriction {
            AccountRestriction::Suspended => accounts::set_suspended(&mut tx, user, is_on).await?,
            AccountRestriction::Locked => accounts::set_locked(&mut tx, user, is_on).await?,
        }
        if is_on {
            delayed_events::cancel_of_user(&mut tx, user, self.clock.now_ms()).await?;
        }
        let devices = device_table::of_user(&mut tx, user).await?;
        let devices = devices.into_iter().map(|device| device.num).collect();
        // The tokens stay valid, but the cached sessions must be read again.
        device_table::announce_ended_sessions(&mut tx, user, devices);
        tx.commit().await?;
        tracing::info!(user_id = %user_id, ?restriction, is_on, "account restriction changed");
        Ok(())
    }

    /// Returns the number of a user whose devices the requesting user may see: themselves, or any user for an
    /// administrator.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for other users; [`Error::NotFound`].
    pub async fn inspectable_user(&self, session: &Session, user_id: &UserId) -> Result<UserNum> {
        if session.user_id != user_id && !session.is_admin {
            return Err(Error::forbidden("only administrators may do this"));
        }
        self.lookup.user_num(user_id).await
    }

    /// Returns the account that an administrator moderates.
    async fn moderated_account(&self, session: &Session, user_id: &UserId) -> Result<Account> {
        // This check comes first, so that nobody else learns which accounts exist.
        if !session.is_admin {
            return Err(Error::forbidden("only administrators may do this"));
        }
        if user_id.server_name() != self.server_name {
            return Err(Error::invalid_param("the user belongs to another server"));
        }
        let account = self.lookup.account(user_id).await?;
        let account = account.filter(|account| !account.deactivated);
        let account = account.ok_or_else(|| Error::not_found("there is no such user"))?;
        if account.admin {
            return Err(Error::forbidden("administrators cannot be restricted"));
        }
        Ok(account)
    }
}
