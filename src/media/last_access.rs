//! The times of the last access to media: collected in memory, and written from time to time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    error::Result,
    numbers::MediaNum,
    storage::{Db, media::media_table},
    tasks::Tasks,
};

/// The precision of the stored access time.
const ACCESS_TIME_PRECISION: Duration = Duration::from_hours(1);
/// The time for which an access is only in memory. A crash loses it.
const WRITE_INTERVAL: Duration = Duration::from_mins(1);
/// The largest number of waiting accesses. Further ones are recorded on the next access.
const MAX_WAITING_ACCESSES: usize = 10_000;

/// Records accesses. Cheap to clone.
#[derive(Clone)]
pub(super) struct AccessRecorder {
    waiting: Arc<Mutex<HashSet<MediaNum>>>,
    db: Db,
    clock: Clock,
}

impl AccessRecorder {
    /// Starts the task that writes the recorded accesses.
    pub(super) fn start(db: Db, clock: Clock, tasks: &Tasks) -> Self {
        let accesses = Self {
            waiting: Arc::default(),
            db,
            clock,
        };
        let (writer, stopping) = (accesses.clone(), tasks.stopping().clone());
        drop(tasks.spawn(writer.write_until_stopped(stopping)));
        accesses
    }

    /// Writes the recorded accesses at intervals, and once more when the server stops.
    async fn write_until_stopped(self, stopping: CancellationToken) {
        while !stopping.is_cancelled() {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(WRITE_INTERVAL) => {}
            }
            if let Err(error) = self.write_accesses().await {
                tracing::debug!(%error, "accesses to media were not written");
            }
        }
    }

    /// Records an access to media.
    pub(super) fn record_access(&self, media: &media_table::MediaRow) {
        let age_ms = self.clock.now_ms().saturating_sub(media.last_access_ts);
        if u128::try_from(age_ms).unwrap_or(0) < ACCESS_TIME_PRECISION.as_millis() {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MAX_WAITING_ACCESSES {
            waiting.insert(media.num);
        }
    }

    /// Writes the recorded accesses.
    pub(super) async fn write_accesses(&self) -> Result<()> {
        let waiting =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return Ok(());
        }
        let media: Vec<MediaNum> = waiting.into_iter().collect();
        let mut tx = self.db.write().await?;
        media_table::set_last_access(&mut tx, &media, self.clock.now_ms()).await?;
        tx.commit().await
    }
}
