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
    draw::{Drawn, Motion, draw},
    size::Shape,
};
use super::files::{Files, Stored};
use crate::{
    error::{Error, Result},
    keyed_semaphore::Turns,
    storage::{
        Db, UserNum,
        media::media_table::{self, MediaRow, ThumbnailKey, ThumbnailRow},
    },
    tasks::Tasks,
};

pub use self::size::Wanted;

/// The number of thumbnails made at the same time. Each may need some hundred megabytes for a
/// moment.
const AT_ONCE: usize = 2;
/// The number of thumbnails being made or waiting for that. Further requests have to be repeated.
const MAX_WAITING: usize = 64;
/// The number of thumbnails made at the same time for one user's or server's media, and the number
/// that may wait.
const MAX_OF_ONE_ORIGIN: usize = 1;
const MAX_WAITING_OF_ONE_ORIGIN: usize = 15;
/// The time after which a refused request may be repeated.
const COME_AGAIN: Duration = Duration::from_secs(2);

/// Makes thumbnails. Cheap to clone.
#[derive(Clone)]
pub(super) struct Thumbnails {
    db: Db,
    files: Files,
    tasks: Tasks,
    making: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    turns: MakingTurns,
    origins: Turns<MediaOrigin>,
}

/// The origin of media: a local user, by this server's number and the user's, or another server.
type MediaOrigin = (i64, Option<UserNum>);

impl Thumbnails {
    pub(super) fn new(db: Db, files: Files, tasks: Tasks) -> Self {
        Self {
            db,
            files,
            tasks,
            making: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            turns: MakingTurns::default(),
            origins: Turns::new(MAX_OF_ONE_ORIGIN, MAX_WAITING_OF_ONE_ORIGIN),
        }
    }

    /// Returns a thumbnail of media, and makes it if necessary.
    pub(super) async fn of(
        &self,
        media: &MediaRow,
        original: Stored,
        wanted: Wanted,
        animated: bool,
    ) -> Result<ThumbnailRow> {
        let shape = Shape::of(wanted);
        let (method, size) = shape.key();
        let key = ThumbnailKey {
            media: media.num,
            width: i64::from(size.width),
            height: i64::from(size.height),
            method,
            animated,
        };
        if let Some(known) = self.known(&key).await? {
            return Ok(known);
        }
        let place = self.waiting.clone().try_acquire_owned().ok();
        // Images that take long delay only the user or server that uploaded them.
        let origin = self.origins.place(&(media.server, media.uploader));
        let Some((place, origin)) = place.zip(origin) else {
            return Err(Error::LimitExceeded {
                retry_after: COME_AGAIN,
            });
        };
        // In a task of its own: the thumbnail is stored even if the client disconnects.
        let thumbnails = self.clone();
        let making = self.tasks.spawn(async move {
            let turn = origin.turn().await;
            let made = thumbnails.make_once(key, original, shape).await;
            drop((turn, place));
            made
        });
        making
            .await
            .map_err(|source| Error::internal("make a thumbnail", source))?
    }

    async fn known(&self, key: &ThumbnailKey) -> Result<Option<ThumbnailRow>> {
        let mut db = self.db.read().await?;
        media_table::find_thumbnail(&mut db, key).await
    }

    /// Makes the thumbnail, unless another request made it while this one waited.
    async fn make_once(
        &self,
        key: ThumbnailKey,
        original: Stored,
        shape: Shape,
    ) -> Result<ThumbnailRow> {
        let turn = self.turns.of(key);
        let _turn = turn.lock().await;
        if let Some(known) = self.known(&key).await? {
            return Ok(known);
        }
        let motion = if key.animated {
            Motion::Animated
        } else {
            Motion::Still
        };
        let made = self.make(original, shape, motion).await?;
        let mut tx = self.db.write().await?;
        media_table::insert_thumbnail(&mut tx, &key, &made).await?;
        tx.commit().await?;
        Ok(made)
    }

    async fn make(&self, original: Stored, shape: Shape, motion: Motion) -> Result<ThumbnailRow> {
        let permit = self.making.clone().acquire_owned().await;
        let permit = permit.map_err(|source| Error::internal("make a thumbnail", source))?;
        let files = self.files.clone();
        let drawing = tokio::task::spawn_blocking(move || {
            let drawn = draw(&files.path(original.hash), shape, motion);
            // The new image is small, so the next one may begin.
            drop(permit);
            match drawn? {
                Drawn::Original(content_type) => Ok((original, content_type)),
                Drawn::Anew {
                    image,
                    content_type,
                } => Ok((files.store(&image)?, content_type)),
            }
        });
        let drawn: Result<(Stored, &'static str)> = drawing.await.map_err(|error| {
            // The decoder panicked on a file that it cannot read.
            tracing::warn!(%error, "an image decoder panicked");
            Error::CannotThumbnail("cannot make a thumbnail of this content".to_owned())
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
struct MakingTurns(Arc<Mutex<HashMap<ThumbnailKey, Weak<AsyncMutex<()>>>>>);

impl MakingTurns {
    /// Returns the lock of a thumbnail. It is forgotten when it is no longer in use.
    fn of(&self, key: ThumbnailKey) -> Arc<AsyncMutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Removes unused locks. There are never more than waiting requests.
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(AsyncMutex::new(()));
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}
