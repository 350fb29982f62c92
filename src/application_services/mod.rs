//! Sends application services what concerns them, and asks them for users, aliases and the content of their networks.
//!
//! `docs/design/application-services.md` explains how. See the
//! [specification](https://spec.matrix.org/v1.19/application-service-api/).

mod composition;
mod interest;
mod pending_changes;
mod sending;
mod service_client;
mod service_queries;
mod transaction;

use std::sync::Arc;

pub use self::service_queries::{PingFailure, ServiceQueries, ThirdPartyKind};
use self::{
    interest::ServiceInterest,
    pending_changes::{ServiceChanges, UserDevice},
    service_client::ServiceClient,
};
use crate::{
    clock::Clock,
    devices::Devices,
    ephemeral::EphemeralState,
    error::Result,
    numbers::ServiceTransactionNum,
    rooms::Rooms,
    storage::{
        Db,
        application_services::{self as progress_table, ServiceProgressRow},
    },
    tasks::Tasks,
    users::{ApplicationService, Users},
};

/// The services that the transactions for application services need.
#[derive(Clone)]
pub struct TransactionSources {
    pub db: Db,
    pub clock: Clock,
    pub tasks: Tasks,
    pub rooms: Rooms,
    pub users: Users,
    pub devices: Devices,
    pub ephemeral: EphemeralState,
}

/// Sends one application service what concerns it, until the server stops.
struct TransactionSender {
    sources: TransactionSources,
    service: Arc<ApplicationService>,
    client: ServiceClient,
    changes: Arc<ServiceChanges>,
    interest: ServiceInterest,
}

/// Starts to send the registered application services what concerns them, beginning with what was not sent before the
/// last stop.
///
/// # Errors
///
/// When a URL is not allowed, or the progress cannot be read.
pub async fn start(sources: TransactionSources, queries: &ServiceQueries) -> Result<()> {
    for service in sources.users.application_services.all() {
        let client = queries.client();
        if client.url_of(&service)?.is_some() {
            start_sender(sources.clone(), service, client.clone()).await?;
        }
    }
    Ok(())
}

async fn start_sender(
    sources: TransactionSources,
    service: Arc<ApplicationService>,
    client: ServiceClient,
) -> Result<()> {
    let changes = follow_changes(&sources, &service);
    let published = sources.db.journal().published_position();
    let stored = {
        let mut db = sources.db.read().await?;
        progress_table::progress(&mut db, &service.registration.id).await?
    };
    // A service that is new is sent what happens from now on. The time makes the numbers of its transactions others than
    // those of an earlier database.
    let progress = stored.unwrap_or_else(|| ServiceProgressRow {
        sent_up_to: published,
        last_transaction: ServiceTransactionNum::new(sources.clock.now_ms()),
        unacknowledged: None,
    });
    changes.add_events_up_to(published);
    if service.registration.receives_ephemeral() {
        let waiting = sources.devices.to_device.devices_with_messages().await?;
        changes.add_devices(waiting.into_iter().map(|row| UserDevice {
            user: row.user_num,
            device: row.device,
        }));
    }
    let sender = TransactionSender {
        interest: ServiceInterest::new(&service, &sources.rooms),
        sources: sources.clone(),
        service,
        client,
        changes,
    };
    drop(sources.tasks.spawn(sender.send_until_stopped(progress)));
    Ok(())
}

/// Starts to collect the changes for a service, before anything is read, so that none is missed in between.
fn follow_changes(
    sources: &TransactionSources,
    service: &ApplicationService,
) -> Arc<ServiceChanges> {
    let registration = &service.registration;
    let changes = Arc::new(ServiceChanges::new(
        registration.receives_ephemeral(),
        registration.receives_device_changes,
    ));
    sources.db.journal().add_follower(changes.clone());
    let listener = changes.clone();
    sources.ephemeral.add_listener(Arc::new(move |change| {
        listener.add_ephemeral_change(change);
    }));
    changes
}
