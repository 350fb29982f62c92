//! Values that are loaded from the database on first use and then follow the journal in memory.
//!
//! While a value is being loaded, changes that are committed meanwhile are kept for it, and applied
//! afterwards. So a value never misses a change. Changes that it contained already when it was loaded
//! are ignored by their positions.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{error::Result, numbers::Position, storage::JournalChange};

/// A value that follows the journal.
pub(crate) trait CachedValue: Send + Sync {
    /// Applies a change that was committed after the value was loaded.
    fn apply(&self, position: Position, change: &JournalChange);

    /// Returns whether the value may be dropped from memory now.
    fn is_idle(&self) -> bool {
        true
    }
}

/// The number of a value, such as a room's or a user's.
pub(crate) trait CacheKey: Copy + Eq + Ord + Hash + Send {}
impl<K: Copy + Eq + Ord + Hash + Send> CacheKey for K {}

/// The values in memory, by number.
pub(crate) struct JournalCache<K, V> {
    entries: Mutex<CacheEntries<K, V>>,
    /// The maximum number of values kept; the least recently used are dropped first.
    capacity: usize,
}

struct CacheEntries<K, V> {
    by_number: HashMap<K, CacheEntry<V>>,
    /// Counts uses, to find the values that were used last.
    uses: u64,
}

enum CacheEntry<V> {
    Loading {
        missed: Vec<(Position, JournalChange)>,
        done: Arc<Notify>,
    },
    Ready {
        value: Arc<V>,
        last_used: u64,
        /// The position up to which the value contained the changes of the journal when it was loaded. It may be later
        /// than the changes that were passed to the cache: a commit is on disk for a moment, or longer if its answer
        /// was lost, before it is passed on.
        loaded_up_to: Position,
    },
}

impl<K: CacheKey, V: CachedValue> JournalCache<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        let entries = CacheEntries {
            by_number: HashMap::new(),
            uses: 0,
        };
        Self {
            entries: Mutex::new(entries),
            capacity,
        }
    }

    fn entries(&self) -> MutexGuard<'_, CacheEntries<K, V>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a value if it is in memory.
    pub(crate) fn peek(&self, number: K) -> Option<Arc<V>> {
        match self.entries().by_number.get(&number) {
            Some(CacheEntry::Ready { value, .. }) => Some(value.clone()),
            _ => None,
        }
    }

    /// Returns a value. If it is not in memory, `load` loads it, and returns it with the position up to which it
    /// contains the changes of the journal.
    pub(crate) async fn get<F, Loading>(&self, number: K, load: F) -> Result<Arc<V>>
    where
        F: Fn() -> Loading,
        Loading: Future<Output = Result<(V, Position)>>,
    {
        loop {
            let waiting = match self.look_up(number) {
                CacheLookup::Ready(value) => return Ok(value),
                CacheLookup::Wait(done) => done,
                CacheLookup::Load => {
                    let guard = LoadGuard {
                        cache: self,
                        number,
                    };
                    let (value, loaded_up_to) = load().await?;
                    let value = self.finish_load(number, value, loaded_up_to);
                    drop(guard);
                    match value {
                        Some(value) => return Ok(value),
                        // The value was removed meanwhile.
                        None => continue,
                    }
                }
            };
            let notified = waiting.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.is_loading(number) {
                notified.await;
            }
        }
    }

    fn look_up(&self, number: K) -> CacheLookup<V> {
        let mut entries = self.entries();
        entries.uses += 1;
        let now = entries.uses;
        match entries.by_number.get_mut(&number) {
            Some(CacheEntry::Ready {
                value,
                last_used: used,
                ..
            }) => {
                *used = now;
                CacheLookup::Ready(value.clone())
            }
            Some(CacheEntry::Loading { done, .. }) => CacheLookup::Wait(done.clone()),
            None => {
                let done = Arc::new(Notify::new());
                entries.by_number.insert(
                    number,
                    CacheEntry::Loading {
                        missed: Vec::new(),
                        done,
                    },
                );
                CacheLookup::Load
            }
        }
    }

    fn is_loading(&self, number: K) -> bool {
        matches!(
            self.entries().by_number.get(&number),
            Some(CacheEntry::Loading { .. })
        )
    }

    fn finish_load(&self, number: K, value: V, loaded_up_to: Position) -> Option<Arc<V>> {
        let value = Arc::new(value);
        let mut entries = self.entries();
        let used = entries.uses;
        let Some(CacheEntry::Loading { missed, done }) = entries.by_number.remove(&number) else {
            return None;
        };
        for (position, change) in missed
            .iter()
            .filter(|(position, _)| *position > loaded_up_to)
        {
            value.apply(*position, change);
        }
        done.notify_waiters();
        let ready = CacheEntry::Ready {
            value: value.clone(),
            last_used: used,
            loaded_up_to,
        };
        entries.by_number.insert(number, ready);
        if entries.by_number.len() > self.capacity {
            entries.evict(self.capacity);
        }
        Some(value)
    }

    /// Applies a change to a value that is in memory, or keeps it for a value that is being loaded.
    pub(crate) fn apply_change(&self, number: K, position: Position, change: &JournalChange) {
        let value = match self.entries().by_number.get_mut(&number) {
            Some(CacheEntry::Ready { loaded_up_to, .. }) if position <= *loaded_up_to => return,
            Some(CacheEntry::Ready { value, .. }) => value.clone(),
            Some(CacheEntry::Loading { missed, .. }) => {
                missed.push((position, change.clone()));
                return;
            }
            None => return,
        };
        value.apply(position, change);
    }

    /// Removes a value and returns it. A value that is being loaded is loaded again.
    pub(crate) fn remove(&self, number: K) -> Option<Arc<V>> {
        match self.entries().by_number.remove(&number) {
            Some(CacheEntry::Ready { value, .. }) => Some(value),
            Some(CacheEntry::Loading { done, .. }) => {
                done.notify_waiters();
                None
            }
            None => None,
        }
    }

    /// Removes all values that are in memory and returns them.
    pub(crate) fn clear(&self) -> Vec<Arc<V>> {
        let mut forgotten = Vec::new();
        self.entries().by_number.retain(|_, entry| match entry {
            CacheEntry::Ready { value, .. } => {
                forgotten.push(value.clone());
                false
            }
            CacheEntry::Loading { .. } => true,
        });
        forgotten
    }
}

