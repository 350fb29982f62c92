//! When media was last asked for: gathered in memory, written now and then.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    clock::Clock,
    error::Result,
    storage::{Db, media::media_table},
    tasks::Tasks,
};

/// How exactly the time of an access is known.
const EXACTNESS: Duration = Duration::from_hours(1);
/// How long an access waits in memory; a crash forgets these.
const WRITE_EVERY: Duration = Duration::from_mins(1);
/// How many wait at most; further ones are noted when they are asked for again.
const MAX_WAITING: usize = 10_000;

/// Notes accesses: cheap to clone.
#[derive(Clone)]
pub(super) struct Accesses {
    waiting: Arc<Mutex<HashSet<i64>>>,
    db: Db,
    clock: Clock,
}

impl Accesses {
    /// Starts to write down what is noted.
    pub(super) fn start(db: Db, clock: Clock, tasks: &Tasks) -> Self {
        let accesses = Self {
            waiting: Arc::default(),
            db,
            clock,
        };
        let (writing, stopping) = (accesses.clone(), tasks.stopping().clone());
        drop(tasks.spawn(async move {
            while !stopping.is_cancelled() {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = tokio::time::sleep(WRITE_EVERY) => {}
                }
                if let Err(error) = writing.write().await {
                    tracing::debug!(%error, "accesses to media were not written");
                }
            }
        }));
        accesses
    }

    /// Notes that somebody asked for this media.
    pub(super) fn note(&self, media: &media_table::MediaRow) {
        let age_ms = self.clock.now_ms().saturating_sub(media.last_access_ts);
        if u128::try_from(age_ms).unwrap_or(0) < EXACTNESS.as_millis() {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MAX_WAITING {
            waiting.insert(media.num);
        }
    }

    /// Writes down what waits.
    pub(super) async fn write(&self) -> Result<()> {
        let noted =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if noted.is_empty() {
            return Ok(());
        }
        let noted: Vec<i64> = noted.into_iter().collect();
        let mut tx = self.db.write().await?;
        media_table::touch(&mut tx, &noted, self.clock.now_ms()).await?;
        tx.commit().await
    }
}
