//! The sessions of access tokens, in memory.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::Session;
use crate::{
    numbers::{DeviceNum, Position},
    storage::{JournalChange, JournalFollower, users::tokens::TokenHash},
};

/// The largest number of sessions in the cache. Beyond it, the cache is emptied.
const MAX_CACHED_SESSIONS: usize = 100_000;

/// The cached sessions.
#[derive(Default)]
pub(super) struct SessionCache {
    cached: RwLock<CachedSessions>,
}

#[derive(Default)]
struct CachedSessions {
    /// The number of removals so far. A session that was read before a removal must not be cached after it.
    generation: u64,
    by_hash: HashMap<TokenHash, Arc<Session>>,
    by_device: HashMap<DeviceNum, Vec<TokenHash>>,
}

impl SessionCache {
    fn read(&self) -> RwLockReadGuard<'_, CachedSessions> {
        self.cached.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, CachedSessions> {
        self.cached.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the session of a token.
    pub(super) fn get(&self, hash: &TokenHash) -> Option<Arc<Session>> {
        self.read().by_hash.get(hash).cloned()
    }

    /// Returns the number of removals so far, to be read before a session is read from the database.
    pub(super) fn generation(&self) -> u64 {
        self.read().generation
    }

    /// Adds a session that was read at a generation, unless something was removed since.
    pub(super) fn remember(&self, generation: u64, hash: TokenHash, session: Arc<Session>) {
        let mut cached = self.write();
        if cached.generation != generation {
            return;
        }
        if cached.by_hash.len() >= MAX_CACHED_SESSIONS {
            cached.by_hash.clear();
            cached.by_device.clear();
        }
        let device = session.device;
        if cached.by_hash.insert(hash, session).is_none() {
            cached.by_device.entry(device).or_default().push(hash);
        }
    }

    /// Removes the sessions of devices from the cache, so that their next requests read the database.
    pub(super) fn forget(&self, devices: &[DeviceNum]) {
        let mut cached = self.write();
        cached.generation += 1;
        for device in devices {
            for hash in cached.by_device.remove(device).unwrap_or_default() {
                cached.by_hash.remove(&hash);
            }
        }
    }
}

impl JournalFollower for SessionCache {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            match change {
                JournalChange::SessionsEnded { devices, .. } => self.forget(devices),
                JournalChange::TokensChanged { device } => self.forget(&[*device]),
                _ => {}
            }
        }
    }

    fn failed(&self) {
        // The cache only holds data that was read from the database, and that is committed.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::testing::TestUsers;

    #[tokio::test]
    async fn a_session_read_before_its_end_is_not_cached_later() {
        let test = TestUsers::new(|_| {}).await;
        let session = test.session("alice").await;
        let sessions = SessionCache::default();
        let generation = sessions.generation();

        sessions.forget(&[session.device]);
        sessions.remember(generation, [1; 32], session);

        assert!(sessions.get(&[1; 32]).is_none());
    }

    #[tokio::test]
    async fn the_session_cache_is_bounded() {
        let test = TestUsers::new(|_| {}).await;
        let session = test.session("alice").await;
        let sessions = SessionCache::default();

        for n in 0..=MAX_CACHED_SESSIONS {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_le_bytes());
            sessions.remember(0, hash, session.clone());
        }

        assert!(sessions.read().by_hash.len() <= MAX_CACHED_SESSIONS);
    }
}
