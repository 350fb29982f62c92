//! The errors of the OAuth 2.0 API, which differ from those of the rest of the Matrix API.

use crate::error::Error;

/// The result of an OAuth 2.0 operation.
pub type OAuthResult<T> = Result<T, OAuthError>;

/// An error of an OAuth 2.0 operation.
#[derive(Debug)]
pub enum OAuthError {
    /// The request is refused. The description is for developers of clients.
    Refused {
        code: OAuthErrorCode,
        description: String,
    },
    /// Another error, such as a rate limit or a failed database.
    Other(Error),
}

/// An error code of an OAuth 2.0 response.
///
/// See [RFC 6749](https://www.rfc-editor.org/rfc/rfc6749#section-5.2),
/// [RFC 7591](https://www.rfc-editor.org/rfc/rfc7591#section-3.2.2) and
/// [RFC 8628](https://www.rfc-editor.org/rfc/rfc8628#section-3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OAuthErrorCode {
    AccessDenied,
    AuthorizationPending,
    ExpiredToken,
    InvalidClient,
    InvalidClientMetadata,
    InvalidGrant,
    InvalidRedirectUri,
    InvalidRequest,
    InvalidScope,
    SlowDown,
    UnauthorizedClient,
    UnsupportedGrantType,
    UnsupportedResponseType,
}

impl OAuthErrorCode {
    /// Returns the code as it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied => "access_denied",
            Self::AuthorizationPending => "authorization_pending",
            Self::ExpiredToken => "expired_token",
            Self::InvalidClient => "invalid_client",
            Self::InvalidClientMetadata => "invalid_client_metadata",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidRedirectUri => "invalid_redirect_uri",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidScope => "invalid_scope",
            Self::SlowDown => "slow_down",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
        }
    }
}

impl OAuthError {
    /// Returns a refusal.
    pub fn refused(code: OAuthErrorCode, description: impl Into<String>) -> Self {
        Self::Refused {
            code,
            description: description.into(),
        }
    }
}

impl From<Error> for OAuthError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}
