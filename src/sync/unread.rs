//! The unread counts of a room, and of each of its threads where a client asks for them.
//!
//! The unread count of a thread follows from its counters now and those at the point up to which the user has read
//! everything. Both are read from the database once for a user and a room, and are then updated with the events in
//! memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{
    OwnedEventId, UInt,
    api::client::sync::sync_events::{UnreadNotificationsCount, v3::JoinedRoom},
};

use super::{SyncEnvironment, snapshot::RoomContents, sync_viewer::SyncViewer};
use crate::{
    error::Result,
    matrix::NotificationCounters,
    numbers::{Position, RoomNum, UserNum},
    rooms::{Room, RoomView, Rooms, ThreadCount, UnreadNotifications, UserRoom},
};

/// The number of rooms of users for which the unread threads are remembered.
const MAX_CACHED_ROOMS: usize = 10_000;

/// Reads unread counts. Cheap to clone.
#[derive(Clone)]
pub(super) struct UnreadReader {
    rooms: Rooms,
    threads: Arc<ThreadCache>,
}

/// The unread threads of the users who ask for them.
#[derive(Default)]
struct ThreadCache {
    by_user_and_room: Mutex<HashMap<(UserNum, RoomNum), UnreadThreads>>,
}

/// The threads of a room that have new events since the user had read everything.
#[derive(Clone, Debug, Default)]
struct UnreadThreads {
    /// The point up to which the user had read everything.
    since: Position,
    /// The point up to which this is up to date.
    up_to: Position,
    threads: HashMap<OwnedEventId, ThreadCounters>,
}

/// The counters of a thread at the point up to which all was read, and now.
#[derive(Clone, Copy, Debug)]
struct ThreadCounters {
    base: NotificationCounters,
    now: NotificationCounters,
}

impl UnreadThreads {
    /// Starts without threads if memory reaches back to a point: then no thread can have events that are missing here.
    fn empty_since(since: Position, view: &RoomView) -> Option<Self> {
        (since >= view.ring_after).then(|| Self {
            since,
            up_to: since,
            threads: HashMap::new(),
        })
    }

    fn from_stored(since: Position, up_to: Position, threads: Vec<ThreadCount>) -> Self {
        let counts = threads.into_iter().map(|thread| {
            let (base, now) = (thread.base, thread.now);
            (thread.root, ThreadCounters { base, now })
        });
        Self {
            since,
            up_to,
            threads: counts.collect(),
        }
    }

    /// Adds the events since the last update, if memory holds all of them.
    fn add_new_events(mut self, view: &RoomView) -> Option<Self> {
        if self.up_to < view.ring_after {
            return None;
        }
        let start = view
            .ring
            .partition_point(|event| event.timeline <= self.up_to);
        for thread in view
            .ring
            .range(start..)
            .filter_map(|event| event.thread.as_ref())
        {
            let count = self
                .threads
                .entry(thread.root.clone())
                .or_insert(ThreadCounters {
                    base: thread.counters - thread.added,
                    now: thread.counters,
                });
            count.now = thread.counters;
        }
        self.up_to = view.newest_place();
        Some(self)
    }
}

impl ThreadCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<(UserNum, RoomNum), UnreadThreads>> {
        self.by_user_and_room
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, user: UserNum, room: &Room, since: Position) -> Option<UnreadThreads> {
        let known = self.lock().get(&(user, room.num)).cloned();
        let view = room.view();
        known
            .filter(|known| known.since == since)
            .or_else(|| UnreadThreads::empty_since(since, &view))?
            .add_new_events(&view)
    }

    fn put(&self, user: UserNum, room: RoomNum, known: UnreadThreads) {
        let mut all = self.lock();
        if all.len() >= MAX_CACHED_ROOMS && !all.contains_key(&(user, room)) {
            all.clear();
        }
        all.insert((user, room), known);
    }
}

impl UnreadReader {
    pub(super) fn new(environment: &SyncEnvironment) -> Self {
        Self {
            rooms: environment.rooms.clone(),
            threads: Arc::default(),
        }
    }

    /// Adds the unread counts of a room or, where the client asks for it, of its main timeline and of each thread.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications).
    pub(super) async fn add_unread(
        &self,
        viewer: &SyncViewer<'_>,
        user_room: &UserRoom,
        contents: &RoomContents,
        joined: &mut JoinedRoom,
    ) -> Result<()> {
        if !viewer
            .request
            .filter
            .room
            .timeline
            .unread_thread_notifications
        {
            joined.unread_notifications = write_counts(user_room.unread_counts(contents.counters));
            return Ok(());
        }
        let main = contents.counters - contents.thread_counters;
        joined.unread_notifications = write_counts(user_room.unread_in_main(main));
        let known = self
            .unread_threads(
                viewer.session.user,
                &contents.room,
                user_room.marker.timeline,
            )
            .await?;
        for (thread_root, thread) in known.threads {
            let unread = user_room.unread_in_thread(&thread_root, thread.now, thread.base);
            if unread != UnreadNotifications::default() {
                joined
                    .unread_thread_notifications
                    .insert(thread_root, write_counts(unread));
            }
        }
        Ok(())
    }

    async fn unread_threads(
        &self,
        user: UserNum,
        room: &Room,
        since: Position,
    ) -> Result<UnreadThreads> {
        let known = if let Some(known) = self.threads.get(user, room, since) {
            known
        } else {
            let up_to = room.view().newest_place();
            let threads = self
                .rooms
                .relations
                .load_active_threads(room, since)
                .await?;
            UnreadThreads::from_stored(since, up_to, threads)
        };
        self.threads.put(user, room.num, known.clone());
        Ok(known)
    }
}

fn write_counts(unread: UnreadNotifications) -> UnreadNotificationsCount {
    let mut count = UnreadNotificationsCount::new();
    count.notification_count = Some(UInt::new_saturating(unread.notification_count));
    count.highlight_count = Some(UInt::new_saturating(unread.highlight_count));
    count
}
