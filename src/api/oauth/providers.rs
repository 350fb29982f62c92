//! Signing in with an identity provider: the way to the provider and back, and its message that a user has signed out.
//!
//! See [OpenID Connect Core](https://openid.net/specs/openid-connect-core-1_0.html#CodeFlowAuth).

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    ACCOUNT_PATH, PROVIDER_LINK_PATH, PROVIDER_REGISTRATION_PATH,
    browser::{
        ReturningBrowser, checked_next, provider_cookie, provider_secret, read_form, redirect,
        redirect_with_cookie, session_cookie,
    },
    error::PageError,
    provider_pages::pending_address,
};
use crate::{
    api::{
        App, LimitedRequest,
        endpoint::{PathParams, read_query},
        endpoint_at,
    },
    error::{Error, Result},
    users::{
        NewSignInRequest, OAuthError, OAuthErrorCode, OAuthResult, ProviderAnswer, ProviderOutcome,
        SignInPurpose, Users,
    },
};

const BEGIN_PATH: &str = "/_parlour/oauth/providers/{provider}/begin";
const CALLBACK_PATH: &str = "/_parlour/oauth/providers/{provider}/callback";
const LOGOUT_PATH: &str = "/_parlour/oauth/providers/{provider}/backchannel-logout";

/// The parameters of a link to a provider.
#[derive(Default, Deserialize)]
#[serde(default)]
struct BeginQuery {
    /// The page that is opened afterwards.
    next: String,
    /// `link` or `confirm`; otherwise to sign in.
    action: String,
}

/// The parameters with which a provider sends a user back.
#[derive(Default, Deserialize)]
#[serde(default)]
struct CallbackQuery {
    state: String,
    code: String,
    error: String,
    iss: Option<String>,
}

#[derive(Deserialize)]
struct LogoutForm {
    logout_token: String,
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::GET, BEGIN_PATH, begin))
        .merge(endpoint_at(Method::GET, CALLBACK_PATH, complete))
        .merge(endpoint_at(Method::POST, LOGOUT_PATH, end_sign_ins))
}

/// `GET /_parlour/oauth/providers/{id}/begin`
async fn begin(
    State(app): State<App>,
    _: LimitedRequest,
    PathParams(provider): PathParams<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, PageError> {
    let query: BeginQuery = read_query(&uri)?;
    let providers = &app.users.oauth.providers;
    // Several sign-ins of a browser at the same time share the secret.
    let secret = provider_secret(&headers, &app.config);
    let secret = secret.unwrap_or_else(|| providers.new_browser_secret());
    let request = NewSignInRequest {
        browser_secret: &secret,
        purpose: match &*query.action {
            "link" => SignInPurpose::Link,
            "confirm" => SignInPurpose::Confirm,
            _ => SignInPurpose::SignIn,
        },
        next: checked_next(&query.next).unwrap_or(ACCOUNT_PATH),
    };
    let address = providers.begin(&provider, request).await?;
    let cookie = provider_cookie(&secret, &app.config);
    Ok(redirect_with_cookie(&address, cookie))
}

/// `GET /_parlour/oauth/providers/{id}/callback`, to which the provider sends the user back.
async fn complete(
    State(app): State<App>,
    _: LimitedRequest,
    PathParams(provider): PathParams<String>,
    browser: ReturningBrowser,
    uri: Uri,
) -> Result<Response, PageError> {
    let query: CallbackQuery = read_query(&uri)?;
    let answer = ProviderAnswer {
        state: query.state,
        code: query.code,
        error: query.error,
        issuer: query.iss,
    };
    let ReturningBrowser { user, secret } = browser;
    let providers = &app.users.oauth.providers;
    let outcome = providers
        .complete(&provider, answer, &secret, user.as_ref())
        .await?;
    Ok(match outcome {
        ProviderOutcome::SignedIn { session, next } => {
            redirect_with_cookie(&next, session_cookie(&session, &app.config))
        }
        ProviderOutcome::Unknown(id) => redirect(&pending_address(PROVIDER_REGISTRATION_PATH, &id)),
        ProviderOutcome::Linkable(id) => redirect(&pending_address(PROVIDER_LINK_PATH, &id)),
    })
}

/// `POST /_parlour/oauth/providers/{id}/backchannel-logout`
///
/// See [OpenID Connect Back-Channel Logout](https://openid.net/specs/openid-connect-backchannel-1_0.html#BCRequest).
async fn end_sign_ins(
    State(users): State<Users>,
    PathParams(provider): PathParams<String>,
    body: Body,
) -> OAuthResult<Response> {
    let invalid = |error: Error| match error {
        Error::Forbidden(reason) | Error::BadJson(reason) => {
            OAuthError::refused(OAuthErrorCode::InvalidRequest, reason)
        }
        other => OAuthError::Other(other),
    };
    let form: LogoutForm = read_form(body).await.map_err(invalid)?;
    let providers = &users.oauth.providers;
    let ended = providers.end_sign_ins(&provider, &form.logout_token).await;
    ended.map_err(invalid)?;
    let headers = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::OK, headers).into_response())
}
