//! Limits the events in progress: in total, per server and per room.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

use crate::{
    error::{Error, Result},
    keyed_semaphore::{Place, Turn, Turns},
    matrix::Verified,
    storage::RoomNum,
};

/// The number of events in progress for one server, and for all (64 KiB each at most). A server sends one transaction
/// after another; in addition, events can still be in progress after the answer.
const OF_SERVER: usize = 200;
const OF_ALL: usize = 4_000;
/// The time after which a refused server may send again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The number of events of one room that fetch missing events or wait for that, and the number of those from one
/// server. A slow server must not keep out the others.
const WAITING: usize = 50;
const WAITING_OF_SERVER: usize = 4;
/// The number of events that wait in memory for a free place (64 KiB each at most).
const LEFT: usize = 500;

/// Counts the events in progress.
#[derive(Default)]
pub(super) struct Crowd {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    of_servers: HashMap<OwnedServerName, usize>,
}

/// Events that are in progress until this is dropped.
pub(super) struct Underway {
    counts: Arc<Mutex<Counts>>,
    server: OwnedServerName,
    events: usize,
}

impl Crowd {
    /// Admits events of a server. A transaction without events counts as one.
    pub(super) fn admit(&self, server: &ServerName, events: usize) -> Result<Underway> {
        let events = events.max(1);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_server = counts.of_servers.get(server).copied().unwrap_or_default();
        if of_server + events > OF_SERVER || counts.all + events > OF_ALL {
            return Err(Error::LimitExceeded {
                retry_after: RETRY_AFTER,
            });
        }
        counts.all += events;
        counts
            .of_servers
            .insert(server.to_owned(), of_server + events);
        Ok(Underway {
            counts: self.counts.clone(),
            server: server.to_owned(),
            events,
        })
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(self.events);
        if let Some(of_server) = counts.of_servers.get_mut(&self.server) {
            *of_server = of_server.saturating_sub(self.events);
            if *of_server == 0 {
                counts.of_servers.remove(&self.server);
            }
        }
    }
}

/// The queues for fetching events, one per room, because an event may need the same missing events as the one before.
pub(super) struct Queues {
    rooms: Turns<RoomNum>,
    of_servers: Turns<(RoomNum, OwnedServerName)>,
    left: Mutex<BTreeMap<(RoomNum, OwnedServerName), Verified>>,
}

/// A place in the queue of a room, and among those of one server.
pub(super) struct FetchPlace {
    of_room: Place,
    of_server: Place,
}

/// The permission to fetch events of a room.
pub(super) struct FetchTurn {
    _of_room: Turn,
    _of_server: Turn,
}

impl FetchPlace {
    /// Waits until no other task fetches events of the room.
    pub(super) async fn turn(self) -> FetchTurn {
        FetchTurn {
            _of_server: self.of_server.turn().await,
            _of_room: self.of_room.turn().await,
        }
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            rooms: Turns::new(1, WAITING - 1),
            of_servers: Turns::new(WAITING_OF_SERVER, 0),
            left: Mutex::default(),
        }
    }
}

impl Queues {
    /// Returns a place in the queue of a room for an event of a server. If there is none, the event is kept until
    /// another one is finished. Only the last event of a server is kept, because its prev events are fetched with it.
    pub(super) fn place(
        &self,
        room: RoomNum,
        server: &ServerName,
        event: &Verified,
    ) -> Option<FetchPlace> {
        // Locked first, so that a task that finishes now sees the event that is kept here.
        let mut left = self.left();
        let key = (room, server.to_owned());
        let place = self.free_place(&key);
        if place.is_none() && (left.len() < LEFT || left.contains_key(&key)) {
            left.insert(key, event.clone());
        }
        place
    }

    fn free_place(&self, key: &(RoomNum, OwnedServerName)) -> Option<FetchPlace> {
        Some(FetchPlace {
            of_server: self.of_servers.place(key)?,
            of_room: self.rooms.place(&key.0)?,
        })
    }

    /// Takes a kept event of a room, with the server that sent it.
    pub(super) fn take_left(&self, room: RoomNum) -> Option<(OwnedServerName, Verified)> {
        let mut left = self.left();
        let key = left.keys().find(|(of_room, _)| *of_room == room)?.clone();
        let event = left.remove(&key)?;
        Some((key.1, event))
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<(RoomNum, OwnedServerName), Verified>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> OwnedServerName {
        OwnedServerName::try_from(name).unwrap()
    }

    #[test]
    fn a_server_that_has_too_much_under_way_has_to_wait_and_others_need_not() {
        let crowd = Crowd::default();
        let (one, other) = (server("one"), server("other"));
        let underway: Vec<_> = (0..4).map(|_| crowd.admit(&one, 50).unwrap()).collect();

        assert!(matches!(
            crowd.admit(&one, 1),
            Err(Error::LimitExceeded { .. })
        ));
        assert!(crowd.admit(&other, 50).is_ok());
        drop(underway);
        assert!(crowd.admit(&one, 50).is_ok());
    }

    #[tokio::test]
    async fn the_queue_of_a_room_is_bounded_and_one_server_takes_few_places_in_it() {
        let queues = Queues::default();
        let place = |room, name: &str| queues.free_place(&(room, server(name)));
        let slow: Vec<_> = (0..WAITING_OF_SERVER)
            .map(|_| place(1, "slow").expect("there is a place"))
            .collect();
        assert!(place(1, "slow").is_none());

        let others = (WAITING_OF_SERVER..WAITING).map(|n| place(1, &format!("s{n}")));
        let others: Vec<_> = others.collect();
        assert!(others.iter().all(Option::is_some));
        assert!(place(1, "late").is_none());
        assert!(place(2, "slow").is_some());
        drop(slow);
        assert!(place(1, "late").is_some());
    }
}
