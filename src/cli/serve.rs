//! The composition root: builds the services, each from those built before it, and starts the server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use prometheus::Registry;

use super::{connection::ConnectionServer, data_dir, listen::BoundListener, signing_key};
use crate::{
    api::{self, App, RateLimits, RequestMetrics},
    application_services::{ServiceQueries, ServiceSenders, TransactionSources},
    calls::{CallSources, Calls},
    clock::Clock,
    config::{BaseUrl, Config, ConnectionsSection, ListenSection},
    devices::Devices,
    ephemeral::EphemeralState,
    error::{Error, Result},
    federation::{Federation, FederationSender, SenderServices},
    mail::MailQueue,
    media::{self, Media},
    outbound,
    push::{self, PushServices},
    rooms::Rooms,
    storage::{DatabaseTarget, Db},
    sync::{Sync, SyncSources},
    tasks::Tasks,
    users::Users,
    workflows::{WorkflowSources, Workflows},
};

/// The time for which a stop waits for running tasks. The process must exit within ten seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// The time for which a stop waits for the unused database to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum number of connections of the metrics listener. Prometheus needs one.
const MAX_METRICS_CONNECTIONS: usize = 16;

/// A running server.
pub struct RunningServer {
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    public_url: BaseUrl,
    registration_token: Option<String>,
    tasks: Tasks,
    db: Db,
    ephemeral: EphemeralState,
    /// The tasks of the database, which are needed until the last request has been answered.
    storage_tasks: Tasks,
}

/// Starts a server: when this returns, it answers.
///
/// # Errors
///
/// When an address cannot be bound, or a certificate, the data directory or the database is unavailable.
pub async fn start(config: Config) -> Result<RunningServer> {
    start_at(config, Clock::system()).await
}

/// Starts a server with a clock of the caller.
///
/// # Errors
///
/// See [`start`].
pub async fn start_at(mut config: Config, clock: Clock) -> Result<RunningServer> {
    outbound::choose_cryptography();
    data_dir::prepare(&config)?;
    let listeners = bind_all(&mut config.listen).await?;
    let metrics_listener = match config.metrics.address {
        Some(address) => Some(bind(&plain_listener(address)).await?),
        None => None,
    };
    let metrics_address = metrics_listener.as_ref().map(|bound| bound.address);
    let addresses = listeners.iter().map(|bound| bound.address).collect();
    let public_url = config.public_url();

    let tasks = Tasks::default();
    let registry = Registry::new();
    let metrics = RequestMetrics::new(&registry)?;
    let config = Arc::new(config);
    let (url, folder) = (config.database.url.expose(), &config.server.data_dir);
    let storage_tasks = Tasks::default();
    let target = DatabaseTarget::parse(url, folder)?;
    let checked = target.check_usable(&config.server.name).await;
    checked.map_err(|source| Error::internal("start", source))?;
    let db = Db::open(url, folder, &storage_tasks).await?;
    let app = build_app(config, clock, tasks.clone(), db.clone(), metrics.clone()).await?;
    app.workflows.inbox.process_stored_events();
    start_push_notifications(&app, &db).await?;
    start_application_services(&app, &db).await?;
    let registration_token = app.users.registration_tokens.first_admin_token().await?;

    let stopping = tasks.stopping().clone();
    let largest_body = max_body_bytes(&app.config);
    let connections =
        ConnectionServer::new(&app.config.connections, largest_body, stopping.clone());
    // The metrics have their own limit, so they remain available when the other listeners have reached theirs.
    let metrics_limits = ConnectionsSection {
        max_open: MAX_METRICS_CONNECTIONS,
        ..app.config.connections.clone()
    };
    let metrics_connections = ConnectionServer::new(&metrics_limits, 0, stopping);
    let ephemeral = app.ephemeral.clone();
    let router = api::router(app);
    for listener in listeners {
        serve(listener, router.clone(), &connections, &tasks);
    }
    if let Some(listener) = metrics_listener {
        let router = api::metrics_router(metrics);
        serve(listener, router, &metrics_connections, &tasks);
    }
    Ok(RunningServer {
        addresses,
        metrics_address,
        public_url,
        registration_token,
        tasks,
        db,
        ephemeral,
        storage_tasks,
    })
}

/// Starts the work that rooms do by themselves.
fn start_room_tasks(rooms: &Rooms, federation: &Federation, sender: &FederationSender) {
    let policy_servers = Arc::new(federation.clone());
    rooms.sender.set_policy_server_client(policy_servers);
    rooms.delayed_events.start_sending_task();
    rooms.invitations.start_withdrawal_task();
    rooms.invite_links.start_removal_task();
    rooms.sticky_events.start_removal_task();
    rooms.receiver.start_sticky_rechecks();
    // A room is deleted once other servers were sent its last events.
    let deletion = &rooms.deletion;
    deletion.start_deletion_task(sender.room_sent_check());
}

async fn start_push_notifications(app: &App, db: &Db) -> Result<()> {
    let services = PushServices {
        db: db.clone(),
        clock: app.clock.clone(),
        tasks: app.tasks.clone(),
        rooms: app.rooms.clone(),
        users: app.users.clone(),
        mail: app.mail.clone(),
    };
    push::start(services, &app.config).await
}

async fn start_application_services(app: &App, db: &Db) -> Result<()> {
    let sources = TransactionSources {
        db: db.clone(),
        clock: app.clock.clone(),
        tasks: app.tasks.clone(),
        rooms: app.rooms.clone(),
        users: app.users.clone(),
        devices: app.devices.clone(),
        ephemeral: app.ephemeral.clone(),
    };
    app.service_senders.start(sources).await
}

