//! HTTP: a handler extracts, calls one or two methods of a service, and answers.
//!
//! `endpoint` turns requests into ruma's types and routes them, `auth` says who asks, `error` says what went
//! wrong, `layers` wraps every request. No rules, SQL, locks or tasks here.

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

/// Returns everything that a listener serves.
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
