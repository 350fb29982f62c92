//! Measures how long one side of a connection waits for the other.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// The number of bytes that must pass within one timeout; otherwise the other side counts as stalled. The slowest
/// mobile networks transfer several times as many. A single byte now and then does not keep a connection open.
const MIN_BYTES_PER_TIMEOUT: usize = 16 * 1024;

/// The time for which this side has waited since enough bytes last passed.
pub(super) struct StallTimer {
    timeout: Duration,
    waited: Duration,
    waits_since: Option<Instant>,
    passed_bytes: usize,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl StallTimer {
    /// Creates a timer that is not waiting yet.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            waited: Duration::ZERO,
            waits_since: None,
            passed_bytes: 0,
            sleep: None,
        }
    }

    /// Records that the other side sent or took bytes.
    pub(super) fn record_progress(&mut self, bytes: usize) {
        if let Some(since) = self.waits_since.take() {
            self.waited += since.elapsed();
        }
        self.passed_bytes = self.passed_bytes.saturating_add(bytes);
        if self.passed_bytes >= MIN_BYTES_PER_TIMEOUT {
            self.passed_bytes = 0;
            self.waited = Duration::ZERO;
        }
    }

    /// Records that this side waits. Ready when it has waited for too long.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waits_since.is_none() {
            let now = Instant::now();
            let deadline = now + self.timeout.saturating_sub(self.waited);
            self.waits_since = Some(now);
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(sleep_until(deadline))),
            }
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const TEST_TIMEOUT: Duration = Duration::from_secs(30);

    /// Waits for the other side, which is silent for `seconds`. Returns whether that was too long.
    async fn is_stalled_by(timer: &mut StallTimer, seconds: u64) -> bool {
        let stalled = poll_fn(|cx| timer.poll_stalled(cx));
        let silence = Duration::from_secs(seconds);
        tokio::time::timeout(silence, stalled).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_side_stalls_after_the_timeout() {
        let mut timer = StallTimer::new(TEST_TIMEOUT);

        assert!(!is_stalled_by(&mut timer, 29).await);
        assert!(is_stalled_by(&mut timer, 2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn only_enough_bytes_begin_a_new_timeout() {
        let mut timer = StallTimer::new(TEST_TIMEOUT);

        assert!(!is_stalled_by(&mut timer, 20).await);
        timer.record_progress(MIN_BYTES_PER_TIMEOUT);
        assert!(!is_stalled_by(&mut timer, 20).await);
        timer.record_progress(1);

        assert!(is_stalled_by(&mut timer, 20).await);
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_spent_waiting_counts() {
        let mut timer = StallTimer::new(TEST_TIMEOUT);

        assert!(!is_stalled_by(&mut timer, 20).await);
        timer.record_progress(1);
        tokio::time::advance(Duration::from_hours(1)).await;

        assert!(!is_stalled_by(&mut timer, 9).await);
    }
}
