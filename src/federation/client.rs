//! Requests to other servers: signed, limited in time and size, over kept-alive connections.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use ruma::{
    EventId, RoomId, ServerName,
    api::{
        IncomingResponse, IncomingResponseExt, Metadata, OutgoingRequest, OutgoingRequestExt,
        auth_scheme::{AuthScheme, NoAuthentication},
        error::IntoHttpError,
        federation::authentication::ServerSignatures,
        path_builder::{PathBuilder, SinglePath},
    },
    exports::http::{self, header::CONTENT_TYPE},
};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{
    backoff::ServerBackoff,
    connections::{ServerConnections, read_body, read_refusal},
    failure::{RequestFailure, invalid_answer, unreachable},
    resolve::ServerResolver,
};
use crate::{clock::Clock, error::Result, matrix::SigningKey};

/// A timeout shorter than this says nothing about the server, and does not count as a failure.
const MIN_FAILURE_TIMEOUT: Duration = Duration::from_secs(5);

/// The limits of a request and its answer.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// The time for the whole exchange.
    pub time: Duration,
    /// The largest answer, in bytes.
    pub bytes: usize,
}

impl RequestLimits {
    /// The limits where a user waits for the answer.
    pub const QUICK_RESPONSE: Self = Self {
        time: Duration::from_secs(10),
        bytes: 1024 * 1024,
    };
    /// The limits for longer answers.
    pub const LARGE_RESPONSE: Self = Self {
        time: Duration::from_secs(30),
        bytes: 10 * 1024 * 1024,
    };
}

/// Sends requests to other servers. Cheap to clone.
#[derive(Clone)]
pub struct FederationClient {
    inner: Arc<FederationClientInner>,
}

struct FederationClientInner {
    enabled: bool,
    key: Arc<SigningKey>,
    servers: ServerResolver,
    http: ServerConnections,
    backoff: ServerBackoff,
    /// Callbacks for servers that show signs of life.
    watchers: RwLock<Vec<ContactWatcher>>,
}

/// The place to which a whole event is sent.
#[derive(Clone, Copy, Debug)]
pub struct EventEndpoint<'a> {
    /// The path, with placeholders for the room and the event.
    pub path: &'static str,
    pub room_id: &'a RoomId,
    pub event_id: &'a EventId,
}

/// A callback that is notified of servers that show signs of life. It must return quickly.
pub(super) type ContactWatcher = Box<dyn Fn(&ServerName) + Send + Sync>;

