//! What the handlers share.

use std::sync::Arc;

use axum::extract::FromRef;

use super::{limits::Limits, metrics::Metrics};
use crate::{
    clock::Clock, config::Config, devices::Devices, ephemeral::Ephemeral, federation::Federation,
    health::Health, media::Media, rooms::Rooms, sync::Sync, tasks::Tasks, users::Users,
    workflows::Workflows,
};

/// The services, each of which a handler takes with `State`. Built in `cli::serve`.
#[derive(Clone, FromRef)]
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// The time.
    pub clock: Clock,
    /// What runs beside requests, and the word that the server stops.
    pub tasks: Tasks,
    /// Whether anything can be stored.
    pub health: Health,
    /// The rate limits.
    pub limits: Limits,
    /// The counts of requests.
    pub metrics: Metrics,
    /// The accounts.
    pub users: Users,
    /// The devices.
    pub devices: Devices,
    /// The rooms.
    pub rooms: Rooms,
    /// What lives in memory alone.
    pub ephemeral: Ephemeral,
    /// The other servers.
    pub federation: Federation,
    /// Operations that need several services.
    pub workflows: Workflows,
    /// What changed for whom.
    pub sync: Sync,
    /// The files that users upload.
    pub media: Media,
}
