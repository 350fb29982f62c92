//! The followers of the journal, and the state that the journal shares with its writer.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    health::Health,
    numbers::{AtomicPosition, Position},
    storage::engine::{change::JournalChange, interned_strings::InternedStrings},
};

/// A follower of the journal in memory. It is called in order, between the commit and its answer, so it must be quick.
pub trait JournalFollower: Send + Sync {
    /// Handles changes that are on disk.
    fn committed(&self, changes: &[(Position, JournalChange)]);
    /// Handles the loss of a batch: everything in memory from writes that were not yet durable is wrong.
    fn failed(&self);
}

/// An announcement of a write, for which a batch may wait a little.
pub struct WriteIntent {
    shared: Arc<JournalState>,
}

/// The state that the journal shares with its writer.
pub(super) struct JournalState {
    /// The number of registered intents.
    pub(super) intents: AtomicUsize,
    /// The newest position that readers may see.
    pub(super) published: AtomicPosition,
    pub(super) followers: RwLock<Vec<Arc<dyn JournalFollower>>>,
    /// Locked while a batch is announced, so that a reader can keep memory from changing.
    pub(super) announcing: RwLock<()>,
    pub(super) strings: InternedStrings,
    pub(super) health: Health,
}

impl WriteIntent {
    pub(super) fn new(shared: &Arc<JournalState>) -> Self {
        shared.intents.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: shared.clone(),
        }
    }
}

impl Drop for WriteIntent {
    fn drop(&mut self) {
        self.shared.intents.fetch_sub(1, Ordering::SeqCst);
    }
}

impl JournalState {
    pub(super) fn new(strings: InternedStrings) -> Self {
        Self {
            intents: AtomicUsize::new(0),
            published: AtomicPosition::default(),
            followers: RwLock::default(),
            announcing: RwLock::default(),
            strings,
            health: Health::default(),
        }
    }

    pub(super) fn announce_changes(&self, changes: &[(Position, JournalChange)], newest: Position) {
        let _announcing = self
            .announcing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for follower in self
            .followers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            follower.committed(changes);
        }
        self.published.store(newest);
    }

    pub(super) fn announce_failure(&self) {
        self.strings.clear_cache();
        for follower in self
            .followers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            follower.failed();
        }
    }
}
