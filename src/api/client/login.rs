//! Login, logout and the refresh of access tokens.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{FromRequest, Request, State},
    http::HeaderMap,
};
use ruma::api::client::session::{
    get_login_token,
    get_login_types::{
        self,
        v3::{
            ApplicationServiceLoginType, IdentityProvider, LoginType, PasswordLoginType,
            SsoLoginType, TokenLoginType,
        },
    },
    login::{
        self,
        v3::{DiscoveryInfo, HomeserverInfo, LoginInfo},
    },
    logout, logout_all, refresh_token,
};

use serde_json::Value;

use super::interactive_auth::{InteractiveRequest, check_login_limit};
use crate::{
    api::{
        App, ClientAddress, MatrixRequest, MatrixResponse, RateLimits, RequestClass, endpoint,
        endpoint::{object_text, read_body},
        oauth::pages_are_reachable,
    },
    config::Config,
    error::{Error, Result},
    matrix::MAX_JSON_DEPTH,
    users::Users,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_login_types::v3::Request, _>(get_login_types))
        .merge(endpoint::<get_login_token::v1::Request, _>(get_login_token))
        .merge(endpoint::<login::v3::Request, _>(login))
        .merge(endpoint::<refresh_token::v3::Request, _>(refresh_token))
        .merge(endpoint::<logout::v3::Request, _>(logout))
        .merge(endpoint::<logout_all::v3::Request, _>(logout_all))
}

/// `GET /_matrix/client/*/login`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3login).
async fn get_login_types(
    State(config): State<Arc<Config>>,
    State(users): State<Users>,
    headers: HeaderMap,
    _: MatrixRequest<get_login_types::v3::Request>,
) -> MatrixResponse<get_login_types::v3::Response> {
    let mut token = TokenLoginType::new();
    token.get_login_token = true;
    let service = LoginType::ApplicationService(ApplicationServiceLoginType::new());
    let mut flows = vec![LoginType::Token(token), service];
    if config.oauth.password_login {
        flows.insert(0, LoginType::Password(PasswordLoginType::new()));
    }
    if config.oauth.enabled {
        let mut web = SsoLoginType::new();
        web.oauth_aware_preferred = pages_are_reachable(&config, &headers);
        let providers = users.oauth.providers.list();
        web.identity_providers = providers
            .map(|provider| IdentityProvider::new(provider.id.clone(), provider.name.clone()))
            .collect();
        flows.push(LoginType::Sso(web));
    }
    MatrixResponse(get_login_types::v3::Response::new(flows))
}

/// `POST /_matrix/client/*/login/get_token`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token).
async fn get_login_token(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    InteractiveRequest {
        from,
        request,
        parameters,
    }: InteractiveRequest<get_login_token::v1::Request>,
) -> Result<MatrixResponse<get_login_token::v1::Response>> {
    check_login_limit(&limits, &from, request.auth.as_ref())?;
    let response = users.login.issue_token(&from, request.auth.as_ref()).await;
    parameters
        .store_for_session(&users, response)
        .map(MatrixResponse)
}

/// `POST /_matrix/client/*/login`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3login).
async fn login(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    State(config): State<Arc<Config>>,
    LoginRequest(MatrixRequest {
        from: token,
        request,
    }): LoginRequest,
) -> Result<MatrixResponse<login::v3::Response>> {
    let service = match &request.login_info {
        LoginInfo::ApplicationService(_) => Some(token.application_service(&users)?),
        _ => None,
    };
    let account = users.login.attempted_user(&request).await?;
    let attempt = account.map(|user_id| limits.charge(RequestClass::WrongPassword, &*user_id));
    let attempt = attempt.transpose()?;
    let login = users.login.log_in(request, service.as_deref()).await;
    if let (Err(Error::Forbidden(_)), Some(attempt)) = (&login, attempt) {
        attempt.keep();
    }
    let login = login?;
    let issued = login.tokens;
    let mut response =
        login::v3::Response::new(login.user_id, issued.access_token, login.device_id);
    let homeserver = HomeserverInfo::new(config.public_url().to_string());
    response.well_known = Some(DiscoveryInfo::new(homeserver));
    response.refresh_token = issued.refresh_token;
    response.expires_in = issued.expires_in;
    Ok(MatrixResponse(response))
}

/// `POST /_matrix/client/*/refresh`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3refresh).
async fn refresh_token(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    peer: ClientAddress,
    MatrixRequest { request, .. }: MatrixRequest<refresh_token::v3::Request>,
) -> Result<MatrixResponse<refresh_token::v3::Response>> {
    let issued = users.refresh_tokens.refresh(&request.refresh_token).await;
    if matches!(issued, Err(Error::UnknownToken { .. })) {
        limits.check(RequestClass::WrongRefreshToken, &peer)?;
    }
    let issued = issued?;
    let mut response = refresh_token::v3::Response::new(issued.access_token);
    response.refresh_token = issued.refresh_token;
    response.expires_in_ms = issued.expires_in;
    Ok(MatrixResponse(response))
}

/// `POST /_matrix/client/*/logout`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logout).
async fn logout(
    State(users): State<Users>,
    MatrixRequest { from, .. }: MatrixRequest<logout::v3::Request>,
) -> Result<MatrixResponse<logout::v3::Response>> {
    users.sessions.logout(&from).await?;
    Ok(MatrixResponse(logout::v3::Response::new()))
}

/// `POST /_matrix/client/*/logout/all`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logoutall).
async fn logout_all(
    State(users): State<Users>,
    MatrixRequest { from, .. }: MatrixRequest<logout_all::v3::Request>,
) -> Result<MatrixResponse<logout_all::v3::Response>> {
    users.sessions.logout_all(&from).await?;
    Ok(MatrixResponse(logout_all::v3::Response::new()))
}

/// A login request that is known to have a `type`, because ruma panics without one.
struct LoginRequest(MatrixRequest<login::v3::Request>);

impl FromRequest<App> for LoginRequest {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let limit = app.config.limits.max_request_bytes;
        let body = read_body(body, limit).await?;
        let body = object_text(&body, MAX_JSON_DEPTH)?;
        let fields: Value = serde_json::from_str(&body)?;
        if fields.get("type").is_none() {
            return Err(Error::BadJson("missing field `type`".to_owned()));
        }
        let request = Request::from_parts(parts, Body::from(body));
        MatrixRequest::from_request(request, app).await.map(Self)
    }
}
