//! Stores the queues. This happens some time after the events, in batches, so that a message to a thousand servers does
//! not write a thousand rows. After a crash the rest is read again from the journal.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{
    Inner,
    destination::{Destination, ToStore},
};
use crate::{
    error::Result,
    storage::{Position, federation::outbox},
};

/// The time for which changes are collected.
const GATHERING: Duration = Duration::from_millis(500);
/// The time that a stop waits for running transactions. The whole stop must take less than eight seconds.
const LAST_MOMENT: Duration = Duration::from_secs(5);

impl Inner {
    /// Stores the queues whenever they change, and when the server stops.
    pub(super) async fn keep(self: Arc<Self>) {
        let stopping = self.tasks.stopping().clone();
        let mut kept = self.settled.load(Ordering::SeqCst);
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = stopping.cancelled() => break,
            }
            tokio::select! {
                () = sleep(GATHERING) => {}
                () = stopping.cancelled() => break,
            }
            self.keep_once(&mut kept).await;
        }
        if timeout(LAST_MOMENT, self.served.closed()).await.is_err() {
            tracing::debug!("some transactions are still running at shutdown");
        }
        self.keep_once(&mut kept).await;
    }

    async fn keep_once(&self, kept: &mut Position) {
        // Read first: the queues contain everything that was distributed up to this position.
        let position = self.settled.load(Ordering::SeqCst);
        let mut changed: Vec<(Arc<Destination>, ToStore)> = Vec::new();
        let (mut failing, mut waiting) = (0, 0);
        for destination in self.all() {
            let mut state = destination.lock();
            failing += i64::from(state.health.failures > 0);
            waiting += i64::from(state.has_work());
            let to_store = state.take_changes(&destination.server);
            drop(state);
            changed.extend(to_store.map(|to_store| (destination, to_store)));
        }
        self.metrics.failing.set(failing);
        self.metrics.waiting.set(waiting);
        if changed.is_empty() && position == *kept {
            return;
        }
        match self.store(position, &changed).await {
            Ok(()) => *kept = position,
            Err(error) => {
                tracing::warn!(%error, "the queues for other servers could not be stored");
                for (destination, to_store) in changed {
                    destination.lock().forget_stored(&to_store);
                }
                self.changed.notify_one();
            }
        }
    }

    async fn store(&self, position: Position, all: &[(Arc<Destination>, ToStore)]) -> Result<()> {
        let (mut health, mut unsent) = (Vec::new(), Vec::new());
        for (_, to_store) in all {
            health.extend(to_store.health.clone());
            unsent.extend(to_store.unsent.iter().cloned());
        }
        let mut tx = self.db.write().await?;
        outbox::set_destinations(&mut tx, &health).await?;
        outbox::set_unsent(&mut tx, &unsent).await?;
        for (destination, to_store) in all {
            if !to_store.sent.is_empty() {
                let server = destination.server.as_str();
                outbox::remove_unsent(&mut tx, server, &to_store.sent).await?;
            }
        }
        outbox::set_cursor(&mut tx, position).await?;
        tx.commit().await
    }
}
