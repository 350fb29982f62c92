//! The most recent events to send, kept in memory once for all servers that receive them.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc};

use ruma::ServerName;

use super::transaction_batch::UnsentEvents;
use crate::{
    numbers::{Position, RoomNum},
    rooms::OutgoingEvent,
};

/// The number of events that are kept, and their total size in bytes.
const MAX_RECENT_EVENTS: usize = 2_000;
const MAX_RECENT_BYTES: usize = 8 * 1024 * 1024;

/// The most recent events, in order.
#[derive(Default)]
pub(super) struct RecentOutgoingEvents {
    events: VecDeque<Arc<OutgoingEvent>>,
    bytes: usize,
    /// Events up to this position are not in memory.
    on_disk_up_to: Position,
}

/// Events for a server, and for each room the position up to which they are complete.
#[derive(Debug, Default)]
pub(super) struct NextEvents {
    pub(super) events: Vec<Arc<OutgoingEvent>>,
    pub(super) complete_up_to: BTreeMap<RoomNum, Position>,
}

impl RecentOutgoingEvents {
    /// Returns an empty collection. Events up to `position` are only on disk.
    pub(super) fn starting_after(position: Position) -> Self {
        Self {
            on_disk_up_to: position,
            ..Self::default()
        }
    }

    /// Adds an event that is newer than all others.
    pub(super) fn push(&mut self, mut event: OutgoingEvent) {
        // Sorted for the binary search of each look-up.
        event.servers.sort_unstable();
        self.bytes += event.json.get().len();
        self.events.push_back(Arc::new(event));
        while self.events.len() > MAX_RECENT_EVENTS || self.bytes > MAX_RECENT_BYTES {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.json.get().len();
            self.on_disk_up_to = oldest.position;
        }
    }

    /// Returns the oldest unsent events of a server; `None` if some of them are not in memory.
    pub(super) fn find_unsent(
        &self,
        server: &ServerName,
        unsent: &BTreeMap<RoomNum, UnsentEvents>,
        limit: usize,
    ) -> Option<NextEvents> {
        let oldest = unsent.values().map(|unsent| unsent.first).min()?;
        if oldest <= self.on_disk_up_to {
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
                up_to = event.position.previous();
                break;
            }
            events.push(event.clone());
        }
        let rooms = unsent.iter().filter(|(_, unsent)| unsent.first <= up_to);
        let through = rooms.map(|(room, unsent)| (*room, unsent.last.min(up_to)));
        Some(NextEvents {
            events,
            complete_up_to: through.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedServerName, server_name};
    use serde_json::value::RawValue;

    use super::*;

    fn event(position: Position, room: RoomNum, servers: &[&str]) -> OutgoingEvent {
        let name = |name: &&str| OwnedServerName::try_from(*name).expect("a name");
        OutgoingEvent {
            position,
            room,
            event_id: format!("$e{position}").try_into().expect("an id"),
            json: RawValue::from_string("{}".to_owned()).expect("JSON"),
            servers: servers.iter().map(name).collect(),
        }
    }

    #[test]
    fn events_of_a_server_are_found_in_order() {
        let mut log = RecentOutgoingEvents::starting_after(Position::ZERO);
        for (position, room, servers) in [
            (1, 1, &["b", "a"][..]),
            (2, 2, &["b"]),
            (3, 2, &["a"]),
            (4, 1, &["a"]),
        ] {
            log.push(event(Position::new(position), RoomNum::new(room), servers));
        }
        let (one, two) = (RoomNum::new(1), RoomNum::new(2));
        let unsent = |first, last| UnsentEvents {
            first: Position::new(first),
            last: Position::new(last),
        };
        let up_to = |one_up_to, two_up_to| {
            let positions = [(one, one_up_to), (two, two_up_to)];
            BTreeMap::from(positions.map(|(room, up_to)| (room, Position::new(up_to))))
        };
        let rooms = BTreeMap::from([(one, unsent(1, 4)), (two, unsent(3, 3))]);
        let a = server_name!("a");

        let some = log.find_unsent(a, &rooms, 2).expect("in memory");
        let all = log.find_unsent(a, &rooms, 3).expect("in memory");

        let positions = |found: &NextEvents| -> Vec<_> {
            found
                .events
                .iter()
                .map(|event| event.position.as_i64())
                .collect()
        };
        assert_eq!(positions(&some), [1, 3]);
        assert_eq!(some.complete_up_to, up_to(3, 3));
        assert_eq!(positions(&all), [1, 3, 4]);
        assert_eq!(all.complete_up_to, up_to(4, 3));
    }

    #[test]
    fn old_events_leave_the_bounded_memory() {
        let mut log = RecentOutgoingEvents::starting_after(Position::new(7));
        for position in 8..=10_007 {
            log.push(event(Position::new(position), RoomNum::new(1), &["a"]));
        }
        let rooms =
            |first| BTreeMap::from([(RoomNum::new(1), UnsentEvents { first, last: first })]);

        assert_eq!(log.events.len(), MAX_RECENT_EVENTS);
        assert!(
            log.find_unsent(server_name!("a"), &rooms(Position::new(8)), 5)
                .is_none()
        );
        assert!(
            log.find_unsent(server_name!("a"), &rooms(Position::new(9_000)), 5)
                .is_some()
        );
    }
}
