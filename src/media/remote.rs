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

use super::{
    FileDescription, Media, MediaAddress, MediaRow, clean_content_type, clean_file_name,
    is_media_id,
};
use crate::{
    clock::Clock,
    error::{Error, RefusalCode, Result},
    federation::{Federation, LookupCache, MultipartReader, RequestFailure},
    outbound,
};

/// The time limit until another server's response begins, in addition to the time that it may wait for an upload.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest time that another server may wait for an upload.
const MAX_REMOTE_UPLOAD_WAIT: Duration = Duration::from_mins(1);
/// The time limit for a whole file: 100 MB at 2 Mbit/s.
const FILE_TIMEOUT: Duration = Duration::from_mins(7);
/// The number of files that are fetched at the same time.
const MAX_CONCURRENT_FETCHES: usize = 32;
/// The number of files that are fetched from one server at the same time. A slow server delays only its own files.
const MAX_FETCHES_PER_SERVER: usize = 4;
/// The time for which a failure is remembered, and the number of remembered results.
const FAILURE_TTL: Duration = Duration::from_secs(20);
const MAX_CACHED_RESULTS: usize = 10_000;
/// The largest metadata part before the file, in bytes.
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// Whether media is fetched from other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteMediaPolicy {
    /// It is fetched if it is not stored here.
    Fetch,
    /// "If the server should not attempt to fetch the media if it is deemed remote."
    LocalOnly,
}

/// Fetches media from other servers. Cheap to clone.
#[derive(Clone)]
pub(super) struct RemoteMedia {
    inner: Arc<RemoteMediaInner>,
}

struct RemoteMediaInner {
    federation: Federation,
    max_bytes: u64,
    fetched: LookupCache<(OwnedServerName, String), Result<(), FetchFailure>>,
    permits: Semaphore,
    /// The limit of each server from which files are being fetched.
    server_permits: Mutex<HashMap<OwnedServerName, Arc<Semaphore>>>,
    /// The client for files that a server keeps at another address.
    redirect_client: OnceCell<reqwest::Client>,
}

/// The remembered reason why a file could not be fetched.
#[derive(Clone, Debug)]
enum FetchFailure {
    NotFound(String),
    NotYetUploaded(String),
    TooLarge(String),
    Unreachable(String),
}

/// A file as it arrives.
struct IncomingMedia {
    content_type: Option<String>,
    file_name: Option<String>,
    bytes: BoxStream<'static, Result<bytes::Bytes, RequestFailure>>,
}

