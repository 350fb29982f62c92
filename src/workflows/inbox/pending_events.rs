//! Limits the events in progress: in total, per server and per room.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

use crate::{
    error::{Error, Result},
    keyed_semaphore::{KeyedPermit, KeyedQueuePlace, KeyedSemaphore},
    matrix::VerifiedEvent,
    numbers::RoomNum,
};

/// The number of events in progress for one server, and for all (64 KiB each at most). A server sends one transaction
/// after another; in addition, events can still be in progress after the answer.
const MAX_EVENTS_PER_SERVER: usize = 200;
const MAX_PENDING_EVENTS: usize = 4_000;
/// The time after which a refused server may send again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The number of events of one room that fetch missing events or wait for that, and the number of those from one
/// server. A slow server must not keep out the others.
const MAX_WAITING_PER_ROOM: usize = 50;
const MAX_WAITING_PER_SERVER: usize = 4;
/// The number of events that wait in memory for a free place (64 KiB each at most).
const MAX_POSTPONED_EVENTS: usize = 500;

/// Counts the events in progress.
#[derive(Clone, Default)]
pub(super) struct PendingEvents {
    counts: Arc<Mutex<PendingEventCounts>>,
}

#[derive(Default)]
struct PendingEventCounts {
    all: usize,
    by_server: HashMap<OwnedServerName, usize>,
}

/// Events that are in progress until this is dropped.
pub(super) struct PendingEventsGuard {
    counts: Arc<Mutex<PendingEventCounts>>,
    server: OwnedServerName,
    events: usize,
}

impl PendingEvents {
    /// Admits events of a server. A transaction without events counts as one.
    pub(super) fn admit(&self, server: &ServerName, events: usize) -> Result<PendingEventsGuard> {
        let events = events.max(1);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_server = counts.by_server.get(server).copied().unwrap_or_default();
        if of_server + events > MAX_EVENTS_PER_SERVER || counts.all + events > MAX_PENDING_EVENTS {
            return Err(Error::LimitExceeded {
                retry_after: RETRY_AFTER,
            });
        }
        counts.all += events;
        counts
            .by_server
            .insert(server.to_owned(), of_server + events);
        Ok(PendingEventsGuard {
            counts: self.counts.clone(),
            server: server.to_owned(),
            events,
        })
    }
}

impl Drop for PendingEventsGuard {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(self.events);
        if let Some(of_server) = counts.by_server.get_mut(&self.server) {
            *of_server = of_server.saturating_sub(self.events);
            if *of_server == 0 {
                counts.by_server.remove(&self.server);
            }
        }
    }
}

/// The queues for fetching events, one per room, because an event may need the same missing events as the one before.
pub(super) struct FetchQueues {
    rooms: KeyedSemaphore<RoomNum>,
    servers: KeyedSemaphore<(RoomNum, OwnedServerName)>,
    postponed: Mutex<BTreeMap<(RoomNum, OwnedServerName), VerifiedEvent>>,
}

/// An event for which the queue had no place, with the server that sent it.
pub(super) struct PostponedEvent {
    pub(super) origin: OwnedServerName,
    pub(super) event: VerifiedEvent,
}

/// A place in the queue of a room, and among those of one server.
pub(super) struct FetchQueuePlace {
    of_room: KeyedQueuePlace,
    of_server: KeyedQueuePlace,
}

/// The permission to fetch events of a room.
pub(super) struct FetchPermit {
    _of_room: KeyedPermit,
    _of_server: KeyedPermit,
}

impl FetchQueuePlace {
    /// Waits until no other task fetches events of the room.
    pub(super) async fn acquire(self) -> FetchPermit {
        FetchPermit {
            _of_server: self.of_server.acquire().await,
            _of_room: self.of_room.acquire().await,
        }
    }
}

impl Default for FetchQueues {
    fn default() -> Self {
        Self {
            rooms: KeyedSemaphore::new(1, MAX_WAITING_PER_ROOM - 1),
            servers: KeyedSemaphore::new(MAX_WAITING_PER_SERVER, 0),
            postponed: Mutex::default(),
        }
    }
}

impl FetchQueues {
    /// Returns a place in the queue of a room for an event of a server. If there is none, the event is kept until
    /// another one is finished. Only the last event of a server is kept, because its prev events are fetched with it.
    pub(super) fn enqueue(
        &self,
        room: RoomNum,
        server: &ServerName,
        event: &VerifiedEvent,
    ) -> Option<FetchQueuePlace> {
        // Locked first, so that a task that finishes now sees the event that is kept here.
        let mut left = self.postponed();
        let key = (room, server.to_owned());
        let place = self.try_enqueue(&key);
        if place.is_none() && (left.len() < MAX_POSTPONED_EVENTS || left.contains_key(&key)) {
            left.insert(key, event.clone());
        }
        place
    }

    fn try_enqueue(&self, key: &(RoomNum, OwnedServerName)) -> Option<FetchQueuePlace> {
        Some(FetchQueuePlace {
            of_server: self.servers.enqueue(key)?,
            of_room: self.rooms.enqueue(&key.0)?,
        })
    }

    /// Takes a kept event of a room, with the server that sent it.
    pub(super) fn take_postponed(&self, room: RoomNum) -> Option<PostponedEvent> {
        let mut left = self.postponed();
        let key = left.keys().find(|(of_room, _)| *of_room == room)?.clone();
        let event = left.remove(&key)?;
        Some(PostponedEvent {
            origin: key.1,
            event,
        })
    }

    fn postponed(&self) -> MutexGuard<'_, BTreeMap<(RoomNum, OwnedServerName), VerifiedEvent>> {
        self.postponed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> OwnedServerName {
        OwnedServerName::try_from(name).unwrap()
    }

    #[test]
    fn a_server_with_too_many_pending_events_is_refused() {
        let pending = PendingEvents::default();
        let (one, other) = (server("one"), server("other"));
        let guards: Vec<_> = (0..4).map(|_| pending.admit(&one, 50).unwrap()).collect();

        assert!(matches!(
            pending.admit(&one, 1),
            Err(Error::LimitExceeded { .. })
        ));
        assert!(pending.admit(&other, 50).is_ok());
        drop(guards);
        assert!(pending.admit(&one, 50).is_ok());
    }

    #[tokio::test]
    async fn one_server_takes_few_places_in_the_room_queue() {
        let queues = FetchQueues::default();
        let place = |room, name: &str| queues.try_enqueue(&(room, server(name)));
        let slow: Vec<_> = (0..MAX_WAITING_PER_SERVER)
            .map(|_| place(RoomNum::new(1), "slow").expect("there is a place"))
            .collect();
        assert!(place(RoomNum::new(1), "slow").is_none());

        let others = (MAX_WAITING_PER_SERVER..MAX_WAITING_PER_ROOM)
            .map(|n| place(RoomNum::new(1), &format!("s{n}")));
        let others: Vec<_> = others.collect();
        assert!(others.iter().all(Option::is_some));
        assert!(place(RoomNum::new(1), "late").is_none());
        assert!(place(RoomNum::new(2), "slow").is_some());
        drop(slow);
        assert!(place(RoomNum::new(1), "late").is_some());
    }
}
