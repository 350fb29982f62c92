//! The latest changes, kept in memory. With them a sync finds the rooms that changed without checking every room that
//! the user has joined.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{PoisonError, RwLock},
};

use crate::{
    numbers::{Position, RoomNum, UserNum},
    storage::{JournalChange, JournalFollower},
};

/// The number of changes that are remembered.
const MAX_RECENT_CHANGES: usize = 65_536;
/// The number of users for whom the latest changes of account data and of thread subscriptions are remembered.
const MAX_RECENT_USERS: usize = 200_000;

/// The latest changes.
pub(super) struct RecentChanges {
    log: RwLock<ChangeLog>,
}

struct ChangeLog {
    rooms: VecDeque<(Position, RoomNum)>,
    /// `rooms` holds every change after this position.
    rooms_after: Position,
    account_data: LatestPositions,
    subscriptions: LatestPositions,
    /// The changes of users' keys.
    lists: VecDeque<(Position, DeviceListChange)>,
    lists_after: Position,
    /// The position of the latest change of any profile.
    latest_profile: Position,
}

/// A change of a user's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DeviceListChange {
    /// The user whose keys changed.
    pub(super) owner: UserNum,
    /// The only user to notify; `None` means everyone who shares a room with the owner.
    pub(super) watcher: Option<UserNum>,
}

/// The position of the latest change of one kind, by user.
struct LatestPositions {
    by_user: HashMap<UserNum, Position>,
    /// Every change after this position is known.
    known_after: Position,
}

impl LatestPositions {
    fn new(now: Position) -> Self {
        Self {
            by_user: HashMap::new(),
            known_after: now,
        }
    }

    fn record_change(&mut self, position: Position, user: UserNum) {
        if self.by_user.len() > MAX_RECENT_USERS {
            self.by_user.clear();
            self.known_after = position;
        }
        self.by_user.insert(user, position);
    }

    fn may_have_changed(&self, user: UserNum, after: Position) -> bool {
        let changed = self.by_user.get(&user);
        after < self.known_after || changed.is_some_and(|changed| *changed > after)
    }
}

impl RecentChanges {
    pub(super) fn new(now: Position) -> Self {
        let log = ChangeLog {
            rooms: VecDeque::new(),
            rooms_after: now,
            account_data: LatestPositions::new(now),
            subscriptions: LatestPositions::new(now),
            lists: VecDeque::new(),
            lists_after: now,
            latest_profile: now,
        };
        Self {
            log: RwLock::new(log),
        }
    }

    /// Returns the rooms that changed after a position, or `None` if memory does not reach back so far.
    pub(super) fn rooms_changed_after(&self, after: Position) -> Option<HashSet<RoomNum>> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        if after < log.rooms_after {
            return None;
        }
        let recent = log
            .rooms
            .iter()
            .rev()
            .take_while(|(position, _)| *position > after);
        Some(recent.map(|(_, room)| *room).collect())
    }

    /// Returns the changes of users' keys after one position and up to another, or `None` if memory does not reach back
    /// so far.
    pub(super) fn device_list_changes(
        &self,
        after: Position,
        until: Position,
    ) -> Option<HashSet<DeviceListChange>> {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        if after < log.lists_after {
            return None;
        }
        let recent = log
            .lists
            .iter()
            .rev()
            .take_while(|(position, _)| *position > after)
            .filter(|(position, _)| *position <= until);
        Some(recent.map(|(_, change)| *change).collect())
    }

    /// Returns whether a profile may have changed after a position.
    pub(super) fn profiles_changed(&self, after: Position) -> bool {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        after < log.latest_profile
    }

    /// Returns whether a user's account data may have changed after a position.
    pub(super) fn account_data_changed(&self, user: UserNum, after: Position) -> bool {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        log.account_data.may_have_changed(user, after)
    }

    /// Returns whether a user's thread subscriptions may have changed after a position.
    pub(super) fn subscriptions_changed(&self, user: UserNum, after: Position) -> bool {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        log.subscriptions.may_have_changed(user, after)
    }
}

impl JournalFollower for RecentChanges {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
        for (position, change) in changes {
            match change {
                JournalChange::Event { room, .. }
                | JournalChange::Membership { room, .. }
                | JournalChange::Receipt { room, .. }
                | JournalChange::MembershipRemoved { room, .. }
                | JournalChange::ReadPosition { room, .. } => log.record_room(*position, *room),
                JournalChange::AccountData {
                    user, room: None, ..
                } => log.account_data.record_change(*position, *user),
                JournalChange::AccountData {
                    user,
                    room: Some(room),
                    ..
                } => {
                    log.account_data.record_change(*position, *user);
                    log.record_room(*position, *room);
                }
                JournalChange::DeviceList { user, watcher } => {
                    let change = DeviceListChange {
                        owner: *user,
                        watcher: *watcher,
                    };
                    log.record_device_list(*position, change);
                }
                JournalChange::Profile { .. } => {
                    log.latest_profile = log.latest_profile.max(*position);
                }
                JournalChange::ThreadSubscription { user } => {
                    log.subscriptions.record_change(*position, *user);
                }
                // A client is sent sticky events also of rooms without other changes.
                JournalChange::StickyEvent { .. }
                | JournalChange::Redacted { .. }
                | JournalChange::RoomDeleted { .. }
                | JournalChange::Imported { .. }
                | JournalChange::Backfilled { .. }
                | JournalChange::Erased { .. }
                | JournalChange::ToDevice { .. }
                | JournalChange::ToServer { .. }
                | JournalChange::KeyCounts { .. }
                | JournalChange::PushersChanged { .. }
                | JournalChange::AliasesChanged { .. }
                | JournalChange::TokensChanged { .. }
                | JournalChange::SessionsEnded { .. } => {}
            }
        }
    }

    fn failed(&self) {}
}

impl ChangeLog {
    fn record_room(&mut self, position: Position, room: RoomNum) {
        if self.rooms.back() == Some(&(position, room)) {
            return;
        }
        self.rooms.push_back((position, room));
        if self.rooms.len() > MAX_RECENT_CHANGES
            && let Some((forgotten, _)) = self.rooms.pop_front()
        {
            self.rooms_after = forgotten;
        }
    }

    fn record_device_list(&mut self, position: Position, change: DeviceListChange) {
        self.lists.push_back((position, change));
        if self.lists.len() > MAX_RECENT_CHANGES
            && let Some((forgotten, _)) = self.lists.pop_front()
        {
            self.lists_after = forgotten;
        }
    }
}
