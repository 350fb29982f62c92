//! A semaphore for each key: a limited number of callers with the same key run at the same time, and a limited number
//! wait. So no key can use up a costly resource.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Semaphores by key. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyedSemaphore<K> {
    max_running: usize,
    max_waiting: usize,
    semaphores: Arc<Mutex<HashMap<K, KeySemaphores>>>,
}

/// The semaphores of one key.
#[derive(Debug)]
struct KeySemaphores {
    /// Counts the callers that wait or run, and those that run.
    queue_semaphore: Arc<Semaphore>,
    run_semaphore: Arc<Semaphore>,
}

/// A place in the queue of a key.
#[derive(Debug)]
pub struct KeyedQueuePlace {
    queue_permit: OwnedSemaphorePermit,
    run_semaphore: Arc<Semaphore>,
}

/// The permission to run, which lasts until this is dropped.
#[derive(Debug)]
pub struct KeyedPermit {
    _run_permit: Option<OwnedSemaphorePermit>,
    _queue_permit: OwnedSemaphorePermit,
}

impl KeyedQueuePlace {
    /// Waits for the permission to run.
    pub async fn acquire(self) -> KeyedPermit {
        // The semaphore is never closed.
        let run_permit = self.run_semaphore.acquire_owned().await.ok();
        KeyedPermit {
            _run_permit: run_permit,
            _queue_permit: self.queue_permit,
        }
    }
}

impl<K: Clone + Eq + Hash> KeyedSemaphore<K> {
    /// Creates semaphores that let `max_running` callers of each key run at the same time, and `max_waiting` more wait.
    pub fn new(max_running: usize, max_waiting: usize) -> Self {
        Self {
            max_running,
            max_waiting,
            semaphores: Arc::default(),
        }
    }

    /// Returns a place in the queue of a key, or `None` if too many callers already wait.
    pub fn enqueue(&self, key: &K) -> Option<KeyedQueuePlace> {
        let all = self.max_running + self.max_waiting;
        let mut lines = self
            .semaphores
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A key that is not in use needs no entry.
        lines.retain(|_, line| line.queue_semaphore.available_permits() < all);
        let new = || KeySemaphores {
            queue_semaphore: Arc::new(Semaphore::new(all)),
            run_semaphore: Arc::new(Semaphore::new(self.max_running)),
        };
        let line = lines.entry(key.clone()).or_insert_with(new);
        Some(KeyedQueuePlace {
            queue_permit: line.queue_semaphore.clone().try_acquire_owned().ok()?,
            run_semaphore: line.run_semaphore.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn callers_of_one_key_wait_when_too_many_run() {
        let semaphore = KeyedSemaphore::new(2, 1);
        let place = |key| semaphore.enqueue(&key).expect("there is a place");
        let (first, _second) = (place("a").acquire().await, place("a").acquire().await);

        let mut third = Box::pin(place("a").acquire());
        assert!(poll!(third.as_mut()).is_pending());
        assert!(semaphore.enqueue(&"a").is_none());
        assert!(semaphore.enqueue(&"b").is_some());
        drop(first);

        third.await;
    }

    #[tokio::test]
    async fn a_key_without_callers_is_forgotten() {
        let semaphore = KeyedSemaphore::new(1, 1);
        for key in 0..100 {
            drop(semaphore.enqueue(&key));
        }

        let _place = semaphore.enqueue(&100);

        assert_eq!(semaphore.semaphores.lock().unwrap().len(), 1);
    }
}
