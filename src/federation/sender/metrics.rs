//! Metrics of the sender.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::error::{Error, Result};

/// The metrics of the sender.
pub(super) struct SenderMetrics {
    transactions: IntCounterVec,
    /// Events and EDUs that cannot be sent to any server.
    dropped: IntCounter,
    /// Servers that do not accept transactions.
    pub(super) failing: IntGauge,
    /// Servers for which something is waiting.
    pub(super) waiting: IntGauge,
}

impl SenderMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let add = || -> prometheus::Result<Self> {
            let transactions = Opts::new(
                "parlour_federation_transactions_total",
                "Transactions to other servers, by whether they were accepted.",
            );
            let metrics = Self {
                transactions: IntCounterVec::new(transactions, &["outcome"])?,
                dropped: IntCounter::new(
                    "parlour_federation_dropped_total",
                    "Events and EDUs that were dropped because they cannot be sent to any server.",
                )?,
                failing: IntGauge::new(
                    "parlour_federation_failing_servers",
                    "Other servers that do not accept transactions.",
                )?,
                waiting: IntGauge::new(
                    "parlour_federation_waiting_servers",
                    "Other servers for which events or EDUs are waiting.",
                )?,
            };
            registry.register(Box::new(metrics.transactions.clone()))?;
            registry.register(Box::new(metrics.dropped.clone()))?;
            registry.register(Box::new(metrics.failing.clone()))?;
            registry.register(Box::new(metrics.waiting.clone()))?;
            Ok(metrics)
        };
        add().map_err(|source| Error::internal("set up the metrics of the sender", source))
    }

    /// Counts events and EDUs that are dropped.
    pub(super) fn count_dropped(&self, count: usize) {
        self.dropped
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Counts a transaction.
    pub(super) fn count_transaction(&self, is_taken: bool) {
        let outcome = if is_taken { "taken" } else { "failed" };
        self.transactions.with_label_values(&[outcome]).inc();
    }
}
