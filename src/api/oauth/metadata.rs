//! The document with which clients find the endpoints.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#server-metadata-discovery).

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, Method, header::HOST},
};
use ruma::api::client::discovery::get_authorization_server_metadata;
use serde_json::{Value, json};

use super::{ACCOUNT_PATH, AUTHORIZE_PATH, CLIENTS_PATH, DEVICE_PATH, REVOKE_PATH, TOKEN_PATH};
use crate::{
    api::{App, endpoint, endpoint_at},
    config::Config,
    error::{Error, RefusalCode, Result},
};

/// The names of the account actions: those of the specification, and the ones of MSC4191 that were renamed.
const ACCOUNT_ACTIONS: [&str; 9] = [
    "org.matrix.profile",
    "org.matrix.devices_list",
    "org.matrix.sessions_list",
    "org.matrix.device_view",
    "org.matrix.session_view",
    "org.matrix.device_delete",
    "org.matrix.session_end",
    "org.matrix.account_deactivate",
    "org.matrix.cross_signing_reset",
];

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_authorization_server_metadata::v1::Request, _>(get_metadata))
        .merge(endpoint_at(
            Method::GET,
            "/.well-known/oauth-authorization-server",
            get_metadata,
        ))
        .merge(endpoint_at(
            Method::GET,
            "/.well-known/openid-configuration",
            get_metadata,
        ))
        .merge(endpoint_at(
            Method::GET,
            "/_matrix/client/unstable/org.matrix.msc2965/auth_issuer",
            get_issuer,
        ))
}

/// `GET /_matrix/client/v1/auth_metadata`, and the places where clients of earlier proposals look for it.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1auth_metadata).
async fn get_metadata(
    State(config): State<Arc<Config>>,
    headers: HeaderMap,
) -> Result<Json<Value>> {
    must_be_reachable(&config, &headers)?;
    let base = config.public_url();
    let address = |path: &str| format!("{base}{path}");
    Ok(Json(json!({
        "issuer": address("/"),
        "authorization_endpoint": address(AUTHORIZE_PATH),
        "token_endpoint": address(TOKEN_PATH),
        "registration_endpoint": address(CLIENTS_PATH),
        "revocation_endpoint": address(REVOKE_PATH),
        "device_authorization_endpoint": address(DEVICE_PATH),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "fragment"],
        "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "urn:ietf:params:oauth:grant-type:device_code",
        ],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "prompt_values_supported": ["create"],
        "account_management_uri": address(ACCOUNT_PATH),
        "account_management_actions_supported": ACCOUNT_ACTIONS,
    })))
}

/// `GET /_matrix/client/unstable/org.matrix.msc2965/auth_issuer`, of an earlier text of MSC2965
async fn get_issuer(State(config): State<Arc<Config>>, headers: HeaderMap) -> Result<Json<Value>> {
    must_be_reachable(&config, &headers)?;
    Ok(Json(
        json!({ "issuer": format!("{}/", config.public_url()) }),
    ))
}

/// Returns whether the addresses in the document lead to this server.
///
/// Without `server.public_url`, the address is that of the listener. Behind a reverse proxy, nobody can reach it; clients
/// must then sign in with a password, as if there were no OAuth 2.0 API.
pub(in crate::api) fn pages_are_reachable(config: &Config, headers: &HeaderMap) -> bool {
    if config.server.public_url.is_some() {
        return true;
    }
    let url = config.public_url();
    let authority = url
        .as_str()
        .split_once("://")
        .map(|(_, authority)| authority);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    authority == host
}

fn must_be_reachable(config: &Config, headers: &HeaderMap) -> Result<()> {
    if pages_are_reachable(config, headers) {
        return Ok(());
    }
    Err(Error::refused(
        RefusalCode::Unrecognized,
        "the administrator has not set server.public_url, so users cannot sign in on web pages",
    ))
}
