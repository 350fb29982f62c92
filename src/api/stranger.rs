//! Who asks for something that needs no token: strangers have a limit, by their address.

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};
use ruma::api::auth_scheme::AccessToken;

use super::{
    app::App,
    auth::Authenticate,
    limits::{Class, Limits},
    peer::Peer,
};
use crate::error::Result;

/// The one who asks for something that needs no token.
pub struct MaybeStranger {
    is_known: bool,
    peer: Peer,
    limits: Limits,
}

impl FromRequestParts<App> for MaybeStranger {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        // A token that is no longer valid makes a stranger.
        let session = AccessToken::authenticate(app, parts, &[]).await;
        Ok(Self {
            is_known: session.is_ok(),
            peer: Peer::of(parts),
            limits: app.limits.clone(),
        })
    }
}

impl MaybeStranger {
    /// Takes what one look costs a stranger.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::LimitExceeded`] when a stranger has looked too often.
    pub fn check_limit(&self) -> Result<()> {
        if self.is_known {
            return Ok(());
        }
        self.limits.check(Class::Look, &self.peer)
    }
}
