//! Registration of application services by administrators, while the server runs.

use std::sync::Arc;

use axum::{Json, Router, body::Body, extract::State, http::Method};
use serde_json::{Value, json};

use super::admin_path;
use crate::{
    api::{
        App, AuthenticatedSession,
        endpoint::{PathParams, endpoint_at, read_body},
    },
    error::{Error, Result},
    users::{ApplicationService, RegistrationSource, Session},
};

/// The largest registration, in bytes.
const MAX_REGISTRATION_BYTES: usize = 1024 * 1024;

pub(super) fn routes() -> Router<App> {
    let one = admin_path("application_services/{id}");
    Router::new()
        .merge(endpoint_at(
            Method::GET,
            &admin_path("application_services"),
            list_services,
        ))
        .merge(endpoint_at(Method::PUT, &one, register_service))
        .merge(endpoint_at(Method::DELETE, &one, remove_service))
}

/// `GET /_parlour/admin/v1/application_services`
async fn list_services(
    State(app): State<App>,
    AuthenticatedSession(from): AuthenticatedSession,
) -> Result<Json<Value>> {
    must_be_admin(&from)?;
    let services = app.users.application_services.all();
    let services: Vec<Value> = services.iter().map(service_json).collect();
    Ok(Json(json!({ "application_services": services })))
}

/// Returns what administrators see of a service. The tokens are secret.
fn service_json(service: &Arc<ApplicationService>) -> Value {
    json!({
        "id": service.registration.id,
        "url": service.registration.url,
        "sender": service.sender,
        "source": match service.source {
            RegistrationSource::File => "file",
            RegistrationSource::Database => "database",
        },
    })
}

/// `PUT /_parlour/admin/v1/application_services/{id}`
///
/// The body is a registration in YAML or JSON.
async fn register_service(
    State(app): State<App>,
    AuthenticatedSession(from): AuthenticatedSession,
    PathParams(id): PathParams<String>,
    body: Body,
) -> Result<Json<Value>> {
    must_be_admin(&from)?;
    let text = read_body(body, MAX_REGISTRATION_BYTES).await?;
    let text = std::str::from_utf8(&text)
        .map_err(|_| Error::invalid_param("the registration is not text in UTF-8"))?;
    let services = &app.users.application_services;
    let registration = services.parse(&id, text)?;
    app.service_queries.check_url(&registration)?;
    let service = services.register(registration, text).await?;
    app.service_senders.restart(service).await?;
    Ok(Json(json!({})))
}

/// `DELETE /_parlour/admin/v1/application_services/{id}`
async fn remove_service(
    State(app): State<App>,
    AuthenticatedSession(from): AuthenticatedSession,
    PathParams(id): PathParams<String>,
) -> Result<Json<Value>> {
    must_be_admin(&from)?;
    app.users.application_services.remove(&id).await?;
    app.service_senders.end(&id).await?;
    Ok(Json(json!({})))
}

fn must_be_admin(session: &Session) -> Result<()> {
    if session.is_admin {
        return Ok(());
    }
    Err(Error::forbidden("only administrators may do this"))
}
