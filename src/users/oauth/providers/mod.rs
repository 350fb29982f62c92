//! Signing in with an account at an identity provider (OpenID Connect).
//!
//! The user is sent to the provider and comes back with a code, which this server exchanges for an ID token. The accounts
//! of providers that are linked to users are stored; what waits for a browser is kept in memory.

mod client;
mod identity;
mod json_web_token;
mod linked_accounts;
mod logout_token;
mod pending;
mod provider_http;

use std::sync::Arc;

use self::{
    client::{ProviderClient, RequestSecrets},
    linked_accounts::{LinkedAccounts, ProviderRegistration},
    logout_token::UsedTokenIds,
    pending::PendingEntries,
};
pub use self::{identity::ProviderIdentity, linked_accounts::LinkedAccount};
use super::browser_sessions::BrowserSessions;
use crate::{
    clock::Clock,
    config::ProviderSection,
    error::{Error, Result},
    outbound,
    users::{
        BrowserUser, NewBrowserSession, Session, UserEnvironment,
        guest_registration::RegistrationParts, secrets,
    },
};

/// The identity providers with which users can sign in. Cheap to clone.
#[derive(Clone)]
pub struct IdentityProviders {
    clock: Clock,
    providers: Arc<[ProviderClient]>,
    requests: Arc<PendingEntries<SignInRequest>>,
    identities: Arc<PendingEntries<PendingIdentity>>,
    used_logout_tokens: Arc<UsedTokenIds>,
    accounts: LinkedAccounts,
}

/// The reason why a user is sent to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignInPurpose {
    SignIn,
    /// To link the account at the provider to the user who is signed in.
    Link,
    /// To show again who they are, before a dangerous change.
    Confirm,
}

/// A user who is sent to a provider.
#[derive(Clone, Debug)]
pub struct NewSignInRequest<'a> {
    /// The secret in the cookie of the browser.
    pub browser_secret: &'a str,
    pub purpose: SignInPurpose,
    /// The page that is opened afterwards.
    pub next: &'a str,
}

/// A user who has been sent to a provider.
#[derive(Clone)]
struct SignInRequest {
    provider: String,
    purpose: SignInPurpose,
    next: String,
    secrets: RequestSecrets,
}

/// A person whom a provider knows, and this server does not.
#[derive(Clone, Debug)]
pub struct PendingIdentity {
    pub identity: ProviderIdentity,
    /// The page that is opened afterwards.
    pub next: String,
}

/// The parameters with which a user comes back.
#[derive(Clone, Debug, Default)]
pub struct ProviderAnswer {
    pub state: String,
    pub code: String,
    /// The error code, if the provider has not signed the user in.
    pub error: String,
    /// The provider, if it says who it is.
    pub issuer: Option<String>,
}

/// The result of a sign-in with a provider.
#[derive(Debug)]
pub enum ProviderOutcome {
    SignedIn {
        session: NewBrowserSession,
        /// The page that is opened afterwards.
        next: String,
    },
    /// The person has no account on this server: the id of the entry with which they can register.
    Unknown(String),
    /// The account at the provider can be linked to the signed-in user: the id of the entry.
    Linkable(String),
}

impl IdentityProviders {
    /// Creates the service.
    ///
    /// # Errors
    ///
    /// When the system's certificates cannot be used.
    pub(super) fn new(
        environment: &UserEnvironment,
        parts: &RegistrationParts<'_>,
        sessions: &BrowserSessions,
    ) -> Result<Self> {
        let config = &environment.config;
        let mut providers = Vec::new();
        if !config.oauth.providers.is_empty() {
            let http = outbound::configured_service_client()?;
            for settings in &config.oauth.providers {
                let (base, id) = (config.public_url(), &settings.id);
                let redirect_uri = format!("{base}/_parlour/oauth/providers/{id}/callback");
                let client =
                    ProviderClient::new(settings.clone(), redirect_uri, &http, &environment.clock);
                providers.push(client?);
            }
        }
        Ok(Self {
            clock: environment.clock.clone(),
            providers: providers.into(),
            requests: Arc::default(),
            identities: Arc::default(),
            used_logout_tokens: Arc::default(),
            accounts: LinkedAccounts::new(environment, parts, sessions),
        })
    }