impl RemoteMedia {
    pub(super) fn new(federation: &Federation, clock: &Clock, max_bytes: u64) -> Self {
        let inner = RemoteMediaInner {
            federation: federation.clone(),
            max_bytes,
            fetched: LookupCache::new(clock, MAX_CACHED_RESULTS),
            permits: Semaphore::new(MAX_CONCURRENT_FETCHES),
            server_permits: Mutex::default(),
            redirect_client: OnceCell::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl Media {
    /// Fetches media from another server, unless that has just been tried. Concurrent requests share one answer.
    pub(super) async fn fetch_remote(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
    ) -> Result<MediaRow> {
        if !is_media_id(media_id) {
            return Err(not_found());
        }
        let key = (server.to_owned(), media_id.to_owned());
        let media = self.clone();
        // In a task of its own: the file is stored even if the client disconnects.
        let fetching = self.tasks.spawn(async move {
            let fetch = media.try_fetch(&key.0, &key.1, wait);
            media.remotes.inner.fetched.get(&key, fetch).await
        });
        let fetched = fetching
            .await
            .map_err(|source| Error::internal("fetch a media file", source))?;
        match self.load_row(server, media_id).await? {
            Some(row) => Ok(row),
            None => Err(fetched.map_or_else(Error::from, |()| not_found())),
        }
    }

    /// Returns the result and the time to remember it. A success is not remembered, because the file is then found.
    async fn try_fetch(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
    ) -> (Result<(), FetchFailure>, Duration) {
        // Another request may have stored it while this one waited.
        if matches!(self.load_row(server, media_id).await, Ok(Some(_))) {
            return (Ok(()), Duration::ZERO);
        }
        let of_server = self.remotes.permits_of(server);
        let Ok(_turn_of_server) = of_server.acquire().await else {
            return (Ok(()), Duration::ZERO);
        };
        let Ok(_permit) = self.remotes.inner.permits.acquire().await else {
            return (Ok(()), Duration::ZERO);
        };
        let taking = self.fetch_file(server, media_id, wait.min(MAX_REMOTE_UPLOAD_WAIT));
        let taken = timeout(FILE_TIMEOUT, taking).await.unwrap_or_else(|_| {
            Err(Error::Unreachable(
                "the file took too long to arrive".to_owned(),
            ))
        });
        match taken {
            Ok(()) => (Ok(()), Duration::ZERO),
            Err(error) => {
                tracing::debug!(server = %server, %error, "media cannot be fetched");
                (Err(FetchFailure::from(&error)), FAILURE_TTL)
            }
        }
    }

    /// Requests the file, and stores it.
    async fn fetch_file(&self, server: &ServerName, media_id: &str, wait: Duration) -> Result<()> {
        let IncomingMedia {
            content_type,
            file_name,
            bytes,
        } = self.remotes.request_file(server, media_id, wait).await?;
        let limit = self.remotes.inner.max_bytes;
        let arriving = self
            .receive_file(bytes, limit)
            .await
            .map_err(remote_error)?;
        let content_type = clean_content_type(content_type.as_deref());
        let file_name = clean_file_name(file_name.as_deref());
        let stored = arriving.finish().await?;
        let address = MediaAddress { server, media_id };
        let description = FileDescription {
            uploader: None,
            content_type: &content_type,
            file_name: file_name.as_deref(),
        };
        let mut tx = self.db.write().await?;
        self.store_metadata(&mut tx, address, stored, description)
            .await?;
        tx.commit().await
    }
}

impl RemoteMedia {
    /// Returns the semaphore of a server.
    fn permits_of(&self, server: &ServerName) -> Arc<Semaphore> {
        let of_servers = self.inner.server_permits.lock();
        let mut of_servers = of_servers.unwrap_or_else(PoisonError::into_inner);
        // Keeps those that are in use.
        of_servers.retain(|_, permits| Arc::strong_count(permits) > 1);
        let permits = of_servers.entry(server.to_owned());
        permits
            .or_insert_with(|| Arc::new(Semaphore::new(MAX_FETCHES_PER_SERVER)))
            .clone()
    }

    /// Requests a file from a server, by the authenticated endpoint or, if the server does not know it, by the
    /// deprecated one.
    async fn request_file(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
    ) -> Result<IncomingMedia, RequestFailure> {
        let client = self.inner.federation.client();
        let mut request = get_content::v1::Request::new(media_id.to_owned());
        request.timeout_ms = wait;
        match client
            .send_streaming(server, request, wait + RESPONSE_TIMEOUT)
            .await
        {
            Ok(response) => {
                self.read_multipart(MultipartReader::from_response(response)?)
                    .await
            }
            Err(failure) if failure.is_unknown_endpoint() => {
                let wait_ms = wait.as_millis();
                let path = format!(
                    "/_matrix/media/v3/download/{server}/{media_id}?allow_remote=false&timeout_ms={wait_ms}"
                );
                let response = client.get_path_streaming(server, &path, wait + RESPONSE_TIMEOUT);
                Ok(whole_body(response.await?))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Reads a multipart response: the first part is metadata, the second is the file or its location.
    async fn read_multipart(
        &self,
        mut parts: MultipartReader,
    ) -> Result<IncomingMedia, RequestFailure> {
        let missing = || RequestFailure::Unreachable("the response contains no file".to_owned());
        parts.next_part().await?.ok_or_else(missing)?;
        let mut size = 0;
        while let Some(chunk) = parts.next_chunk().await? {
            size += chunk.len();
            if size > MAX_METADATA_BYTES {
                return Err(missing());
            }
        }
        let part = parts.next_part().await?.ok_or_else(missing)?;
        if let Some(location) = part.headers.get(LOCATION) {
            let location = location.to_str().map_err(|_| missing())?;
            return self.fetch_location(location).await;
        }
        let bytes = stream::unfold(parts, |mut parts| async move {
            let chunk = parts.next_chunk().await.transpose()?;
            Some((chunk, parts))
        });
        Ok(IncomingMedia {
            content_type: header_text(&part.headers, &CONTENT_TYPE),
            file_name: header_file_name(&part.headers),
            bytes: bytes.boxed(),
        })
    }

    /// Gets a file from the location that its server gave.
    async fn fetch_location(&self, location: &str) -> Result<IncomingMedia, RequestFailure> {
        let failed = |text: String| RequestFailure::Unreachable(text);
        let reach = self.inner.federation.reach();
        let url = Url::parse(location).map_err(|error| failed(error.to_string()))?;
        outbound::check_url(&url, reach).map_err(|error| failed(error.to_string()))?;
        let client = self
            .inner
            .redirect_client
            .get_or_try_init(async || {
                outbound::web_client_with_trust(reach, self.inner.federation.trust())
            })
            .await
            .map_err(|error| failed(error.to_string()))?;
        let getting = timeout(RESPONSE_TIMEOUT, client.get(url).send()).await;
        let late = |_| failed("the file did not begin to arrive in time".to_owned());
        let response = getting
            .map_err(late)?
            .and_then(Response::error_for_status)
            .map_err(|error| failed(error.without_url().to_string()))?;
        Ok(whole_body(response))
    }
}

/// Returns the file that is the whole body of a response.
fn whole_body(response: Response) -> IncomingMedia {
    let headers = response.headers();
    let (content_type, file_name) = (
        header_text(headers, &CONTENT_TYPE),
        header_file_name(headers),
    );
    let bytes = response.bytes_stream();
    let bytes = bytes
        .map(|part| part.map_err(|e| RequestFailure::Unreachable(e.without_url().to_string())));
    IncomingMedia {
        content_type,
        file_name,
        bytes: bytes.boxed(),
    }
}

fn header_text(headers: &HeaderMap, name: &reqwest::header::HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn header_file_name(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_DISPOSITION)?;
    ContentDisposition::try_from(value.as_bytes())
        .ok()?
        .filename
}

fn not_found() -> Error {
    Error::not_found("there is no media with this id")
}

/// Converts an error of an upload into one of the other server.
fn remote_error(error: Error) -> Error {
    match error {
        Error::InvalidParam(_) => {
            Error::Unreachable("the other server's response ended too early".to_owned())
        }
        other => other,
    }
}

impl From<&Error> for FetchFailure {
    fn from(error: &Error) -> Self {
        let text = error.to_string();
        match error {
            Error::NotFound(_) => Self::NotFound(text),
            Error::Refused {
                code: RefusalCode::NotYetUploaded,
                ..
            } => Self::NotYetUploaded(text),
            Error::TooLarge(_) => Self::TooLarge(text),
            _ => Self::Unreachable(text),
        }
    }
}

impl From<FetchFailure> for Error {
    fn from(missing: FetchFailure) -> Self {
        match missing {
            FetchFailure::NotFound(text) => Self::NotFound(text),
            FetchFailure::NotYetUploaded(text) => Self::refused(RefusalCode::NotYetUploaded, text),
            FetchFailure::TooLarge(text) => Self::TooLarge(text),
            FetchFailure::Unreachable(text) => Self::Unreachable(text),
        }
    }
}
