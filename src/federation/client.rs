//! Requests to other servers: signed, bounded in time and size, over connections that are kept.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::header::{HOST, HeaderValue};
use ruma::{
    RoomVersionId, ServerName,
    api::{
        IncomingResponse, IncomingResponseExt, Metadata, OutgoingRequest, OutgoingRequestExt,
        auth_scheme::NoAuthentication, federation::authentication::ServerSignatures,
        path_builder::SinglePath,
    },
    exports::http,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{sync::OnceCell, time::timeout};

use super::{
    backoff::Backoff,
    names::{Hosts, Names, ServersByRecords},
    resolve::{Place, Servers},
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    matrix::SigningKey,
    outbound::{self, Reach, Trust},
};

/// Who is given less time than this has not failed when it is over.
const FAIR_TIME: Duration = Duration::from_secs(5);
/// The longest text of another server that is shown.
const MAX_TEXT: usize = 500;
/// The longest answer that says what is wrong.
const MAX_REFUSAL: usize = 64 * 1024;

/// What an answer may cost.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// How long it may take, all in all.
    pub time: Duration,
    /// How many bytes it may have.
    pub bytes: usize,
}

impl Allowance {
    /// For what somebody waits for who looks at a screen.
    pub const QUICK: Self = Self {
        time: Duration::from_secs(10),
        bytes: 1024 * 1024,
    };
    /// For what may be longer.
    pub const USUAL: Self = Self {
        time: Duration::from_secs(30),
        bytes: 10 * 1024 * 1024,
    };
}

/// What another server said instead of doing what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of HTTP.
    pub status: u16,
    /// The code that says what is wrong; empty where there is none.
    pub errcode: String,
    /// What people may read of it.
    pub error: String,
    /// The whole answer, if it is JSON.
    pub body: Value,
}

/// Why another server did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It could not be reached, or what it answered makes no sense.
    #[error("{0}")]
    Unreachable(String),
    /// It refused.
    #[error("the other server refused: {}", .0.error)]
    Refused(Box<Refusal>),
}

impl Refusal {
    fn room_version(&self) -> Option<RoomVersionId> {
        let version = self.body.get("room_version")?.as_str()?;
        RoomVersionId::try_from(version).ok()
    }
}

impl Failure {
    /// Returns whether the server does not know the endpoint: whoever does refuses with an error of Matrix.
    pub fn is_unknown_endpoint(&self) -> bool {
        match self {
            Self::Unreachable(_) => false,
            Self::Refused(refusal) => match refusal.status {
                405 => true,
                404 => matches!(&*refusal.errcode, "" | "M_UNRECOGNIZED"),
                400 => refusal.errcode.is_empty(),
                _ => false,
            },
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let refusal = match failure {
            Failure::Unreachable(text) => return Self::Unreachable(text),
            Failure::Refused(refusal) => *refusal,
        };
        match (refusal.status, &*refusal.errcode) {
            (404, "M_NOT_FOUND") => Self::NotFound(refusal.error),
            (403, _) => Self::Forbidden(refusal.error),
            (400, "M_UNABLE_TO_AUTHORISE_JOIN") => Self::UnableToAuthoriseJoin(refusal.error),
            (400, "M_UNABLE_TO_GRANT_JOIN") => Self::UnableToGrantJoin(refusal.error),
            (400, "M_INCOMPATIBLE_ROOM_VERSION") => match refusal.room_version() {
                Some(version) => Self::IncompatibleRoomVersion(version),
                None => Self::UnsupportedRoomVersion(refusal.error),
            },
            (429, _) => Self::LimitExceeded {
                retry_after: Duration::from_secs(1),
            },
            _ => Self::Unreachable(format!("the other server refused: {}", refusal.error)),
        }
    }
}

/// Sends requests to other servers. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    enabled: bool,
    key: Arc<SigningKey>,
    servers: Servers,
    http: Http,
    backoff: Backoff,
    /// Are told of every server that shows life.
    watchers: RwLock<Vec<Watcher>>,
}

/// Somebody who is told of servers that show life: be quick.
pub(super) type Watcher = Box<dyn Fn(&ServerName) + Send + Sync>;

