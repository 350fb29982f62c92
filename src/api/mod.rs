//! HTTP: a handler parses the request, calls one or two methods of a service, and responds.
//!
//! `endpoint` converts requests to ruma's types and routes them, `auth` authenticates them, `error` converts errors to
//! responses, and `layers` wraps every request. Rules, SQL, locks and tasks do not belong here.

mod account_restrictions;
mod app;
mod auth;
mod client;
mod client_address;
mod complete_response;
mod content_policy;
mod endpoint;
mod endpoint_policies;
mod error;
mod federation;
mod html_page;
mod in_flight_response;
mod layers;
mod livekit;
mod metrics;
mod monitoring;
mod oauth;
mod parlour;
mod rate_limits;
mod web;
mod websocket;

use axum::Router;

pub use self::{
    app::App,
    auth::{AuthenticatedSession, MaybeSession, RequestAuthenticator},
    client_address::{ClientAddress, KeepOpen, TrustedProxies, subscriber_network},
    complete_response::CompleteResponse,
    endpoint::{
        MatrixRequest, MatrixResponse, RequestWithBody, RequestWithOptionalBody, endpoint,
        endpoint_at, receive_request,
    },
    endpoint_policies::LimitedRequest,
    in_flight_response::InFlightResponse,
    metrics::RequestMetrics,
    monitoring::metrics_router,
    rate_limits::{RateLimitCharge, RateLimitKey, RateLimits, RequestClass},
};
use crate::config::Config;

/// Returns all routes of a listener.
pub fn router(app: App) -> Router {
    layers::wrap_routes(routes(&app.config), &app).with_state(app)
}

fn routes(config: &Config) -> Router<App> {
    Router::new()
        .merge(client::routes())
        .merge(federation::routes(config))
        .merge(livekit::routes(config))
        .merge(websocket::routes())
        .merge(monitoring::routes())
        .merge(parlour::routes())
        .merge(oauth::routes(config))
        .merge(web::routes(config))
}
