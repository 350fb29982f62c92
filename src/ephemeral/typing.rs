//! The users who are typing in each room, until they stop or their timeout passes.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#typing-notifications).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedUserId, UserId};
use tokio::{sync::Notify, time::Instant};

use super::{Stir, Tick, Ticks};
use crate::{storage::RoomNum, tasks::Tasks};

/// The longest time that one typing notification is valid, even if the client asks for more.
const LONGEST: Duration = Duration::from_mins(2);
/// The number of rooms that are remembered. Rooms in which nobody types any longer are forgotten first.
const ROOMS: usize = 10_000;

/// The users who are typing, by room.
pub struct Typing {
    rooms: Mutex<HashMap<RoomNum, Typists>>,
    /// Notified when a timeout is set that may pass before all others.
    sooner: Notify,
    ticks: Ticks,
}

#[derive(Default)]
struct Typists {
    until: BTreeMap<OwnedUserId, Instant>,
    changed: Tick,
}

impl Typing {
    pub(super) fn start(ticks: Ticks, tasks: &Tasks) -> Arc<Self> {
        let typing = Arc::new(Self {
            rooms: Mutex::default(),
            sooner: Notify::new(),
            ticks,
        });
        let (watched, stopping) = (typing.clone(), tasks.stopping().clone());
        drop(tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = watched.watch() => {}
            }
        }));
        typing
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomNum, Typists>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a user types in a room for a while, or with `None` that they have stopped.
    pub fn set(&self, room: RoomNum, user_id: &UserId, lasting: Option<Duration>) {
        let changed = {
            let mut rooms = self.rooms();
            if rooms.len() > ROOMS {
                rooms.retain(|_, typists| !typists.until.is_empty());
            }
            let typists = rooms.entry(room).or_default();
            let before = match lasting {
                Some(lasting) => typists
                    .until
                    .insert(user_id.to_owned(), Instant::now() + lasting.min(LONGEST))
                    .is_some(),
                None => typists.until.remove(user_id).is_some(),
            };
            // Prolonging a notification changes nothing for the other members.
            let changed = before != lasting.is_some();
            if changed {
                typists.changed = self.ticks.next();
            }
            changed
        };
        if lasting.is_some() {
            self.sooner.notify_one();
        }
        if changed {
            self.ticks.stir(Stir::Typing(room));
        }
    }

    /// Returns the users who are typing in a room, if that changed after one tick and up to another.
    pub fn changed(&self, room: RoomNum, after: Tick, up_to: Tick) -> Option<Vec<OwnedUserId>> {
        let rooms = self.rooms();
        let typists = rooms.get(&room)?;
        (typists.changed > after && typists.changed <= up_to)
            .then(|| typists.until.keys().cloned().collect())
    }

    /// Returns the rooms in which the typing users changed after a tick.
    pub fn changed_rooms(&self, after: Tick) -> Vec<RoomNum> {
        self.rooms()
            .iter()
            .filter(|(_, typists)| typists.changed > after)
            .map(|(room, _)| *room)
            .collect()
    }

    /// Removes notifications as their timeouts pass.
    async fn watch(&self) {
        loop {
            let next = self
                .rooms()
                .values()
                .flat_map(|typists| typists.until.values())
                .min()
                .copied();
            match next {
                None => self.sooner.notified().await,
                Some(next) => tokio::select! {
                    () = tokio::time::sleep_until(next) => self.expire(),
                    () = self.sooner.notified() => {}
                },
            }
        }
    }

    fn expire(&self) {
        let now = Instant::now();
        let mut expired = Vec::new();
        for (room, typists) in self.rooms().iter_mut() {
            let before = typists.until.len();
            typists.until.retain(|_, until| *until > now);
            if typists.until.len() != before {
                typists.changed = self.ticks.next();
                expired.push(*room);
            }
        }
        for room in expired {
            self.ticks.stir(Stir::Typing(room));
        }
    }
}
