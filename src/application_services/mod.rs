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

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

pub use self::service_queries::{PingFailure, ServiceQueries, ThirdPartyKind};
use self::{
    interest::ServiceInterest,
    pending_changes::{ServiceChanges, UserDevice},
    service_client::ServiceClient,
};
use ruma::UserId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

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

/// Sends one application service what concerns it, until the server stops or the service is removed.
struct TransactionSender {
    sources: TransactionSources,
    service: Arc<ApplicationService>,
    endpoint: ServiceEndpoint,
    changes: Arc<ServiceChanges>,
    interest: ServiceInterest,
    /// Cancelled when the server stops, or the service was removed.
    stopping: CancellationToken,
}

/// The way to reach a service.
struct ServiceEndpoint {
    client: ServiceClient,
    /// Notified when the service has answered a ping.
    answered_ping: Arc<Notify>,
}

/// The senders of the transactions for all application services. Cheap to clone.
#[derive(Clone)]
pub struct ServiceSenders {
    queries: ServiceQueries,
    /// Set once the senders were started.
    sources: Arc<OnceLock<TransactionSources>>,
    running: Arc<Mutex<HashMap<String, RunningSender>>>,
}

/// A sender that was started.
struct RunningSender {
    stopping: CancellationToken,
    changes: Arc<ServiceChanges>,
}

impl ServiceSenders {
    /// Returns senders that are not started yet.
    pub fn new(queries: &ServiceQueries) -> Self {
        Self {
            queries: queries.clone(),
            sources: Arc::default(),
            running: Arc::default(),
        }
    }

    /// Starts to send the registered application services what concerns them, beginning with what was not sent before
    /// the last stop.
    ///
    /// # Errors
    ///
    /// When a URL is not allowed, or the progress cannot be read.
    pub async fn start(&self, sources: TransactionSources) -> Result<()> {
        let services = sources.users.application_services.all();
        // Nobody else sets it.
        let _ = self.sources.set(sources);
        for service in services {
            self.restart(service).await?;
        }
        Ok(())
    }

    /// Starts to send a service what concerns it, in place of a sender with its earlier registration.
    ///
    /// # Errors
    ///
    /// When its URL is not allowed, or the progress cannot be read.
    pub async fn restart(&self, service: Arc<ApplicationService>) -> Result<()> {
        self.stop(&service.registration.id);
        let client = self.queries.client();
        let Some(sources) = self.sources.get() else {
            return Ok(());
        };
        if client.url_of(&service.registration)?.is_none() {
            return Ok(());
        }
        let id = service.registration.id.clone();
        let endpoint = ServiceEndpoint {
            client: client.clone(),
            answered_ping: self.queries.answered_ping(&service),
        };
        let running = start_sender(sources.clone(), service, endpoint).await?;
        self.lock().insert(id, running);
        Ok(())
    }

    /// Ends the sender of a service that was removed, and forgets how far the service was sent what concerns it.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn end(&self, service_id: &str) -> Result<()> {
        self.stop(service_id);
        let Some(sources) = self.sources.get() else {
            return Ok(());
        };
        let mut tx = sources.db.write().await?;
        progress_table::remove(&mut tx, service_id).await?;
        tx.commit().await
    }

    fn stop(&self, service_id: &str) {
        if let Some(running) = self.lock().remove(service_id) {
            running.stopping.cancel();
            running.changes.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, RunningSender>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn start_sender(
    sources: TransactionSources,
    service: Arc<ApplicationService>,
    endpoint: ServiceEndpoint,
) -> Result<RunningSender> {
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
    if service.registration.receives_device_changes {
        changes.add_key_counts(encrypting_devices(&sources, &service).await?);
    }
    if service.registration.receives_ephemeral() {
        let waiting = sources.devices.to_device.devices_with_messages().await?;
        changes.add_devices(waiting.into_iter().map(|row| UserDevice {
            user: row.user_num,
            device: row.device,
        }));
    }
    let running = RunningSender {
        stopping: sources.tasks.stopping().child_token(),
        changes: changes.clone(),
    };
    let sender = TransactionSender {
        interest: ServiceInterest::new(&service, &sources.rooms),
        sources: sources.clone(),
        service,
        endpoint,
        changes,
        stopping: running.stopping.clone(),
    };
    drop(sources.tasks.spawn(sender.send_until_stopped(progress)));
    Ok(running)
}

/// Returns the devices of a service's users that have keys. Their counts of one-time keys may have changed since the last
/// transaction before the server stopped.
async fn encrypting_devices(
    sources: &TransactionSources,
    service: &ApplicationService,
) -> Result<Vec<UserDevice>> {
    let mut devices = sources.devices.key_counts.devices_with_keys().await?;
    devices.retain(|device| {
        let user_id = UserId::parse(device.user_id.as_str());
        user_id.is_ok_and(|user_id| service.controls(&user_id))
    });
    let numbers = devices.into_iter().map(|device| UserDevice {
        user: device.user_num,
        device: device.device,
    });
    Ok(numbers.collect())
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
