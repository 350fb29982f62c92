//! The content repository: files that users upload, and thumbnails of them.
//!
//! `files` stores the bytes, each content once, named by its hash. `thumbnail` makes smaller images. `last_access`
//! records the time of the last access. `async_uploads` reserves ids before the bytes arrive. `url_previews` reads
//! the web pages that
//! messages link to, and `remote` fetches media from other servers. The metadata is in the database. No file is ever in
//! memory as a whole, except an image that is being made smaller.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#content-repository).

mod async_uploads;
mod files;
mod last_access;
mod open_graph;
mod remote;
mod thumbnail;
mod url_previews;

use std::{error::Error as StdError, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rand::{Rng, distr::Alphanumeric};
use ruma::{OwnedMxcUri, OwnedServerName, ServerName};
use tokio::{fs::File, sync::Notify};

pub use self::{files::ContentHash, remote::RemoteMediaPolicy, thumbnail::ThumbnailRequest};
use self::{
    files::{IncomingFile, MediaFiles, StoredContent},
    last_access::AccessRecorder,
    remote::RemoteMedia,
    thumbnail::ThumbnailMaker,
    url_previews::UrlPreviewer,
};
use crate::{
    clock::Clock,
    config::{Config, UrlPreviewsSection},
    error::{Error, Result},
    federation::Federation,
    numbers::UserNum,
    storage::{
        Db, WriteTx,
        media::media_table::{self as rows, MediaRow, NewMedia},
    },
    tasks::Tasks,
};

/// The length of an id: long enough that it cannot be guessed.
const MEDIA_ID_LENGTH: usize = 32;
/// The longest id that is looked up.
const MAX_MEDIA_ID_LENGTH: usize = 255;
/// The longest stored file name, in characters, and the longest content type.
const MAX_FILE_NAME_CHARS: usize = 255;
const MAX_CONTENT_TYPE_LENGTH: usize = 255;
/// The content type of a file that has none.
const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";
/// The time after which an upload without new data is aborted.
const UPLOAD_STALL_TIMEOUT: Duration = Duration::from_mins(1);

/// The media settings of the configuration.
#[derive(Clone, Debug)]
pub struct MediaSettings {
    pub server_name: OwnedServerName,
    pub directory: PathBuf,
    /// The largest file that can be uploaded.
    pub max_upload_bytes: u64,
    /// The largest file that is fetched from another server.
    pub max_remote_bytes: u64,
    /// The settings of previews of linked pages.
    pub url_previews: UrlPreviewsSection,
}

impl MediaSettings {
    /// Returns the settings in a configuration.
    pub fn from_config(config: &Config) -> Self {
        Self {
            server_name: config.server.name.clone(),
            directory: config.media_directory(),
            max_upload_bytes: config.media.max_upload_bytes,
            max_remote_bytes: config.media.max_remote_bytes,
            url_previews: config.url_previews.clone(),
        }
    }
}

/// The content repository. Cheap to clone.
#[derive(Clone)]
pub struct Media {
    server_name: OwnedServerName,
    max_upload_bytes: u64,
    db: Db,
    clock: Clock,
    tasks: Tasks,
    files: MediaFiles,
    thumbnails: ThumbnailMaker,
    accesses: AccessRecorder,
    previews: Option<UrlPreviewer>,
    remotes: RemoteMedia,
    /// Wakes requests that wait for media with a reserved id.
    arrived: Arc<Notify>,
}

/// The metadata of a file, known before the file arrives.
#[derive(Debug)]
pub struct UploadMetadata<'a> {
    pub uploader: UserNum,
    /// The content type that the uploader gave.
    pub content_type: Option<&'a str>,
    pub file_name: Option<&'a str>,
    /// The number of bytes that the client announced.
    pub announced_size: Option<u64>,
}

/// The address of media: the server that stores it, and its id there.
#[derive(Clone, Copy, Debug)]
pub struct MediaAddress<'a> {
    pub server: &'a ServerName,
    pub media_id: &'a str,
}

/// The stored description of a file.
struct FileDescription<'a> {
    /// The user of this server who uploaded the file.
    uploader: Option<UserNum>,
    content_type: &'a str,
    file_name: Option<&'a str>,
}

/// A file to serve.
#[derive(Debug)]
pub struct MediaContent {
    pub file: File,
    pub size: u64,
    /// The hash of the bytes.
    pub hash: ContentHash,
    /// The content type that the uploader gave; for a thumbnail the real one.
    pub content_type: String,
    /// The name that the uploader gave.
    pub file_name: Option<String>,
}

