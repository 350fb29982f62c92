//! The state that the handlers share.

use std::sync::Arc;

use axum::extract::FromRef;

use super::{metrics::RequestMetrics, rate_limits::RateLimits};
use crate::{
    application_services::{ServiceQueries, ServiceSenders},
    calls::Calls,
    clock::Clock,
    config::Config,
    devices::Devices,
    ephemeral::EphemeralState,
    federation::Federation,
    health::Health,
    mail::MailQueue,
    media::Media,
    rooms::Rooms,
    sync::Sync,
    tasks::Tasks,
    users::Users,
    workflows::Workflows,
};

/// The services, each of which a handler can take with `State`. They are built in `cli::serve`.
#[derive(Clone, FromRef)]
pub struct App {
    pub config: Arc<Config>,
    pub clock: Clock,
    /// Starts background work, and signals that the server stops.
    pub tasks: Tasks,
    /// Says whether data can be stored.
    pub health: Health,
    pub limits: RateLimits,
    /// The request counters.
    pub metrics: RequestMetrics,
    pub users: Users,
    pub devices: Devices,
    pub rooms: Rooms,
    /// State that is kept only in memory, such as typing and presence.
    pub ephemeral: EphemeralState,
    /// The connections to other servers.
    pub federation: Federation,
    /// Questions to application services.
    pub service_queries: ServiceQueries,
    /// The senders of transactions for application services.
    pub service_senders: ServiceSenders,
    /// Operations that need several services.
    pub workflows: Workflows,
    /// Collects the changes for `/sync`.
    pub sync: Sync,
    pub media: Media,
    /// Calls through a LiveKit server.
    pub calls: Calls,
    /// The e-mails that wait to be sent.
    pub mail: MailQueue,
}
