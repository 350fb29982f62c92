//! Creating accounts.

use ruma::OwnedUserId;

use super::{
    NewDevice, RegistrationTokens, StartedSession, UserEnvironment, VerifiedUser, email::NewEmail,
    uia::StageResult,
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    storage::{
        Db, WriteTx,
        users::{
            accounts::{self, Account},
            tokens, user_directory,
        },
    },
};

/// An account that was registered.
#[derive(Clone, Debug)]
pub struct RegisteredAccount {
    pub user_id: OwnedUserId,
    /// The first session, unless the client did not want one.
    pub login: Option<StartedSession>,
}

/// The data of an account to create.
pub(super) struct NewAccount {
    pub(super) user_id: OwnedUserId,
    pub(super) password_hash: Option<String>,
    pub(super) admin: bool,
    pub(super) guest: bool,
    /// `None` inhibits the login.
    pub(super) device: Option<NewDevice>,
}

/// Creates accounts.
#[derive(Clone)]
pub(super) struct AccountCreation {
    db: Db,
    clock: Clock,
    tokens: RegistrationTokens,
}

impl AccountCreation {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, tokens: &RegistrationTokens) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            tokens: tokens.clone(),
        }
    }

    /// Stores an account in one transaction. `proof` has the registration token and the e-mail address with which the
    /// user authenticated.
    pub(super) async fn create(
        &self,
        account: NewAccount,
        proof: StageResult,
    ) -> Result<RegisteredAccount> {
        let mut tx = self.db.write().await?;
        let registered = self.store(&mut tx, account, proof).await?;
        tx.commit().await?;
        tracing::info!(user_id = %registered.user_id, "account registered");
        Ok(registered)
    }

    /// Stores an account, and checks every rule that two concurrent registrations could break.
    pub(super) async fn store(
        &self,
        tx: &mut WriteTx,
        account: NewAccount,
        proof: StageResult,
    ) -> Result<RegisteredAccount> {
        let now = self.clock.now_ms();
        let mut admin = account.admin;
        let user = tx.intern_user(account.user_id.as_str()).await?;
        if let Some(token) = proof.registration_token {
            admin |= self.tokens.use_token(tx, &token, user).await?;
        }
        let row = Account {
            user_num: user,
            password_hash: account.password_hash,
            admin,
            guest: account.guest,
            deactivated: false,
            suspended: false,
            locked: false,
            erased_position: None,
            created_ts: now,
        };
        if !accounts::insert(tx, &row).await? {
            return Err(Error::UserInUse);
        }
        if let Some(validated) = proof.email {
            let email = NewEmail {
                user,
                validated,
                added_ts: now,
            };
            email.store(tx).await?;
        }
        user_directory::set_search_text(tx, user, account.user_id.as_str(), None).await?;
        if admin {
            // The link for the first administrator is no longer needed.
            tokens::delete_unused_admin_registrations(tx).await?;
        }
        let login = match account.device {
            Some(device) => {
                let user = VerifiedUser {
                    user_num: user,
                    user_id: account.user_id.clone(),
                    upstream_session: None,
                };
                Some(StartedSession::start(tx, user, device, now).await?)
            }
            None => None,
        };
        Ok(RegisteredAccount {
            user_id: account.user_id,
            login,
        })
    }
}
