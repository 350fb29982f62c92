//! The clients that wait for changes, and the changes that wake them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::events::room::member::MembershipState;
use tokio::sync::{Notify, futures::OwnedNotified};

use crate::{
    ephemeral::{Ephemeral, Stir},
    rooms::{Rooms, UserRooms},
    storage::{Change, Follower, Position, RoomNum, UserNum},
    tasks::Tasks,
};

/// The time for which presence changes are gathered before they wake clients.
const PRESENCE_PAUSE: Duration = Duration::from_secs(2);

/// The clients that wait for changes.
pub struct Waiters {
    by_user: Mutex<HashMap<UserNum, Waiting>>,
    /// The rooms that users read who need not be members.
    watched: Mutex<HashMap<RoomNum, Arc<Notify>>>,
    rooms: Rooms,
    /// The users whose presence changed since clients were last woken for it.
    stirred: Mutex<HashSet<UserNum>>,
    presence: Notify,
    /// The users whose keys changed since clients were last woken for it.
    relisted: Mutex<HashSet<UserNum>>,
    lists: Notify,
}

struct Waiting {
    notify: Arc<Notify>,
    count: usize,
}

/// A registration of one waiting client.
pub struct News {
    waiters: Arc<Waiters>,
    user: UserNum,
    notified: std::pin::Pin<Box<OwnedNotified>>,
}

impl Waiters {
    pub(super) fn start(rooms: Rooms, ephemeral: &Ephemeral, tasks: &Tasks) -> Arc<Self> {
        let waiters = Arc::new(Self {
            by_user: Mutex::default(),
            watched: Mutex::default(),
            rooms,
            stirred: Mutex::default(),
            presence: Notify::new(),
            relisted: Mutex::default(),
            lists: Notify::new(),
        });
        let listener = Arc::downgrade(&waiters);
        ephemeral.listen(Arc::new(move |stir| {
            if let Some(waiters) = listener.upgrade() {
                waiters.stir(stir);
            }
        }));
        let (teller, stopping) = (waiters.clone(), tasks.stopping().clone());
        drop(tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = teller.tell_presence() => {}
                () = teller.tell_lists() => {}
            }
        }));
        waiters
    }

    fn by_user(&self) -> MutexGuard<'_, HashMap<UserNum, Waiting>> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to wait for changes for a user. No change after this call is missed.
    pub fn register(self: &Arc<Self>, user: UserNum) -> News {
        let notify = {
            let mut by_user = self.by_user();
            let waiting = by_user.entry(user).or_insert_with(|| Waiting {
                notify: Arc::default(),
                count: 0,
            });
            waiting.count += 1;
            waiting.notify.clone()
        };
        let mut notified = Box::pin(notify.notified_owned());
        notified.as_mut().enable();
        News {
            waiters: self.clone(),
            user,
            notified,
        }
    }

    /// Starts to wait for changes in a room. No change after this call is missed.
    pub fn watch(&self, room: RoomNum) -> impl Future<Output = ()> + use<> {
        let notify = {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.retain(|_, notify| Arc::strong_count(notify) > 1);
            watched.entry(room).or_default().clone()
        };
        let mut notified = Box::pin(notify.notified_owned());
        notified.as_mut().enable();
        notified
    }

    fn wake(&self, user: UserNum) {
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
        let Some(room) = self.rooms.memory.peek(room) else {
            return;
        };
        let by_user = self.by_user();
        let view = room.view();
        if by_user.len() < view.local_members.len() {
            for (user, waiting) in by_user.iter() {
                if view.local_members.contains_key(user) {
                    waiting.notify.notify_waiters();
                }
            }
        } else {
            for waiting in view
                .local_members
                .keys()
                .filter_map(|user| by_user.get(user))
            {
                waiting.notify.notify_waiters();
            }
        }
    }

    /// Wakes the users who share a room with a user. For rooms that are not in memory it checks each waiting user
    /// instead.
    fn wake_neighbours(&self, rooms: &UserRooms) {
        let (known, unknown): (Vec<RoomNum>, Vec<RoomNum>) = rooms
            .joined()
            .into_iter()
            .partition(|room| self.rooms.memory.peek(*room).is_some());
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

    /// Wakes clients when keys changed. The users who share a room may have to be read from the database first.
    async fn tell_lists(&self) {
        loop {
            self.lists.notified().await;
            let users =
                std::mem::take(&mut *self.relisted.lock().unwrap_or_else(PoisonError::into_inner));
            for user in users {
                match self.rooms.memory.of_user(user).await {
                    Ok(rooms) => self.wake_neighbours(&rooms),
                    Err(error) => {
                        tracing::warn!(%error, "could not wake clients for a device list change");
                    }
                }
            }
        }
    }

    fn stir(&self, stir: Stir) {
        match stir {
            Stir::Typing(room) => self.wake_room(room),
            Stir::Presence(user) => {
                self.stirred
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(user);
                self.presence.notify_one();
            }
        }
    }

    /// Wakes clients for presence changes, many at a time.
    async fn tell_presence(&self) {
        loop {
            self.presence.notified().await;
            tokio::time::sleep(PRESENCE_PAUSE).await;
            let users =
                std::mem::take(&mut *self.stirred.lock().unwrap_or_else(PoisonError::into_inner));
            let mut rooms: HashSet<RoomNum> = HashSet::new();
            for user in users {
                // The rooms of users of other servers may have to be read from the database.
                match self.rooms.memory.of_user(user).await {
                    Ok(user) => rooms.extend(user.joined()),
                    Err(error) => {
                        tracing::warn!(%error, "could not wake clients for a presence change");
                    }
                }
            }
            for room in rooms {
                self.wake_room(room);
            }
        }
    }
}

impl Follower for Waiters {
    fn committed(&self, changes: &[(Position, Change)]) {
        for (_, change) in changes {
            match change {
                Change::Event { room, .. } | Change::Receipt { room, .. } => self.wake_room(*room),
                Change::Membership { user, .. }
                | Change::Read { user, .. }
                | Change::Removed { user, .. }
                | Change::AccountData { user, .. }
                | Change::ToDevice { user, .. }
                | Change::ThreadSubscription { user }
                | Change::KeyCounts {
                    user,
                    claimed: true,
                    ..
                }
                | Change::DeviceList {
                    watcher: Some(user),
                    ..
                }
                | Change::SessionsEnded { user, .. } => self.wake(*user),
                Change::DeviceList {
                    user,
                    watcher: None,
                } => {
                    self.wake(*user);
                    let mut relisted = self.relisted.lock().unwrap_or_else(PoisonError::into_inner);
                    relisted.insert(*user);
                    self.lists.notify_one();
                }
                Change::Redacted { .. }
                | Change::RoomDeleted { .. }
                | Change::Imported { .. }
                | Change::Backfilled { .. }
                | Change::Erased { .. }
                | Change::ToServer { .. }
                | Change::TokensChanged { .. }
                | Change::KeyCounts { .. } => {}
            }
        }
    }

    fn failed(&self) {}
}

impl News {
    /// Returns when there may be changes.
    pub async fn come(&mut self) {
        self.notified.as_mut().await;
    }
}

impl Drop for News {
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
