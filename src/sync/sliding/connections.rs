//! The connections of devices, with the state of each.
//!
//! Connections are kept in memory, so a client starts a new one after a restart. Two states of a connection are kept:
//! the one that the client has confirmed to have, and the one of the response after it, which may have been lost on the
//! way.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use super::connection_state::State;
use crate::{
    error::{Error, Result},
    storage::{Change, DeviceNum, Follower, Position},
};

/// The number of connections of a device. An app has two or three, and some that are short-lived.
const OF_A_DEVICE: usize = 16;
/// The number of connections of all devices, and of rooms in all connections (about 400 bytes each). The least recently
/// used are dropped first.
const CONNECTIONS: usize = 20_000;
const ROOMS: usize = 500_000;

/// The connections of all devices.
pub(crate) struct Connections {
    store: Mutex<Store>,
    /// The number of the last response. It starts at a random value, so that numbers of an earlier run are not
    /// accepted.
    answers: AtomicU64,
}

#[derive(Default)]
struct Store {
    connections: HashMap<Key, Connection>,
    rooms: usize,
    /// The number of uses so far, which orders the connections by their latest use.
    uses: u64,
}

type Key = (DeviceNum, String);

struct Connection {
    /// The state that the client has confirmed.
    acknowledged: Option<Saved>,
    /// The state after the response that followed.
    told: Option<Saved>,
    /// The request that is in progress. An older one gets an empty response.
    request: u64,
    superseded: CancellationToken,
    weight: usize,
}

#[derive(Clone)]
struct Saved {
    answer: u64,
    state: State,
}

/// A request in progress.
pub(super) struct Turn {
    key: Key,
    request: u64,
    /// The state before the request, which becomes the state after the response.
    pub(super) state: State,
    /// Cancelled when another request arrives on the same connection.
    pub(super) superseded: CancellationToken,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            store: Mutex::default(),
            answers: AtomicU64::new(rand::random()),
        }
    }
}

