//! The counts of one-time keys and the unused fallback keys of devices, in memory: every sync response contains them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{OneTimeKeyAlgorithm, UInt};

use super::DeviceEnvironment;
use crate::{
    error::Result,
    numbers::{DeviceNum, Position},
    storage::{
        Db, JournalChange, JournalFollower, KeyCounts,
        devices::{
            device_keys::{self, DeviceWithKeys},
            one_time_keys,
        },
    },
};

/// The number of devices whose counts are remembered. When it is reached, all of them are forgotten.
const MAX_CACHED_DEVICES: usize = 100_000;

/// The keys that a device has left for others to claim.
#[derive(Clone, Debug, Default)]
pub struct RemainingKeys {
    counts: Arc<KeyCounts>,
    /// The position at which a key was last claimed; 0 if that was before the counts were remembered.
    pub claimed_at: Position,
}

impl RemainingKeys {
    /// Returns the number of one-time keys by algorithm. The usual algorithm is included even if there are none.
    pub fn one_time_counts(&self) -> BTreeMap<OneTimeKeyAlgorithm, UInt> {
        one_time_counts(&self.counts)
    }

    /// Returns the algorithms whose fallback key has not been used.
    pub fn unused_fallback_algorithms(&self) -> Vec<OneTimeKeyAlgorithm> {
        let algorithms = self.counts.unused_fallback.iter();
        algorithms
            .map(|algorithm| OneTimeKeyAlgorithm::from(algorithm.as_str()))
            .collect()
    }
}

/// Returns the number of one-time keys by algorithm, as in responses.
pub(super) fn one_time_counts(counts: &KeyCounts) -> BTreeMap<OneTimeKeyAlgorithm, UInt> {
    let usual = (OneTimeKeyAlgorithm::SignedCurve25519, UInt::MIN);
    let counts = counts.one_time.iter().map(|(algorithm, count)| {
        let count = u64::try_from(*count).unwrap_or_default();
        let algorithm = OneTimeKeyAlgorithm::from(algorithm.as_str());
        (algorithm, UInt::new_saturating(count))
    });
    [usual].into_iter().chain(counts).collect()
}

/// The keys that devices have left for others to claim.
#[derive(Clone)]
pub struct RemainingKeyCounts {
    db: Db,
    cache: Arc<KeyCountCache>,
}

impl RemainingKeyCounts {
    /// Returns the devices of this server's users that have identity keys.
    pub async fn devices_with_keys(&self) -> Result<Vec<DeviceWithKeys>> {
        let mut db = self.db.read().await?;
        device_keys::devices_with_keys(&mut db).await
    }

    /// Creates the service, which follows the journal.
    pub(super) fn new(environment: &DeviceEnvironment) -> Self {
        let cache = Arc::new(KeyCountCache::default());
        environment.db.journal().add_follower(cache.clone());
        Self {
            db: environment.db.clone(),
            cache,
        }
    }

    /// Returns the keys that a device has left, from memory if possible.
    pub async fn of_device(&self, device: DeviceNum) -> Result<RemainingKeys> {
        let (generation, known) = self.cache.get(device);
        if let Some(known) = known {
            return Ok(known);
        }
        let mut db = self.db.read().await?;
        let mut counts = one_time_keys::counts(&mut db, &[device]).await?;
        let remaining = RemainingKeys {
            counts: Arc::new(counts.remove(&device).unwrap_or_default()),
            claimed_at: Position::ZERO,
        };
        self.cache.remember(generation, device, remaining.clone());
        Ok(remaining)
    }
}

/// The remembered counts of devices.
#[derive(Default)]
struct KeyCountCache {
    cached: Mutex<CachedKeyCounts>,
}

#[derive(Default)]
struct CachedKeyCounts {
    /// Counts the changes: counts that were read before a change must not be remembered after it.
    generation: u64,
    by_device: HashMap<DeviceNum, RemainingKeys>,
}

impl KeyCountCache {
    fn lock(&self) -> MutexGuard<'_, CachedKeyCounts> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, device: DeviceNum) -> (u64, Option<RemainingKeys>) {
        let cached = self.lock();
        (cached.generation, cached.by_device.get(&device).cloned())
    }

    fn remember(&self, generation: u64, device: DeviceNum, remaining: RemainingKeys) {
        let mut cached = self.lock();
        if cached.generation == generation {
            cached.insert(device, remaining);
        }
    }
}

impl CachedKeyCounts {
    /// Replaces the counts of a device. `claimed_at` is the position of the change if a key was claimed in it.
    fn replace_counts(
        &mut self,
        device: DeviceNum,
        counts: &Arc<KeyCounts>,
        claimed_at: Option<Position>,
    ) {
        self.generation += 1;
        let before = self.by_device.get(&device).map(|keys| keys.claimed_at);
        let remaining = RemainingKeys {
            counts: counts.clone(),
            claimed_at: claimed_at.or(before).unwrap_or(Position::ZERO),
        };
        self.insert(device, remaining);
    }

    fn remove_devices(&mut self, devices: &[DeviceNum]) {
        self.generation += 1;
        for device in devices {
            self.by_device.remove(device);
        }
    }

    fn insert(&mut self, device: DeviceNum, remaining: RemainingKeys) {
        if self.by_device.len() >= MAX_CACHED_DEVICES {
            self.by_device.clear();
        }
        self.by_device.insert(device, remaining);
    }
}

impl JournalFollower for KeyCountCache {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (position, change) in changes {
            match change {
                JournalChange::KeyCounts {
                    device,
                    counts,
                    claimed,
                    ..
                } => {
                    let claimed_at = claimed.then_some(*position);
                    self.lock().replace_counts(*device, counts, claimed_at);
                }
                JournalChange::SessionsEnded { devices, .. } => {
                    self.lock().remove_devices(devices);
                }
                _ => {}
            }
        }
    }

    fn failed(&self) {
        // Nothing to undo: only committed counts are remembered.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::UserNum;

    fn counted(count: i64) -> Arc<KeyCounts> {
        Arc::new(KeyCounts {
            one_time: vec![("signed_curve25519".to_owned(), count)],
            unused_fallback: Vec::new(),
        })
    }

    fn change(count: i64, claimed: bool) -> JournalChange {
        JournalChange::KeyCounts {
            user: UserNum::new(1),
            device: DeviceNum::new(1),
            counts: counted(count),
            claimed,
        }
    }

    #[test]
    fn the_cache_follows_the_journal_and_has_the_last_claim() {
        let memory = KeyCountCache::default();
        let (generation, _) = memory.get(DeviceNum::new(1));

        memory.committed(&[
            (Position::new(4), change(2, true)),
            (Position::new(5), change(9, false)),
        ]);
        memory.remember(generation, DeviceNum::new(1), RemainingKeys::default());

        let remaining = memory.get(DeviceNum::new(1)).1.unwrap();
        assert_eq!(remaining.counts, counted(9));
        assert_eq!(remaining.claimed_at, Position::new(4));
        let ended = JournalChange::SessionsEnded {
            user: UserNum::new(1),
            devices: vec![DeviceNum::new(1)],
        };
        memory.committed(&[(Position::new(6), ended)]);
        assert!(memory.get(DeviceNum::new(1)).1.is_none());
    }

    #[test]
    fn the_usual_algorithm_is_counted_even_without_keys() {
        let none = RemainingKeys::default().one_time_counts();

        let usual = OneTimeKeyAlgorithm::SignedCurve25519;
        assert_eq!(none.get(&usual), Some(&UInt::MIN));
    }
}
