//! Authentication of requests. An endpoint's own metadata decides how a request is authenticated, so it cannot be
//! forgotten.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{Request, header::AUTHORIZATION, request::Parts},
};
use ruma::api::auth_scheme::{
    AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, AuthScheme,
    NoAccessToken, NoAuthentication, extract_bearer_or_query_token,
};

use serde::Deserialize;

use super::{
    account_restrictions, app::App, client_address::ClientAddress, endpoint::read_query,
    rate_limits::RequestClass,
};
use crate::{
    error::{Error, Result},
    matrix::MAX_JSON_DEPTH,
    users::{ApplicationService, AssertedIdentity, Session, Users},
};

/// A way to authenticate a request.
pub trait RequestAuthenticator: AuthScheme {
    /// The identity of an authenticated sender.
    type Identity: Send;

    /// The maximum nesting depth of a body.
    const MAX_BODY_DEPTH: usize = MAX_JSON_DEPTH;

    /// Authenticates a request and returns its sender.
    ///
    /// # Errors
    ///
    /// When the credentials are missing or wrong.
    fn authenticate(
        app: &App,
        parts: &Parts,
        body: &[u8],
    ) -> impl Future<Output = Result<Self::Identity>> + Send;

    /// Returns the session of a sender who has one.
    fn session(_: &Self::Identity) -> Option<&Session> {
        None
    }

    /// Checks the head of a request before its body is read.
    ///
    /// # Errors
    ///
    /// When the request must be refused regardless of its body.
    fn check_head(_: &App, _: &Parts) -> Result<()> {
        Ok(())
    }

    /// Returns the largest body that is read before the request is authenticated.
    fn max_body_bytes(app: &App, _: &Parts) -> usize {
        app.config.limits.max_request_bytes
    }
}

impl RequestAuthenticator for AccessToken {
    type Identity = Arc<Session>;

    async fn authenticate(app: &App, parts: &Parts, _: &[u8]) -> Result<Arc<Session>> {
        let token = access_token(parts).ok_or(Error::MissingToken)?;
        authenticate_session(app, parts, &token).await
    }

    fn session(session: &Arc<Session>) -> Option<&Session> {
        Some(session)
    }
}

impl RequestAuthenticator for AccessTokenOptional {
    type Identity = Option<Arc<Session>>;

    async fn authenticate(app: &App, parts: &Parts, _: &[u8]) -> Result<Option<Arc<Session>>> {
        match access_token(parts) {
            Some(token) => authenticate_session(app, parts, &token).await.map(Some),
            None => Ok(None),
        }
    }

    fn session(session: &Option<Arc<Session>>) -> Option<&Session> {
        session.as_deref()
    }
}

impl RequestAuthenticator for NoAccessToken {
    type Identity = ();

    async fn authenticate(_: &App, _: &Parts, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl RequestAuthenticator for NoAuthentication {
    type Identity = ();

    async fn authenticate(_: &App, _: &Parts, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Used for registration and login, which check the token only if the request is of the type for application services.
/// A user's token means nothing there, and some clients send an expired one.
impl RequestAuthenticator for AppserviceTokenOptional {
    type Identity = UncheckedToken;

    async fn authenticate(_: &App, parts: &Parts, _: &[u8]) -> Result<UncheckedToken> {
        Ok(UncheckedToken(access_token(parts)))
    }
}

impl RequestAuthenticator for AppserviceToken {
    type Identity = Arc<ApplicationService>;

    async fn authenticate(app: &App, parts: &Parts, _: &[u8]) -> Result<Arc<ApplicationService>> {
        let token = access_token(parts).ok_or(Error::MissingToken)?;
        let service = app.users.application_services.find_by_token(&token);
        if let Some(service) = service {
            return Ok(service);
        }
        app.users.sessions.authenticate(&token).await?;
        Err(Error::forbidden("only application services may do this"))
    }
}

/// The access token of a request, if it has one. Nothing has checked it yet.
pub struct UncheckedToken(Option<String>);

impl UncheckedToken {
    /// Returns the application service to which the token belongs.
    ///
    /// # Errors
    ///
    /// [`Error::MissingToken`], or [`Error::UnknownToken`] when it belongs to none.
    pub fn application_service(&self, users: &Users) -> Result<Arc<ApplicationService>> {
        let token = self.0.as_ref().ok_or(Error::MissingToken)?;
        let service = users.application_services.find_by_token(token);
        service.ok_or(Error::UnknownToken { soft_logout: false })
    }
}

/// The session of the sender, for endpoints that need no token but return more with one.
pub struct MaybeSession(pub Option<Arc<Session>>);

impl FromRequestParts<App> for MaybeSession {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        AccessTokenOptional::authenticate(app, parts, &[])
            .await
            .map(Self)
    }
}

/// The session of the sender, for endpoints that ruma does not have.
pub struct AuthenticatedSession(pub Arc<Session>);

impl FromRequestParts<App> for AuthenticatedSession {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        AccessToken::authenticate(app, parts, &[]).await.map(Self)
    }
}

/// Returns the access token of a request. A token that cannot be read counts as missing.
pub(super) fn access_token(parts: &Parts) -> Option<String> {
    let mut request = Request::new(());
    request.uri_mut().clone_from(&parts.uri);
    if let Some(authorization) = parts.headers.get(AUTHORIZATION) {
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    extract_bearer_or_query_token(&request).ok().flatten()
}

/// Returns the session of a token if the user may make this request, and records that its device was seen.
pub(super) async fn authenticate_session(
    app: &App,
    parts: &Parts,
    token: &str,
) -> Result<Arc<Session>> {
    let services = &app.users.application_services;
    let session = match services.find_by_token(token) {
        Some(service) => {
            let identity = asserted_identity(parts)?;
            Arc::new(services.session(&service, identity).await?)
        }
        None => app.users.sessions.authenticate(token).await?,
    };
    account_restrictions::check(&session, parts)?;
    if !parts.method.is_safe() && !session.is_exempt_from_limits() {
        app.limits.check(RequestClass::Write, &*session)?;
    }
    let ClientAddress(address) = ClientAddress::from_parts(parts);
    app.users.sessions.record_seen(&session, address).await;
    Ok(session)
}

/// The parameters with which an application service names the user and the device as which it makes a request.
#[derive(Deserialize)]
#[expect(
    clippy::struct_field_names,
    reason = "they are the names of the parameters"
)]
struct IdentityQuery {
    user_id: Option<String>,
    device_id: Option<String>,
    /// The name of `device_id` in MSC3202 and MSC4326.
    #[serde(rename = "org.matrix.msc3202.device_id")]
    unstable_device_id: Option<String>,
}

fn asserted_identity(parts: &Parts) -> Result<AssertedIdentity> {
    let query: IdentityQuery = read_query(&parts.uri)?;
    Ok(AssertedIdentity {
        user_id: query.user_id,
        device_id: query.device_id.or(query.unstable_device_id),
    })
}
