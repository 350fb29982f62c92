//! Media of other servers: fetched on request, and stored like this server's own media.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#content-repository).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use reqwest::{
    Response, Url,
    header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderMap, LOCATION},
};
use ruma::{
    OwnedServerName, ServerName, api::federation::authenticated_media::get_content,
    http_headers::ContentDisposition,
};
use tokio::{
    sync::{OnceCell, Semaphore},
    time::timeout,
};

use super::{Media, MediaRow, clean_content_type, clean_file_name, is_media_id};
use crate::{
    clock::Clock,
    error::{Error, Result},
    federation::{Cache, Failure, Federation, Parts},
    outbound,
};

/// The time limit until another server's response begins, in addition to the time that it may wait for an upload.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest time that another server may wait for an upload.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// The time limit for a whole file: 100 MB at 2 Mbit/s.
const FILE_TIMEOUT: Duration = Duration::from_mins(7);
/// The number of files that are fetched at the same time.
const AT_ONCE: usize = 32;
/// The number of files that are fetched from one server at the same time. A slow server delays only its own files.
const OF_SERVER: usize = 4;
/// The time for which a failure is remembered, and the number of remembered results.
const PAUSE: Duration = Duration::from_secs(20);
const REMEMBERED: usize = 10_000;
/// The largest metadata part before the file, in bytes.
const MAX_METADATA: usize = 64 * 1024;

/// Whether media is fetched from other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// It is fetched if it is not stored here.
    Fetch,
    /// "If the server should not attempt to fetch the media if it is deemed remote."
    Leave,
}

/// Fetches media from other servers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Remotes {
    inner: Arc<Inner>,
}

struct Inner {
    federation: Federation,
    max_bytes: u64,
    fetched: Cache<(OwnedServerName, String), Result<(), Missing>>,
    turns: Semaphore,
    /// The limit of each server from which files are being fetched.
    of_servers: Mutex<HashMap<OwnedServerName, Arc<Semaphore>>>,
    /// The client for files that a server keeps at another address.
    elsewhere: OnceCell<reqwest::Client>,
}

/// The remembered reason why a file could not be fetched.
#[derive(Clone, Debug)]
enum Missing {
    NotThere(String),
    NotYet(String),
    TooLarge(String),
    Unreachable(String),
}

/// A file as it arrives.
struct Coming {
    content_type: Option<String>,
    file_name: Option<String>,
    bytes: BoxStream<'static, Result<bytes::Bytes, Failure>>,
}

