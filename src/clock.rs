//! The one place that reads the time.
//!
//! Services take a [`Clock`], so that a test can stop the time and move it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ruma::{MilliSecondsSinceUnixEpoch, UInt};
use tokio::sync::watch;

/// The longest sleep before the clock is read again, because the system's clock may be set in the meantime.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// A source of the present time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// The clock that a test moves; `None` is the system's clock.
    manual: Option<Arc<ManualClock>>,
}

/// A clock that a test moves, in milliseconds since the Unix epoch.
#[derive(Debug)]
struct ManualClock {
    now: AtomicU64,
    /// Notified of every move.
    moved: watch::Sender<()>,
}

impl Clock {
    /// Returns the system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// Returns a clock that does not move until [`Clock::advance`] is called.
    pub fn manual(start: u64) -> Self {
        Self {
            manual: Some(Arc::new(ManualClock {
                now: AtomicU64::new(start),
                moved: watch::Sender::new(()),
            })),
        }
    }

    /// Moves a manual clock forward. It has no effect on the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.manual {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            manual.now.fetch_add(by, Ordering::SeqCst);
            manual.moved.send_replace(());
        }
    }

    /// Returns the milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        let ms = match &self.manual {
            Some(manual) => manual.now.load(Ordering::SeqCst),
            None => system_ms(),
        };
        i64::try_from(ms).unwrap_or(i64::MAX)
    }

    /// Waits until a time, in milliseconds since the Unix epoch.
    pub async fn sleep_until(&self, ms: i64) {
        let mut moved = self.manual.as_ref().map(|manual| manual.moved.subscribe());
        loop {
            let left = ms.saturating_sub(self.now_ms());
            if left <= 0 {
                return;
            }
            if let Some(moved) = &mut moved {
                // The sender lives as long as the clock.
                drop(moved.changed().await);
            } else {
                let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
                tokio::time::sleep(left.min(MAX_SLEEP)).await;
            }
        }
    }

    /// Returns the current time as a Matrix timestamp.
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

/// Converts milliseconds, as the database stores them, to a Matrix timestamp.
pub fn timestamp(ms: i64) -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch(UInt::try_from(ms).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_it_is_advanced() {
        let clock = Clock::manual(1_000);

        assert_eq!(clock.now_ms(), 1_000);
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now_ms(), 3_000);
    }

    #[tokio::test]
    async fn a_sleep_ends_when_the_manual_clock_reaches_its_end() {
        let clock = Clock::manual(1_000);
        let sleep = clock.sleep_until(3_000);
        tokio::pin!(sleep);

        clock.advance(Duration::from_secs(1));
        assert!(futures_util::poll!(sleep.as_mut()).is_pending());
        clock.advance(Duration::from_secs(1));
        sleep.await;
    }
}
