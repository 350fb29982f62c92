//! The counts of one-time keys and the unused fallback keys of devices, in memory: every sync response contains them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{OneTimeKeyAlgorithm, UInt};

use super::Devices;
use crate::{
    error::Result,
    storage::{Change, DeviceNum, Follower, KeyCounts, Position, devices::one_time_keys},
};

/// The number of devices whose counts are remembered. When it is reached, all of them are forgotten.
const REMEMBERED: usize = 100_000;

/// The keys that a device has left for others to claim.
#[derive(Clone, Debug, Default)]
pub struct KeysLeft {
    counts: Arc<KeyCounts>,
    /// The position at which a key was last claimed; 0 if that was before the counts were remembered.
    pub claimed_at: Position,
}

impl KeysLeft {
    /// Returns the number of one-time keys by algorithm. The usual algorithm is included even if there are none.
    pub fn one_time(&self) -> BTreeMap<OneTimeKeyAlgorithm, UInt> {
        one_time(&self.counts)
    }

    /// Returns the algorithms whose fallback key has not been used.
    pub fn unused_fallback(&self) -> Vec<OneTimeKeyAlgorithm> {
        let algorithms = self.counts.unused_fallback.iter();
        algorithms
            .map(|algorithm| OneTimeKeyAlgorithm::from(algorithm.as_str()))
            .collect()
    }
}

/// Returns the number of one-time keys by algorithm, as in responses.
pub(super) fn one_time(counts: &KeyCounts) -> BTreeMap<OneTimeKeyAlgorithm, UInt> {
    let usual = (OneTimeKeyAlgorithm::SignedCurve25519, UInt::MIN);
    let counts = counts.one_time.iter().map(|(algorithm, count)| {
        let count = u64::try_from(*count).unwrap_or_default();
        let algorithm = OneTimeKeyAlgorithm::from(algorithm.as_str());
        (algorithm, UInt::new_saturating(count))
    });
    [usual].into_iter().chain(counts).collect()
}

impl Devices {
    /// Returns the keys that a device has left, from memory if possible.
    pub async fn keys_left(&self, device: DeviceNum) -> Result<KeysLeft> {
        let (generation, known) = self.key_counts.get(device);
        if let Some(known) = known {
            return Ok(known);
        }
        let mut db = self.db.read().await?;
        let mut counts = one_time_keys::counts(&mut db, &[device]).await?;
        let left = KeysLeft {
            counts: Arc::new(counts.remove(&device).unwrap_or_default()),
            claimed_at: 0,
        };
        self.key_counts.remember(generation, device, left.clone());
        Ok(left)
    }
}

/// The remembered counts of devices.
#[derive(Default)]
pub(super) struct CountsInMemory {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Counts the changes: counts that were read before a change must not be remembered after it.
    generation: u64,
    by_device: HashMap<DeviceNum, KeysLeft>,
}

impl CountsInMemory {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, device: DeviceNum) -> (u64, Option<KeysLeft>) {
        let known = self.lock();
        (known.generation, known.by_device.get(&device).cloned())
    }

    fn remember(&self, generation: u64, device: DeviceNum, left: KeysLeft) {
        let mut known = self.lock();
        if known.generation == generation {
            known.insert(device, left);
        }
    }
}

impl Known {
    fn insert(&mut self, device: DeviceNum, left: KeysLeft) {
        if self.by_device.len() >= REMEMBERED {
            self.by_device.clear();
        }
        self.by_device.insert(device, left);
    }
}

impl Follower for CountsInMemory {
    fn committed(&self, changes: &[(Position, Change)]) {
        for (position, change) in changes {
            match change {
                Change::KeyCounts {
                    device,
                    counts,
                    claimed,
                    ..
                } => {
                    let mut known = self.lock();
                    known.generation += 1;
                    let before = known
                        .by_device
                        .get(device)
                        .map_or(0, |left| left.claimed_at);
                    let left = KeysLeft {
                        counts: counts.clone(),
                        claimed_at: if *claimed { *position } else { before },
                    };
                    known.insert(*device, left);
                }
                Change::SessionsEnded { devices, .. } => {
                    let mut known = self.lock();
                    known.generation += 1;
                    for device in devices {
                        known.by_device.remove(device);
                    }
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

    fn counted(count: i64) -> Arc<KeyCounts> {
        Arc::new(KeyCounts {
            one_time: vec![("signed_curve25519".to_owned(), count)],
            unused_fallback: Vec::new(),
        })
    }

    fn change(count: i64, claimed: bool) -> Change {
        Change::KeyCounts {
            user: 1,
            device: 1,
            counts: counted(count),
            claimed,
        }
    }

    #[test]
    fn memory_follows_the_journal_and_knows_the_last_claim() {
        let memory = CountsInMemory::default();
        let (generation, _) = memory.get(1);

        memory.committed(&[(4, change(2, true)), (5, change(9, false))]);
        memory.remember(generation, 1, KeysLeft::default());

        let left = memory.get(1).1.unwrap();
        assert_eq!(left.counts, counted(9));
        assert_eq!(left.claimed_at, 4);
        let ended = Change::SessionsEnded {
            user: 1,
            devices: vec![1],
        };
        memory.committed(&[(6, ended)]);
        assert!(memory.get(1).1.is_none());
    }

    #[test]
    fn the_usual_algorithm_is_told_without_keys() {
        let none = KeysLeft::default().one_time();

        let usual = OneTimeKeyAlgorithm::SignedCurve25519;
        assert_eq!(none.get(&usual), Some(&UInt::MIN));
    }
}
