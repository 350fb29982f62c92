//! Request metrics for Prometheus. Labels have values from closed sets only.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::error::{Error, Result};

/// Upper bounds of the duration buckets, in seconds. Sending an event is at the low end, a waiting `/sync` at the high
/// end.
const DURATION_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

/// The request metrics.
#[derive(Clone)]
pub struct RequestMetrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    resident_memory: IntGauge,
}

impl RequestMetrics {
    /// Adds the request metrics to a registry, which other services may share.
    ///
    /// # Errors
    ///
    /// When the registry already has them.
    pub fn new(registry: &Registry) -> Result<Self> {
        let add = || -> prometheus::Result<Self> {
            let requests = Opts::new(
                "parlour_http_requests_total",
                "Requests by endpoint and class of the answer's status.",
            );
            let requests = IntCounterVec::new(requests, &["method", "endpoint", "status"])?;
            let durations = HistogramOpts::new(
                "parlour_http_request_duration_seconds",
                "Time from a request to the start of its answer.",
            );
            let durations = durations.buckets(DURATION_BUCKETS.to_vec());
            let durations = HistogramVec::new(durations, &["method", "endpoint"])?;
            let resident_memory = IntGauge::new(
                "parlour_process_resident_memory_bytes",
                "Memory of the process that is in RAM.",
            )?;
            registry.register(Box::new(requests.clone()))?;
            registry.register(Box::new(durations.clone()))?;
            registry.register(Box::new(resident_memory.clone()))?;
            Ok(Self {
                registry: registry.clone(),
                requests,
                durations,
                resident_memory,
            })
        };
        add().map_err(|source| Error::internal("set up the metrics", source))
    }

    /// Returns the registry, to which other services add their metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts a request that has been answered.
    pub(super) fn count_request(
        &self,
        method: &str,
        endpoint: &str,
        status: u16,
        duration: Duration,
    ) {
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.requests
            .with_label_values(&[method, endpoint, class])
            .inc();
        self.durations
            .with_label_values(&[method, endpoint])
            .observe(duration.as_secs_f64());
    }

    /// Returns all metrics as text.
    ///
    /// # Errors
    ///
    /// When it cannot be written as text.
    pub(super) async fn to_text(&self) -> Result<String> {
        let status = tokio::fs::read_to_string("/proc/self/status").await;
        if let Some(bytes) = status.ok().as_deref().and_then(resident_bytes) {
            self.resident_memory.set(bytes);
        }
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(|source| Error::internal("write the metrics", source))
    }
}

/// Reads the resident memory from `/proc/self/status`, which does not depend on the page size.
fn resident_bytes(status: &str) -> Option<i64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_memory_is_read_in_bytes() {
        let status = "Name:\tparlour\nVmRSS:\t   12345 kB\nThreads:\t4\n";

        assert_eq!(resident_bytes(status), Some(12_641_280));
        assert_eq!(resident_bytes("Name:\tparlour\n"), None);
    }

    #[tokio::test]
    async fn requests_are_counted_by_endpoint_and_class() {
        let metrics = RequestMetrics::new(&Registry::new()).expect("is new");

        metrics.count_request("GET", "/sync", 200, Duration::from_millis(3));
        metrics.count_request("GET", "/sync", 204, Duration::from_millis(3));

        let text = metrics.to_text().await.expect("can be written");
        let line = r#"parlour_http_requests_total{endpoint="/sync",method="GET",status="2xx"} 2"#;
        assert!(text.contains(line), "{text}");
    }
}
