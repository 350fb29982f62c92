//! Who is asking: an endpoint's own metadata decides how that is proved, so it cannot be forgotten.

use axum::http::{Request, header::AUTHORIZATION, request::Parts};
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::auth_scheme::{
        AccessToken, AccessTokenOptional, AppserviceTokenOptional, AuthScheme, NoAccessToken,
        NoAuthentication, extract_bearer_or_query_token,
    },
};

use super::app::App;
use crate::error::{Error, Result};

/// The local user, and the device, that an access token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device that logged in.
    pub device_id: OwnedDeviceId,
}

/// A way to prove who asks, and what that proves.
pub trait Authenticate: AuthScheme {
    /// Who asks, once it is proved.
    type Identity: Send;

    /// Returns who asks.
    ///
    /// # Errors
    ///
    /// When the proof is missing or wrong.
    fn authenticate(
        app: &App,
        parts: &Parts,
        body: &[u8],
    ) -> impl Future<Output = Result<Self::Identity>> + Send;

    /// Returns the largest body that is read before anything is proved.
    fn max_body_bytes(app: &App) -> usize {
        app.config.limits.max_request_bytes
    }
}

impl Authenticate for AccessToken {
    type Identity = Sender;

    async fn authenticate(app: &App, parts: &Parts, _: &[u8]) -> Result<Sender> {
        let token = token(parts).ok_or(Error::MissingToken)?;
        sender(app, &token).await
    }
}

impl Authenticate for AccessTokenOptional {
    type Identity = Option<Sender>;

    async fn authenticate(app: &App, parts: &Parts, _: &[u8]) -> Result<Option<Sender>> {
        match token(parts) {
            Some(token) => sender(app, &token).await.map(Some),
            None => Ok(None),
        }
    }
}

impl Authenticate for NoAccessToken {
    type Identity = ();

    async fn authenticate(_: &App, _: &Parts, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl Authenticate for NoAuthentication {
    type Identity = ();

    async fn authenticate(_: &App, _: &Parts, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Registration and login: a user's token says nothing there, and clients do send stale ones.
impl Authenticate for AppserviceTokenOptional {
    type Identity = ();

    async fn authenticate(_: &App, _: &Parts, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Returns the access token of the request; one that cannot be read counts as missing.
fn token(parts: &Parts) -> Option<String> {
    let mut request = Request::new(());
    request.uri_mut().clone_from(&parts.uri);
    if let Some(authorization) = parts.headers.get(AUTHORIZATION) {
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    extract_bearer_or_query_token(&request).ok().flatten()
}

/// Returns whom the token belongs to.
#[expect(
    clippy::unused_async,
    reason = "there are no accounts yet, so no token is known"
)]
async fn sender(_app: &App, _token: &str) -> Result<Sender> {
    Err(Error::UnknownToken { soft_logout: false })
}
