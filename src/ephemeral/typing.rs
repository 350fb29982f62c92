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

use super::{EphemeralChange, EphemeralTick, TickCounter};
use crate::{numbers::RoomNum, tasks::Tasks};

/// The longest time that one typing notification is valid, even if the client asks for more.
const MAX_TYPING_TIMEOUT: Duration = Duration::from_mins(2);
/// The number of rooms that are remembered. Rooms in which nobody types any longer are forgotten first.
const MAX_REMEMBERED_ROOMS: usize = 10_000;

/// The users who are typing, by room.
pub struct Typing {
    rooms: Mutex<HashMap<RoomNum, TypingInRoom>>,
    /// Notified when a timeout is set that may pass before all others.
    earlier_timeout: Notify,
    ticks: TickCounter,
}

#[derive(Default)]
struct TypingInRoom {
    until: BTreeMap<OwnedUserId, Instant>,
    changed: EphemeralTick,
}

impl Typing {
    pub(super) fn start(ticks: TickCounter, tasks: &Tasks) -> Arc<Self> {
        let typing = Arc::new(Self {
            rooms: Mutex::default(),
            earlier_timeout: Notify::new(),
            ticks,
        });
        let (watched, stopping) = (typing.clone(), tasks.stopping().clone());
        drop(tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = watched.expire_in_time() => {}
            }
        }));
        typing
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomNum, TypingInRoom>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a user types in a room for a while, or with `None` that they have stopped.
    pub fn set_typing(&self, room: RoomNum, user_id: &UserId, lasting: Option<Duration>) {
        let changed = {
            let mut rooms = self.rooms();
            if rooms.len() > MAX_REMEMBERED_ROOMS {
                rooms.retain(|_, typists| !typists.until.is_empty());
            }
            let typists = rooms.entry(room).or_default();
            let before = match lasting {
                Some(lasting) => typists
                    .until
                    .insert(
                        user_id.to_owned(),
                        Instant::now() + lasting.min(MAX_TYPING_TIMEOUT),
                    )
                    .is_some(),
                None => typists.until.remove(user_id).is_some(),
            };
            // Prolonging a notification changes nothing for the other members.
            let changed = before != lasting.is_some();
            if changed {
                typists.changed = self.ticks.next_tick();
            }
            changed
        };
        if lasting.is_some() {
            self.earlier_timeout.notify_one();
        }
        if changed {
            self.ticks.notify_listeners(EphemeralChange::Typing(room));
        }
    }

    /// Returns the users who are typing in a room, if that changed after one tick and up to another.
    pub fn changed_users(
        &self,
        room: RoomNum,
        after: EphemeralTick,
        up_to: EphemeralTick,
    ) -> Option<Vec<OwnedUserId>> {
        let rooms = self.rooms();
        let typists = rooms.get(&room)?;
        (typists.changed > after && typists.changed <= up_to)
            .then(|| typists.until.keys().cloned().collect())
    }

    /// Returns the rooms in which the typing users changed after a tick.
    pub fn changed_rooms(&self, after: EphemeralTick) -> Vec<RoomNum> {
        self.rooms()
            .iter()
            .filter(|(_, typists)| typists.changed > after)
            .map(|(room, _)| *room)
            .collect()
    }

    /// Removes notifications as their timeouts pass.
    async fn expire_in_time(&self) {
        loop {
            let next = self
                .rooms()
                .values()
                .flat_map(|typists| typists.until.values())
                .min()
                .copied();
            match next {
                None => self.earlier_timeout.notified().await,
                Some(next) => tokio::select! {
                    () = tokio::time::sleep_until(next) => self.expire_now(),
                    () = self.earlier_timeout.notified() => {}
                },
            }
        }
    }

    fn expire_now(&self) {
        let now = Instant::now();
        let mut expired = Vec::new();
        for (room, typists) in self.rooms().iter_mut() {
            let before = typists.until.len();
            typists.until.retain(|_, until| *until > now);
            if typists.until.len() != before {
                typists.changed = self.ticks.next_tick();
                expired.push(*room);
            }
        }
        for room in expired {
            self.ticks.notify_listeners(EphemeralChange::Typing(room));
        }
    }
}
