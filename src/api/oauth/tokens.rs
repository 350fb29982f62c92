//! The endpoints from which clients get tokens, and with which they sign out.

use std::sync::Arc;

use axum::{Json, Router, body::Body, extract::State, http::Method};
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::{DEVICE_PATH, LINK_PATH, REVOKE_PATH, TOKEN_PATH, browser::read_form};
use crate::{
    api::{App, ClientAddress, LimitedRequest, RateLimits, RequestClass, endpoint_at},
    config::Config,
    users::{CodeExchange, OAuthError, OAuthErrorCode, OAuthGrant, OAuthResult, Users},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::POST, TOKEN_PATH, issue_tokens))
        .merge(endpoint_at(Method::POST, REVOKE_PATH, revoke_token))
        .merge(endpoint_at(Method::POST, DEVICE_PATH, authorize_device))
}

/// The parameters of a request for tokens. Each grant type needs some of them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenForm {
    grant_type: String,
    client_id: String,
    code: String,
    redirect_uri: String,
    code_verifier: String,
    refresh_token: String,
    device_code: String,
}

#[derive(Deserialize)]
struct RevocationForm {
    token: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DeviceForm {
    client_id: String,
    scope: String,
}

/// `POST /_parlour/oauth/token`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#grant-types).
async fn issue_tokens(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    peer: ClientAddress,
    body: Body,
) -> OAuthResult<Json<Value>> {
    let form: TokenForm = parse_form(body).await?;
    let tokens = &users.oauth.tokens;
    let granted = match &*form.grant_type {
        "authorization_code" => {
            let exchange = CodeExchange {
                client_id: &form.client_id,
                code: &form.code,
                redirect_uri: &form.redirect_uri,
                code_verifier: &form.code_verifier,
            };
            tokens.exchange_code(exchange).await
        }
        "refresh_token" => tokens.refresh(&form.client_id, &form.refresh_token).await,
        "urn:ietf:params:oauth:grant-type:device_code" => {
            tokens
                .exchange_device_code(&form.client_id, &form.device_code)
                .await
        }
        _ => Err(OAuthError::refused(
            OAuthErrorCode::UnsupportedGrantType,
            "the grant type is not supported",
        )),
    };
    if is_wrong(&granted) {
        limits.check(RequestClass::WrongRefreshToken, &peer)?;
    }
    granted.map(token_response)
}

/// Returns whether a request had a wrong secret. Nobody can guess one, but trying costs.
fn is_wrong(granted: &OAuthResult<OAuthGrant>) -> bool {
    use OAuthErrorCode::{InvalidClient, InvalidGrant};
    let Err(OAuthError::Refused { code, .. }) = granted else {
        return false;
    };
    matches!(code, InvalidClient | InvalidGrant)
}

fn token_response(granted: OAuthGrant) -> Json<Value> {
    let tokens = granted.tokens;
    Json(json!({
        "access_token": tokens.access_token,
        "token_type": "Bearer",
        "expires_in": tokens.expires_in.map(|time| time.as_secs()),
        "refresh_token": tokens.refresh_token,
        "scope": granted.scope.to_string(),
    }))
}

/// `POST /_parlour/oauth/revoke`
///
/// "If the `client_id` is not provided, or does not match the client associated with the token, the server SHOULD still
/// revoke the token."
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#token-revocation).
async fn revoke_token(
    State(users): State<Users>,
    _: LimitedRequest,
    body: Body,
) -> OAuthResult<Json<Value>> {
    let form: RevocationForm = parse_form(body).await?;
    users.oauth.tokens.revoke(&form.token).await?;
    Ok(Json(json!({})))
}

/// `POST /_parlour/oauth/device`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#device-authorisation-flow).
async fn authorize_device(
    State(users): State<Users>,
    State(config): State<Arc<Config>>,
    _: LimitedRequest,
    body: Body,
) -> OAuthResult<Json<Value>> {
    let form: DeviceForm = parse_form(body).await?;
    let started = users
        .oauth
        .waiting_devices
        .start(&form.client_id, &form.scope)
        .await?;
    let page = format!("{}{LINK_PATH}", config.public_url());
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("user_code", &started.user_code);
    Ok(Json(json!({
        "device_code": started.device_code,
        "user_code": started.user_code,
        "verification_uri": page,
        "verification_uri_complete": format!("{page}?{}", query.finish()),
        "expires_in": started.expires_in.as_secs(),
        "interval": started.interval.as_secs(),
    })))
}

async fn parse_form<T: serde::de::DeserializeOwned>(body: Body) -> OAuthResult<T> {
    let form = read_form(body).await;
    form.map_err(|error| OAuthError::refused(OAuthErrorCode::InvalidRequest, error.to_string()))
}
