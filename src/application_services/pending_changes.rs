//! The changes that an application service was not sent yet, as the journal and the ephemeral services announce them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ruma::OwnedUserId;
use tokio::sync::Notify;

use crate::{
    ephemeral::EphemeralChange,
    numbers::{AtomicPosition, DeviceNum, Position, RoomNum, UserNum},
    storage::{JournalChange, JournalFollower, Receipt},
};

/// The largest number of receipts, rooms, users and key counts that wait for a service. Further ones are dropped. A
/// service that does not answer must not fill the memory.
const MAX_WAITING_ITEMS: usize = 10_000;

/// A device of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UserDevice {
    pub(super) user: UserNum,
    pub(super) device: DeviceNum,
}

/// Changes that are not in a transaction yet, besides events and device lists.
#[derive(Debug, Default)]
pub(super) struct WaitingChanges {
    /// The newest receipt of each user and thread.
    pub(super) receipts: BTreeMap<(RoomNum, OwnedUserId, String), Arc<Receipt>>,
    /// The rooms in which the typing users changed.
    pub(super) typing: BTreeSet<RoomNum>,
    /// The users whose presence changed.
    pub(super) presence: BTreeSet<UserNum>,
    /// The devices for which messages wait.
    pub(super) to_device: BTreeSet<UserDevice>,
    /// The devices of which a key was claimed or uploaded.
    pub(super) key_counts: BTreeSet<UserDevice>,
    /// The rooms whose members or aliases changed, so that the service may have become interested in them.
    pub(super) changed_rooms: BTreeSet<RoomNum>,
}

/// Collects the changes for a service.
pub(super) struct ServiceChanges {
    receives_ephemeral: bool,
    receives_device_changes: bool,
    /// The position of the newest event or change of a device list.
    newest: AtomicPosition,
    waiting: Mutex<WaitingChanges>,
    arrived: Notify,
    /// Whether the service was removed, so that nothing more is collected.
    is_closed: AtomicBool,
}

impl WaitingChanges {
    /// Returns whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.receipts.is_empty()
            && self.typing.is_empty()
            && self.presence.is_empty()
            && self.to_device.is_empty()
            && self.key_counts.is_empty()
    }
}

impl ServiceChanges {
    pub(super) fn new(receives_ephemeral: bool, receives_device_changes: bool) -> Self {
        Self {
            receives_ephemeral,
            receives_device_changes,
            newest: AtomicPosition::default(),
            waiting: Mutex::default(),
            arrived: Notify::new(),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Stops collecting changes, because the service was removed.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        drop(self.take());
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Returns the position of the newest event or change of a device list.
    pub(super) fn newest(&self) -> Position {
        self.newest.load()
    }

    /// Makes the service be sent the events up to a position.
    pub(super) fn add_events_up_to(&self, position: Position) {
        self.newest.fetch_max(position);
    }

    /// Takes the waiting changes.
    pub(super) fn take(&self) -> WaitingChanges {
        std::mem::take(&mut *self.lock())
    }

    /// Adds devices whose counts of one-time keys may have changed.
    pub(super) fn add_key_counts(&self, devices: impl IntoIterator<Item = UserDevice>) {
        self.lock().key_counts.extend(devices);
        self.arrived.notify_one();
    }

    /// Adds devices for which messages wait.
    pub(super) fn add_devices(&self, devices: impl IntoIterator<Item = UserDevice>) {
        self.lock().to_device.extend(devices);
        self.arrived.notify_one();
    }

    /// Puts changes back that could not be sent.
    pub(super) fn restore(&self, changes: WaitingChanges) {
        let mut waiting = self.lock();
        let newer = std::mem::replace(&mut *waiting, changes);
        waiting.receipts.extend(newer.receipts);
        waiting.typing.extend(newer.typing);
        waiting.presence.extend(newer.presence);
        waiting.to_device.extend(newer.to_device);
        waiting.key_counts.extend(newer.key_counts);
        waiting.changed_rooms.extend(newer.changed_rooms);
    }

    /// Waits until there are changes.
    pub(super) async fn wait(&self) {
        self.arrived.notified().await;
    }

    /// Adds a change that is only in memory.
    pub(super) fn add_ephemeral_change(&self, change: EphemeralChange) {
        if !self.receives_ephemeral || self.is_closed() {
            return;
        }
        {
            let mut waiting = self.lock();
            match change {
                EphemeralChange::Typing(room) => add(&mut waiting.typing, room),
                EphemeralChange::Presence(user) => add(&mut waiting.presence, user),
            }
        }
        self.arrived.notify_one();
    }

    /// Adds a change, and returns whether it may concern the service.
    fn add_change(&self, position: Position, change: &JournalChange) -> bool {
        let mut waiting = self.lock();
        match change {
            JournalChange::Event { .. } => drop(self.newest.fetch_max(position)),
            JournalChange::Membership { room, .. } => {
                // An invitation to a room that this server is not in comes without an event.
                self.newest.fetch_max(position);
                waiting.changed_rooms.insert(*room);
            }
            JournalChange::AliasesChanged { room } | JournalChange::Imported { room } => {
                waiting.changed_rooms.insert(*room);
                return false;
            }
            JournalChange::DeviceList { watcher: None, .. } if self.receives_device_changes => {
                self.newest.fetch_max(position);
            }
            JournalChange::Receipt { room, receipt }
                if self.receives_ephemeral && waiting.receipts.len() < MAX_WAITING_ITEMS =>
            {
                let key = (*room, receipt.user_id.clone(), receipt.thread.clone());
                waiting.receipts.insert(key, receipt.clone());
            }
            JournalChange::ToDevice { user, device } if self.receives_ephemeral => {
                waiting.to_device.insert(UserDevice {
                    user: *user,
                    device: *device,
                });
            }
            JournalChange::KeyCounts { user, device, .. } if self.receives_device_changes => {
                let (user, device) = (*user, *device);
                add(&mut waiting.key_counts, UserDevice { user, device });
            }
            _ => return false,
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, WaitingChanges> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add<T: Ord>(items: &mut BTreeSet<T>, item: T) {
    if items.len() < MAX_WAITING_ITEMS {
        items.insert(item);
    }
}

impl JournalFollower for ServiceChanges {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        if self.is_closed() {
            return;
        }
        let mut is_relevant = false;
        for (position, change) in changes {
            is_relevant |= self.add_change(*position, change);
        }
        if is_relevant {
            self.arrived.notify_one();
        }
    }

    fn failed(&self) {
        // Nothing is lost: all reported changes are on disk.
    }
}
