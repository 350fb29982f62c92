//! The accounts at identity providers that are linked to users, and the sign-ins with them.

use std::time::Duration;

use ruma::OwnedUserId;

use super::{ProviderIdentity, logout_token::EndedSignIns};
use crate::{
    clock::Clock,
    config::ProviderSection,
    error::{Error, Result},
    numbers::UserNum,
    storage::{
        Db, WriteTx,
        devices::device_table,
        users::{
            email_addresses,
            upstream_accounts::{self, UpstreamAccountRow},
            upstream_sessions::{self, NewUpstreamSession},
        },
    },
    users::{
        BrowserUser, NewBrowserSession, UserEnvironment, UserNames, VerifiedUser,
        account_creation::{AccountCreation, NewAccount},
        email::ValidatedAddress,
        guest_registration::RegistrationParts,
        oauth::browser_sessions::BrowserSessions,
        uia::StageResult,
    },
};

/// The time for which a sign-in is remembered that has signed in no device: longer than a browser session.
const SIGN_IN_RETENTION: Duration = Duration::from_hours(24 * 15);

/// The linked accounts.
#[derive(Clone)]
pub(super) struct LinkedAccounts {
    db: Db,
    clock: Clock,
    usernames: UserNames,
    creation: AccountCreation,
    sessions: BrowserSessions,
    requires_email: bool,
}

/// An account at a provider that is linked to a user.
#[derive(Clone, Debug)]
pub struct LinkedAccount {
    /// The id of the provider.
    pub provider: String,
    pub provider_name: String,
    /// The name of the account, for the user.
    pub label: String,
}

/// An account that was registered for a person whom a provider knows.
#[derive(Debug)]
pub struct ProviderRegistration {
    pub session: NewBrowserSession,
    /// The display name that the provider knows.
    pub display_name: Option<String>,
}

