//! What the chat page asks for beside the Matrix API: `/_parlour/client/v1/`, described in `docs/parlour-api.md`.
//!
//! ruma does not know these endpoints; how a request is read stands here, and is the same for all of them.

mod people;

use axum::{
    Router,
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::app::App;
use crate::error::{Error, Result};

pub(super) fn routes() -> Router<App> {
    Router::new().merge(people::routes())
}

/// Returns the path of an endpoint.
fn path(rest: &str) -> String {
    format!("/_parlour/client/v1/{rest}")
}

/// The parameters in the query of a request.
struct Parameters<T>(T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Parameters<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        let query = Query::try_from_uri(&parts.uri);
        let Query(parameters) = query.map_err(|e| Error::invalid_param(e.to_string()))?;
        Ok(Self(parameters))
    }
}
