//! HTTP on one connection, from its first byte until it is closed.
//!
//! `socket` and `timed_body` disconnect a stalled client, `discard` reads what a handler does not read, `activity`
//! determines when a connection has been unused for too long, and `connection_limits` limits the number of open
//! connections.

mod activity;
mod body;
mod connection_limits;
mod discard;
mod socket;
mod stall_timer;
mod timed_body;

use std::{
    convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, Version, header::EXPECT},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::{
    activity::ConnectionActivity,
    body::{RequestBody, ResponseBody, RestOfBody},
    connection_limits::{ConnectionLimits, ConnectionPermit},
    discard::{BodyDiscarder, DiscardSender},
    socket::{ClientSocket, ClientStream},
    timed_body::TimedBody,
};
use crate::{
    api::{KeepOpen, TrustedProxies},
    config::ConnectionsSection,
};

/// The interval at which unused connections are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest such interval, used with very short timeouts.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The time for which an unused connection stays open after the server stops, so that written data arrives.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// The interval of pings to an HTTP/2 client, and the time in which it must reply.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum number of open requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 200;

/// The state that all connections of a server share.
#[derive(Clone)]
pub(super) struct ConnectionServer {
    timeouts: Arc<ConnectionsSection>,
    limits: ConnectionLimits,
    proxies: TrustedProxies,
    /// The maximum size of a request body.
    largest_body: u64,
    stopping: CancellationToken,
}

/// An accepted connection that has its place.
pub(super) struct AcceptedConnection {
    stream: TcpStream,
    address: SocketAddr,
    permit: ConnectionPermit,
}

impl ConnectionServer {
    /// Creates a connection server that accepts request bodies up to `largest_body` bytes.
    pub(super) fn new(
        config: &ConnectionsSection,
        largest_body: u64,
        stopping: CancellationToken,
    ) -> Self {
        let proxies = TrustedProxies::new(config);
        Self {
            timeouts: Arc::new(config.clone()),
            limits: ConnectionLimits::new(config, proxies.clone()),
            proxies,
            largest_body,
            stopping,
        }
    }

    /// Waits until another connection may be accepted.
    pub(super) async fn wait_for_permit(&self) -> OwnedSemaphorePermit {
        self.limits.wait_for_permit().await
    }

    /// Gives an accepted connection a place, or returns `None` if its address already has the maximum number.
    pub(super) fn admit(
        &self,
        permit: OwnedSemaphorePermit,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Option<AcceptedConnection> {
        let place = self.limits.admit_address(permit, address.ip())?;
        Some(AcceptedConnection {
            stream,
            address,
            permit: place,
        })
    }

    /// Serves a connection until it is closed.
    pub(super) async fn serve(
        self,
        accepted: AcceptedConnection,
        tls: Option<Arc<ServerConfig>>,
        router: Router,
    ) {
        let activity = ConnectionActivity::start();
        let AcceptedConnection {
            stream,
            address,
            permit: place,
        } = accepted;
        let write_timeout = self.timeouts.write_timeout();
        let socket = ClientSocket::new(stream, place, Arc::clone(&activity), write_timeout);
        let stream = match tls {
            None => ClientStream::Plain(socket),
            Some(config) => match self.accept_tls(config, socket).await {
                Some(stream) => stream,
                None => return,
            },
        };
        let (unread, discarder) = BodyDiscarder::new(self.largest_body, self.stopping.clone());
        let service = ConnectionService {
            router,
            address,
            activity: Arc::clone(&activity),
            unread,
            server: self.clone(),
        };
        let serving = self.serve_http(stream, service, &activity);
        tokio::select! {
            () = serving => {}
            never = discarder.run() => match never {},
        }
    }

    async fn accept_tls(
        &self,
        config: Arc<ServerConfig>,
        socket: ClientSocket,
    ) -> Option<ClientStream> {
        let handshake = TlsAcceptor::from(config).accept(socket);
        let handshake = tokio::time::timeout(self.timeouts.head_timeout(), handshake);
        match self.stopping.run_until_cancelled(handshake).await? {
            Ok(Ok(stream)) => return Some(ClientStream::Tls(Box::new(stream))),
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
        None
    }

    async fn serve_http(
        &self,
        stream: ClientStream,
        service: ConnectionService,
        activity: &ConnectionActivity,
    ) {
        let builder = http_builder();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut stopped_at = None;
        loop {
            let now = Instant::now();
            if self.must_close(activity, stopped_at, now) {
                tracing::debug!("closed a connection that was unused for too long");
                return;
            }
            tokio::select! {
                served = connection.as_mut() => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a connection failed");
                    }
                    return;
                }
                () = self.stopping.cancelled(), if stopped_at.is_none() => {
                    stopped_at = Some(Instant::now());
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(now + self.check_interval()) => {}
            }
        }
    }

    /// Returns whether a connection has been unused for so long that it must be closed.
    fn must_close(
        &self,
        activity: &ConnectionActivity,
        stopped_at: Option<Instant>,
        now: Instant,
    ) -> bool {
        let deadline = activity.deadline(&self.timeouts);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return true;
        }
        match (stopped_at, activity.unused_since()) {
            (Some(stopped), Some(unused)) => stopped.max(unused) + STOP_TIMEOUT <= now,
            _ => false,
        }
    }

    fn check_interval(&self) -> Duration {
        let timeouts = &self.timeouts;
        let shortest = timeouts
            .head_timeout()
            .min(timeouts.idle_timeout())
            .min(timeouts.write_timeout());
        let is_stopping = self.stopping.is_cancelled();
        let interval = if is_stopping { STOP_TIMEOUT } else { shortest };
        (interval / 4).clamp(MIN_CHECK_INTERVAL, CHECK_INTERVAL)
    }
}

fn http_builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        // WebSockets over HTTP/2 need it.
        .enable_connect_protocol();
    builder
}

/// Responds to the requests of one connection.
#[derive(Clone)]
struct ConnectionService {
    router: Router,
    address: SocketAddr,
    activity: Arc<ConnectionActivity>,
    unread: DiscardSender,
    server: ConnectionServer,
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let is_http2 = request.version() == Version::HTTP_2;
        let open_request = Arc::new(self.activity.begin_request(is_http2));
        let timeout = self.server.timeouts.body_timeout();
        let rest = (!is_http2).then(|| RestOfBody {
            sender: self.unread.clone(),
            request: Arc::clone(&open_request),
            awaits_continue: request.headers().contains_key(EXPECT),
        });
        let mut request = request.map(|body| {
            let body = TimedBody::new(body, timeout);
            Body::new(RequestBody::new(body, rest))
        });
        let proxies = &self.server.proxies;
        let peer = proxies.client_address(self.address.ip(), request.headers());
        let extensions = request.extensions_mut();
        extensions.insert(peer);
        extensions.insert(KeepOpen::new(open_request.clone()));
        let answering = self.router.clone().oneshot(request);
        let activity = Arc::clone(&self.activity);
        let response_body = move |body| {
            if is_http2 {
                ResponseBody::http2(body, open_request, activity)
            } else {
                ResponseBody::http1(body, open_request)
            }
        };
        Box::pin(async move { Ok(answering.await?.map(response_body)) })
    }
}
