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
pub struct Turns<K> {
    at_once: usize,
    waiting: usize,
    lines: Arc<Mutex<HashMap<K, Line>>>,
}

/// The semaphores of one key.
#[derive(Debug)]
struct Line {
    /// Counts the callers that wait or run, and those that run.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// A place in the queue of a key.
#[derive(Debug)]
pub struct Place {
    place: OwnedSemaphorePermit,
    turns: Arc<Semaphore>,
}

/// The permission to run, which lasts until this is dropped.
#[derive(Debug)]
pub struct Turn {
    _turn: Option<OwnedSemaphorePermit>,
    _place: OwnedSemaphorePermit,
}

impl Place {
    /// Waits for the permission to run.
    pub async fn turn(self) -> Turn {
        // The semaphore is never closed.
        let turn = self.turns.acquire_owned().await.ok();
        Turn {
            _turn: turn,
            _place: self.place,
        }
    }
}

impl<K: Clone + Eq + Hash> Turns<K> {
    /// Creates semaphores that let `at_once` callers of each key run at the same time, and `waiting` more wait.
    pub fn new(at_once: usize, waiting: usize) -> Self {
        Self {
            at_once,
            waiting,
            lines: Arc::default(),
        }
    }

    /// Returns a place in the queue of a key, or `None` if too many callers already wait.
    pub fn place(&self, key: &K) -> Option<Place> {
        let all = self.at_once + self.waiting;
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // A key that is not in use needs no entry.
        lines.retain(|_, line| line.places.available_permits() < all);
        let new = || Line {
            places: Arc::new(Semaphore::new(all)),
            turns: Arc::new(Semaphore::new(self.at_once)),
        };
        let line = lines.entry(key.clone()).or_insert_with(new);
        Some(Place {
            place: line.places.clone().try_acquire_owned().ok()?,
            turns: line.turns.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn each_has_so_many_turns_and_others_of_the_same_wait() {
        let turns = Turns::new(2, 1);
        let place = |key| turns.place(&key).expect("there is a place");
        let (first, _second) = (place("a").turn().await, place("a").turn().await);

        let mut third = Box::pin(place("a").turn());
        assert!(poll!(third.as_mut()).is_pending());
        assert!(turns.place(&"a").is_none());
        assert!(turns.place(&"b").is_some());
        drop(first);

        third.await;
    }

    #[tokio::test]
    async fn who_neither_has_a_turn_nor_waits_is_forgotten() {
        let turns = Turns::new(1, 1);
        for key in 0..100 {
            drop(turns.place(&key));
        }

        let _turn = turns.place(&100);

        assert_eq!(turns.lines.lock().unwrap().len(), 1);
    }
}
