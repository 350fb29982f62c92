//! A rate limit for requests without a valid access token, counted by address.

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};
use ruma::api::auth_scheme::AccessToken;

use super::{
    app::App,
    auth::Authenticate,
    client_address::Peer,
    rate_limits::{Class, Limits},
};
use crate::error::Result;

/// The rate limit of a sender that may have no valid access token.
pub struct MaybeStranger {
    is_known: bool,
    peer: Peer,
    limits: Limits,
}

impl FromRequestParts<App> for MaybeStranger {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        // A token that is no longer valid counts as none.
        let session = AccessToken::authenticate(app, parts, &[]).await;
        Ok(Self {
            is_known: session.is_ok(),
            peer: Peer::of(parts),
            limits: app.limits.clone(),
        })
    }
}

impl MaybeStranger {
    /// Takes the cost of one lookup, unless the sender is authenticated.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::LimitExceeded`] after too many lookups.
    pub fn check_limit(&self) -> Result<()> {
        if self.is_known {
            return Ok(());
        }
        self.limits.check(Class::Look, &self.peer)
    }
}
