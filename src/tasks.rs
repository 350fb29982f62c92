//! Background work: every task is started through [`Tasks`], so that a shutdown can stop and await them all.

use std::{future::Future, time::Duration};

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::error::{Error, Result};

/// Starts tasks, asks them to stop, and waits for them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// Starts a task. A long-running task must watch [`Tasks::stopping`].
    #[expect(clippy::disallowed_methods, reason = "this is where tasks start")]
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        // Boxed, the compiler generates tokio's machinery once for each type of output, and not for each future.
        let task: BoxFuture<'static, F::Output> = Box::pin(task);
        tokio::spawn(self.tracker.track_future(task))
    }

    /// Runs the work of a service in a task of its own, so that a client that hangs up cannot cut it in half.
    ///
    /// # Errors
    ///
    /// Those of the work, and [`Error::Internal`] when it panics.
    pub async fn run_to_completion<Service, T, F, Work>(
        &self,
        service: &Service,
        work: F,
    ) -> Result<T>
    where
        Service: Clone,
        T: Send + 'static,
        F: FnOnce(Service) -> Work,
        Work: Future<Output = Result<T>> + Send + 'static,
    {
        let task = self.spawn(work(service.clone()));
        task.await
            .map_err(|source| Error::internal("finish the task of a request", source))?
    }

    /// Makes a shutdown wait for a future that runs elsewhere, such as an upgraded connection.
    pub fn track<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        self.tracker.track_future(future)
    }

    /// Returns the token that is cancelled when the server stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Asks every task to stop, and waits for them, at most for `patience`. Returns whether all have finished.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait())
            .await
            .is_ok()
    }

    /// Waits until every task has finished after a stop that was begun elsewhere.
    pub async fn wait_until_stopped(&self) {
        self.stopping.cancelled().await;
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_waits_for_every_task_to_end() {
        let tasks = Tasks::default();
        let stopping = tasks.stopping().clone();
        let task = tasks.spawn(async move {
            stopping.cancelled().await;
            "ended"
        });

        let all_ended = tasks.stop(Duration::from_secs(5)).await;

        assert!(all_ended);
        assert_eq!(task.await.expect("the task ended"), "ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_gives_up_on_a_task_that_does_not_end() {
        let tasks = Tasks::default();
        let stuck = tasks.spawn(std::future::pending::<()>());

        let all_ended = tasks.stop(Duration::from_secs(5)).await;

        assert!(!all_ended);
        assert!(!stuck.is_finished());
    }
}
