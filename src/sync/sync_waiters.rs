//! The clients that wait for changes, and the changes that wake them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::events::room::member::MembershipState;
use tokio::sync::{Notify, futures::OwnedNotified};

use crate::{
    ephemeral::{EphemeralChange, EphemeralState},
    numbers::{Position, RoomNum, UserNum},
    rooms::{Rooms, UserRooms},
    storage::{JournalChange, JournalFollower},
    tasks::Tasks,
};

/// The time for which presence changes are gathered before they wake clients.
const PRESENCE_WAKE_INTERVAL: Duration = Duration::from_secs(2);

/// The clients that wait for changes.
pub struct SyncWaiters {
    by_user: Mutex<HashMap<UserNum, WaitingClients>>,
    /// The rooms that users read who need not be members.
    watched: Mutex<HashMap<RoomNum, Arc<Notify>>>,
    rooms: Rooms,
    /// The users whose presence changed since clients were last woken for it.
    changed_presence: Mutex<HashSet<UserNum>>,
    presence_notify: Notify,
    /// The users whose keys or profiles changed since clients were last woken for it.
    changed_users: Mutex<HashSet<UserNum>>,
    users_notify: Notify,
}

struct WaitingClients {
    notify: Arc<Notify>,
    count: usize,
}

/// A registration of one waiting client.
pub struct WaiterRegistration {
    waiters: Arc<SyncWaiters>,
    user: UserNum,
    notified: std::pin::Pin<Box<OwnedNotified>>,
}

