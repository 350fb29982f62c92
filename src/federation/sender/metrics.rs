//! What is counted of sending.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use crate::error::{Error, Result};

/// What is counted.
pub(super) struct Metrics {
    transactions: IntCounterVec,
    /// Servers that do not take what they are sent.
    pub(super) failing: IntGauge,
    /// Servers for which something waits.
    pub(super) waiting: IntGauge,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let add = || -> prometheus::Result<Self> {
            let transactions = Opts::new(
                "parlour_federation_transactions_total",
                "Transactions to other servers, by whether they were taken.",
            );
            let metrics = Self {
                transactions: IntCounterVec::new(transactions, &["outcome"])?,
                failing: IntGauge::new(
                    "parlour_federation_failing_servers",
                    "Other servers that do not take what they are sent.",
                )?,
                waiting: IntGauge::new(
                    "parlour_federation_waiting_servers",
                    "Other servers for which something waits.",
                )?,
            };
            registry.register(Box::new(metrics.transactions.clone()))?;
            registry.register(Box::new(metrics.failing.clone()))?;
            registry.register(Box::new(metrics.waiting.clone()))?;
            Ok(metrics)
        };
        add().map_err(|source| Error::internal("set up the metrics of the sender", source))
    }

    /// Counts a transaction.
    pub(super) fn count(&self, is_taken: bool) {
        let outcome = if is_taken { "taken" } else { "failed" };
        self.transactions.with_label_values(&[outcome]).inc();
    }
}
