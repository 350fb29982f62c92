//! The failures of a server, and the time of the next attempt to send to it.

use std::time::Duration;

/// The first pause after a failure, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const MAX_PAUSE: Duration = Duration::from_hours(1);
/// The pause before a sign of life causes a retry. It grows with the square of the number of failures, up to a limit: a
/// server may be able to reach this one without being reachable itself.
const MIN_CONTACT_PAUSE: Duration = Duration::from_millis(300);
const MAX_CONTACT_PAUSE: Duration = Duration::from_mins(1);

/// The health of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DestinationHealth {
    /// The number of consecutive failed transactions.
    pub(super) failures: u32,
    /// The time of the first of these failures, in milliseconds since the Unix epoch.
    pub(super) failing_since: i64,
    /// The time of the next attempt.
    pub(super) retry_at: i64,
    /// The time of the last attempt.
    pub(super) last_attempt_at: i64,
}

impl DestinationHealth {
    /// Records a failure; `jitter` is between 0 and 1.
    pub(super) fn record_failure(&mut self, now: i64, jitter: f64) {
        if self.failures == 0 {
            self.failing_since = now;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        let pause = pause.min(MAX_PAUSE).mul_f64(0.75 + jitter / 4.0);
        self.failures = self.failures.saturating_add(1);
        self.last_attempt_at = now;
        self.retry_at = now.saturating_add(milliseconds(pause));
    }

    /// Limits the pause to its maximum, in case the clock was set back.
    pub(super) fn limit_pause(&mut self, now: i64) {
        let latest = now.saturating_add(milliseconds(MAX_PAUSE));
        self.retry_at = self.retry_at.min(latest);
        self.last_attempt_at = self.last_attempt_at.min(now);
    }

    /// Returns the time of the next attempt.
    pub(super) fn next_attempt(&mut self, now: i64) -> i64 {
        self.limit_pause(now);
        self.retry_at
    }

    /// Records a sign of life; returns whether this makes the next attempt earlier.
    pub(super) fn record_contact(&mut self, now: i64) -> bool {
        self.limit_pause(now);
        let pause = MIN_CONTACT_PAUSE.saturating_mul(self.failures.saturating_mul(self.failures));
        let pause = milliseconds(pause.min(MAX_CONTACT_PAUSE));
        let soonest = self.last_attempt_at.saturating_add(pause);
        let is_sooner = self.failures > 0 && soonest < self.retry_at;
        if is_sooner {
            self.retry_at = soonest;
        }
        is_sooner
    }

    /// Returns whether the stored parts of two states are equal.
    pub(super) fn is_stored_as(&self, other: &Self) -> bool {
        (self.failures, self.failing_since, self.retry_at)
            == (other.failures, other.failing_since, other.retry_at)
    }
}

pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_an_hour() {
        let mut health = DestinationHealth::default();
        let mut pauses = Vec::new();
        for _ in 0..30 {
            health.record_failure(1_000, 1.0);
            pauses.push(health.retry_at - 1_000);
        }

        assert_eq!(pauses[..4], [1_000, 2_000, 4_000, 8_000]);
        assert_eq!(pauses[29], 3_600_000);
        assert_eq!((health.failures, health.failing_since), (30, 1_000));
    }

    #[test]
    fn repeated_contacts_shorten_the_pause_only_once() {
        let mut health = DestinationHealth::default();
        assert!(!health.record_contact(1_000_000), "nobody waits");
        for _ in 0..20 {
            health.record_failure(1_000_000, 1.0);
        }

        assert!(health.record_contact(1_000_000));
        assert_eq!(health.retry_at, 1_060_000);
        assert!(!health.record_contact(1_000_000));
    }
}
