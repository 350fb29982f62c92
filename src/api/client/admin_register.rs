//! Registration with the shared secret, at the path that the tools of other homeservers use.

use std::sync::Arc;

use axum::{Json, Router, body::Body, extract::State, http::Method};
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    api::{
        App, ClientAddress, LimitedRequest, RateLimits, RequestClass,
        endpoint::{object_text, read_body},
        endpoint_at,
    },
    config::Config,
    error::{Error, Result},
    matrix::MAX_JSON_DEPTH,
    users::Users,
};

/// The path of both endpoints.
const REGISTER_PATH: &str = "/_synapse/admin/v1/register";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::GET, REGISTER_PATH, nonce))
        .merge(endpoint_at(Method::POST, REGISTER_PATH, register))
}

#[derive(Serialize)]
struct SharedSecretResponse {
    user_id: OwnedUserId,
    home_server: OwnedServerName,
    access_token: String,
    device_id: OwnedDeviceId,
}

/// `GET /_synapse/admin/v1/register`
async fn nonce(State(users): State<Users>, _: LimitedRequest) -> Result<Json<Value>> {
    let nonce = users.shared_secret.issue_nonce()?;
    Ok(Json(json!({ "nonce": nonce })))
}

/// `POST /_synapse/admin/v1/register`
async fn register(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    State(config): State<Arc<Config>>,
    peer: ClientAddress,
    body: Body,
) -> Result<Json<SharedSecretResponse>> {
    // A script may register many users, so only a wrong proof counts.
    let charge = limits.charge(RequestClass::SharedSecret, &peer)?;
    let body = read_body(body, config.limits.max_request_bytes).await?;
    let body = object_text(&body, MAX_JSON_DEPTH)?;
    let request = serde_json::from_str(&body).map_err(|e| Error::BadJson(e.to_string()))?;
    let registered = users.shared_secret.register(request).await;
    if matches!(registered, Err(Error::Forbidden(_))) {
        charge.keep();
    }
    let registered = registered?;
    let login = registered
        .login
        .ok_or_else(|| Error::internal("log in", "the registration created no session"))?;
    Ok(Json(SharedSecretResponse {
        home_server: login.user_id.server_name().to_owned(),
        user_id: login.user_id,
        access_token: login.tokens.access_token,
        device_id: login.device_id,
    }))
}