    /// Returns the providers, in the order of the configuration.
    pub fn list(&self) -> impl Iterator<Item = &ProviderSection> {
        self.providers.iter().map(|provider| &provider.settings)
    }

    /// Returns a provider.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none with this id.
    pub fn provider(&self, id: &str) -> Result<&ProviderSection> {
        self.client(id).map(|client| &client.settings)
    }

    fn client(&self, id: &str) -> Result<&ProviderClient> {
        let mut providers = self.providers.iter();
        let found = providers.find(|provider| provider.settings.id == id);
        found.ok_or_else(|| Error::not_found("this server does not know this identity provider"))
    }

    /// Returns a secret for the cookie of a browser.
    pub fn new_browser_secret(&self) -> String {
        secrets::random_token()
    }

    /// Returns the address at which a provider signs a user in.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such provider; [`Error::Unreachable`] when it does not answer.
    pub async fn begin(&self, provider: &str, request: NewSignInRequest<'_>) -> Result<String> {
        let client = self.client(provider)?;
        let new = SignInRequest {
            provider: provider.to_owned(),
            purpose: request.purpose,
            next: request.next.to_owned(),
            secrets: RequestSecrets {
                nonce: secrets::random_token(),
                code_verifier: secrets::random_token(),
                must_ask: request.purpose == SignInPurpose::Confirm,
            },
        };
        let secrets = new.secrets.clone();
        let now = self.clock.now_ms();
        let state = self.requests.add(new, request.browser_secret, now);
        client.authorization_address(state, &secrets).await
    }

    /// Completes a sign-in. `user` is signed in in the browser.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the request was begun in another browser or has expired, when the provider refuses it or
    /// its answer is not valid, and when the person is not the one who is expected; [`Error::Unreachable`];
    /// [`Error::UserDeactivated`]; [`Error::UserLocked`].
    #[tracing::instrument(skip_all, fields(provider), err(level = "debug"))]
    pub async fn complete(
        &self,
        provider: &str,
        answer: ProviderAnswer,
        browser_secret: &str,
        user: Option<&BrowserUser>,
    ) -> Result<ProviderOutcome> {
        let client = self.client(provider)?;
        let now = self.clock.now_ms();
        let request = self.requests.take(&answer.state, browser_secret, now);
        let request = request.filter(|request| request.provider == provider);
        let request = request.ok_or_else(|| {
            Error::forbidden("this sign-in has expired, or was begun in another browser: try again")
        })?;
        let ProviderSection { name, issuer, .. } = &client.settings;
        if answer.issuer.is_some_and(|named| named != *issuer) {
            return Err(client.invalid("the parameter iss is wrong"));
        }
        if !answer.error.is_empty() {
            tracing::debug!(error = %answer.error, "the identity provider refuses a sign-in");
            return Err(Error::forbidden(format!("{name} did not sign you in")));
        }
        let identity = client.exchange_code(answer.code, &request.secrets).await?;
        match request.purpose {
            SignInPurpose::SignIn => {
                self.sign_in(client, identity, request, browser_secret)
                    .await
            }
            SignInPurpose::Link => {
                self.offer_link(client, identity, request, browser_secret)
                    .await
            }
            SignInPurpose::Confirm => {
                let session = self.accounts.confirm(&identity, user).await?;
                Ok(ProviderOutcome::SignedIn {
                    session,
                    next: request.next,
                })
            }
        }
    }

    async fn sign_in(
        &self,
        client: &ProviderClient,
        identity: ProviderIdentity,
        request: SignInRequest,
        browser_secret: &str,
    ) -> Result<ProviderOutcome> {
        let settings = &client.settings;
        if let Some(session) = self.accounts.sign_in(&identity, settings).await? {
            let next = request.next;
            return Ok(ProviderOutcome::SignedIn { session, next });
        }
        let next = request.next;
        let pending = PendingIdentity { identity, next };
        let now = self.clock.now_ms();
        let id = self.identities.add(pending, browser_secret, now);
        Ok(ProviderOutcome::Unknown(id))
    }

