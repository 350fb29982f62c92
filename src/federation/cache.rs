//! A cache for the results of look-ups, each with its own lifetime.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Mutex as AsyncMutex;

use crate::clock::Clock;

/// A result, and the time until which it is valid, in milliseconds since the Unix epoch.
type CacheSlot<V> = Arc<AsyncMutex<Option<(V, i64)>>>;

/// Remembers results. Callers who look up the same key at the same time wait for a single look-up.
pub struct LookupCache<K, V> {
    clock: Clock,
    limit: usize,
    slots: Mutex<HashMap<K, CacheSlot<V>>>,
}

impl<K: Clone + Eq + Hash, V: Clone> LookupCache<K, V> {
    /// Returns an empty cache for at most `limit` keys.
    pub fn new(clock: &Clock, limit: usize) -> Self {
        Self {
            clock: clock.clone(),
            limit,
            slots: Mutex::default(),
        }
    }

    /// Returns the remembered value of a key, or the value that `look_up` finds, which comes with
    /// its lifetime.
    pub async fn get(&self, key: &K, look_up: impl Future<Output = (V, Duration)>) -> V {
        let slot = self.slot(key);
        // The caller who does the look-up holds this lock; if they give up, the next caller does
        // it.
        let mut known = slot.lock().await;
        if let Some((value, until)) = &*known
            && *until > self.clock.now_ms()
        {
            return value.clone();
        }
        let (value, lifetime) = look_up.await;
        let lifetime = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        let until = self.clock.now_ms().saturating_add(lifetime);
        *known = Some((value.clone(), until));
        value
    }

    /// Forgets the value of a key.
    pub fn forget(&self, key: &K) {
        self.lock().remove(key);
    }

    fn slot(&self, key: &K) -> CacheSlot<V> {
        let mut slots = self.lock();
        if slots.len() >= self.limit && !slots.contains_key(key) {
            let now = self.clock.now_ms();
            slots.retain(|_, slot| is_needed(slot, now));
            if slots.len() >= self.limit {
                drop_half(&mut slots);
            }
        }
        slots.entry(key.clone()).or_default().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, CacheSlot<V>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops half of the slots, when all of them are still valid.
fn drop_half<K, V>(slots: &mut HashMap<K, CacheSlot<V>>) {
    let mut is_dropped = false;
    slots.retain(|_, _| {
        is_dropped = !is_dropped;
        !is_dropped
    });
}

/// Returns whether a look-up is running, or the value is still valid.
fn is_needed<V>(slot: &CacheSlot<V>, now: i64) -> bool {
    let Ok(known) = slot.try_lock() else {
        return true;
    };
    known.as_ref().is_some_and(|(_, until)| *until > now)
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    const ONE_MINUTE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn an_expired_value_is_looked_up_again() {
        let clock = Clock::manual(1_000_000);
        let cache = LookupCache::new(&clock, 8);
        let found = async |value: u32| cache.get(&"a", async { (value, ONE_MINUTE) }).await;

        assert_eq!(found(1).await, 1);
        assert_eq!(found(2).await, 1);
        clock.advance(ONE_MINUTE);
        assert_eq!(found(3).await, 3);
        cache.forget(&"a");
        assert_eq!(found(4).await, 4);
    }

    #[tokio::test]
    async fn concurrent_callers_share_one_look_up() {
        let cache = LookupCache::new(&Clock::system(), 8);
        let look_ups = AtomicUsize::new(0);
        let look_up = || async {
            look_ups.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            (7, ONE_MINUTE)
        };

        let (one, other) = tokio::join!(cache.get(&"a", look_up()), cache.get(&"a", look_up()));

        assert_eq!((one, other), (7, 7));
        assert_eq!(look_ups.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_abandoned_look_up_is_done_by_the_next_caller() {
        let cache = LookupCache::new(&Clock::system(), 8);
        {
            let endless = cache.get(&"a", std::future::pending::<(u32, Duration)>());
            tokio::pin!(endless);
            assert!(futures_util::poll!(endless.as_mut()).is_pending());
        }

        assert_eq!(cache.get(&"a", async { (1, ONE_MINUTE) }).await, 1);
    }

    #[tokio::test]
    async fn valid_values_stay_when_expired_ones_make_room() {
        let clock = Clock::manual(1_000_000);
        let cache = LookupCache::new(&clock, 10);
        cache.get(&0, ready((0, ONE_MINUTE))).await;
        clock.advance(ONE_MINUTE);
        for key in 1..10 {
            cache.get(&key, ready((key, ONE_MINUTE))).await;
        }

        cache.get(&10, ready((10, ONE_MINUTE))).await;

        let kept = (1..=10).filter(|key| cache.lock().contains_key(key));
        assert_eq!(kept.count(), 10);
    }

    #[tokio::test]
    async fn the_memory_of_a_cache_is_bounded() {
        let cache = LookupCache::new(&Clock::system(), 100);

        for key in 0..1_000 {
            cache.get(&key, ready((key, ONE_MINUTE))).await;
        }

        assert!(cache.lock().len() <= 100);
        assert!(cache.lock().contains_key(&999));
    }
}
