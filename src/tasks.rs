//! Background work: every task is started through [`Tasks`], so that a shutdown can end and await them all.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts tasks, tells them when to stop, and waits for them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// Starts a task; one that goes on for long must watch [`Tasks::stopping`].
    #[expect(clippy::disallowed_methods, reason = "this is where tasks start")]
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        tokio::spawn(self.tracker.track_future(task))
    }

    /// Returns the token that is cancelled when the server stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Tells every task to stop and waits for them, `patience` at most; returns whether all ended.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait())
            .await
            .is_ok()
    }
}