impl Client {
    pub(super) fn new(
        enabled: bool,
        key: Arc<SigningKey>,
        clock: &Clock,
        servers: Servers,
        http: Http,
    ) -> Self {
        let inner = Inner {
            enabled,
            key,
            servers,
            http,
            backoff: Backoff::new(clock),
            watchers: RwLock::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns whether this server talks to others at all.
    pub(super) fn is_enabled(&self) -> bool {
        self.inner.enabled
    }

    /// Has somebody told from now on of every server that shows life.
    pub fn watch(&self, watcher: Watcher) {
        let watchers = self.inner.watchers.write();
        watchers
            .unwrap_or_else(PoisonError::into_inner)
            .push(watcher);
    }

    /// Sends a request in the name of this server.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses, or answers more, or later, than is allowed.
    #[tracing::instrument(skip_all, fields(server = %server, endpoint = R::PATH_BUILDER.path()), err(level = "debug", Debug))]
    pub async fn send<R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: Allowance,
    ) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest + Metadata<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let input = self.inner.key.signing_input(server);
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, input, ());
        let exchange = self.exchange(server, write, allowance.bytes);
        let answer = self.within(server, allowance.time, exchange).await?;
        read_answer(server, answer)
    }

    /// Sends a request in the name of this server, and reads its answer into a type of the caller's: for what other
    /// servers write more freely than ruma reads it.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub async fn send_for<T, R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: Allowance,
    ) -> Result<T, Failure>
    where
        T: DeserializeOwned,
        R: OutgoingRequest + Metadata<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let input = self.inner.key.signing_input(server);
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, input, ());
        let exchange = self.exchange(server, write, allowance.bytes);
        let answer = self.within(server, allowance.time, exchange).await?;
        serde_json::from_slice(answer.body()).map_err(|error| nonsense(server, &error))
    }

    /// Delivers something to a server, whether or not it answered of late: for those who know themselves when to try
    /// again. Any answer that is a success will do, and is returned as it is.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    #[tracing::instrument(skip_all, fields(server = %server, endpoint = R::PATH_BUILDER.path()), err(level = "debug", Debug))]
    pub async fn deliver<R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: Allowance,
    ) -> Result<Bytes, Failure>
    where
        R: OutgoingRequest + Metadata<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        self.check(server)?;
        let input = self.inner.key.signing_input(server);
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, input, ());
        let exchange = self.exchange(server, write, allowance.bytes);
        let answer = timeout(allowance.time, exchange).await;
        let answer =
            answer.unwrap_or_else(|_| Err(unreachable(server, "it did not answer in time")));
        match &answer {
            Err(Failure::Unreachable(_)) => self.inner.backoff.failed(server),
            Ok(_) | Err(Failure::Refused(_)) => self.inner.backoff.answered(server),
        }
        Ok(answer?.into_body())
    }

    /// Sends a request that needs no signature.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub async fn ask<R>(
        &self,
        server: &ServerName,
        request: R,
        allowance: Allowance,
    ) -> Result<R::IncomingResponse, Failure>
    where
        R: OutgoingRequest + Metadata<Authentication = NoAuthentication, PathBuilder = SinglePath>,
    {
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, (), ());
        let exchange = self.exchange(server, write, allowance.bytes);
        let answer = self.within(server, allowance.time, exchange).await?;
        read_answer(server, answer)
    }

    /// Sends a request in the name of this server, and returns its answer to be read bit by bit.
    ///
    /// # Errors
    ///
    /// As [`Client::send`]; the time is that in which the answer has to begin.
    pub async fn open<R>(
        &self,
        server: &ServerName,
        request: R,
        time: Duration,
    ) -> Result<reqwest::Response, Failure>
    where
        R: OutgoingRequest + Metadata<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let input = self.inner.key.signing_input(server);
        let write = |base: &str| request.try_into_http_request::<Vec<u8>>(base, input, ());
        self.within(server, time, self.begin(server, write)).await
    }

    /// Gets something without a signature by its path, and returns the answer to be read bit by bit.
    ///
    /// # Errors
    ///
    /// As [`Client::open`].
    pub async fn open_path(
        &self,
        server: &ServerName,
        path: &str,
        time: Duration,
    ) -> Result<reqwest::Response, Failure> {
        let write = |base: &str| {
            let request = http::Request::get(format!("{base}{path}"));
            request.body(Vec::new())
        };
        self.within(server, time, self.begin(server, write)).await
    }

    /// Notes that a server showed life.
    pub(super) fn heard_from(&self, server: &ServerName) {
        self.inner.backoff.answered(server);
        let watchers = self.inner.watchers.read();
        for watcher in watchers.unwrap_or_else(PoisonError::into_inner).iter() {
            watcher(server);
        }
    }

    /// Waits for a request to a server that may be asked, and remembers whether it could be reached.
    async fn within<T>(
        &self,
        server: &ServerName,
        time: Duration,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.check(server)?;
        if !self.inner.backoff.may_try(server) {
            return Err(unreachable(server, "it did not answer of late"));
        }
        let Ok(answer) = timeout(time, request).await else {
            if time >= FAIR_TIME {
                self.inner.backoff.failed(server);
            }
            return Err(unreachable(server, "it did not answer in time"));
        };
        match &answer {
            Err(Failure::Unreachable(_)) => self.inner.backoff.failed(server),
            // Whatever it says, it is there.
            Ok(_) | Err(Failure::Refused(_)) => self.heard_from(server),
        }
        answer
    }

    /// Checks that a server may be asked anything.
    fn check(&self, server: &ServerName) -> Result<(), Failure> {
        if !self.inner.enabled {
            return Err(unreachable(server, "this server does not federate"));
        }
        if server == self.inner.key.server_name() {
            return Err(unreachable(server, "this is the server itself"));
        }
        Ok(())
    }

    /// Sends a request and reads what comes back.
    async fn exchange<E>(
        &self,
        server: &ServerName,
        write: impl FnOnce(&str) -> Result<http::Request<Vec<u8>>, E>,
        max_bytes: usize,
    ) -> Result<http::Response<Bytes>, Failure>
    where
        E: std::error::Error,
    {
        let response = self.begin(server, write).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read(response, max_bytes).await?;
        let mut answer = http::Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    /// Sends a request and waits until its answer begins, which is no refusal.
    async fn begin<E>(
        &self,
        server: &ServerName,
        write: impl FnOnce(&str) -> Result<http::Request<Vec<u8>>, E>,
    ) -> Result<reqwest::Response, Failure>
    where
        E: std::error::Error,
    {
        let unreachable = |text: String| Failure::Unreachable(format!("{server}: {text}"));
        let place = self.inner.servers.place(server).await;
        let place = place.map_err(|error| unreachable(error.to_string()))?;
        let request = write(&format!("https://{}", place.authority))
            .map_err(|error| unreachable(error.to_string()))?;
        let response = self.inner.http.execute(&place, request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(server, response).await)
    }
}

