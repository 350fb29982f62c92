//! The task that sends transactions to one server, one after another, as long as something is waiting for it.
//!
//! [Transactions](https://spec.matrix.org/v1.19/server-server-api/#transactions)

use std::{sync::Arc, time::Duration};

use ruma::api::federation::transactions::send_transaction_message;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    FederationSenderInner, destination::Destination, destination_health::MAX_PAUSE,
    transaction_batch::TransactionBatch,
};
use crate::{
    error::Result,
    federation::{RequestFailure, RequestLimits},
};

/// The limits of a transaction. The other server may have to fetch missing events before it answers.
const TRANSACTION_LIMITS: RequestLimits = RequestLimits {
    time: Duration::from_mins(1),
    bytes: 1024 * 1024,
};
/// The time that a running transaction may take when this server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause after a batch could not be read, or its result could not be stored.
const ERROR_PAUSE: Duration = Duration::from_secs(2);

/// The answer to an accepted transaction. Any other content is ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TransactionAnswer {
    pdus: Map<String, Value>,
}

/// The outcome of one step.
enum DeliveryStep {
    /// Something was sent, or nothing had to be sent.
    Done,
    /// An error of this server: the task pauses.
    Failed,
    /// This server is stopping.
    Stopping,
}

impl FederationSenderInner {
    /// Starts to send to a server, if something is waiting for it and no task is sending to it.
    pub(super) fn start_delivery(self: &Arc<Self>, destination: &Arc<Destination>) {
        if destination.lock().begin_delivery() {
            let (inner, destination) = (self.clone(), destination.clone());
            // Subscribed before the task runs, so that a stop waits for it.
            let running = self.running_deliveries.subscribe();
            drop(self.tasks.spawn(async move {
                inner.send_all(&destination).await;
                drop(running);
            }));
        }
    }

    async fn send_all(&self, destination: &Destination) {
        loop {
            if destination.lock().end_delivery() {
                return;
            }
            let step = tokio::select! {
                biased;
                () = self.tasks.stopping().cancelled() => DeliveryStep::Stopping,
                () = self.wait_for_retry(destination) => self.send_next(destination).await,
            };
            let is_over = match step {
                DeliveryStep::Done => false,
                DeliveryStep::Failed => self.pause_after_error().await,
                DeliveryStep::Stopping => true,
            };
            if is_over {
                destination.lock().abandon_delivery();
                return;
            }
        }
    }

    /// Waits until the server may be tried.
    async fn wait_for_retry(&self, destination: &Destination) {
        loop {
            let now = self.clock.now_ms();
            let retry_at = destination.lock().health.next_attempt(now);
            if retry_at <= now {
                return;
            }
            tokio::select! {
                () = self.clock.sleep_until(retry_at) => {}
                // Real time limits the wait, in case the clock is changed.
                () = tokio::time::sleep(MAX_PAUSE) => return,
                () = destination.contacted.notified() => {}
            }
        }
    }

    /// Pauses after an internal error; returns whether this server is stopping.
    async fn pause_after_error(&self) -> bool {
        tokio::select! {
            () = tokio::time::sleep(ERROR_PAUSE) => false,
            () = self.tasks.stopping().cancelled() => true,
        }
    }

    /// Sends one transaction.
    async fn send_next(&self, destination: &Destination) -> DeliveryStep {
        let is_slow = destination.lock().is_slow();
        let permits = if is_slow {
            &self.slow_permits
        } else {
            &self.fast_permits
        };
        // The semaphore is never closed.
        let _permit = permits.acquire().await;
        if self.tasks.stopping().is_cancelled() {
            return DeliveryStep::Stopping;
        }
        let mut batch = match self.gather_batch(destination).await {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(server = %destination.server, %error, "the next transaction for a server could not be read");
                return DeliveryStep::Failed;
            }
        };
        if batch.is_empty() {
            return self.record_delivery(destination, batch).await;
        }
        let begun = Instant::now();
        let sent = tokio::select! {
            sent = self.send(destination, &mut batch) => sent,
            () = self.wait_for_stop_timeout() => {
                destination.lock().restore_batch(batch);
                return DeliveryStep::Stopping;
            }
        };
        match sent {
            Ok(()) => {
                self.metrics.count_transaction(true);
                destination.lock().record_duration(begun.elapsed());
                self.record_delivery(destination, batch).await
            }
            Err(failure) => {
                self.metrics.count_transaction(false);
                let now = self.clock.now_ms();
                let mut state = destination.lock();
                let is_first = state.health.failures == 0;
                state.record_refusal(batch, now);
                drop(state);
                self.queues_changed.notify_one();
                let server = &destination.server;
                if is_first {
                    tracing::info!(%server, %failure, "a server does not accept transactions");
                } else {
                    tracing::debug!(%server, %failure, "a server still does not accept transactions");
                }
                DeliveryStep::Done
            }
        }
    }

    async fn wait_for_stop_timeout(&self) {
        self.tasks.stopping().cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    }

    /// Sends a batch. Items that cannot be sent to any server are removed, so that they do not block the others.
    async fn send(
        &self,
        destination: &Destination,
        batch: &mut TransactionBatch,
    ) -> Result<(), RequestFailure> {
        let sent = self.try_send(destination, batch).await;
        let Err(RequestFailure::Unwritable(reason)) = &sent else {
            return sent;
        };
        let removed = batch.remove_unwritable();
        if removed.is_empty() {
            return sent;
        }
        self.metrics.count_dropped(removed.len());
        let server = &destination.server;
        for dropped in removed {
            tracing::warn!(%server, reason, dropped, "dropped an event or EDU that cannot be sent to any server");
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.try_send(destination, batch).await
    }

    async fn try_send(
        &self,
        destination: &Destination,
        batch: &TransactionBatch,
    ) -> Result<(), RequestFailure> {
        let mut request = send_transaction_message::v1::Request::new(
            batch.transaction_id(),
            self.rooms.memory.server_name().to_owned(),
            self.clock.now(),
        );
        request.pdus = batch.pdus.iter().map(|pdu| pdu.json.clone()).collect();
        request.edus.clone_from(&batch.edus);
        let server = &destination.server;
        let answer = self
            .client
            .deliver(server, request, TRANSACTION_LIMITS)
            .await?;
        let answer: TransactionAnswer = serde_json::from_slice(&answer).unwrap_or_default();
        for (event_id, result) in &answer.pdus {
            if let Some(error) = result.get("error") {
                tracing::debug!(%server, event_id, %error, "a server refused an event");
            }
        }
        Ok(())
    }

    /// Records that a server has received a batch.
    async fn record_delivery(
        &self,
        destination: &Destination,
        batch: TransactionBatch,
    ) -> DeliveryStep {
        if batch.messages_up_to.is_some() || !batch.device_list_updates.is_empty() {
            let (server, updates) = (&destination.server, &batch.device_list_updates);
            let noted = self
                .devices
                .outgoing
                .record_sent(server, batch.messages_up_to, updates);
            if let Err(error) = noted.await {
                tracing::warn!(%server, %error, "the progress of a delivery could not be stored");
                // The server recognizes these by their ids when they are sent again.
                destination.lock().restore_batch(batch);
                return DeliveryStep::Failed;
            }
        }
        let failed = {
            let mut state = destination.lock();
            let failed = state.health.failures;
            state.record_delivery(&batch);
            failed
        };
        if failed > 0 {
            tracing::info!(server = %destination.server, count = failed, "a server accepts transactions again");
        }
        self.queues_changed.notify_one();
        DeliveryStep::Done
    }
}