impl Media {
    /// Opens the repository, and removes incomplete uploads of the last run.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used.
    pub fn open(
        db: &Db,
        clock: &Clock,
        tasks: &Tasks,
        settings: MediaSettings,
        federation: &Federation,
    ) -> Result<Self> {
        let files = MediaFiles::open(&settings.directory)?;
        Ok(Self {
            server_name: settings.server_name,
            max_upload_bytes: settings.max_upload_bytes,
            thumbnails: ThumbnailMaker::new(db.clone(), files.clone(), tasks.clone()),
            previews: UrlPreviewer::open(&settings.url_previews)?,
            remotes: RemoteMedia::new(federation, clock, settings.max_remote_bytes),
            accesses: AccessRecorder::start(db.clone(), clock.clone(), tasks),
            db: db.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            files,
            arrived: Arc::default(),
        })
    }

    /// Returns the size of the largest file that can be uploaded.
    pub fn max_upload_bytes(&self) -> u64 {
        self.max_upload_bytes
    }

    /// Stores a file as it arrives. Returns its URI once it is on disk.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] as soon as the limit is exceeded; [`Error::InvalidParam`] when no more data arrives.
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn upload<E>(
        &self,
        upload: UploadMetadata<'_>,
        parts: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<OwnedMxcUri>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.check_announced_size(&upload)?;
        let arriving = self.receive_file(parts, self.max_upload_bytes).await?;
        let uploader = upload.uploader;
        let content_type = clean_content_type(upload.content_type);
        let file_name = clean_file_name(upload.file_name);
        // In a task of its own: if the client disconnects now, the file must still be recorded.
        let media = self.clone();
        let keeping = self.tasks.spawn(async move {
            let stored = arriving.finish().await?;
            let media_id = new_media_id();
            let description = FileDescription {
                uploader: Some(uploader),
                content_type: &content_type,
                file_name: file_name.as_deref(),
            };
            let mut tx = media.db.write().await?;
            let address = media.own_address(&media_id);
            media
                .store_metadata(&mut tx, address, stored, description)
                .await?;
            tx.commit().await?;
            Ok(format!("mxc://{}/{media_id}", media.server_name).into())
        });
        keeping
            .await
            .map_err(|source| Error::internal("store a media file", source))?
    }

    fn check_announced_size(&self, upload: &UploadMetadata<'_>) -> Result<()> {
        if upload.announced_size > Some(self.max_upload_bytes) {
            return Err(too_large(self.max_upload_bytes));
        }
        Ok(())
    }

    /// Returns the media with an id. Waits for the upload if the id is only reserved, and fetches it from another
    /// server if permitted.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; `RefusalCode::NotYetUploaded`; [`Error::Unreachable`] and [`Error::TooLarge`] when
    /// fetching it fails.
    #[tracing::instrument(skip_all, fields(server = %server), err(level = "debug"))]
    pub async fn content(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
        remote: RemoteMediaPolicy,
    ) -> Result<MediaContent> {
        let row = self
            .find_media(MediaAddress { server, media_id }, wait, remote)
            .await?;
        let stored = stored_content(&row.sha256, row.size)?;
        self.open_content(stored, row.content_type, row.file_name)
            .await
    }

