//! Registering guests, and turning their accounts into user accounts.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#guest-access).

use std::sync::Arc;

use ruma::api::client::account::register::v3::Request;

use super::{
    NewDevice, RegistrationTokens, Session, StartedSession, UserEnvironment, UserNames,
    UserSessions, VerifiedUser,
    account_creation::{AccountCreation, NewAccount, RegisteredAccount},
    email::NewEmail,
    passwords::Passwords,
    registration_auth::{RegistrationAuth, requested_device},
    sessions::delete_devices_except,
    uia::StageResult,
};
use crate::{
    clock::Clock,
    error::{Error, RefusalCode, Result},
    storage::{Db, users::accounts},
};

/// Registers guests.
#[derive(Clone)]
pub(super) struct GuestRegistration {
    db: Db,
    clock: Clock,
    passwords: Arc<Passwords>,
    usernames: UserNames,
    sessions: UserSessions,
    auth: RegistrationAuth,
    tokens: RegistrationTokens,
    creation: AccountCreation,
    is_allowed: bool,
}

/// The services that registration is built on.
pub(super) struct RegistrationParts<'a> {
    pub(super) usernames: &'a UserNames,
    pub(super) sessions: &'a UserSessions,
    pub(super) auth: &'a RegistrationAuth,
    pub(super) tokens: &'a RegistrationTokens,
    pub(super) creation: &'a AccountCreation,
}

/// The data with which a guest account becomes a user account.
struct GuestUpgrade {
    password_hash: String,
    proof: StageResult,
    /// `None` inhibits the login.
    device: Option<NewDevice>,
}

impl GuestRegistration {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, parts: &RegistrationParts<'_>) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            passwords: environment.passwords.clone(),
            usernames: parts.usernames.clone(),
            sessions: parts.sessions.clone(),
            auth: parts.auth.clone(),
            tokens: parts.tokens.clone(),
            creation: parts.creation.clone(),
            is_allowed: environment.registration.guests,
        }
    }

    /// Registers a guest. "All other parameters are ignored" except the device name: a guest has no name and no
    /// password.
    pub(super) async fn register(&self, request: Request) -> Result<RegisteredAccount> {
        if !self.is_allowed {
            return Err(Error::GuestAccessForbidden);
        }
        let device = NewDevice {
            device_id: None,
            display_name: request.initial_device_display_name,
            refresh_token: request.refresh_token,
        };
        device.check()?;
        let account = NewAccount {
            user_id: self.usernames.generated_user_id()?,
            password_hash: None,
            admin: false,
            guest: true,
            device: Some(device),
        };
        self.creation.create(account, StageResult::default()).await
    }

    /// Turns a guest account into a user account, which keeps its user id and gets a password.
    pub(super) async fn upgrade(&self, request: Request) -> Result<RegisteredAccount> {
        let Some(token) = &request.guest_access_token else {
            return Err(Error::refused(
                RefusalCode::MissingParam,
                "guest_access_token is missing".to_owned(),
            ));
        };
        let guest = self.sessions.authenticate(token).await?;
        let name = request.username.as_deref();
        let name = name.ok_or_else(|| {
            Error::refused(RefusalCode::MissingParam, "username is missing".to_owned())
        })?;
        if !guest.is_guest || name != guest.user_id.localpart() {
            return Err(Error::forbidden(
                "this is not the access token of that guest",
            ));
        }
        let device = requested_device(&request)?;
        let password = request.password.clone();
        let password = password.ok_or_else(|| {
            Error::refused(RefusalCode::MissingParam, "password is missing".to_owned())
        })?;
        Passwords::check(&password)?;
        let result = self.auth.authorize(&request, Some(&guest.user_id)).await?;
        let upgrade = GuestUpgrade {
            password_hash: self.passwords.hash(password).await?,
            proof: result,
            device: (!request.inhibit_login).then_some(device),
        };
        self.store_upgrade(&guest, upgrade).await
    }

    async fn store_upgrade(
        &self,
        guest: &Session,
        upgrade: GuestUpgrade,
    ) -> Result<RegisteredAccount> {
        let now = self.clock.now_ms();
        let mut tx = self.db.write().await?;
        if let Some(token) = upgrade.proof.registration_token {
            // A guest who upgrades their own account never becomes an administrator.
            self.tokens.use_token(&mut tx, &token, guest.user).await?;
        }
        if !accounts::upgrade_guest(&mut tx, guest.user, &upgrade.password_hash).await? {
            return Err(Error::UserInUse);
        }
        if let Some(validated) = upgrade.proof.email {
            let email = NewEmail {
                user: guest.user,
                validated,
                added_ts: now,
            };
            email.store(&mut tx).await?;
        }
        delete_devices_except(&mut tx, guest.user, None).await?;
        let login = match upgrade.device {
            Some(device) => {
                let user = VerifiedUser {
                    upstream_session: None,
                    user_num: guest.user,
                    user_id: guest.user_id.clone(),
                };
                Some(StartedSession::start(&mut tx, user, device, now).await?)
            }
            None => None,
        };
        tx.commit().await?;
        Ok(RegisteredAccount {
            user_id: guest.user_id.clone(),
            login,
        })
    }
}
