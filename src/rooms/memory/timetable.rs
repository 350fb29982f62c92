//! Work that has its time: delayed events, invitations and links that expire.
//!
//! What is due stands in the database, and the work is done in the write that takes it out of there. So it is done
//! once, whatever crashes, and what came due while the server was down is done at its start.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use crate::{clock::Clock, error::Result, tasks::Tasks};

/// When it is tried again where the database failed, in milliseconds.
const RETRY_MS: i64 = 10_000;

/// What is known in memory of work that has its time.
#[derive(Default)]
pub(crate) struct Timetable {
    /// Something is due sooner than what was known.
    changed: Notify,
    /// Whether there may be any: without, nobody has to look for it.
    is_used: AtomicBool,
}

impl Timetable {
    /// Returns a timetable on which there may be something, or is nothing.
    pub(crate) fn new(is_used: bool) -> Self {
        let timetable = Self::default();
        timetable.is_used.store(is_used, Ordering::SeqCst);
        timetable
    }

    /// Returns whether there may be anything on it.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::SeqCst)
    }

    /// Says that there will be something on it.
    pub(crate) fn begin_to_use(&self) {
        self.is_used.store(true, Ordering::SeqCst);
    }

    /// Says that something may be due sooner than what was known.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Does work in time until the server stops: `work` does what is due, and returns when the next is.
    pub(crate) fn do_in_time<F, Work>(
        self: &Arc<Self>,
        name: &'static str,
        clock: &Clock,
        tasks: &Tasks,
        work: F,
    ) where
        F: Fn() -> Work + Send + 'static,
        Work: Future<Output = Result<Option<i64>>> + Send,
    {
        let (timetable, clock) = (self.clone(), clock.clone());
        let stopping = tasks.stopping().clone();
        drop(tasks.spawn(async move {
            loop {
                let next = match work().await {
                    Ok(next) => next,
                    Err(error) => {
                        tracing::warn!(%error, name, "what is due cannot be done now");
                        Some(clock.now_ms() + RETRY_MS)
                    }
                };
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = timetable.changed.notified() => {}
                    () = clock.sleep_until(next.unwrap_or(i64::MAX)) => {}
                }
            }
        }));
    }
}
