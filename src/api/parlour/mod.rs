//! The endpoints that the chat page uses besides the Matrix API, `/_parlour/client/v1/`, and those for administrators,
//! `/_parlour/admin/v1/`. They are described in `docs/parlour-api.md`.
//!
//! ruma does not have these endpoints, so this module parses their requests.

mod application_services;
mod expiring_invites;
mod invite_links;
mod people;
mod room_deletion;

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequest, FromRequestParts, Request},
    http::request::Parts,
};
use ruma::{OwnedRoomId, RoomId, api::auth_scheme::AccessToken};
use serde::de::DeserializeOwned;

use super::{
    app::App,
    auth::RequestAuthenticator,
    endpoint::{object_text, raw_path_params, read_body, read_query},
    endpoint_policies::AdmissionCheck,
};
use crate::{
    error::{Error, RefusalCode, Result},
    matrix::MAX_JSON_DEPTH,
    users::Session,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(application_services::routes())
        .merge(expiring_invites::routes())
        .merge(invite_links::routes())
        .merge(people::routes())
        .merge(room_deletion::routes())
}

/// Returns the path of an endpoint.
fn path(rest: &str) -> String {
    format!("/_parlour/client/v1/{rest}")
}

/// Returns the path of an endpoint for administrators.
fn admin_path(rest: &str) -> String {
    format!("/_parlour/admin/v1/{rest}")
}

/// A request and its authenticated sender. The body may be missing if all of its fields are optional.
struct ParlourRequest<T> {
    from: Arc<Session>,
    body: T,
}

impl<T: DeserializeOwned + Send> FromRequest<App> for ParlourRequest<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let whole = read_body(body, app.config.limits.max_request_bytes).await?;
        let from = AccessToken::authenticate(app, &parts, &whole).await?;
        let admission = AdmissionCheck::of_request(app, &parts, Some(&from)).await;
        let body: &[u8] = if whole.is_empty() { b"{}" } else { &whole };
        let body = object_text(body, MAX_JSON_DEPTH)?;
        let body = serde_json::from_str(&body).map_err(|e| Error::BadJson(e.to_string()))?;
        admission.admit(app, Some(&from))?;
        Ok(Self { from, body })
    }
}

/// The query parameters of a request.
struct QueryParameters<T>(T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for QueryParameters<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        read_query(&parts.uri).map(Self)
    }
}

/// The room that the path of a request names.
struct PathRoomId(OwnedRoomId);

impl FromRequestParts<App> for PathRoomId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        let room_id = path_parameter(parts, "room_id").await?;
        let room_id = RoomId::parse(room_id).map_err(|e| Error::invalid_param(e.to_string()))?;
        Ok(Self(room_id))
    }
}

/// Returns a path parameter of a request.
async fn path_parameter(parts: &mut Parts, name: &str) -> Result<String> {
    let params = raw_path_params(parts).await?;
    let mut params = params.iter();
    let found = params.find(|(known, _)| *known == name);
    found
        .map(|(_, value)| value.to_owned())
        .ok_or_else(|| Error::refused(RefusalCode::MissingParam, format!("{name} is missing")))
}