fn unreachable(server: &ServerName, why: &str) -> Failure {
    Failure::Unreachable(format!("{server}: {why}"))
}

/// The connections to other servers.
pub(super) struct Http {
    names: Arc<Names>,
    trust: Trust,
    /// Made when they are first needed: the system's certificates take a while to read.
    clients: OnceCell<Clients>,
}

/// Forgets where a name was found, unless somebody answers there.
struct Doubt<'a> {
    names: &'a Names,
    name: &'a str,
    is_settled: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.names.forget(self.name);
        }
    }
}

struct Clients {
    /// For addresses with a port.
    by_host: reqwest::Client,
    /// For those without: records say where they are.
    by_records: reqwest::Client,
}

impl Http {
    pub(super) fn new(clock: &Clock, reach: Reach, trust: Trust) -> Self {
        Self {
            names: Names::new(clock, reach),
            trust,
            clients: OnceCell::new(),
        }
    }

    async fn execute(
        &self,
        place: &Place,
        request: http::Request<Vec<u8>>,
    ) -> Result<reqwest::Response, Failure> {
        let failed = |text: String| Failure::Unreachable(text);
        let clients = self.clients.get_or_try_init(async || self.connect());
        let clients = clients.await.map_err(|error| failed(error.to_string()))?;
        let mut request =
            reqwest::Request::try_from(request).map_err(|error| failed(error.to_string()))?;
        if let Some(host) = &place.host
            && let Ok(host) = HeaderValue::from_str(host)
        {
            request.headers_mut().insert(HOST, host);
        }
        let client = if place.by_records {
            &clients.by_records
        } else {
            &clients.by_host
        };
        // Whoever moved is looked for anew: also when the time is over before somebody answers.
        let mut doubt = Doubt {
            names: &self.names,
            name: place.name(),
            is_settled: false,
        };
        let response = client.execute(request).await.map_err(broken)?;
        doubt.is_settled = true;
        Ok(response)
    }