    /// Returns whether media is stored here, from before the freeze of unauthenticated media.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn is_before_freeze(&self, server: &ServerName, media_id: &str) -> Result<bool> {
        if !is_media_id(media_id) {
            return Ok(false);
        }
        let mut db = self.db.read().await?;
        match self
            .db
            .strings
            .find_number(&mut db, server.as_str())
            .await?
        {
            Some(server) => rows::is_before_freeze(&mut db, server, media_id).await,
            None => Ok(false),
        }
    }

    /// Returns a thumbnail of media.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; `RefusalCode::CannotThumbnail` and [`Error::TooLarge`] because of the image;
    /// [`Error::LimitExceeded`] when too many thumbnails are being made.
    #[tracing::instrument(skip_all, fields(server = %address.server), err(level = "debug"))]
    pub async fn thumbnail(
        &self,
        address: MediaAddress<'_>,
        request: ThumbnailRequest,
        wait: Duration,
        remote: RemoteMediaPolicy,
    ) -> Result<MediaContent> {
        let row = self.find_media(address, wait, remote).await?;
        let original = stored_content(&row.sha256, row.size)?;
        let thumbnail = self
            .thumbnails
            .find_or_make(&row, original, request)
            .await?;
        let stored = stored_content(&thumbnail.sha256, thumbnail.size)?;
        self.open_content(stored, thumbnail.content_type, None)
            .await
    }

    /// Opens a stored content.
    async fn open_content(
        &self,
        stored: StoredContent,
        content_type: String,
        file_name: Option<String>,
    ) -> Result<MediaContent> {
        Ok(MediaContent {
            file: self.files.open_content(stored).await?,
            size: stored.size,
            hash: stored.hash,
            content_type,
            file_name,
        })
    }

    async fn find_media(
        &self,
        address: MediaAddress<'_>,
        wait: Duration,
        remote: RemoteMediaPolicy,
    ) -> Result<MediaRow> {
        let MediaAddress { server, media_id } = address;
        let row = match self.load_row(server, media_id).await? {
            Some(row) => row,
            None if server == self.server_name => self.await_upload(server, media_id, wait).await?,
            None if remote == RemoteMediaPolicy::Fetch => {
                self.fetch_remote(server, media_id, wait).await?
            }
            None => return Err(Error::not_found("this media is not stored on this server")),
        };
        self.accesses.record_access(&row);
        Ok(row)
    }

    /// Returns the address of media of this server.
    fn own_address<'a>(&'a self, media_id: &'a str) -> MediaAddress<'a> {
        MediaAddress {
            server: &self.server_name,
            media_id,
        }
    }

    async fn load_row(&self, server: &ServerName, media_id: &str) -> Result<Option<MediaRow>> {
        if !is_media_id(media_id) {
            return Ok(None);
        }
        let mut db = self.db.read().await?;
        match self
            .db
            .strings
            .find_number(&mut db, server.as_str())
            .await?
        {
            Some(server) => rows::find(&mut db, server, media_id).await,
            None => Ok(None),
        }
    }

    async fn receive_file<E>(
        &self,
        mut parts: impl Stream<Item = Result<Bytes, E>> + Unpin,
        max_bytes: u64,
    ) -> Result<IncomingFile>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let mut arriving = self.files.begin_file().await?;
        loop {
            let next = tokio::time::timeout(UPLOAD_STALL_TIMEOUT, parts.next()).await;
            let part = match next {
                Ok(None) => return Ok(arriving),
                Ok(Some(Ok(part))) => part,
                Ok(Some(Err(source))) => {
                    let source: Box<dyn StdError + Send + Sync> = source.into();
                    tracing::debug!(error = %source, "an upload was interrupted");
                    return Err(Error::invalid_param("the upload was interrupted"));
                }
                Err(_) => return Err(Error::invalid_param("the upload timed out")),
            };
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            if arriving.size().saturating_add(length) > max_bytes {
                return Err(too_large(max_bytes));
            }
            arriving.write(&part).await?;
        }
    }

    async fn store_metadata(
        &self,
        tx: &mut WriteTx,
        address: MediaAddress<'_>,
        stored: StoredContent,
        description: FileDescription<'_>,
    ) -> Result<()> {
        let server = tx.intern(address.server.as_str()).await?;
        let media = NewMedia {
            server,
            media_id: address.media_id,
            uploader: description.uploader,
            sha256: stored.hash.as_bytes(),
            size: i64::try_from(stored.size).unwrap_or(i64::MAX),
            content_type: description.content_type,
            file_name: description.file_name,
            created_ts: self.clock.now_ms(),
        };
        rows::insert(tx, &media).await
    }
}

fn too_large(limit: u64) -> Error {
    Error::TooLarge(format!("the file is larger than {limit} bytes"))
}

fn stored_content(sha256: &[u8], size: i64) -> Result<StoredContent> {
    let hash = ContentHash::from_slice(sha256);
    match (hash, u64::try_from(size)) {
        (Some(hash), Ok(size)) => Ok(StoredContent { hash, size }),
        _ => Err(Error::internal("read a media file", "its hash is damaged")),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the only random text that is not made of random bytes"
)]
fn new_media_id() -> String {
    let characters = rand::rng().sample_iter(Alphanumeric).map(char::from);
    characters.take(MEDIA_ID_LENGTH).collect()
}

/// "allowing only alphanumeric (`A-Za-z0-9`), `_` and `-` characters in the `media-id` segment"
fn is_media_id(text: &str) -> bool {
    (1..=MAX_MEDIA_ID_LENGTH).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Returns the content type if it can be sent as a header, otherwise the default one.
fn clean_content_type(content_type: Option<&str>) -> String {
    let is_valid = |text: &&str| {
        (1..=MAX_CONTENT_TYPE_LENGTH).contains(&text.len())
            && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    let valid = content_type.map(str::trim).filter(is_valid);
    valid.unwrap_or(DEFAULT_CONTENT_TYPE).to_owned()
}

/// Returns the name without control characters; `None` if nothing is left.
fn clean_file_name(file_name: Option<&str>) -> Option<String> {
    let characters = file_name?.chars().filter(|c| !c.is_control());
    let name: String = characters.take(MAX_FILE_NAME_CHARS).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests;
