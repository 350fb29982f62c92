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

use super::connection_state::ConnectionState;
use crate::{
    error::{Error, Result},
    numbers::{DeviceNum, Position},
    storage::{JournalChange, JournalFollower},
    sync::token::SlidingToken,
};

/// The number of connections of a device. An app has two or three, and some that are short-lived.
const MAX_CONNECTIONS_PER_DEVICE: usize = 16;
/// The number of connections of all devices, and of rooms in all connections (about 400 bytes each). The least recently
/// used are dropped first.
const MAX_CONNECTIONS: usize = 20_000;
const MAX_CONNECTION_ROOMS: usize = 500_000;

/// The connections of all devices.
pub(crate) struct SlidingConnections {
    store: Mutex<ConnectionStore>,
    /// The number of the last response. It starts at a random value, so that numbers of an earlier run are not
    /// accepted.
    last_response: AtomicU64,
}

#[derive(Default)]
struct ConnectionStore {
    connections: HashMap<ConnectionKey, SlidingConnection>,
    rooms: usize,
    /// The number of uses so far, which orders the connections by their latest use.
    uses: u64,
}

type ConnectionKey = (DeviceNum, String);

struct SlidingConnection {
    /// The state that the client has confirmed.
    acknowledged: Option<SavedState>,
    /// The state after the response that followed.
    unconfirmed: Option<SavedState>,
    /// The request that is in progress. An older one gets an empty response.
    request: u64,
    superseded: CancellationToken,
    weight: usize,
}

#[derive(Clone)]
struct SavedState {
    response: u64,
    state: ConnectionState,
}

/// A request in progress.
pub(super) struct RunningRequest {
    key: ConnectionKey,
    request: u64,
    /// The state before the request, which becomes the state after the response.
    pub(super) state: ConnectionState,
    /// Cancelled when another request arrives on the same connection.
    pub(super) superseded: CancellationToken,
}

impl Default for SlidingConnections {
    fn default() -> Self {
        Self {
            store: Mutex::default(),
            last_response: AtomicU64::new(rand::random()),
        }
    }
}

impl SlidingConnections {
    fn store(&self) -> MutexGuard<'_, ConnectionStore> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to handle a request of a device, and cancels a request in progress on the same connection.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPos`] when `pos` is not one of the last two positions of the connection.
    pub(super) fn begin_request(
        &self,
        device: DeviceNum,
        conn_id: &str,
        pos: Option<&str>,
    ) -> Result<RunningRequest> {
        let key = (device, conn_id.to_owned());
        let mut store = self.store();
        store.uses += 1;
        let request = store.uses;
        let Some(pos) = pos else {
            store.open(&key, request);
            return store.running_request(key, ConnectionState::default());
        };
        let token: SlidingToken = pos.parse()?;
        let connection = store.connections.get_mut(&key).ok_or(Error::UnknownPos)?;
        let is_confirmed = |saved: &SavedState| saved.response == token.response;
        if connection.unconfirmed.as_ref().is_some_and(is_confirmed) {
            connection.acknowledged = connection.unconfirmed.take();
        }
        let acknowledged = connection
            .acknowledged
            .as_ref()
            .filter(|saved| is_confirmed(saved));
        let state = acknowledged.ok_or(Error::UnknownPos)?.state.clone();
        connection.request = request;
        std::mem::take(&mut connection.superseded).cancel();
        store.running_request(key, state)
    }

    /// Saves the state after a response and returns the position with which the client can continue. Returns `None`
    /// when another request has arrived, so that no client waits for this response.
    pub(super) fn finish_request(&self, finished: RunningRequest) -> Option<String> {
        let response = self.last_response.fetch_add(1, Ordering::Relaxed);
        let position = finished
            .state
            .since
            .map_or(Position::ZERO, |since| since.position);
        let mut store = self.store();
        let connection = store.connections.get_mut(&finished.key)?;
        if connection.request != finished.request {
            return None;
        }
        let weight = finished.state.weight();
        let before = std::mem::replace(&mut connection.weight, weight);
        connection.unconfirmed = Some(SavedState {
            response,
            state: finished.state,
        });
        store.rooms = store.rooms + weight - before;
        store.evict_connections(&finished.key);
        Some(SlidingToken { position, response }.to_string())
    }
}

impl ConnectionStore {
    /// Opens a connection and closes an earlier one of the same name.
    fn open(&mut self, key: &ConnectionKey, request: u64) {
        self.close(key);
        let same_device: Vec<(u64, ConnectionKey)> = self
            .connections
            .iter()
            .filter(|((device, _), _)| *device == key.0)
            .map(|(key, connection)| (connection.request, key.clone()))
            .collect();
        if same_device.len() >= MAX_CONNECTIONS_PER_DEVICE
            && let Some((_, oldest)) = same_device.into_iter().min()
        {
            self.close(&oldest);
        }
        let connection = SlidingConnection {
            acknowledged: None,
            unconfirmed: None,
            request,
            superseded: CancellationToken::new(),
            weight: 1,
        };
        self.rooms += connection.weight;
        self.connections.insert(key.clone(), connection);
        self.evict_connections(key);
    }

    fn close(&mut self, key: &ConnectionKey) {
        if let Some(closed) = self.connections.remove(key) {
            self.rooms -= closed.weight;
            closed.superseded.cancel();
        }
    }

