//! `OpenID` tokens, with which users prove their identity to other services.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#openid).

use std::time::Duration;

use ruma::OwnedUserId;

use super::{Session, short_lived_tokens::ShortLivedTokens};
use crate::{
    error::{Error, Result},
    storage::users::short_lived_tokens::TokenPurpose,
};

/// The lifetime of an `OpenID` token.
const OPENID_TOKEN_LIFETIME: Duration = Duration::from_hours(1);

/// The `OpenID` tokens of users.
#[derive(Clone)]
pub struct OpenIdTokens {
    tokens: ShortLivedTokens,
}

/// A token that was issued.
#[derive(Clone, Debug)]
pub struct OpenIdToken {
    pub token: String,
    pub lifetime: Duration,
}

impl OpenIdTokens {
    /// Creates the service.
    pub(super) fn new(tokens: &ShortLivedTokens) -> Self {
        Self {
            tokens: tokens.clone(),
        }
    }

    /// Issues a token that proves the user's identity to another service.
    pub async fn issue_token(&self, session: &Session) -> Result<OpenIdToken> {
        let token = self
            .tokens
            .issue(session.user, TokenPurpose::Openid, OPENID_TOKEN_LIFETIME)
            .await?;
        Ok(OpenIdToken {
            token,
            lifetime: OPENID_TOKEN_LIFETIME,
        })
    }

    /// Returns the user whose token another service presents.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownToken`] when the token is unknown or has expired.
    pub async fn user_of(&self, token: &str) -> Result<OwnedUserId> {
        let user = self.tokens.user_of(token, TokenPurpose::Openid).await?;
        user.ok_or(Error::UnknownToken { soft_logout: false })
    }
}