impl SyncWaiters {
    pub(super) fn start(rooms: Rooms, ephemeral: &EphemeralState, tasks: &Tasks) -> Arc<Self> {
        let waiters = Arc::new(Self {
            by_user: Mutex::default(),
            watched: Mutex::default(),
            rooms,
            changed_presence: Mutex::default(),
            presence_notify: Notify::new(),
            changed_users: Mutex::default(),
            users_notify: Notify::new(),
        });
        let listener = Arc::downgrade(&waiters);
        ephemeral.add_listener(Arc::new(move |change| {
            if let Some(waiters) = listener.upgrade() {
                waiters.handle_ephemeral_change(change);
            }
        }));
        let (waker, stopping) = (waiters.clone(), tasks.stopping().clone());
        drop(tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = waker.wake_for_presence() => {}
                () = waker.wake_for_changed_users() => {}
            }
        }));
        waiters
    }

    fn by_user(&self) -> MutexGuard<'_, HashMap<UserNum, WaitingClients>> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to wait for changes for a user. No change after this call is missed.
    pub fn register(self: &Arc<Self>, user: UserNum) -> WaiterRegistration {
        let notify = {
            let mut by_user = self.by_user();
            let waiting = by_user.entry(user).or_insert_with(|| WaitingClients {
                notify: Arc::default(),
                count: 0,
            });
            waiting.count += 1;
            waiting.notify.clone()
        };
        let mut notified = Box::pin(notify.notified_owned());
        notified.as_mut().enable();
        WaiterRegistration {
            waiters: self.clone(),
            user,
            notified,
        }
    }

    /// Starts to wait for changes in a room. No change after this call is missed.
    pub fn watch_room(&self, room: RoomNum) -> impl Future<Output = ()> + use<> {
        let notify = {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.retain(|_, notify| Arc::strong_count(notify) > 1);
            watched.entry(room).or_default().clone()
        };
        let mut notified = Box::pin(notify.notified_owned());
        notified.as_mut().enable();
        notified
    }

    fn wake_user(&self, user: UserNum) {
        if let Some(waiting) = self.by_user().get(&user) {
            waiting.notify.notify_waiters();
        }
    }

    /// Wakes the members of a room, by going through the shorter of the two lists.
    fn wake_room(&self, room: RoomNum) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = watched.get(&room) {
            notify.notify_waiters();
        }
        drop(watched);
        let Some(room) = self.rooms.memory.peek_room(room) else {
            return;
        };
        let by_user = self.by_user();
        let view = room.view();
        let members = &view.local_members;
        if by_user.len() < members.len() {
            let waiting = by_user.iter();
            for (_, waiting) in waiting.filter(|(user, _)| members.contains_key(user)) {
                waiting.notify.notify_waiters();
            }
        } else {
            for waiting in members.keys().filter_map(|user| by_user.get(user)) {
                waiting.notify.notify_waiters();
            }
        }
    }

    /// Wakes the users who share a room with a user. For rooms that are not in memory it checks each waiting user
    /// instead.
    fn wake_users_sharing_rooms(&self, rooms: &UserRooms) {
        let (known, unknown): (Vec<RoomNum>, Vec<RoomNum>) = rooms
            .joined_rooms()
            .into_iter()
            .partition(|room| self.rooms.memory.peek_room(*room).is_some());
        for room in known {
            self.wake_room(room);
        }
        if unknown.is_empty() {
            return;
        }
        for (user, waiting) in self.by_user().iter() {
            let is_in = |rooms: Arc<UserRooms>| {
                let mut unknown = unknown.iter();
                unknown.any(|room| rooms.membership(*room) == MembershipState::Join)
            };
            if self.rooms.memory.peek_user(*user).is_none_or(is_in) {
                waiting.notify.notify_waiters();
            }
        }
    }

    async fn wake_for_changed_user(&self, user: UserNum) {
        if let Some(rooms) = self.rooms_to_wake(user).await {
            self.wake_users_sharing_rooms(&rooms);
        }
    }

    /// Wakes clients when keys or profiles changed. The users who share a room may have to be read from the database first.
    async fn wake_for_changed_users(&self) {
        loop {
            self.users_notify.notified().await;
            let users = std::mem::take(
                &mut *self
                    .changed_users
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            for user in users {
                self.wake_for_changed_user(user).await;
            }
        }
    }

    fn handle_ephemeral_change(&self, change: EphemeralChange) {
        match change {
            EphemeralChange::Typing(room) => self.wake_room(room),
            EphemeralChange::Presence(user) => {
                self.changed_presence
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(user);
                self.presence_notify.notify_one();
            }
        }
    }

    /// Returns the rooms of a user whose clients must be woken. Those of users of other servers may have to be read
    /// from the database.
    async fn rooms_to_wake(&self, user: UserNum) -> Option<Arc<UserRooms>> {
        let rooms = self.rooms.memory.rooms_of_user(user).await;
        rooms
            .inspect_err(
                |error| tracing::warn!(%error, "could not wake clients for a change of a user"),
            )
            .ok()
    }

    /// Wakes clients for presence changes, many at a time.
    async fn wake_for_presence(&self) {
        loop {
            self.presence_notify.notified().await;
            tokio::time::sleep(PRESENCE_WAKE_INTERVAL).await;
            let users = std::mem::take(
                &mut *self
                    .changed_presence
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            let mut rooms: HashSet<RoomNum> = HashSet::new();
            for user in users {
                let of_user = self.rooms_to_wake(user).await;
                rooms.extend(of_user.iter().flat_map(|of_user| of_user.joined_rooms()));
            }
            for room in rooms {
                self.wake_room(room);
            }
        }
    }
}

impl JournalFollower for SyncWaiters {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            match change {
                JournalChange::Event { room, .. } | JournalChange::Receipt { room, .. } => {
                    self.wake_room(*room);
                }
                JournalChange::StickyEvent { event } if event.is_shown => {
                    self.wake_room(event.room);
                }
                JournalChange::Membership { user, .. }
                | JournalChange::ReadPosition { user, .. }
                | JournalChange::MembershipRemoved { user, .. }
                | JournalChange::AccountData { user, .. }
                | JournalChange::ToDevice { user, .. }
                | JournalChange::ThreadSubscription { user }
                | JournalChange::KeyCounts {
                    user,
                    claimed: true,
                    ..
                }
                | JournalChange::DeviceList {
                    watcher: Some(user),
                    ..
                }
                | JournalChange::SessionsEnded { user, .. } => self.wake_user(*user),
                JournalChange::Profile { user }
                | JournalChange::DeviceList {
                    user,
                    watcher: None,
                } => {
                    self.wake_user(*user);
                    let mut relisted = self
                        .changed_users
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    relisted.insert(*user);
                    self.users_notify.notify_one();
                }
                JournalChange::StickyEvent { .. }
                | JournalChange::Redacted { .. }
                | JournalChange::RoomDeleted { .. }
                | JournalChange::Imported { .. }
                | JournalChange::Backfilled { .. }
                | JournalChange::Erased { .. }
                | JournalChange::ToServer { .. }
                | JournalChange::PushersChanged { .. }
                | JournalChange::AliasesChanged { .. }
                | JournalChange::TokensChanged { .. }
                | JournalChange::KeyCounts { .. } => {}
            }
        }
    }

    fn failed(&self) {}
}

impl WaiterRegistration {
    /// Returns when there may be changes.
    pub async fn wait_for_change(&mut self) {
        self.notified.as_mut().await;
    }
}

impl Drop for WaiterRegistration {
    fn drop(&mut self) {
        let mut by_user = self.waiters.by_user();
        if let Some(waiting) = by_user.get_mut(&self.user) {
            waiting.count -= 1;
            if waiting.count == 0 {
                by_user.remove(&self.user);
            }
        }
    }
}