impl Connections {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to handle a request of a device, and cancels a request in progress on the same connection.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPos`] when `pos` is not one of the last two positions of the connection.
    pub(super) fn begin(
        &self,
        device: DeviceNum,
        conn_id: &str,
        pos: Option<&str>,
    ) -> Result<Turn> {
        let key = (device, conn_id.to_owned());
        let mut store = self.store();
        store.uses += 1;
        let request = store.uses;
        let Some(pos) = pos else {
            store.open(&key, request);
            return store.turn(key, State::default());
        };
        let answer = answer_of(pos).ok_or(Error::UnknownPos)?;
        let connection = store.connections.get_mut(&key).ok_or(Error::UnknownPos)?;
        let is_it = |saved: &Saved| saved.answer == answer;
        if connection.told.as_ref().is_some_and(is_it) {
            connection.acknowledged = connection.told.take();
        }
        let acknowledged = connection
            .acknowledged
            .as_ref()
            .filter(|saved| is_it(saved));
        let state = acknowledged.ok_or(Error::UnknownPos)?.state.clone();
        connection.request = request;
        std::mem::take(&mut connection.superseded).cancel();
        store.turn(key, state)
    }

    /// Saves the state after a response and returns the position with which the client can continue. Returns `None`
    /// when another request has arrived, so that no client waits for this response.
    pub(super) fn finish(&self, turn: Turn) -> Option<String> {
        let answer = self.answers.fetch_add(1, Ordering::Relaxed);
        let position = turn.state.since.map_or(0, |since| since.position);
        let mut store = self.store();
        let connection = store.connections.get_mut(&turn.key)?;
        if connection.request != turn.request {
            return None;
        }
        let weight = turn.state.weight();
        let before = std::mem::replace(&mut connection.weight, weight);
        connection.told = Some(Saved {
            answer,
            state: turn.state,
        });
        store.rooms = store.rooms + weight - before;
        store.make_place(&turn.key);
        Some(pos_of(position, answer))
    }
}

impl Store {
    /// Opens a connection and closes an earlier one of the same name.
    fn open(&mut self, key: &Key, request: u64) {
        self.close(key);
        let of_device: Vec<(u64, Key)> = self
            .connections
            .iter()
            .filter(|((device, _), _)| *device == key.0)
            .map(|(key, connection)| (connection.request, key.clone()))
            .collect();
        if of_device.len() >= OF_A_DEVICE
            && let Some((_, oldest)) = of_device.into_iter().min()
        {
            self.close(&oldest);
        }
        let connection = Connection {
            acknowledged: None,
            told: None,
            request,
            superseded: CancellationToken::new(),
            weight: 1,
        };
        self.rooms += connection.weight;
        self.connections.insert(key.clone(), connection);
        self.make_place(key);
    }

    fn close(&mut self, key: &Key) {
        if let Some(closed) = self.connections.remove(key) {
            self.rooms -= closed.weight;
            closed.superseded.cancel();
        }
    }

    /// Closes the least recently used connections while there are too many, but not `needed`.
    fn make_place(&mut self, needed: &Key) {
        while self.connections.len() > CONNECTIONS || self.rooms > ROOMS {
            let others = self.connections.iter().filter(|(key, _)| *key != needed);
            let oldest = others.min_by_key(|(_, connection)| connection.request);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.close(&oldest);
        }
    }

    fn turn(&self, key: Key, state: State) -> Result<Turn> {
        let connection = self.connections.get(&key).ok_or(Error::UnknownPos)?;
        Ok(Turn {
            request: connection.request,
            superseded: connection.superseded.clone(),
            key,
            state,
        })
    }
}

/// Closes the connections of a device that is logged out.
impl Follower for Connections {
    fn committed(&self, changes: &[(Position, Change)]) {
        for (_, change) in changes {
            let Change::SessionsEnded { devices, .. } = change else {
                continue;
            };
            let mut store = self.store();
            let ended: Vec<Key> = store
                .connections
                .keys()
                .filter(|(device, _)| devices.contains(device))
                .cloned()
                .collect();
            for key in ended {
                store.close(&key);
            }
        }
    }

    fn failed(&self) {}
}

fn pos_of(position: Position, answer: u64) -> String {
    format!("p{position}_{answer:x}")
}

fn answer_of(pos: &str) -> Option<u64> {
    let (_, answer) = pos.strip_prefix('p')?.split_once('_')?;
    u64::from_str_radix(answer, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::sliding::connection_state::Since;

    const PHONE: DeviceNum = 1;

    fn state(position: Position) -> State {
        let mut state = State::default();
        state.since = Some(Since { position, tick: 0 });
        state
    }

    /// Responds to a request with a state up to a position; returns the new `pos` and the position of the state before.
    fn answer(
        connections: &Connections,
        conn_id: &str,
        pos: Option<&str>,
        position: Position,
    ) -> Result<(String, Option<Position>)> {
        let mut turn = connections.begin(PHONE, conn_id, pos)?;
        let before = turn.state.since.map(|since| since.position);
        turn.state = state(position);
        Ok((connections.finish(turn).unwrap(), before))
    }

    #[test]
    fn a_lost_answer_is_given_again_from_where_the_client_is() {
        let connections = Connections::default();

        let (first, before) = answer(&connections, "a", None, 1).unwrap();
        assert_eq!(before, None);
        let (_lost, before) = answer(&connections, "a", Some(&first), 2).unwrap();
        assert_eq!(before, Some(1));
        let (second, before) = answer(&connections, "a", Some(&first), 3).unwrap();
        assert_eq!(before, Some(1));
        let (_, before) = answer(&connections, "a", Some(&second), 4).unwrap();
        assert_eq!(before, Some(3));
    }

    #[test]
    fn a_position_is_known_only_to_its_connection_and_until_a_later_one_is_used() {
        let connections = Connections::default();
        let (first, _) = answer(&connections, "a", None, 1).unwrap();
        let (second, _) = answer(&connections, "a", Some(&first), 2).unwrap();
        answer(&connections, "b", None, 1).unwrap();
        answer(&connections, "a", Some(&second), 3).unwrap();

        for (conn_id, pos) in [
            ("a", first.as_str()),
            ("b", &second),
            ("c", &second),
            ("a", "p1_zz"),
        ] {
            let refused = answer(&connections, conn_id, Some(pos), 4);
            assert!(matches!(refused, Err(Error::UnknownPos)), "{conn_id} {pos}");
        }
        let other_device = connections.begin(2, "a", Some(&second));
        assert!(matches!(other_device, Err(Error::UnknownPos)));
    }

    #[test]
    fn a_newer_request_ends_an_older_one() {
        let connections = Connections::default();
        let older = connections.begin(PHONE, "a", None).unwrap();

        let newer = connections.begin(PHONE, "a", None).unwrap();

        assert!(older.superseded.is_cancelled() && !newer.superseded.is_cancelled());
        assert!(connections.finish(older).is_none());
        assert!(connections.finish(newer).is_some());
    }

    #[test]
    fn a_device_has_so_many_connections_and_loses_the_oldest() {
        let connections = Connections::default();
        let mut positions = Vec::new();
        for number in 0..=OF_A_DEVICE {
            let name = number.to_string();
            positions.push(answer(&connections, &name, None, 1).unwrap().0);
        }

        let oldest = connections.begin(PHONE, "0", Some(&positions[0]));
        assert!(matches!(oldest, Err(Error::UnknownPos)));
        assert!(connections.begin(PHONE, "1", Some(&positions[1])).is_ok());
        assert_eq!(connections.store().rooms, OF_A_DEVICE);
    }

    #[test]
    fn a_device_that_is_gone_leaves_no_connection() {
        let connections = Connections::default();
        let (pos, _) = answer(&connections, "a", None, 1).unwrap();

        let ended = Change::SessionsEnded {
            user: 1,
            devices: vec![PHONE],
        };
        connections.committed(&[(1, ended)]);

        assert!(connections.begin(PHONE, "a", Some(&pos)).is_err());
        assert_eq!(connections.store().rooms, 0);
    }
}
