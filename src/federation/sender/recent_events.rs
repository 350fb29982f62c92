//! The most recent events to send, kept in memory once for all servers that receive them.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc};

use ruma::ServerName;

use super::destination::Unsent;
use crate::{
    rooms::Outgoing,
    storage::{Position, RoomNum},
};

/// The number of events that are kept, and their total size in bytes.
const EVENTS: usize = 2_000;
const BYTES: usize = 8 * 1024 * 1024;

/// The most recent events, in order.
#[derive(Default)]
pub(super) struct Log {
    events: VecDeque<Arc<Outgoing>>,
    bytes: usize,
    /// Events up to this position are not in memory.
    gone: Position,
}

/// Events for a server, and for each room the position up to which they are complete.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) events: Vec<Arc<Outgoing>>,
    pub(super) through: BTreeMap<RoomNum, Position>,
}

impl Log {
    /// Returns an empty log. Events up to `position` are only on disk.
    pub(super) fn after(position: Position) -> Self {
        Self {
            gone: position,
            ..Self::default()
        }
    }

    /// Adds an event that is newer than all others.
    pub(super) fn push(&mut self, mut event: Outgoing) {
        // Sorted for the binary search of each look-up.
        event.servers.sort_unstable();
        self.bytes += event.json.get().len();
        self.events.push_back(Arc::new(event));
        while self.events.len() > EVENTS || self.bytes > BYTES {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.json.get().len();
            self.gone = oldest.position;
        }
    }

    /// Returns the oldest unsent events of a server; `None` if some of them are not in memory.
    pub(super) fn find(
        &self,
        server: &ServerName,
        unsent: &BTreeMap<RoomNum, Unsent>,
        limit: usize,
    ) -> Option<Found> {
        let oldest = unsent.values().map(|unsent| unsent.first).min()?;
        if oldest <= self.gone {
            return None;
        }
        let start = self.events.partition_point(|event| event.position < oldest);
        let mut events = Vec::new();
        let mut up_to = Position::MAX;
        for event in self.events.range(start..) {
            let waits = unsent
                .get(&event.room)
                .is_some_and(|unsent| (unsent.first..=unsent.last).contains(&event.position));
            let is_for = |it: &ruma::OwnedServerName| (**it).cmp(server);
            if !waits || event.servers.binary_search_by(is_for).is_err() {
                continue;
            }
            if events.len() == limit {
                up_to = event.position - 1;
                break;
            }
            events.push(event.clone());
        }
        let rooms = unsent.iter().filter(|(_, unsent)| unsent.first <= up_to);
        let through = rooms.map(|(room, unsent)| (*room, unsent.last.min(up_to)));
        Some(Found {
            events,
            through: through.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedServerName, server_name};
    use serde_json::value::RawValue;

    use super::*;

    fn event(position: Position, room: RoomNum, servers: &[&str]) -> Outgoing {
        let name = |name: &&str| OwnedServerName::try_from(*name).expect("a name");
        Outgoing {
            position,
            room,
            event_id: format!("$e{position}").try_into().expect("an id"),
            json: RawValue::from_string("{}".to_owned()).expect("JSON"),
            servers: servers.iter().map(name).collect(),
        }
    }

    #[test]
    fn a_server_finds_what_is_for_it_in_order_and_in_parts() {
        let mut log = Log::after(0);
        for (position, room, servers) in [
            (1, 1, &["b", "a"][..]),
            (2, 2, &["b"]),
            (3, 2, &["a"]),
            (4, 1, &["a"]),
        ] {
            log.push(event(position, room, servers));
        }
        let unsent = |first, last| Unsent { first, last };
        let rooms = BTreeMap::from([(1, unsent(1, 4)), (2, unsent(3, 3))]);
        let a = server_name!("a");

        let some = log.find(a, &rooms, 2).expect("in memory");
        let all = log.find(a, &rooms, 3).expect("in memory");

        let positions =
            |found: &Found| -> Vec<_> { found.events.iter().map(|event| event.position).collect() };
        assert_eq!(positions(&some), [1, 3]);
        assert_eq!(some.through, BTreeMap::from([(1, 3), (2, 3)]));
        assert_eq!(positions(&all), [1, 3, 4]);
        assert_eq!(all.through, BTreeMap::from([(1, 4), (2, 3)]));
    }

    #[test]
    fn the_memory_of_it_is_bounded_and_it_knows_what_is_gone() {
        let mut log = Log::after(7);
        for position in 8..=10_007 {
            log.push(event(position, 1, &["a"]));
        }
        let rooms = |first| BTreeMap::from([(1, Unsent { first, last: first })]);

        assert_eq!(log.events.len(), EVENTS);
        assert!(log.find(server_name!("a"), &rooms(8), 5).is_none());
        assert!(log.find(server_name!("a"), &rooms(9_000), 5).is_some());
    }
}
