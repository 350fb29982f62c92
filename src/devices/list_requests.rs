//! The device lists that are being requested from other servers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedUserId, UserId};

/// The lists that are being requested.
#[derive(Default)]
pub(super) struct ListRequests {
    users: Mutex<HashMap<OwnedUserId, ListRequestState>>,
}

/// The requests for one list.
#[derive(Default)]
pub(super) struct ListRequestState {
    pub(super) requests: usize,
    /// The number of changes of the list since the first of these requests began.
    pub(super) changes: u64,
}

impl ListRequests {
    /// Locks the requests.
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<OwnedUserId, ListRequestState>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the list of a user is being requested.
    pub(super) fn is_requested(&self, user_id: &UserId) -> bool {
        self.lock().contains_key(user_id)
    }
}

/// A running request for lists, until it is dropped.
pub struct ListRequestTicket {
    pub(super) list_requests: Arc<ListRequests>,
    /// The number of changes of each list before the request.
    pub(super) users: HashMap<OwnedUserId, u64>,
}

impl ListRequestTicket {
    /// Returns whether a user's list has changed since it was requested.
    pub fn has_changed(&self, user_id: &UserId) -> bool {
        let requested = self.list_requests.lock();
        let changes = requested.get(user_id).map(|state| state.changes);
        changes != self.users.get(user_id).copied()
    }
}

impl Drop for ListRequestTicket {
    fn drop(&mut self) {
        let mut requested = self.list_requests.lock();
        for user_id in self.users.keys() {
            let Some(state) = requested.get_mut(user_id) else {
                continue;
            };
            state.requests = state.requests.saturating_sub(1);
            if state.requests == 0 {
                requested.remove(user_id);
            }
        }
    }
}
