//! The OAuth 2.0 API: clients that sign in through the pages of this server.
//!
//! A session that starts here is the same as one of `/login`: a device with tokens. The pages and the endpoints are in
//! `api/oauth`.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api).

mod authorization;
mod browser_sessions;
mod client_metadata;
mod clients;
mod device_authorization;
mod error;
mod providers;
mod redirect_uri;
mod scope;
mod token_grants;

use self::{
    authorization::OAuthAuthorization,
    browser_sessions::BrowserSessions,
    clients::{OAuthClients, RegisteredClient},
    device_authorization::DeviceAuthorizations,
    token_grants::OAuthTokens,
};
pub use self::{
    authorization::{AuthorizationRefusal, AuthorizationRequest},
    browser_sessions::{BrowserUser, NewBrowserSession},
    client_metadata::ClientMetadata,
    device_authorization::WaitingDevice,
    error::{OAuthError, OAuthErrorCode, OAuthResult},
    providers::{
        IdentityProviders, LinkedAccount, NewSignInRequest, PendingIdentity, ProviderAnswer,
        ProviderIdentity, ProviderOutcome, SignInPurpose,
    },
    scope::OAuthScope,
    token_grants::{CodeExchange, OAuthGrant},
};
use super::{RefreshTokens, UserEnvironment, UserLogin, guest_registration::RegistrationParts};
use crate::error::Result;

/// The path of the page of a user's account.
pub const ACCOUNT_PATH: &str = "/_parlour/account";

/// The services of the OAuth 2.0 API.
#[derive(Clone)]
pub struct OAuthServices {
    /// The clients that have registered.
    pub clients: OAuthClients,
    /// Their authorization requests.
    pub authorization: OAuthAuthorization,
    /// Their tokens.
    pub tokens: OAuthTokens,
    /// Devices that wait until their user signs them in on another device.
    pub waiting_devices: DeviceAuthorizations,
    /// Browsers in which users are signed in to the pages of this server.
    pub browser_sessions: BrowserSessions,
    /// The identity providers with which users can sign in.
    pub providers: IdentityProviders,
}

impl OAuthServices {
    /// Creates the services.
    ///
    /// # Errors
    ///
    /// When the system's certificates cannot be used.
    pub(super) fn new(
        environment: &UserEnvironment,
        parts: &RegistrationParts<'_>,
        login: &UserLogin,
        refresh_tokens: &RefreshTokens,
    ) -> Result<Self> {
        let clients = OAuthClients::new(environment);
        let browser_sessions = BrowserSessions::new(environment, login);
        Ok(Self {
            authorization: OAuthAuthorization::new(environment, &clients),
            tokens: OAuthTokens::new(environment, &clients, refresh_tokens),
            waiting_devices: DeviceAuthorizations::new(environment, &clients),
            providers: IdentityProviders::new(environment, parts, &browser_sessions)?,
            browser_sessions,
            clients,
        })
    }
}
