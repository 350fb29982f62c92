//! Thumbnails: made on request, once, and stored.
//!
//! `size` decides on the size, `draw` makes the image. This module limits and orders the work.

mod draw;
mod size;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use self::{
    draw::{ThumbnailImage, ThumbnailMotion, make_thumbnail},
    size::ThumbnailShape,
};
use super::files::{MediaFiles, StoredContent};
use crate::{
    error::{Error, RefusalCode, Result},
    keyed_semaphore::KeyedSemaphore,
    numbers::{StringNum, UserNum},
    storage::{
        Db,
        media::media_table::{self, MediaRow, ThumbnailKey, ThumbnailRow},
    },
    tasks::Tasks,
};

pub use self::size::ThumbnailRequest;

/// The number of thumbnails made at the same time. Each may need some hundred megabytes for a
/// moment.
const MAX_CONCURRENT_THUMBNAILS: usize = 2;
/// The number of thumbnails being made or waiting for that. Further requests have to be repeated.
const MAX_WAITING_THUMBNAILS: usize = 64;
/// The number of thumbnails made at the same time for one user's or server's media, and the number
/// that may wait.
const MAX_CONCURRENT_PER_ORIGIN: usize = 1;
const MAX_WAITING_PER_ORIGIN: usize = 15;
/// The time after which a refused request may be repeated.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Makes thumbnails. Cheap to clone.
#[derive(Clone)]
pub(super) struct ThumbnailMaker {
    db: Db,
    files: MediaFiles,
    tasks: Tasks,
    making_permits: Arc<Semaphore>,
    waiting_permits: Arc<Semaphore>,
    locks: ThumbnailLocks,
    origins: KeyedSemaphore<MediaOrigin>,
}

/// The origin of media: a local user, by this server's number and the user's, or another server.
type MediaOrigin = (StringNum, Option<UserNum>);

impl ThumbnailMaker {
    pub(super) fn new(db: Db, files: MediaFiles, tasks: Tasks) -> Self {
        Self {
            db,
            files,
            tasks,
            making_permits: Arc::new(Semaphore::new(MAX_CONCURRENT_THUMBNAILS)),
            waiting_permits: Arc::new(Semaphore::new(MAX_WAITING_THUMBNAILS)),
            locks: ThumbnailLocks::default(),
            origins: KeyedSemaphore::new(MAX_CONCURRENT_PER_ORIGIN, MAX_WAITING_PER_ORIGIN),
        }
    }

    /// Returns a thumbnail of media, and makes it if necessary.
    pub(super) async fn find_or_make(
        &self,
        media: &MediaRow,
        original: StoredContent,
        wanted: ThumbnailRequest,
    ) -> Result<ThumbnailRow> {
        let shape = ThumbnailShape::for_request(wanted);
        let (method, size) = shape.database_key();
        let key = ThumbnailKey {
            media: media.num,
            width: i64::from(size.width),
            height: i64::from(size.height),
            method,
            animated: wanted.animated,
        };
        if let Some(known) = self.find_stored(&key).await? {
            return Ok(known);
        }
        let place = self.waiting_permits.clone().try_acquire_owned().ok();
        // Images that take long delay only the user or server that uploaded them.
        let origin = self.origins.enqueue(&(media.server, media.uploader));
        let Some((place, origin)) = place.zip(origin) else {
            return Err(Error::LimitExceeded {
                retry_after: RETRY_AFTER,
            });
        };
        // In a task of its own: the thumbnail is stored even if the client disconnects.
        let thumbnails = self.clone();
        let making = self.tasks.spawn(async move {
            let origin_permit = origin.acquire().await;
            let made = thumbnails.make_once(key, original, shape).await;
            drop((origin_permit, place));
            made
        });
        making
            .await
            .map_err(|source| Error::internal("make a thumbnail", source))?
    }

    async fn find_stored(&self, key: &ThumbnailKey) -> Result<Option<ThumbnailRow>> {
        let mut db = self.db.read().await?;
        media_table::find_thumbnail(&mut db, key).await
    }

    /// Makes the thumbnail, unless another request made it while this one waited.
    async fn make_once(
        &self,
        key: ThumbnailKey,
        original: StoredContent,
        shape: ThumbnailShape,
    ) -> Result<ThumbnailRow> {
        let lock = self.locks.lock_of(key);
        let _guard = lock.lock().await;
        if let Some(known) = self.find_stored(&key).await? {
            return Ok(known);
        }
        let motion = if key.animated {
            ThumbnailMotion::Animated
        } else {
            ThumbnailMotion::Still
        };
        let made = self.make(original, shape, motion).await?;
        let mut tx = self.db.write().await?;
        media_table::insert_thumbnail(&mut tx, &key, &made).await?;
        tx.commit().await?;
        Ok(made)
    }

    async fn make(
        &self,
        original: StoredContent,
        shape: ThumbnailShape,
        motion: ThumbnailMotion,
    ) -> Result<ThumbnailRow> {
        let permit = self.making_permits.clone().acquire_owned().await;
        let permit = permit.map_err(|source| Error::internal("make a thumbnail", source))?;
        let files = self.files.clone();
        let drawing = tokio::task::spawn_blocking(move || {
            let drawn = make_thumbnail(&files.content_path(original.hash), shape, motion);
            // The new image is small, so the next one may begin.
            drop(permit);
            match drawn? {
                ThumbnailImage::Original(content_type) => Ok((original, content_type)),
                ThumbnailImage::New {
                    image,
                    content_type,
                } => Ok((files.store(&image)?, content_type)),
            }
        });
        let drawn: Result<(StoredContent, &'static str)> = drawing.await.map_err(|error| {
            // The decoder panicked on a file that it cannot read.
            tracing::warn!(%error, "an image decoder panicked");
            Error::refused(
                RefusalCode::CannotThumbnail,
                "cannot make a thumbnail of this content".to_owned(),
            )
        })?;
        let (stored, content_type) = drawn?;
        Ok(ThumbnailRow {
            sha256: stored.hash.as_bytes().to_vec(),
            size: i64::try_from(stored.size).unwrap_or(i64::MAX),
            content_type: content_type.to_owned(),
        })
    }
}

/// A lock for each thumbnail that is being made.
#[derive(Clone, Default)]
struct ThumbnailLocks(Arc<Mutex<HashMap<ThumbnailKey, Weak<AsyncMutex<()>>>>>);

impl ThumbnailLocks {
    /// Returns the lock of a thumbnail. It is forgotten when it is no longer in use.
    fn lock_of(&self, key: ThumbnailKey) -> Arc<AsyncMutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Removes unused locks. There are never more than waiting requests.
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(AsyncMutex::new(()));
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}
