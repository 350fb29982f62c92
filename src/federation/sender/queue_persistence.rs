//! Stores the queues. This happens some time after the events, in batches, so that a message to a thousand servers does
//! not write a thousand rows. After a crash the rest is read again from the journal.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    FederationSenderInner,
    destination::{Destination, DestinationChanges},
};
use crate::{error::Result, numbers::Position, storage::federation::outbox};

/// The time for which changes are collected.
const COLLECTION_INTERVAL: Duration = Duration::from_millis(500);
/// The time that a stop waits for running transactions. The whole stop must take less than eight seconds.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

impl FederationSenderInner {
    /// Stores the queues whenever they change, and when the server stops.
    pub(super) async fn persist_queues(self: Arc<Self>) {
        let stopping = self.tasks.stopping().clone();
        let mut kept = self.fully_distributed.load();
        loop {
            tokio::select! {
                () = self.queues_changed.notified() => {}
                () = stopping.cancelled() => break,
            }
            tokio::select! {
                () = sleep(COLLECTION_INTERVAL) => {}
                () = stopping.cancelled() => break,
            }
            self.persist_queues_once(&mut kept).await;
        }
        if timeout(STOP_TIMEOUT, self.running_deliveries.closed())
            .await
            .is_err()
        {
            tracing::debug!("some transactions are still running at shutdown");
        }
        self.persist_queues_once(&mut kept).await;
    }

    async fn persist_queues_once(&self, kept: &mut Position) {
        // Read first: the queues contain everything that was distributed up to this position.
        let position = self.fully_distributed.load();
        let mut changed: Vec<(Arc<Destination>, DestinationChanges)> = Vec::new();
        let (mut failing, mut waiting) = (0, 0);
        for destination in self.all_destinations() {
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
        match self.store_queues(position, &changed).await {
            Ok(()) => *kept = position,
            Err(error) => {
                tracing::warn!(%error, "the queues for other servers could not be stored");
                for (destination, to_store) in changed {
                    destination.lock().forget_stored(&to_store);
                }
                self.queues_changed.notify_one();
            }
        }
    }

    async fn store_queues(
        &self,
        position: Position,
        all: &[(Arc<Destination>, DestinationChanges)],
    ) -> Result<()> {
        let (mut health, mut unsent) = (Vec::new(), Vec::new());
        for (_, to_store) in all {
            health.extend(to_store.health.clone());
            unsent.extend(to_store.unsent.iter().cloned());
        }
        let mut tx = self.db.write().await?;
        outbox::set_destinations(&mut tx, &health).await?;
        outbox::set_unsent_rooms(&mut tx, &unsent).await?;
        for (destination, to_store) in all {
            if !to_store.sent.is_empty() {
                let server = destination.server.as_str();
                outbox::remove_unsent_rooms(&mut tx, server, &to_store.sent).await?;
            }
        }
        outbox::set_cursor(&mut tx, position).await?;
        tx.commit().await
    }
}
