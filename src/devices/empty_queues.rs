//! The devices that have no to-device messages, in memory: most requests are from such devices.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    numbers::{DeviceNum, Position},
    storage::{JournalChange, JournalFollower},
};

/// The number of devices that are remembered to have no messages. When it is reached, all of them are forgotten.
const MAX_CACHED_DEVICES: usize = 100_000;

/// The devices that are known to have no messages.
#[derive(Default)]
pub(super) struct EmptyQueueCache {
    cached: Mutex<EmptyQueues>,
}

#[derive(Default)]
struct EmptyQueues {
    /// Counts new messages: a result that was read before one must not be remembered after it.
    generation: u64,
    empty: HashSet<DeviceNum>,
}

impl EmptyQueueCache {
    fn lock(&self) -> MutexGuard<'_, EmptyQueues> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a device is known to have no messages.
    pub(super) fn is_empty(&self, device: DeviceNum) -> bool {
        self.lock().empty.contains(&device)
    }

    /// Returns the number of changes so far, to pass to `remember_empty`.
    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Remembers that a device had no messages at a generation.
    pub(super) fn remember_empty(&self, generation: u64, device: DeviceNum) {
        let mut queues = self.lock();
        if queues.generation != generation {
            return;
        }
        if queues.empty.len() >= MAX_CACHED_DEVICES {
            queues.empty.clear();
        }
        queues.empty.insert(device);
    }
}

impl JournalFollower for EmptyQueueCache {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            if let JournalChange::ToDevice { device, .. } = change {
                let mut queues = self.lock();
                queues.generation += 1;
                queues.empty.remove(device);
            }
        }
    }

    fn failed(&self) {
        // Nothing to undo: only committed data is remembered.
    }
}
