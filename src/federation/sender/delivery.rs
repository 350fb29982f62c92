//! The task that sends transactions to one server, one after another, as long as something is waiting for it.
//!
//! [Transactions](https://spec.matrix.org/v1.19/server-server-api/#transactions)

use std::{sync::Arc, time::Duration};

use ruma::api::federation::transactions::send_transaction_message;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    Inner,
    batch::Batch,
    destination::{Destination, LONGEST_PAUSE},
};
use crate::{
    error::Result,
    federation::{Allowance, Failure},
};

/// The limits of a transaction. The other server may have to fetch missing events before it answers.
const ALLOWANCE: Allowance = Allowance {
    time: Duration::from_mins(1),
    bytes: 1024 * 1024,
};
/// The time that a running transaction may take when this server stops.
const LAST_MOMENT: Duration = Duration::from_secs(3);
/// The pause after a batch could not be read, or its result could not be stored.
const PAUSE: Duration = Duration::from_secs(2);

/// The answer to an accepted transaction. Any other content is ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    pdus: Map<String, Value>,
}

/// The outcome of one step.
enum Step {
    /// Something was sent, or nothing had to be sent.
    Done,
    /// An error of this server: the task pauses.
    Failed,
    /// This server is stopping.
    Stopping,
}

impl Inner {
    /// Starts to send to a server, if something is waiting for it and no task is sending to it.
    pub(super) fn serve(self: &Arc<Self>, destination: &Arc<Destination>) {
        if destination.lock().begin() {
            let (inner, destination) = (self.clone(), destination.clone());
            // Subscribed before the task runs, so that a stop waits for it.
            let served = self.served.subscribe();
            drop(self.tasks.spawn(async move {
                inner.send_all(&destination).await;
                drop(served);
            }));
        }
    }

    async fn send_all(&self, destination: &Destination) {
        loop {
            if destination.lock().end() {
                return;
            }
            let step = tokio::select! {
                biased;
                () = self.tasks.stopping().cancelled() => Step::Stopping,
                () = self.wait_for(destination) => self.step(destination).await,
            };
            let is_over = match step {
                Step::Done => false,
                Step::Failed => self.pauses().await,
                Step::Stopping => true,
            };
            if is_over {
                destination.lock().abandon();
                return;
            }
        }
    }

    /// Waits until the server may be tried.
    async fn wait_for(&self, destination: &Destination) {
        loop {
            let now = self.clock.now_ms();
            let retry_at = destination.lock().health.next_try(now);
            if retry_at <= now {
                return;
            }
            tokio::select! {
                () = self.clock.sleep_until(retry_at) => {}
                // Real time limits the wait, in case the clock is changed.
                () = tokio::time::sleep(LONGEST_PAUSE) => return,
                () = destination.woken.notified() => {}
            }
        }
    }

    /// Pauses after an internal error; returns whether this server is stopping.
    async fn pauses(&self) -> bool {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => false,
            () = self.tasks.stopping().cancelled() => true,
        }
    }

    /// Sends one transaction.
    async fn step(&self, destination: &Destination) -> Step {
        let is_slow = destination.lock().is_slow();
        let lane = if is_slow { &self.slow } else { &self.fast };
        // The semaphore is never closed.
        let _place = lane.acquire().await;
        if self.tasks.stopping().is_cancelled() {
            return Step::Stopping;
        }
        let mut batch = match self.gather(destination).await {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(server = %destination.server, %error, "the next transaction for a server could not be read");
                return Step::Failed;
            }
        };
        if batch.is_empty() {
            return self.note_taken(destination, batch).await;
        }
        let begun = Instant::now();
        let sent = tokio::select! {
            sent = self.send(destination, &mut batch) => sent,
            () = self.moment_after_stop() => {
                destination.lock().restore(batch);
                return Step::Stopping;
            }
        };
        match sent {
            Ok(()) => {
                self.metrics.count(true);
                destination.lock().answered_after(begun.elapsed());
                self.note_taken(destination, batch).await
            }
            Err(failure) => {
                self.metrics.count(false);
                let now = self.clock.now_ms();
                let mut state = destination.lock();
                let is_first = state.health.failures == 0;
                state.refused(batch, now);
                drop(state);
                self.changed.notify_one();
                let server = &destination.server;
                if is_first {
                    tracing::info!(%server, %failure, "a server does not accept transactions");
                } else {
                    tracing::debug!(%server, %failure, "a server still does not accept transactions");
                }
                Step::Done
            }
        }
    }

    async fn moment_after_stop(&self) {
        self.tasks.stopping().cancelled().await;
        tokio::time::sleep(LAST_MOMENT).await;
    }

    /// Sends a batch. Items that cannot be sent to any server are removed, so that they do not block the others.
    async fn send(&self, destination: &Destination, batch: &mut Batch) -> Result<(), Failure> {
        let sent = self.try_send(destination, batch).await;
        let Err(Failure::Unwritable(reason)) = &sent else {
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

    async fn try_send(&self, destination: &Destination, batch: &Batch) -> Result<(), Failure> {
        let mut request = send_transaction_message::v1::Request::new(
            batch.transaction_id(),
            self.rooms.memory.server_name().to_owned(),
            self.clock.now(),
        );
        request.pdus = batch.pdus.iter().map(|pdu| pdu.json.clone()).collect();
        request.edus.clone_from(&batch.edus);
        let server = &destination.server;
        let answer = self.client.deliver(server, request, ALLOWANCE).await?;
        let answer: Answer = serde_json::from_slice(&answer).unwrap_or_default();
        for (event_id, result) in &answer.pdus {
            if let Some(error) = result.get("error") {
                tracing::debug!(%server, event_id, %error, "a server refused an event");
            }
        }
        Ok(())
    }

    /// Records that a server has received a batch.
    async fn note_taken(&self, destination: &Destination, batch: Batch) -> Step {
        if batch.messages.is_some() || !batch.tellings.is_empty() {
            let (server, tellings) = (&destination.server, &batch.tellings);
            let noted = self.devices.note_told(server, batch.messages, tellings);
            if let Err(error) = noted.await {
                tracing::warn!(%server, %error, "the progress of a delivery could not be stored");
                // The server recognizes these by their ids when they are sent again.
                destination.lock().restore(batch);
                return Step::Failed;
            }
        }
        let failed = {
            let mut state = destination.lock();
            let failed = state.health.failures;
            state.took(&batch);
            failed
        };
        if failed > 0 {
            tracing::info!(server = %destination.server, count = failed, "a server accepts transactions again");
        }
        self.changed.notify_one();
        Step::Done
    }
}