    fn connect(&self) -> Result<Clients> {
        let (hosts, servers) = (
            Hosts(self.names.clone()),
            ServersByRecords(self.names.clone()),
        );
        Ok(Clients {
            by_host: outbound::server_client(&self.trust, Arc::new(hosts))?,
            by_records: outbound::server_client(&self.trust, Arc::new(servers))?,
        })
    }
}

/// Says what broke, with its causes, and not with the address, which may hold ids.
fn broken(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    Failure::Unreachable(text)
}

/// Reads a body of at most so many bytes.
async fn read(mut response: reqwest::Response, max_bytes: usize) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > max_bytes {
            let text = format!("the answer is larger than {max_bytes} bytes");
            return Err(Failure::Unreachable(text));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn read_answer<T: IncomingResponse>(
    server: &ServerName,
    answer: http::Response<Bytes>,
) -> Result<T, Failure> {
    let (parts, body) = answer.into_parts();
    let response = http::Response::from_parts(parts, &*body);
    T::try_from_http_response(response).map_err(|error| nonsense(server, &error))
}

fn nonsense(server: &ServerName, error: &impl ToString) -> Failure {
    let text = shortened(&error.to_string());
    Failure::Unreachable(format!("{server} answered what makes no sense: {text}"))
}

/// Reads what a server says who did not do what it was asked.
async fn refusal(server: &ServerName, response: reqwest::Response) -> Failure {
    let status = response.status();
    let body = read(response, MAX_REFUSAL).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    let (errcode, error) = (text("errcode"), text("error"));
    if status.is_server_error() || status.is_redirection() {
        let text = format!(
            "{server} answered {}: {}",
            status.as_u16(),
            shortened(error)
        );
        return Failure::Unreachable(text);
    }
    Failure::Refused(Box::new(Refusal {
        status: status.as_u16(),
        errcode: errcode.to_owned(),
        error: if error.is_empty() {
            format!("{server} answered {}", status.as_u16())
        } else {
            shortened(error)
        },
        body,
    }))
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, errcode: &str) -> Failure {
        Failure::Refused(Box::new(Refusal {
            status,
            errcode: errcode.to_owned(),
            error: "no".to_owned(),
            body: Value::Null,
        }))
    }

    #[test]
    fn a_refusal_of_another_server_logs_nobody_out() {
        let as_error = |status, errcode| Error::from(refused(status, errcode));

        for (status, errcode) in [
            (401, "M_UNKNOWN_TOKEN"),
            (400, "M_MISSING_TOKEN"),
            (404, ""),
        ] {
            let error = as_error(status, errcode);
            assert!(matches!(error, Error::Unreachable(_)), "{errcode}");
        }
        assert!(matches!(as_error(404, "M_NOT_FOUND"), Error::NotFound(_)));
        assert!(matches!(as_error(403, "M_FORBIDDEN"), Error::Forbidden(_)));
    }

    #[test]
    fn an_endpoint_that_is_not_known_is_told_from_a_thing_that_is_not() {
        assert!(refused(404, "M_UNRECOGNIZED").is_unknown_endpoint());
        assert!(refused(404, "").is_unknown_endpoint());
        assert!(refused(405, "M_UNRECOGNIZED").is_unknown_endpoint());
        assert!(refused(400, "").is_unknown_endpoint());
        assert!(!refused(400, "M_BAD_JSON").is_unknown_endpoint());
        assert!(!refused(404, "M_NOT_FOUND").is_unknown_endpoint());
        assert!(!Failure::Unreachable(String::new()).is_unknown_endpoint());
    }
}
