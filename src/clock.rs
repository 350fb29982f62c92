//! The one place that reads the time.
//!
//! Services take a [`Clock`], so that a test can hold the time still and move it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// A source of the present time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds since the Unix epoch of a clock that a test moves; `None` is the system's clock.
    manual: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// Returns the system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// Returns a clock that stands still until [`Clock::advance`] moves it.
    pub fn manual(start: u64) -> Self {
        Self {
            manual: Some(Arc::new(AtomicU64::new(start))),
        }
    }

    /// Moves a manual clock forward; the system's clock goes its own way.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.manual {
            manual.fetch_add(
                u64::try_from(by.as_millis()).unwrap_or(u64::MAX),
                Ordering::SeqCst,
            );
        }
    }

    /// Returns the milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        let ms = match &self.manual {
            Some(manual) => manual.load(Ordering::SeqCst),
            None => system_ms(),
        };
        i64::try_from(ms).unwrap_or(i64::MAX)
    }

    /// Returns the present time as Matrix writes it.
    pub fn now(&self) -> MilliSecondsSinceUnixEpoch {
        timestamp(self.now_ms())
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn system_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Returns milliseconds, as the database keeps them, as Matrix writes them.
pub fn timestamp(ms: i64) -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch(UInt::try_from(ms).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(1_000);

        assert_eq!(clock.now_ms(), 1_000);
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now_ms(), 3_000);
    }
}
