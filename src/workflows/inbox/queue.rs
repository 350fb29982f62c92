//! How much is under way at once: bounded in all, by server and by room.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    error::{Error, Result},
    storage::RoomNum,
};

/// Events under way of one server, and of all (64 KiB each at most). A server sends one transaction after the other;
/// beside that there is what goes on after the answer.
const OF_SERVER: usize = 200;
const OF_ALL: usize = 4_000;
/// When a server may send again that was told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How many may wait for their turn to fetch events of one room, or have it, and how many of those for one server: one
/// that answers slowly must not keep the others out. An event that finds no place is fetched with those that follow it.
const WAITING: usize = 50;
const WAITING_OF_SERVER: usize = 4;

/// Who has how many events under way.
#[derive(Default)]
pub(super) struct Crowd {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    of_servers: HashMap<OwnedServerName, usize>,
}

/// Events that are under way until this is dropped.
pub(super) struct Underway {
    counts: Arc<Mutex<Counts>>,
    server: OwnedServerName,
    events: usize,
}

impl Crowd {
    /// Lets so many events of a server in; what comes beside them counts as one.
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

/// The queues of those who fetch events, one a room: what the first fetches, the next may need no more.
#[derive(Default)]
pub(super) struct Queues {
    rooms: Mutex<HashMap<RoomNum, Queue>>,
}

struct Queue {
    turn: Arc<Semaphore>,
    places: Arc<Semaphore>,
    of_servers: HashMap<OwnedServerName, Arc<Semaphore>>,
}

/// The turn of somebody who fetches events of a room.
pub(super) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: Place,
}

/// A place in the queue of a room, of all and of those for one server.
struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_server: OwnedSemaphorePermit,
}

impl Queues {
    /// Waits until nobody else fetches events of a room, to fetch some of a server; `None` if too many wait already.
    pub(super) async fn turn(&self, room: RoomNum, server: &ServerName) -> Option<Turn> {
        let (turn, place) = self.place(room, server)?;
        let turn = turn.acquire_owned().await.ok()?;
        Some(Turn {
            _turn: turn,
            _place: place,
        })
    }

    fn place(&self, room: RoomNum, server: &ServerName) -> Option<(Arc<Semaphore>, Place)> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        // Queues in which nobody stands are forgotten.
        rooms.retain(|num, queue| *num == room || queue.places.available_permits() < WAITING);
        let new = || Queue {
            turn: Arc::new(Semaphore::new(1)),
            places: Arc::new(Semaphore::new(WAITING)),
            of_servers: HashMap::new(),
        };
        let queue = rooms.entry(room).or_insert_with(new);
        let is_used = |places: &Arc<Semaphore>| places.available_permits() < WAITING_OF_SERVER;
        queue.of_servers.retain(|_, places| is_used(places));
        let of_server = queue
            .of_servers
            .entry(server.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(WAITING_OF_SERVER)));
        let place = Place {
            _of_server: of_server.clone().try_acquire_owned().ok()?,
            _of_all: queue.places.clone().try_acquire_owned().ok()?,
        };
        Some((queue.turn.clone(), place))
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
    async fn the_queue_of_a_room_is_bounded_and_forgotten() {
        let queues = Queues::default();
        let servers: Vec<_> = (0..WAITING).map(|n| server(&format!("s{n}"))).collect();
        let first = queues.turn(1, &servers[0]).await.unwrap();
        let others = servers[1..].iter();
        let mut waiting: Vec<_> = others
            .map(|server| Box::pin(queues.turn(1, server)))
            .collect();
        for waits in &mut waiting {
            assert!(futures_util::poll!(waits.as_mut()).is_pending());
        }

        assert!(queues.turn(1, &server("late")).await.is_none());
        assert!(queues.turn(2, &server("late")).await.is_some());
        drop(first);
        let second = waiting.remove(0).await;
        assert!(second.is_some());
        drop((waiting, second));
        drop(queues.turn(3, &servers[0]).await);
        assert_eq!(queues.rooms.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn one_server_takes_few_places_in_the_queue_of_a_room() {
        let queues = Queues::default();
        let (slow, other) = (server("slow"), server("other"));
        let first = queues.turn(1, &slow).await.unwrap();
        let mut waiting: Vec<_> = (1..WAITING_OF_SERVER)
            .map(|_| Box::pin(queues.turn(1, &slow)))
            .collect();
        for waits in &mut waiting {
            assert!(futures_util::poll!(waits.as_mut()).is_pending());
        }

        assert!(queues.turn(1, &slow).await.is_none());
        let mut others = Box::pin(queues.turn(1, &other));
        assert!(futures_util::poll!(others.as_mut()).is_pending());
        drop((first, waiting));
        assert!(others.await.is_some());
    }
}