impl<K: CacheKey, V: CachedValue> CacheEntries<K, V> {
    /// Drops idle values, at most a quarter of the capacity: those that have not been used for the longest time.
    fn evict(&mut self, capacity: usize) {
        let mut idle: Vec<(u64, K)> = self
            .by_number
            .iter()
            .filter_map(|(number, entry)| match entry {
                CacheEntry::Ready {
                    value,
                    last_used: used,
                    ..
                } if Arc::strong_count(value) == 1 && value.is_idle() => Some((*used, *number)),
                _ => None,
            })
            .collect();
        idle.sort_unstable();
        for (_, number) in idle.into_iter().take(capacity / 4) {
            self.by_number.remove(&number);
        }
    }
}

enum CacheLookup<V> {
    Ready(Arc<V>),
    Wait(Arc<Notify>),
    Load,
}

/// Removes the entry of a load that failed or was cancelled, so that the next caller tries again.
struct LoadGuard<'a, K: CacheKey, V: CachedValue> {
    cache: &'a JournalCache<K, V>,
    number: K,
}

impl<K: CacheKey, V: CachedValue> Drop for LoadGuard<'_, K, V> {
    fn drop(&mut self) {
        let mut entries = self.cache.entries();
        if let Some(CacheEntry::Loading { done, .. }) = entries.by_number.get(&self.number) {
            done.notify_waiters();
            entries.by_number.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::{DeviceNum, RoomNum, UserNum};

    const ROOM: RoomNum = RoomNum::new(1);

    #[derive(Default)]
    struct SeenPositions(Mutex<Vec<Position>>);

    impl CachedValue for SeenPositions {
        fn apply(&self, position: Position, _: &JournalChange) {
            self.0.lock().unwrap().push(position);
        }
    }

    fn sample_change() -> JournalChange {
        JournalChange::ToDevice {
            user: UserNum::new(1),
            device: DeviceNum::new(1),
        }
    }

    #[tokio::test]
    async fn a_change_during_loading_is_applied_once() {
        let followed = JournalCache::<RoomNum, SeenPositions>::new(8);

        let value = followed
            .get(ROOM, || async {
                followed.apply_change(ROOM, Position::new(5), &sample_change());
                followed.apply_change(ROOM, Position::new(6), &sample_change());
                Ok((SeenPositions::default(), Position::new(5)))
            })
            .await
            .unwrap();
        followed.apply_change(ROOM, Position::new(7), &sample_change());

        assert_eq!(*value.0.lock().unwrap(), [6, 7].map(Position::new));
    }

    #[tokio::test]
    async fn a_change_already_loaded_is_not_applied_again() {
        let followed = JournalCache::<RoomNum, SeenPositions>::new(8);

        let value = followed
            .get(ROOM, || async {
                Ok((SeenPositions::default(), Position::new(6)))
            })
            .await
            .unwrap();
        for position in 5..=7 {
            followed.apply_change(ROOM, Position::new(position), &sample_change());
        }

        assert_eq!(*value.0.lock().unwrap(), [Position::new(7)]);
    }

    #[tokio::test]
    async fn a_failed_load_can_be_retried() {
        let followed = JournalCache::<RoomNum, SeenPositions>::new(8);

        let failed = followed
            .get(ROOM, || async { Err(crate::error::Error::not_found("x")) })
            .await;
        let loaded = followed
            .get(ROOM, || async {
                Ok((SeenPositions::default(), Position::ZERO))
            })
            .await;

        assert!(failed.is_err());
        assert!(loaded.is_ok());
    }

    #[tokio::test]
    async fn the_cache_holds_no_more_than_its_capacity() {
        let followed = JournalCache::<RoomNum, SeenPositions>::new(8);

        let load = || async { Ok((SeenPositions::default(), Position::ZERO)) };

        for number in 0..100 {
            followed.get(RoomNum::new(number), load).await.unwrap();
        }

        assert!(followed.entries().by_number.len() <= 9);
        assert!(followed.entries().by_number.contains_key(&RoomNum::new(99)));
        assert!(!followed.entries().by_number.contains_key(&RoomNum::new(0)));
    }
}
