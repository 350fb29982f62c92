//! Sending transactions to a service, one after the other.

use std::time::Duration;

use reqwest::Method;
use tokio::time::sleep;

use super::{
    TransactionSender,
    composition::ComposedTransaction,
    service_client::{ServiceRequest, TRANSACTION_TIMEOUT},
    transaction::MovedMessages,
};
use crate::{
    error::{Error, Result},
    numbers::{PositionRange, ServiceTransactionNum},
    storage::application_services::{self as progress_table, ServiceProgressRow},
};

/// The pauses after failures: the first one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(5);
/// The number of positions without anything for the service after which the progress is stored.
const UNSTORED_POSITIONS: i64 = 1_000;

/// The progress of the transactions of a service.
struct SendState {
    progress: ServiceProgressRow,
    /// The progress on disk.
    stored: ServiceProgressRow,
}

impl TransactionSender {
    /// Sends transactions until the server stops, or the service is removed.
    pub(super) async fn send_until_stopped(self, progress: ServiceProgressRow) {
        let stored = progress.clone();
        let mut state = SendState { progress, stored };
        let stopping = self.stopping.clone();
        let mut failures = 0;
        loop {
            let step = tokio::select! {
                step = self.send_next(&mut state) => step,
                () = stopping.cancelled() => return,
            };
            let wait = match step {
                Ok(true) => {
                    failures = 0;
                    continue;
                }
                Ok(false) => None,
                Err(error) => {
                    let id = &self.service.registration.id;
                    tracing::warn!(%error, id, "a transaction for an application service is delayed");
                    let pause = FIRST_PAUSE.saturating_mul(1 << u32::min(failures, 16));
                    failures += 1;
                    Some(pause.min(MAX_PAUSE))
                }
            };
            let next = async {
                match wait {
                    Some(pause) => tokio::select! {
                        () = sleep(pause) => {}
                        () = self.endpoint.answered_ping.notified() => {}
                    },
                    None => self.changes.wait().await,
                }
            };
            tokio::select! {
                () = next => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Sends the next transaction. Returns `false` if there is nothing to send.
    async fn send_next(&self, state: &mut SendState) -> Result<bool> {
        if state.progress.unacknowledged.is_none() && !self.begin_transaction(state).await? {
            if state.stored.unacknowledged.is_some() {
                self.store(state, &[]).await?;
            }
            return Ok(false);
        }
        if let Some(body) = state.progress.unacknowledged.clone() {
            self.deliver(state.progress.last_transaction, body).await?;
            // Stored with the next transaction, or when there is none for now. After a crash before that, the service
            // gets this one again, with the same id.
            state.progress.unacknowledged = None;
        }
        Ok(true)
    }

    /// Stores the next transaction, so that its content stays the same until it is acknowledged. Returns `false` if
    /// nothing happened since the last one.
    async fn begin_transaction(&self, state: &mut SendState) -> Result<bool> {
        let range = PositionRange {
            after: state.progress.sent_up_to,
            up_to: self.changes.newest(),
        };
        let waiting = self.changes.take();
        if range.after >= range.up_to && waiting.is_empty() {
            return Ok(false);
        }
        let begun = match self.compose(range, &waiting).await {
            Ok(composed) => self.store_composed(state, composed).await,
            Err(error) => Err(error),
        };
        if begun.is_err() {
            self.changes.restore(waiting);
        }
        begun.map(|()| true)
    }

    async fn store_composed(
        &self,
        state: &mut SendState,
        composed: ComposedTransaction,
    ) -> Result<()> {
        let ComposedTransaction { content, up_to } = composed;
        let before = state.progress.clone();
        state.progress.sent_up_to = up_to.max(before.sent_up_to);
        let unstored = state.progress.sent_up_to.as_i64() - state.stored.sent_up_to.as_i64();
        if !content.is_empty() {
            state.progress.last_transaction = before.last_transaction.next();
            state.progress.unacknowledged = Some(content.to_json()?);
        } else if content.moved_messages.is_empty() && unstored < UNSTORED_POSITIONS {
            return Ok(());
        }
        let stored = self.store(state, &content.moved_messages).await;
        if stored.is_err() {
            state.progress = before;
        }
        stored
    }

    /// Stores the progress, and deletes the messages for devices that are in the transaction.
    async fn store(&self, state: &mut SendState, moved: &[MovedMessages]) -> Result<()> {
        let mut tx = self.sources.db.write().await?;
        let to_device = &self.sources.devices.to_device;
        for moved in moved {
            to_device
                .delete_moved(&mut tx, moved.device.device, moved.up_to)
                .await?;
        }
        let id = &self.service.registration.id;
        progress_table::set_progress(&mut tx, id, &state.progress).await?;
        tx.commit().await?;
        state.stored.clone_from(&state.progress);
        Ok(())
    }

    async fn deliver(&self, transaction: ServiceTransactionNum, body: String) -> Result<()> {
        let request = ServiceRequest {
            method: Method::PUT,
            path: vec!["transactions".to_owned(), transaction.to_string()],
            query: Vec::new(),
            body: Some(body),
            timeout: TRANSACTION_TIMEOUT,
        };
        let response = self.endpoint.client.send(&self.service, &request).await?;
        if response.status.is_success() {
            return Ok(());
        }
        Err(Error::Unreachable(format!(
            "the application service refused the transaction with status {}",
            response.status
        )))
    }
}
