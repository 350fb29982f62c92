//! The token buckets in memory.

use std::{collections::HashMap, time::Duration};

use super::{
    classes::{RateLimit, RequestClass},
    keys::RateLimitKey,
};

/// The number of buckets in each of two generations (about 10 MB each when full). The buckets that have been unused for
/// the longest time are dropped first.
pub(super) const MAX_BUCKETS: usize = 100_000;

/// The class and the subject of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BucketKey {
    pub(super) class: RequestClass,
    pub(super) subject: RateLimitKey,
}

/// The buckets of all classes and subjects.
#[derive(Default)]
pub(super) struct TokenBuckets {
    /// The recently used buckets.
    current: HashMap<BucketKey, TokenBucket>,
    /// The buckets that have not been used since `current` was last full.
    previous: HashMap<BucketKey, TokenBucket>,
}

/// The tokens that remain, and when they were last counted.
#[derive(Clone, Copy)]
pub(super) struct TokenBucket {
    pub(super) tokens: f64,
    filled_ms: i64,
}

impl TokenBucket {
    fn fill(&mut self, rate: RateLimit, now_ms: i64) {
        // A clock that was set back adds no tokens.
        let elapsed_ms = u64::try_from(now_ms - self.filled_ms).unwrap_or(0);
        let gained = Duration::from_millis(elapsed_ms).div_duration_f64(rate.period);
        self.tokens = (self.tokens + gained).min(rate.burst);
        self.filled_ms = now_ms;
    }
}

impl TokenBuckets {
    /// Returns the number of buckets in memory.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.current.len() + self.previous.len()
    }

    /// Returns the current bucket of a key. A new or dropped bucket is full.
    pub(super) fn bucket(
        &mut self,
        key: BucketKey,
        rate: RateLimit,
        now_ms: i64,
    ) -> &mut TokenBucket {
        let full = TokenBucket {
            tokens: rate.burst,
            filled_ms: now_ms,
        };
        if self.current.len() >= MAX_BUCKETS && !self.current.contains_key(&key) {
            self.previous = std::mem::take(&mut self.current);
        }
        let known = self.previous.remove(&key);
        let bucket = self.current.entry(key).or_insert(known.unwrap_or(full));
        bucket.fill(rate, now_ms);
        bucket
    }
}
