//! Collects changes that the journal and the ephemeral services report, without duplicates, until they are distributed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{OwnedServerName, OwnedUserId, ServerName};
use tokio::sync::Notify;

use crate::{
    ephemeral::EphemeralChange,
    numbers::{AtomicPosition, Position, RoomNum, UserNum},
    storage::{JournalChange, JournalFollower, Receipt},
};

/// The largest number of receipts, rooms and users that wait to be distributed. Further ones are ignored.
const MAX_WAITING_ITEMS: usize = 20_000;

/// The changes since the last distribution.
#[derive(Default)]
pub(super) struct PendingChanges {
    /// Whether there are new events.
    pub(super) events: bool,
    /// The users whose devices changed.
    pub(super) device_lists: BTreeSet<UserNum>,
    /// The servers that have new to-device messages.
    pub(super) messages: BTreeSet<OwnedServerName>,
    /// The newest receipt of each user and thread.
    pub(super) receipts: BTreeMap<(RoomNum, OwnedUserId, String), Arc<Receipt>>,
    /// The rooms in which the typing users changed.
    pub(super) typing: BTreeSet<RoomNum>,
    /// The users whose presence changed.
    pub(super) presence: BTreeSet<UserNum>,
}

/// Collects changes.
pub(super) struct ChangeCollector {
    own: OwnedServerName,
    changes: Mutex<PendingChanges>,
    /// The position of the newest event.
    newest_event_position: AtomicPosition,
    changed: Notify,
}

impl ChangeCollector {
    pub(super) fn new(own: &ServerName) -> Arc<Self> {
        Arc::new(Self {
            own: own.to_owned(),
            changes: Mutex::default(),
            newest_event_position: AtomicPosition::default(),
            changed: Notify::new(),
        })
    }

    /// Takes the changes since the last call.
    pub(super) fn take_changes(&self) -> PendingChanges {
        let mut news = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *news)
    }

    /// Returns the position of the newest event since the start.
    pub(super) fn newest_event(&self) -> Position {
        self.newest_event_position.load()
    }

    fn record_newest_event(&self, position: Position, change: &JournalChange) {
        if matches!(change, JournalChange::Event { .. }) {
            self.newest_event_position.fetch_max(position);
        }
    }

    /// Waits until there are changes.
    pub(super) async fn wait_for_changes(&self) {
        self.changed.notified().await;
    }

    /// Adds a change that is only in memory.
    pub(super) fn add_ephemeral_change(&self, change: EphemeralChange) {
        self.update_changes(|news| match change {
            EphemeralChange::Typing(room) if news.typing.len() < MAX_WAITING_ITEMS => {
                news.typing.insert(room)
            }
            EphemeralChange::Presence(user) if news.presence.len() < MAX_WAITING_ITEMS => {
                news.presence.insert(user)
            }
            _ => false,
        });
    }

    /// Adds to the changes, and wakes the distribution if something is new.
    fn update_changes(&self, add: impl FnOnce(&mut PendingChanges) -> bool) {
        let is_new = {
            let mut news = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            add(&mut news)
        };
        if is_new {
            self.changed.notify_one();
        }
    }
}

impl JournalFollower for ChangeCollector {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        self.update_changes(|news| {
            let mut is_new = false;
            for (position, change) in changes {
                self.record_newest_event(*position, change);
                is_new |= news.add_change(change, &self.own);
            }
            is_new
        });
    }

    fn failed(&self) {
        // Nothing is lost: all reported changes are on disk.
    }
}

impl PendingChanges {
    /// Adds a change; returns whether it may concern other servers.
    fn add_change(&mut self, change: &JournalChange, own: &ServerName) -> bool {
        match change {
            JournalChange::Event { .. } => self.events = true,
            JournalChange::DeviceList {
                user,
                watcher: None,
            } => {
                self.device_lists.insert(*user);
            }
            JournalChange::ToServer { server } => {
                self.messages.insert(server.clone());
            }
            JournalChange::Receipt { room, receipt } => {
                let is_public = receipt.kind == "m.read" && receipt.user_id.server_name() == own;
                if !is_public || self.receipts.len() >= MAX_WAITING_ITEMS {
                    return false;
                }
                let key = (*room, receipt.user_id.clone(), receipt.thread.clone());
                self.receipts.insert(key, receipt.clone());
            }
            _ => return false,
        }
        true
    }
}