    /// Closes the least recently used connections while there are too many, but not `needed`.
    fn evict_connections(&mut self, needed: &ConnectionKey) {
        while self.connections.len() > MAX_CONNECTIONS || self.rooms > MAX_CONNECTION_ROOMS {
            let others = self.connections.iter().filter(|(key, _)| *key != needed);
            let oldest = others.min_by_key(|(_, connection)| connection.request);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.close(&oldest);
        }
    }

    fn running_request(
        &self,
        key: ConnectionKey,
        state: ConnectionState,
    ) -> Result<RunningRequest> {
        let connection = self.connections.get(&key).ok_or(Error::UnknownPos)?;
        Ok(RunningRequest {
            request: connection.request,
            superseded: connection.superseded.clone(),
            key,
            state,
        })
    }
}

/// Closes the connections of a device that is logged out.
impl JournalFollower for SlidingConnections {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            let JournalChange::SessionsEnded { devices, .. } = change else {
                continue;
            };
            let mut store = self.store();
            let ended: Vec<ConnectionKey> = store
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ephemeral::EphemeralTick;
    use crate::numbers::UserNum;
    use crate::sync::sliding::connection_state::SyncPosition;

    const PHONE_DEVICE: DeviceNum = DeviceNum::new(1);

    fn state(position: Position) -> ConnectionState {
        let mut state = ConnectionState::default();
        state.since = Some(SyncPosition {
            position,
            tick: EphemeralTick::ZERO,
        });
        state
    }

    /// Responds to a request with a state up to a position; returns the new `pos` and the position of the state before.
    fn respond(
        connections: &SlidingConnections,
        conn_id: &str,
        pos: Option<&str>,
        position: Position,
    ) -> Result<(String, Option<Position>)> {
        let mut running = connections.begin_request(PHONE_DEVICE, conn_id, pos)?;
        let before = running.state.since.map(|since| since.position);
        running.state = state(position);
        Ok((connections.finish_request(running).unwrap(), before))
    }

    #[test]
    fn a_lost_response_is_computed_again() {
        let connections = SlidingConnections::default();

        let (first, before) = respond(&connections, "a", None, Position::new(1)).unwrap();
        assert_eq!(before, None);
        let (_lost, before) = respond(&connections, "a", Some(&first), Position::new(2)).unwrap();
        assert_eq!(before, Some(Position::new(1)));
        let (second, before) = respond(&connections, "a", Some(&first), Position::new(3)).unwrap();
        assert_eq!(before, Some(Position::new(1)));
        let (_, before) = respond(&connections, "a", Some(&second), Position::new(4)).unwrap();
        assert_eq!(before, Some(Position::new(3)));
    }

    #[test]
    fn a_position_is_valid_only_for_its_connection() {
        let connections = SlidingConnections::default();
        let (first, _) = respond(&connections, "a", None, Position::new(1)).unwrap();
        let (second, _) = respond(&connections, "a", Some(&first), Position::new(2)).unwrap();
        respond(&connections, "b", None, Position::new(1)).unwrap();
        respond(&connections, "a", Some(&second), Position::new(3)).unwrap();

        for (conn_id, pos) in [
            ("a", first.as_str()),
            ("b", &second),
            ("c", &second),
            ("a", "p1_zz"),
        ] {
            let refused = respond(&connections, conn_id, Some(pos), Position::new(4));
            assert!(matches!(refused, Err(Error::UnknownPos)), "{conn_id} {pos}");
        }
        let other_device = connections.begin_request(DeviceNum::new(2), "a", Some(&second));
        assert!(matches!(other_device, Err(Error::UnknownPos)));
    }

    #[test]
    fn a_newer_request_ends_an_older_one() {
        let connections = SlidingConnections::default();
        let older = connections.begin_request(PHONE_DEVICE, "a", None).unwrap();

        let newer = connections.begin_request(PHONE_DEVICE, "a", None).unwrap();

        assert!(older.superseded.is_cancelled() && !newer.superseded.is_cancelled());
        assert!(connections.finish_request(older).is_none());
        assert!(connections.finish_request(newer).is_some());
    }

    #[test]
    fn too_many_connections_of_a_device_close_the_oldest() {
        let connections = SlidingConnections::default();
        let mut positions = Vec::new();
        for number in 0..=MAX_CONNECTIONS_PER_DEVICE {
            let name = number.to_string();
            positions.push(
                respond(&connections, &name, None, Position::new(1))
                    .unwrap()
                    .0,
            );
        }

        let oldest = connections.begin_request(PHONE_DEVICE, "0", Some(&positions[0]));
        assert!(matches!(oldest, Err(Error::UnknownPos)));
        assert!(
            connections
                .begin_request(PHONE_DEVICE, "1", Some(&positions[1]))
                .is_ok()
        );
        assert_eq!(connections.store().rooms, MAX_CONNECTIONS_PER_DEVICE);
    }

    #[test]
    fn logging_out_closes_the_connections_of_a_device() {
        let connections = SlidingConnections::default();
        let (pos, _) = respond(&connections, "a", None, Position::new(1)).unwrap();

        let ended = JournalChange::SessionsEnded {
            user: UserNum::new(1),
            devices: vec![PHONE_DEVICE],
        };
        connections.committed(&[(Position::new(1), ended)]);

        assert!(
            connections
                .begin_request(PHONE_DEVICE, "a", Some(&pos))
                .is_err()
        );
        assert_eq!(connections.store().rooms, 0);
    }
}
