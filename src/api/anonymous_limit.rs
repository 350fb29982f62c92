//! A rate limit for requests without a valid access token, counted by address.

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};
use ruma::api::auth_scheme::AccessToken;

use super::{
    app::App,
    auth::RequestAuthenticator,
    client_address::ClientAddress,
    rate_limits::{RateLimits, RequestClass},
};
use crate::error::Result;

/// The rate limit of a sender that may have no valid access token.
pub struct AnonymousLimit {
    is_authenticated: bool,
    peer: ClientAddress,
    limits: RateLimits,
}

impl FromRequestParts<App> for AnonymousLimit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        // A token that is no longer valid counts as none.
        let session = AccessToken::authenticate(app, parts, &[]).await;
        Ok(Self {
            is_authenticated: session.is_ok(),
            peer: ClientAddress::from_parts(parts),
            limits: app.limits.clone(),
        })
    }
}

impl AnonymousLimit {
    /// Takes the cost of one lookup, unless the sender is authenticated.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::LimitExceeded`] after too many lookups.
    pub fn check_limit(&self) -> Result<()> {
        if self.is_authenticated {
            return Ok(());
        }
        self.limits.check(RequestClass::Lookup, &self.peer)
    }
}