/// Opens the accounts, and registers the application services.
async fn open_users(
    db: &Db,
    clock: &Clock,
    config: &Config,
    tasks: &Tasks,
    mail: &MailQueue,
) -> Result<Users> {
    let users = Users::new(db, clock, config, tasks, mail)?;
    users.user_list.set_missing_list_keys().await?;
    users.application_services.load(&config.appservices).await?;
    Ok(users)
}

fn sync_sources(sources: &WorkflowSources, db: &Db) -> SyncSources {
    SyncSources {
        db: db.clone(),
        clock: sources.clock.clone(),
        users: sources.users.clone(),
        devices: sources.devices.clone(),
        rooms: sources.rooms.clone(),
        ephemeral: sources.ephemeral.clone(),
    }
}

fn call_sources(sources: &WorkflowSources) -> CallSources {
    CallSources {
        users: sources.users.clone(),
        rooms: sources.rooms.clone(),
        federation: sources.federation.clone(),
        clock: sources.clock.clone(),
    }
}

/// Builds the services, each from those above it. The order of the lines is the order of the layers.
pub(crate) async fn build_app(
    config: Arc<Config>,
    clock: Clock,
    tasks: Tasks,
    db: Db,
    metrics: RequestMetrics,
) -> Result<App> {
    let mail = MailQueue::new(&config, &clock, &tasks)?;
    let users = open_users(&db, &clock, &config, &tasks, &mail).await?;
    let devices = Devices::new(&db, &config);
    let key = signing_key::load(&config.server)?;
    let version = config.server.default_room_version.clone();
    let federation = Federation::new(&db, &clock, &config, key.clone())?;
    let rooms = Rooms::open(db.clone(), clock.clone(), key, tasks.clone(), version).await?;
    let settings = media::MediaSettings::from_config(&config);
    let media = Media::open(&db, &clock, &tasks, settings, &federation)?;
    let ephemeral = EphemeralState::new(clock.clone(), &tasks);
    let services = SenderServices {
        db: db.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        rooms: rooms.clone(),
        devices: devices.clone(),
        ephemeral: ephemeral.clone(),
    };
    let sender = FederationSender::start(services, &federation, metrics.registry()).await?;
    start_room_tasks(&rooms, &federation, &sender);
    let service_queries = ServiceQueries::new(&users, &config.appservices)?;
    let sources = WorkflowSources {
        users: users.clone(),
        devices: devices.clone(),
        rooms: rooms.clone(),
        ephemeral: ephemeral.clone(),
        federation: federation.clone(),
        service_queries: service_queries.clone(),
        tasks: tasks.clone(),
        clock: clock.clone(),
    };
    let calls = Calls::new(&call_sources(&sources), &config)?;
    let workflows = Workflows::new(&sources);
    let sync = Sync::new(sync_sources(&sources, &db), &tasks);
    Ok(App {
        limits: RateLimits::new(&config.limits, clock.clone()),
        config,
        clock,
        tasks,
        health: db.health().clone(),
        metrics,
        users,
        devices,
        rooms,
        ephemeral,
        federation,
        service_senders: ServiceSenders::new(&service_queries),
        service_queries,
        workflows,
        sync,
        media,
        calls,
        mail,
    })
}

impl RunningServer {
    /// Returns the addresses of the listeners, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the address of the metrics listener.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Returns the URL at which clients reach the server.
    pub fn public_url(&self) -> &BaseUrl {
        &self.public_url
    }

    /// Returns the one-time URL at which the first account, an administrator, registers.
    pub fn first_admin_url(&self) -> Option<String> {
        let token = self.registration_token.as_ref()?;
        Some(format!("{}/?registration_token={token}", self.public_url))
    }

    /// Stops accepting requests and waits for running work. Returns whether all of it has finished.
    pub async fn stop(&self) -> bool {
        let all_ended = self.tasks.stop(STOP_TIMEOUT).await;
        let is_closed = async {
            self.db.close().await;
            self.storage_tasks.stop(CLOSE_TIMEOUT).await
        };
        let is_closed = tokio::time::timeout(CLOSE_TIMEOUT, is_closed).await;
        all_ended && is_closed.unwrap_or(false)
    }

    /// Waits until the server has stopped.
    pub async fn wait_until_stopped(&self) {
        self.tasks.wait_until_stopped().await;
    }
}

impl Drop for RunningServer {
    /// Closes the files of a server that was not stopped, as at the end of most tests.
    fn drop(&mut self) {
        self.db.journal().remove_followers();
        self.ephemeral.remove_listeners();
    }
}

/// Returns the maximum size of a request body.
fn max_body_bytes(config: &Config) -> u64 {
    let largest_json = u64::try_from(config.limits.max_request_bytes).unwrap_or(u64::MAX);
    config.media.max_upload_bytes.max(largest_json)
}

/// Binds all addresses, and writes the ports that the system chose into the configuration.
async fn bind_all(listen: &mut [ListenSection]) -> Result<Vec<BoundListener>> {
    let mut bound = Vec::new();
    for config in listen {
        let listener = bind(config).await?;
        config.address = listener.address;
        bound.push(listener);
    }
    Ok(bound)
}

fn plain_listener(address: SocketAddr) -> ListenSection {
    ListenSection {
        address,
        ..ListenSection::default()
    }
}

async fn bind(config: &ListenSection) -> Result<BoundListener> {
    BoundListener::bind(config)
        .await
        .map_err(|source| Error::internal("start to listen", source))
}

/// Serves a router at a listener until the server stops.
fn serve(listener: BoundListener, router: Router, connections: &ConnectionServer, tasks: &Tasks) {
    let serving = listener.serve(router, connections.clone(), tasks.clone());
    drop(tasks.spawn(serving));
}
