//! HTTP: a handler parses the request, calls one or two methods of a service, and responds.
//!
//! `endpoint` converts requests to ruma's types and routes them, `auth` authenticates them, `error` converts errors to
//! responses, and `layers` wraps every request. Rules, SQL, locks and tasks do not belong here.

mod answered;
mod app;
mod auth;
mod channel;
mod client;
mod complete;
mod endpoint;
mod error;
mod federation;
mod layers;
mod limits;
mod metrics;
mod operator;
mod parlour;
mod peer;
mod standing;
mod stranger;
mod web;

use axum::Router;

pub use self::{
    answered::Answered,
    app::App,
    auth::{Asker, Authenticate, MaybeSession},
    complete::Complete,
    endpoint::{Incoming, Outgoing, WithBody, WithOptionalBody, endpoint, receive},
    limits::{Charge, Class, Key, Limits},
    metrics::Metrics,
    operator::metrics_router,
    peer::{KeepOpen, Peer, TrustedProxies, network_of},
    stranger::MaybeStranger,
};

/// Returns all routes of a listener.
pub fn router(app: App) -> Router {
    let routes = Router::new()
        .merge(client::routes())
        .merge(federation::routes(&app.config))
        .merge(channel::routes())
        .merge(operator::routes())
        .merge(parlour::routes())
        .merge(web::routes(&app.config));
    layers::wrap(routes, &app).with_state(app)
}