    async fn offer_link(
        &self,
        client: &ProviderClient,
        identity: ProviderIdentity,
        request: SignInRequest,
        browser_secret: &str,
    ) -> Result<ProviderOutcome> {
        if self.accounts.is_linked(&identity).await? {
            let name = &client.settings.name;
            return Err(Error::forbidden(format!(
                "this account at {name} is linked to an account here already"
            )));
        }
        let next = request.next;
        let pending = PendingIdentity { identity, next };
        let now = self.clock.now_ms();
        let id = self.identities.add(pending, browser_secret, now);
        Ok(ProviderOutcome::Linkable(id))
    }

    /// Returns the person whom a provider knows, for the browser in which they have signed in there.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the entry has expired or belongs to another browser.
    pub fn pending_identity(&self, id: &str, browser_secret: &str) -> Result<PendingIdentity> {
        let found = self
            .identities
            .find(id, browser_secret, self.clock.now_ms());
        found.ok_or_else(|| Error::forbidden("this page has expired: sign in again"))
    }

    /// Removes a person whom this server now knows.
    pub fn forget_identity(&self, id: &str, browser_secret: &str) {
        self.identities
            .take(id, browser_secret, self.clock.now_ms());
    }

    /// Registers an account for a person whom a provider knows, and signs them in.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the provider may not register people; `RefusalCode::InvalidUsername`,
    /// [`Error::Exclusive`] or [`Error::UserInUse`] when the user name cannot be registered.
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn register(
        &self,
        identity: &ProviderIdentity,
        user_name: &str,
    ) -> Result<ProviderRegistration> {
        let settings = self.provider(&identity.provider)?;
        self.accounts.register(identity, settings, user_name).await
    }

    /// Links the account of a person at a provider to a user, who has confirmed it.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when it is linked already, or another one of the same provider is linked to the user.
    #[tracing::instrument(skip_all, fields(user_id = %session.user_id), err(level = "debug"))]
    pub async fn link(&self, identity: &ProviderIdentity, session: &Session) -> Result<()> {
        session.must_not_be_guest()?;
        self.accounts.link(identity, session.user).await
    }

    /// Returns the accounts at configured providers that are linked to a user.
    pub async fn linked_accounts(&self, session: &Session) -> Result<Vec<LinkedAccount>> {
        let stored = self.accounts.of_user(session.user).await?;
        let known = stored.into_iter().filter_map(|row| {
            let settings = self.provider(&row.provider).ok()?;
            Some(LinkedAccount {
                provider: row.provider,
                provider_name: settings.name.clone(),
                label: row.label,
            })
        });
        Ok(known.collect())
    }

    /// Unlinks the account of a user at a provider, if the user can still sign in in another way.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user cannot.
    #[tracing::instrument(skip_all, fields(user_id = %user.session.user_id), err(level = "debug"))]
    pub async fn unlink(&self, user: &BrowserUser, provider: &str) -> Result<()> {
        let linked = self.linked_accounts(&user.session).await?;
        let has_other = linked.iter().any(|account| account.provider != provider);
        if !user.has_password && !has_other {
            return Err(Error::forbidden("you could not sign in any more"));
        }
        self.accounts.unlink(user.session.user, provider).await
    }

    /// Ends the sign-ins that a logout token of a provider names, with their browser sessions and devices.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such provider; [`Error::Forbidden`] when the token is not valid.
    #[tracing::instrument(skip_all, fields(provider), err(level = "debug"))]
    pub async fn end_sign_ins(&self, provider: &str, logout_token: &str) -> Result<()> {
        let client = self.client(provider)?;
        let now = self.clock.now_ms();
        let used = &self.used_logout_tokens;
        let ended = client.verify_logout_token(logout_token, used, now).await?;
        self.accounts.end_sign_ins(provider, &ended).await
    }
}