impl FederationClient {
    pub(super) fn new(
        enabled: bool,
        key: Arc<SigningKey>,
        clock: &Clock,
        servers: ServerResolver,
        http: ServerConnections,
    ) -> Self {
        let inner = FederationClientInner {
            enabled,
            key,
            servers,
            http,
            backoff: ServerBackoff::new(clock),
            watchers: RwLock::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns whether federation is enabled.
    pub(super) fn is_enabled(&self) -> bool {
        self.inner.enabled
    }

    /// Calls `watcher` from now on for every server that shows a sign of life.
    pub fn watch_contacts(&self, watcher: ContactWatcher) {
        let watchers = self.inner.watchers.write();
        watchers
            .unwrap_or_else(PoisonError::into_inner)
            .push(watcher);
    }

    /// Sends a request, signed by this server.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses, or its answer exceeds the limits in time or size.
    #[tracing::instrument(skip_all, fields(server = %server, endpoint = R::PATH_BUILDER.path()), err(level = "debug", Debug))]
    pub async fn send<R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: RequestLimits,
    ) -> Result<R::IncomingResponse, RequestFailure>
    where
        R: OutgoingRequest + Metadata<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let input = self.inner.key.signing_input(server);
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, input, ());
        let exchange = self.receive_response(server, write, allowance.bytes);
        let answer = self.run_request(server, allowance.time, exchange).await?;
        read_answer(server, answer)
    }

    /// Sends a request, signed by this server, and deserializes the answer into a type of the caller's. This is for
    /// answers that other servers write more loosely than ruma accepts.
    ///
    /// # Errors
    ///
    /// As [`FederationClient::send`].
    pub async fn send_expecting<T, R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: RequestLimits,
    ) -> Result<T, RequestFailure>
    where
        T: DeserializeOwned,
        R: OutgoingRequest + Metadata<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let input = self.inner.key.signing_input(server);
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, input, ());
        let exchange = self.receive_response(server, write, allowance.bytes);
        let answer = self.run_request(server, allowance.time, exchange).await?;
        serde_json::from_slice(answer.body()).map_err(|error| invalid_answer(server, &error))
    }

    /// Delivers something to a server even if it has recently failed to answer: for callers who schedule their own
    /// retries. Any successful answer is accepted, and returned unparsed.
    ///
    /// # Errors
    ///
    /// As [`FederationClient::send`].
    #[tracing::instrument(skip_all, fields(server = %server, endpoint = R::PATH_BUILDER.path()), err(level = "debug", Debug))]
    pub async fn deliver<R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: RequestLimits,
    ) -> Result<Bytes, RequestFailure>
    where
        R: OutgoingRequest + Metadata<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        self.check_contactable(server)?;
        let input = self.inner.key.signing_input(server);
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, input, ());
        let exchange = self.receive_response(server, write, allowance.bytes);
        let answer = timeout(allowance.time, exchange).await;
        let answer =
            answer.unwrap_or_else(|_| Err(unreachable(server, "it did not answer in time")));
        match &answer {
            Err(RequestFailure::Unreachable(_)) => self.inner.backoff.record_failure(server),
            Ok(_) | Err(RequestFailure::Refused(_)) => self.inner.backoff.record_answer(server),
            Err(RequestFailure::Unwritable(_)) => {}
        }
        Ok(answer?.into_body())
    }

    /// Sends a whole event to an endpoint of older servers, for which ruma has no type. Returns the answer unparsed.
    ///
    /// # Errors
    ///
    /// As [`FederationClient::send`].
    #[tracing::instrument(skip_all, fields(server = %server, endpoint = endpoint.path), err(level = "debug", Debug))]
    pub async fn put_event(
        &self,
        server: &ServerName,
        endpoint: EventEndpoint<'_>,
        event: &RawValue,
        allowance: RequestLimits,
    ) -> Result<Bytes, RequestFailure> {
        let write = self.event_request(server, endpoint, event);
        let exchange = self.receive_response(server, write, allowance.bytes);
        let answer = self.run_request(server, allowance.time, exchange).await?;
        Ok(answer.into_body())
    }

    /// Sends an event as [`FederationClient::put_event`] does, and returns the response with its body still to be read.
    ///
    /// # Errors
    ///
    /// As [`FederationClient::send_streaming`].
    #[tracing::instrument(skip_all, fields(server = %server, endpoint = endpoint.path), err(level = "debug", Debug))]
    pub async fn put_event_streaming(
        &self,
        server: &ServerName,
        endpoint: EventEndpoint<'_>,
        event: &RawValue,
        time: Duration,
    ) -> Result<reqwest::Response, RequestFailure> {
        let write = self.event_request(server, endpoint, event);
        self.run_request(server, time, self.begin_response(server, write))
            .await
    }

    /// Returns a function that writes the request with which a whole event is sent, given a base address.
    fn event_request(
        &self,
        server: &ServerName,
        endpoint: EventEndpoint<'_>,
        event: &RawValue,
    ) -> impl FnOnce(&str) -> Result<http::Request<Vec<u8>>, IntoHttpError> {
        let input = self.inner.key.signing_input(server);
        move |base| {
            let args: [&dyn std::fmt::Display; 2] = [&endpoint.room_id, &endpoint.event_id];
            let url = SinglePath::new(endpoint.path).make_endpoint_url((), base, &args, "")?;
            let mut request = http::Request::put(url)
                .header(CONTENT_TYPE, "application/json")
                .body(event.get().as_bytes().to_vec())?;
            ServerSignatures::add_authentication(&mut request, input)
                .map_err(|error| IntoHttpError::Authentication(error.into()))?;
            Ok(request)
        }
    }

    /// Sends a request without a signature.
    ///
    /// # Errors
    ///
    /// As [`FederationClient::send`].
    pub async fn send_unsigned<R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: RequestLimits,
    ) -> Result<R::IncomingResponse, RequestFailure>
    where
        R: OutgoingRequest + Metadata<Authentication = NoAuthentication, PathBuilder = SinglePath>,
    {
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, (), ());
        let exchange = self.receive_response(server, write, allowance.bytes);
        let answer = self.run_request(server, allowance.time, exchange).await?;
        read_answer(server, answer)
    }

    /// Sends a request, signed by this server, and returns the response with its body still to be read.
    ///
    /// # Errors
    ///
    /// As [`FederationClient::send`]; `time` is the limit until the response begins.
    pub async fn send_streaming<R>(
        &self,
        server: &ServerName,
        request: R,
        time: Duration,
    ) -> Result<reqwest::Response, RequestFailure>
    where
        R: OutgoingRequest + Metadata<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let input = self.inner.key.signing_input(server);
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, input, ());
        self.run_request(server, time, self.begin_response(server, write))
            .await
    }

    /// Gets a path without a signature, and returns the response with its body still to be read.
    ///
    /// # Errors
    ///
    /// As [`FederationClient::send_streaming`].
    pub async fn get_path_streaming(
        &self,
        server: &ServerName,
        path: &str,
        time: Duration,
    ) -> Result<reqwest::Response, RequestFailure> {
        let write = |base: &str| {
            let request = http::Request::get(format!("{base}{path}"));
            request.body(Vec::new())
        };
        self.run_request(server, time, self.begin_response(server, write))
            .await
    }

    /// Records that a server showed a sign of life.
    pub(super) fn record_contact(&self, server: &ServerName) {
        self.inner.backoff.record_answer(server);
        let watchers = self.inner.watchers.read();
        for watcher in watchers.unwrap_or_else(PoisonError::into_inner).iter() {
            watcher(server);
        }
    }

    /// Waits for a request to a server that may be contacted, and records whether the server could be reached.
    async fn run_request<T>(
        &self,
        server: &ServerName,
        time: Duration,
        request: impl Future<Output = Result<T, RequestFailure>>,
    ) -> Result<T, RequestFailure> {
        self.check_contactable(server)?;
        if !self.inner.backoff.may_try(server) {
            return Err(unreachable(server, "it has recently failed to answer"));
        }
        let Ok(answer) = timeout(time, request).await else {
            if time >= MIN_FAILURE_TIMEOUT {
                self.inner.backoff.record_failure(server);
            }
            return Err(unreachable(server, "it did not answer in time"));
        };
        match &answer {
            Err(RequestFailure::Unreachable(_)) => self.inner.backoff.record_failure(server),
            // A server that refuses is alive.
            Ok(_) | Err(RequestFailure::Refused(_)) => self.record_contact(server),
            Err(RequestFailure::Unwritable(_)) => {}
        }
        answer
    }

    /// Checks that a server may be contacted.
    fn check_contactable(&self, server: &ServerName) -> Result<(), RequestFailure> {
        if !self.inner.enabled {
            return Err(unreachable(server, "federation is disabled on this server"));
        }
        if server == self.inner.key.server_name() {
            return Err(unreachable(
                server,
                "a server does not send requests to itself",
            ));
        }
        Ok(())
    }

    /// Sends a request and reads the whole answer.
    async fn receive_response<E>(
        &self,
        server: &ServerName,
        write: impl FnOnce(&str) -> Result<http::Request<Vec<u8>>, E>,
        max_bytes: usize,
    ) -> Result<http::Response<Bytes>, RequestFailure>
    where
        E: std::error::Error,
    {
        let response = self.begin_response(server, write).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_body(response, max_bytes).await?;
        let mut answer = http::Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    /// Sends a request and waits until a successful response begins.
    async fn begin_response<E>(
        &self,
        server: &ServerName,
        write: impl FnOnce(&str) -> Result<http::Request<Vec<u8>>, E>,
    ) -> Result<reqwest::Response, RequestFailure>
    where
        E: std::error::Error,
    {
        let unreachable = |text: String| RequestFailure::Unreachable(format!("{server}: {text}"));
        let place = self.inner.servers.resolve(server).await;
        let place = place.map_err(|error| unreachable(error.to_string()))?;
        let request = write(&format!("https://{}", place.authority))
            .map_err(|error| RequestFailure::Unwritable(error.to_string()))?;
        let response = self.inner.http.execute(&place, request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(read_refusal(server, response).await)
    }
}

fn read_answer<T: IncomingResponse>(
    server: &ServerName,
    answer: http::Response<Bytes>,
) -> Result<T, RequestFailure> {
    let (parts, body) = answer.into_parts();
    let response = http::Response::from_parts(parts, &*body);
    T::try_from_http_response(response).map_err(|error| invalid_answer(server, &error))
}
