//! What waits for a browser to come back: requests to identity providers, and people whom this server does not know yet.
//!
//! It is kept in memory: after a restart of the server, a sign-in has to begin again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{storage::users::tokens::TokenHash, users::secrets};

/// The time for which an entry is kept, in milliseconds: enough to register at the provider.
const PENDING_LIFETIME_MS: i64 = 15 * 60 * 1000;
/// The largest number of entries of one kind. Beyond it, the oldest are dropped.
const MAX_PENDING: usize = 10_000;

/// Entries that only the browser gets back that began them.
pub(super) struct PendingEntries<T> {
    entries: Mutex<HashMap<String, PendingEntry<T>>>,
}

struct PendingEntry<T> {
    value: T,
    /// The hash of the secret in the cookie of the browser.
    browser: TokenHash,
    expires_ms: i64,
}

impl<T> Default for PendingEntries<T> {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
        }
    }
}

impl<T: Clone> PendingEntries<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, PendingEntry<T>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry of a browser, and returns its id.
    pub(super) fn add(&self, value: T, browser_secret: &str, now: i64) -> String {
        let id = secrets::random_token();
        let mut entries = self.lock();
        if entries.len() >= MAX_PENDING {
            entries.retain(|_, entry| entry.expires_ms > now);
        }
        if entries.len() >= MAX_PENDING {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.expires_ms);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                entries.remove(&oldest);
            }
        }
        let entry = PendingEntry {
            value,
            browser: secrets::hash_token(browser_secret),
            expires_ms: now.saturating_add(PENDING_LIFETIME_MS),
        };
        entries.insert(id.clone(), entry);
        id
    }

    /// Returns an entry of a browser.
    pub(super) fn find(&self, id: &str, browser_secret: &str, now: i64) -> Option<T> {
        let browser = secrets::hash_token(browser_secret);
        let entries = self.lock();
        let entry = entries.get(id)?;
        let is_valid = entry.browser == browser && entry.expires_ms > now;
        is_valid.then(|| entry.value.clone())
    }

    /// Removes an entry of a browser, and returns it.
    pub(super) fn take(&self, id: &str, browser_secret: &str, now: i64) -> Option<T> {
        let found = self.find(id, browser_secret, now)?;
        // Of two requests at once, one gets it.
        self.lock().remove(id).map(|_| found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_for_its_browser_once_and_for_a_while() {
        let pending = PendingEntries::default();
        let id = pending.add(7, "browser", 0);

        assert_eq!(pending.take(&id, "other", 1), None);
        assert_eq!(pending.find(&id, "browser", 1), Some(7));
        assert_eq!(pending.find(&id, "browser", PENDING_LIFETIME_MS), None);
        assert_eq!(pending.take(&id, "browser", 1), Some(7));
        assert_eq!(pending.take(&id, "browser", 1), None);
    }

    #[test]
    fn the_oldest_entries_are_dropped() {
        let pending = PendingEntries::default();
        let first = pending.add(0, "browser", 0);

        for now in 1..10_002 {
            pending.add(now, "browser", now);
        }

        assert_eq!(pending.lock().len(), MAX_PENDING);
        assert_eq!(pending.find(&first, "browser", 1), None);
    }
}