impl Remotes {
    pub(super) fn new(federation: &Federation, clock: &Clock, max_bytes: u64) -> Self {
        let inner = Inner {
            federation: federation.clone(),
            max_bytes,
            fetched: Cache::new(clock, REMEMBERED),
            turns: Semaphore::new(AT_ONCE),
            of_servers: Mutex::default(),
            elsewhere: OnceCell::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Media {
    /// Fetches media from another server, unless that has just been tried. Concurrent requests share one answer.
    pub(super) async fn fetch(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
    ) -> Result<MediaRow> {
        if !is_media_id(media_id) {
            return Err(not_there());
        }
        let key = (server.to_owned(), media_id.to_owned());
        let media = self.clone();
        // In a task of its own: the file is stored even if the client disconnects.
        let fetching = self.tasks.spawn(async move {
            let fetch = media.fetch_now(&key.0, &key.1, wait);
            media.remotes.inner.fetched.get(&key, fetch).await
        });
        let fetched = fetching
            .await
            .map_err(|source| Error::internal("fetch a media file", source))?;
        match self.row(server, media_id).await? {
            Some(row) => Ok(row),
            None => Err(fetched.map_or_else(Error::from, |()| not_there())),
        }
    }

    /// Returns the result and the time to remember it. A success is not remembered, because the file is then found.
    async fn fetch_now(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
    ) -> (Result<(), Missing>, Duration) {
        // Another request may have stored it while this one waited.
        if matches!(self.row(server, media_id).await, Ok(Some(_))) {
            return (Ok(()), Duration::ZERO);
        }
        let of_server = self.remotes.turns_of(server);
        let Ok(_turn_of_server) = of_server.acquire().await else {
            return (Ok(()), Duration::ZERO);
        };
        let Ok(_turn) = self.remotes.inner.turns.acquire().await else {
            return (Ok(()), Duration::ZERO);
        };
        let taking = self.take(server, media_id, wait.min(MAX_WAIT));
        let taken = timeout(FILE_TIMEOUT, taking).await.unwrap_or_else(|_| {
            Err(Error::Unreachable(
                "the file took too long to arrive".to_owned(),
            ))
        });
        match taken {
            Ok(()) => (Ok(()), Duration::ZERO),
            Err(error) => {
                tracing::debug!(server = %server, %error, "media cannot be fetched");
                (Err(Missing::from(&error)), PAUSE)
            }
        }
    }

    /// Requests the file, and stores it.
    async fn take(&self, server: &ServerName, media_id: &str, wait: Duration) -> Result<()> {
        let Coming {
            content_type,
            file_name,
            bytes,
        } = self.remotes.open(server, media_id, wait).await?;
        let limit = self.remotes.inner.max_bytes;
        let arriving = self.receive(bytes, limit).await.map_err(of_another)?;
        let content_type = clean_content_type(content_type.as_deref());
        let file_name = clean_file_name(file_name.as_deref());
        let stored = arriving.keep().await?;
        let described = (content_type.as_str(), file_name.as_deref());
        let mut tx = self.db.write().await?;
        self.remember(&mut tx, (server, media_id), None, stored, described)
            .await?;
        tx.commit().await
    }
}

impl Remotes {
    /// Returns the semaphore of a server.
    fn turns_of(&self, server: &ServerName) -> Arc<Semaphore> {
        let of_servers = self.inner.of_servers.lock();
        let mut of_servers = of_servers.unwrap_or_else(PoisonError::into_inner);
        // Keeps those that are in use.
        of_servers.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = of_servers.entry(server.to_owned());
        turns
            .or_insert_with(|| Arc::new(Semaphore::new(OF_SERVER)))
            .clone()
    }

    /// Requests a file from a server, by the authenticated endpoint or, if the server does not know it, by the
    /// deprecated one.
    async fn open(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
    ) -> Result<Coming, Failure> {
        let client = self.inner.federation.client();
        let mut request = get_content::v1::Request::new(media_id.to_owned());
        request.timeout_ms = wait;
        match client.open(server, request, wait + ANSWER_TIMEOUT).await {
            Ok(response) => self.in_parts(Parts::of(response)?).await,
            Err(failure) if failure.is_unknown_endpoint() => {
                let wait_ms = wait.as_millis();
                let path = format!(
                    "/_matrix/media/v3/download/{server}/{media_id}?allow_remote=false&timeout_ms={wait_ms}"
                );
                let response = client.open_path(server, &path, wait + ANSWER_TIMEOUT);
                Ok(whole(response.await?))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Reads a multipart response: the first part is metadata, the second is the file or its location.
    async fn in_parts(&self, mut parts: Parts) -> Result<Coming, Failure> {
        let missing = || Failure::Unreachable("the response contains no file".to_owned());
        parts.next().await?.ok_or_else(missing)?;
        let mut size = 0;
        while let Some(chunk) = parts.chunk().await? {
            size += chunk.len();
            if size > MAX_METADATA {
                return Err(missing());
            }
        }
        let part = parts.next().await?.ok_or_else(missing)?;
        if let Some(location) = part.headers.get(LOCATION) {
            let location = location.to_str().map_err(|_| missing())?;
            return self.elsewhere(location).await;
        }
        let bytes = stream::unfold(parts, |mut parts| async move {
            let chunk = parts.chunk().await.transpose()?;
            Some((chunk, parts))
        });
        Ok(Coming {
            content_type: text(&part.headers, &CONTENT_TYPE),
            file_name: file_name(&part.headers),
            bytes: bytes.boxed(),
        })
    }

    /// Gets a file from the location that its server gave.
    async fn elsewhere(&self, location: &str) -> Result<Coming, Failure> {
        let failed = |text: String| Failure::Unreachable(text);
        let reach = self.inner.federation.reach();
        let url = Url::parse(location).map_err(|error| failed(error.to_string()))?;
        outbound::check(&url, reach).map_err(|error| failed(error.to_string()))?;
        let client = self
            .inner
            .elsewhere
            .get_or_try_init(async || {
                outbound::client_that_trusts(reach, self.inner.federation.trust())
            })
            .await
            .map_err(|error| failed(error.to_string()))?;
        let getting = timeout(ANSWER_TIMEOUT, client.get(url).send()).await;
        let late = |_| failed("the file did not begin to arrive in time".to_owned());
        let response = getting
            .map_err(late)?
            .and_then(Response::error_for_status)
            .map_err(|error| failed(error.without_url().to_string()))?;
        Ok(whole(response))
    }
}

/// Returns the file that is the whole body of a response.
fn whole(response: Response) -> Coming {
    let headers = response.headers();
    let (content_type, file_name) = (text(headers, &CONTENT_TYPE), file_name(headers));
    let bytes = response.bytes_stream();
    let bytes =
        bytes.map(|part| part.map_err(|e| Failure::Unreachable(e.without_url().to_string())));
    Coming {
        content_type,
        file_name,
        bytes: bytes.boxed(),
    }
}

fn text(headers: &HeaderMap, name: &reqwest::header::HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn file_name(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_DISPOSITION)?;
    ContentDisposition::try_from(value.as_bytes())
        .ok()?
        .filename
}

fn not_there() -> Error {
    Error::not_found("there is no media with this id")
}

/// Converts an error of an upload into one of the other server.
fn of_another(error: Error) -> Error {
    match error {
        Error::InvalidParam(_) => {
            Error::Unreachable("the other server's response ended too early".to_owned())
        }
        other => other,
    }
}

impl From<&Error> for Missing {
    fn from(error: &Error) -> Self {
        let text = error.to_string();
        match error {
            Error::NotFound(_) => Self::NotThere(text),
            Error::NotYetUploaded(_) => Self::NotYet(text),
            Error::TooLarge(_) => Self::TooLarge(text),
            _ => Self::Unreachable(text),
        }
    }
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::NotThere(text) => Self::NotFound(text),
            Missing::NotYet(text) => Self::NotYetUploaded(text),
            Missing::TooLarge(text) => Self::TooLarge(text),
            Missing::Unreachable(text) => Self::Unreachable(text),
        }
    }
}