impl LinkedAccounts {
    pub(super) fn new(
        environment: &UserEnvironment,
        parts: &RegistrationParts<'_>,
        sessions: &BrowserSessions,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            usernames: parts.usernames.clone(),
            creation: parts.creation.clone(),
            sessions: sessions.clone(),
            requires_email: environment.registration.require_email,
        }
    }

    /// Signs in the user to whom an account is linked. Returns `None` if it is linked to nobody.
    pub(super) async fn sign_in(
        &self,
        identity: &ProviderIdentity,
        settings: &ProviderSection,
    ) -> Result<Option<NewBrowserSession>> {
        let mut user = self.find(identity).await?;
        if user.is_none() && settings.allow_linking_by_email {
            user = self.link_by_email(identity).await?;
        }
        match user {
            Some(user) => self.start_session(identity, user).await.map(Some),
            None => Ok(None),
        }
    }

    /// Signs in the user to whom an account is linked, who must be the one who is signed in in the browser already.
    pub(super) async fn confirm(
        &self,
        identity: &ProviderIdentity,
        user: Option<&BrowserUser>,
    ) -> Result<NewBrowserSession> {
        let linked = self.find(identity).await?;
        let is_other = user.is_some_and(|user| linked != Some(user.session.user));
        match linked.filter(|_| !is_other) {
            Some(linked) => self.start_session(identity, linked).await,
            None => Err(Error::forbidden(
                "you have signed in there as somebody else",
            )),
        }
    }

    pub(super) async fn is_linked(&self, identity: &ProviderIdentity) -> Result<bool> {
        Ok(self.find(identity).await?.is_some())
    }

    /// Registers an account, links it, and signs the user in.
    pub(super) async fn register(
        &self,
        identity: &ProviderIdentity,
        settings: &ProviderSection,
        user_name: &str,
    ) -> Result<ProviderRegistration> {
        if !settings.allow_registration {
            let reason = "you cannot create an account with this identity provider";
            return Err(Error::forbidden(reason));
        }
        let user_id = self.usernames.available_user_id(user_name).await?;
        let account = NewAccount {
            user_id: user_id.clone(),
            password_hash: None,
            admin: false,
            guest: false,
            device: None,
        };
        let mut tx = self.db.write().await?;
        let proof = StageResult {
            email: self.unused_email(&mut tx, identity).await?,
            ..StageResult::default()
        };
        self.creation.store(&mut tx, account, proof).await?;
        let user = tx.intern_user(user_id.as_str()).await?;
        self.store_link(&mut tx, identity, user).await?;
        tx.commit().await?;
        tracing::info!(%user_id, provider = %identity.provider, "account registered with an identity provider");
        Ok(ProviderRegistration {
            session: self.start_session(identity, user).await?,
            display_name: identity.display_name.clone(),
        })
    }

    /// Returns the e-mail address for a new account, unless another account has it.
    async fn unused_email(
        &self,
        tx: &mut WriteTx,
        identity: &ProviderIdentity,
    ) -> Result<Option<ValidatedAddress>> {
        let address = match &identity.email {
            Some(email) if email_addresses::owner(tx, email.as_str()).await?.is_none() => {
                email.to_string()
            }
            Some(_) if self.requires_email => {
                return Err(Error::forbidden("another account has your e-mail address"));
            }
            None if self.requires_email => {
                return Err(Error::forbidden(
                    "the identity provider has not confirmed your e-mail address",
                ));
            }
            _ => return Ok(None),
        };
        Ok(Some(ValidatedAddress {
            address,
            validated_ts: self.clock.now_ms(),
        }))
    }

    /// Links an account to a user.
    pub(super) async fn link(&self, identity: &ProviderIdentity, user: UserNum) -> Result<()> {
        let mut tx = self.db.write().await?;
        self.store_link(&mut tx, identity, user).await?;
        tx.commit().await
    }

    /// Returns the accounts of a user.
    pub(super) async fn of_user(&self, user: UserNum) -> Result<Vec<UpstreamAccountRow>> {
        let mut db = self.db.read().await?;
        upstream_accounts::of_user(&mut db, user).await
    }

    /// Unlinks the account of a user at a provider.
    pub(super) async fn unlink(&self, user: UserNum, provider: &str) -> Result<()> {
        let mut tx = self.db.write().await?;
        upstream_accounts::remove(&mut tx, user, provider).await?;
        tx.commit().await
    }

    /// Ends sign-ins, with their browser sessions and devices.
    pub(super) async fn end_sign_ins(&self, provider: &str, ended: &EndedSignIns) -> Result<()> {
        let mut tx = self.db.write().await?;
        let of_subject = match &ended.subject {
            Some(subject) => Some(upstream_sessions::of_subject(&mut tx, provider, subject).await?),
            None => None,
        };
        let mut found = match &ended.provider_session {
            Some(id) => upstream_sessions::of_provider_session(&mut tx, provider, id).await?,
            None => of_subject.clone().unwrap_or_default(),
        };
        // With an account and a session, the session must be one of this account.
        found.retain(|session| {
            let same_subject = of_subject.as_ref();
            same_subject.is_none_or(|sessions| sessions.contains(session))
        });
        for session in &found {
            let devices = upstream_sessions::devices(&mut tx, session.num).await?;
            device_table::delete(&mut tx, session.user_num, devices).await?;
            upstream_sessions::remove(&mut tx, session.num).await?;
        }
        tx.commit().await?;
        tracing::info!(%provider, count = found.len(), "sign-ins ended by their identity provider");
        Ok(())
    }

    async fn find(&self, identity: &ProviderIdentity) -> Result<Option<UserNum>> {
        let mut db = self.db.read().await?;
        upstream_accounts::find(&mut db, &identity.provider, &identity.subject).await
    }

    /// Links an account to the user who has the same e-mail address, if there is one without an account of this provider.
    async fn link_by_email(&self, identity: &ProviderIdentity) -> Result<Option<UserNum>> {
        let Some(email) = &identity.email else {
            return Ok(None);
        };
        let mut tx = self.db.write().await?;
        let Some(user) = email_addresses::owner(&mut tx, email.as_str()).await? else {
            return Ok(None);
        };
        let row = self.link_row(identity, user);
        if !upstream_accounts::insert(&mut tx, &row).await? {
            return Ok(None);
        }
        tx.commit().await?;
        tracing::info!(provider = %identity.provider, "account linked by its e-mail address");
        Ok(Some(user))
    }

    async fn store_link(
        &self,
        tx: &mut WriteTx,
        identity: &ProviderIdentity,
        user: UserNum,
    ) -> Result<()> {
        let row = self.link_row(identity, user);
        if upstream_accounts::insert(tx, &row).await? {
            return Ok(());
        }
        Err(Error::forbidden(
            "the accounts cannot be linked: one of them is linked to another one already",
        ))
    }

    fn link_row(&self, identity: &ProviderIdentity, user: UserNum) -> UpstreamAccountRow {
        UpstreamAccountRow {
            provider: identity.provider.clone(),
            subject: identity.subject.clone(),
            user_num: user,
            label: identity.label.clone(),
            linked_ts: self.clock.now_ms(),
        }
    }

    async fn start_session(
        &self,
        identity: &ProviderIdentity,
        user: UserNum,
    ) -> Result<NewBrowserSession> {
        let now = self.clock.now_ms();
        let retention = i64::try_from(SIGN_IN_RETENTION.as_millis()).unwrap_or(i64::MAX);
        let new = NewUpstreamSession {
            provider: &identity.provider,
            subject: &identity.subject,
            provider_session: identity.provider_session.as_deref(),
            user,
            started_ts: now,
        };
        let mut tx = self.db.write().await?;
        let num = upstream_sessions::insert(&mut tx, new, now.saturating_sub(retention)).await?;
        let user_id: OwnedUserId = self.db.strings.user_id(&mut tx, user).await?;
        tx.commit().await?;
        let verified = VerifiedUser {
            user_num: user,
            user_id,
            upstream_session: Some(num),
        };
        self.sessions.start(verified).await
    }
}
