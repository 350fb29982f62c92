//! Work that is due at a certain time: delayed events, invitations and links that expire.
//!
//! Due work is stored in the database, and the transaction that does it also marks it as done or deletes its row. So
//! it is done once, even if the server crashes. Work that became due while the server was down is done at the start.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use crate::{
    clock::Clock,
    error::{Error, Result},
    tasks::Tasks,
};

/// The time after which failed work is tried again.
const RETRY_MS: i64 = 10_000;

/// A wake-up for the task that does due work.
#[derive(Default)]
pub(crate) struct Timetable {
    /// Notifies the task that work was added that may be due earlier than all other work.
    work_added: Notify,
    /// Whether there may be any work. Otherwise callers skip the database.
    may_have_work: AtomicBool,
}

impl Timetable {
    /// Returns a timetable with or without work.
    pub(crate) fn new(may_have_work: bool) -> Self {
        let timetable = Self::default();
        timetable
            .may_have_work
            .store(may_have_work, Ordering::SeqCst);
        timetable
    }

    /// Returns whether there may be any work.
    pub(crate) fn may_have_work(&self) -> bool {
        self.may_have_work.load(Ordering::SeqCst)
    }

    /// Records that there will be work.
    pub(crate) fn expect_work(&self) {
        self.may_have_work.store(true, Ordering::SeqCst);
    }

    /// Wakes the task, because work may be due earlier than before.
    pub(crate) fn wake(&self) {
        self.work_added.notify_one();
    }

    /// Runs `work` whenever it is due, until the server stops. `work` returns the time at which it is due
    /// again.
    pub(crate) fn run_when_due<F, Work>(
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
                let next = work().await;
                let next = next.unwrap_or_else(|error| Some(retry_time(name, &error, &clock)));
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = timetable.work_added.notified() => {}
                    () = clock.sleep_until(next.unwrap_or(i64::MAX)) => {}
                }
            }
        }));
    }
}

/// Logs that due work failed. Returns the time at which to try it again.
fn retry_time(name: &str, error: &Error, clock: &Clock) -> i64 {
    tracing::warn!(%error, name, "due work failed and will be tried again");
    clock.now_ms() + RETRY_MS
}
