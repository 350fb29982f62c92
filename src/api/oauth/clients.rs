//! The registration of clients.

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{Method, StatusCode},
};
use serde::Serialize;

use super::CLIENTS_PATH;
use crate::{
    api::{
        App, LimitedRequest,
        endpoint::{object_text, read_body},
        endpoint_at,
    },
    matrix::MAX_JSON_DEPTH,
    users::{ClientMetadata, OAuthError, OAuthErrorCode, Users},
};

/// The maximum size of the metadata of a client, in bytes.
const MAX_METADATA_BYTES: usize = 32 * 1024;

#[derive(Serialize)]
struct RegistrationResponse {
    client_id: String,
    #[serde(flatten)]
    metadata: ClientMetadata,
}

pub(super) fn routes() -> Router<App> {
    endpoint_at(Method::POST, CLIENTS_PATH, register_client)
}

/// `POST /_parlour/oauth/clients`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#dynamic-client-registration-flow).
async fn register_client(
    State(users): State<Users>,
    _: LimitedRequest,
    body: Body,
) -> Result<(StatusCode, Json<RegistrationResponse>), OAuthError> {
    let invalid =
        |reason: String| OAuthError::refused(OAuthErrorCode::InvalidClientMetadata, reason);
    let body = read_body(body, MAX_METADATA_BYTES).await?;
    let body = object_text(&body, MAX_JSON_DEPTH).map_err(|error| invalid(error.to_string()))?;
    let metadata = serde_json::from_str(&body).map_err(|error| invalid(error.to_string()))?;
    let client = users.oauth.clients.register(metadata).await?;
    let response = RegistrationResponse {
        client_id: client.client_id,
        metadata: client.metadata,
    };
    Ok((StatusCode::CREATED, Json(response)))
}
