//! The sticky events of all rooms in memory, so that a sync finds those that a client has not received.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use ruma::{EventId, OwnedUserId, UserId};

use crate::{
    error::Result,
    numbers::{Position, PositionRange, RoomNum},
    rooms::memory::stored_events::parse_event_id,
    storage::{Db, JournalChange, StickyEvent, rooms::sticky_events},
};

/// The largest number of sticky events of a room. Of more, the oldest are delivered like other events.
const MAX_STICKY_EVENTS_PER_ROOM: usize = 1_000;
/// The largest number of sticky events of all rooms.
const MAX_STICKY_EVENTS: usize = 200_000;

/// The sticky events.
#[derive(Default)]
pub(crate) struct StickyIndex {
    events: RwLock<StickyEntries>,
}

#[derive(Default)]
struct StickyEntries {
    /// The events that clients are sent, by the position from which on they are.
    shown: BTreeMap<Position, Arc<StickyEvent>>,
    by_room: HashMap<RoomNum, BTreeSet<Position>>,
    /// The soft-failed events, by room and sender.
    hidden: HashMap<(RoomNum, OwnedUserId), Vec<Arc<StickyEvent>>>,
    hidden_count: usize,
}

/// A sticky event, and the position from which on clients are sent it.
#[derive(Clone, Debug)]
pub struct ShownStickyEvent {
    pub position: Position,
    pub event: Arc<StickyEvent>,
}

impl StickyIndex {
    /// Loads the events that are still sticky.
    pub(crate) async fn load(db: &Db, now_ms: i64) -> Result<Self> {
        let mut conn = db.read().await?;
        let limit = i64::try_from(MAX_STICKY_EVENTS).unwrap_or(i64::MAX);
        let mut rows = sticky_events::all_after(&mut conn, now_ms, limit).await?;
        rows.sort_by_key(|row| row.shown_at);
        let index = Self::default();
        for row in rows {
            let event = StickyEvent {
                event_id: parse_event_id(&row.event_id)?,
                room: row.room,
                sender: db.strings.user_id(&mut conn, row.sender).await?,
                expires_ts: row.expires_ts,
                is_shown: row.shown_at.is_some(),
            };
            index
                .write()
                .add(row.shown_at.unwrap_or(Position::ZERO), Arc::new(event));
        }
        Ok(index)
    }

    /// Returns the events of all rooms that are sent to clients from a position in a range on, the oldest first.
    pub(crate) fn shown_between(&self, range: PositionRange, now_ms: i64) -> Vec<ShownStickyEvent> {
        if range.after >= range.up_to {
            return Vec::new();
        }
        let events = self.read();
        let found = events.shown.range(range.after.next()..=range.up_to);
        found
            .filter(|(_, event)| event.expires_ts > now_ms)
            .map(|(position, event)| ShownStickyEvent {
                position: *position,
                event: event.clone(),
            })
            .collect()
    }

    /// Returns the events of a room that are sent to clients, the oldest first.
    pub(crate) fn shown_in_room(&self, room: RoomNum, now_ms: i64) -> Vec<ShownStickyEvent> {
        let events = self.read();
        let positions = events.by_room.get(&room).into_iter().flatten();
        positions
            .filter_map(|position| {
                let event = events.shown.get(position)?.clone();
                (event.expires_ts > now_ms).then_some(ShownStickyEvent {
                    position: *position,
                    event,
                })
            })
            .collect()
    }

    /// Returns whether there are no events that are sent to clients.
    pub(crate) fn is_empty(&self) -> bool {
        self.read().shown.is_empty()
    }

    /// Returns whether there are soft-failed events.
    pub(crate) fn has_hidden_events(&self) -> bool {
        self.read().hidden_count > 0
    }

    /// Returns the soft-failed events of a user in a room.
    pub(crate) fn hidden_of_sender(
        &self,
        room: RoomNum,
        sender: &UserId,
        now_ms: i64,
    ) -> Vec<Arc<StickyEvent>> {
        let events = self.read();
        let hidden = events.hidden.get(&(room, sender.to_owned()));
        let hidden = hidden.into_iter().flatten();
        hidden
            .filter(|event| event.expires_ts > now_ms)
            .cloned()
            .collect()
    }

    /// Returns the users with soft-failed events among users whose membership of a room may have changed.
    pub(crate) fn hidden_senders<'a>(
        &self,
        room: RoomNum,
        users: impl Iterator<Item = &'a str>,
    ) -> HashSet<OwnedUserId> {
        let events = self.read();
        if events.hidden.is_empty() {
            return HashSet::new();
        }
        users
            .filter_map(|user| OwnedUserId::try_from(user).ok())
            .filter(|user| events.hidden.contains_key(&(room, user.clone())))
            .collect()
    }

    /// Forgets events that are no longer sticky.
    pub(crate) fn remove_expired(&self, now_ms: i64) {
        self.write().retain(|event| event.expires_ts > now_ms);
    }

    /// Applies a change of the journal.
    pub(crate) fn apply_change(&self, position: Position, change: &JournalChange) {
        match change {
            JournalChange::StickyEvent { event } => self.write().add(position, event.clone()),
            JournalChange::Redacted { room, event } => {
                self.write().remove_event(*room, &event.pdu.event_id);
            }
            JournalChange::RoomDeleted { room } => self.write().retain(|event| event.room != *room),
            JournalChange::Erased { user_id } => {
                self.write().retain(|event| event.sender != *user_id);
            }
            _ => {}
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, StickyEntries> {
        self.events.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, StickyEntries> {
        self.events.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StickyEntries {
    fn add(&mut self, position: Position, event: Arc<StickyEvent>) {
        self.remove_hidden(&event);
        if !event.is_shown {
            if self.hidden_count < MAX_STICKY_EVENTS {
                let key = (event.room, event.sender.clone());
                self.hidden.entry(key).or_default().push(event);
                self.hidden_count += 1;
            }
            return;
        }
        let of_room = self.by_room.entry(event.room).or_default();
        of_room.insert(position);
        let surplus = of_room.len() > MAX_STICKY_EVENTS_PER_ROOM;
        let oldest = of_room.first().copied().filter(|_| surplus);
        self.shown.insert(position, event);
        if let Some(oldest) = oldest {
            self.remove_shown(oldest);
        }
        if self.shown.len() > MAX_STICKY_EVENTS
            && let Some(oldest) = self.shown.keys().next().copied()
        {
            self.remove_shown(oldest);
        }
    }

    fn remove_shown(&mut self, position: Position) {
        let Some(event) = self.shown.remove(&position) else {
            return;
        };
        if let Some(of_room) = self.by_room.get_mut(&event.room) {
            of_room.remove(&position);
            if of_room.is_empty() {
                self.by_room.remove(&event.room);
            }
        }
    }

    fn remove_hidden(&mut self, event: &StickyEvent) {
        let key = (event.room, event.sender.clone());
        let Some(hidden) = self.hidden.get_mut(&key) else {
            return;
        };
        let before = hidden.len();
        hidden.retain(|known| known.event_id != event.event_id);
        self.hidden_count -= before - hidden.len();
        if hidden.is_empty() {
            self.hidden.remove(&key);
        }
    }

    fn remove_event(&mut self, room: RoomNum, event_id: &EventId) {
        let positions = self.by_room.get(&room).into_iter().flatten();
        let is_it = |position: &&Position| {
            let event = self.shown.get(*position);
            event.is_some_and(|event| event.event_id == event_id)
        };
        if let Some(position) = positions.copied().find(|position| is_it(&position)) {
            self.remove_shown(position);
        }
    }

    fn retain(&mut self, keeps: impl Fn(&StickyEvent) -> bool) {
        let shown = self.shown.iter();
        let gone: Vec<Position> = shown
            .filter(|(_, event)| !keeps(event))
            .map(|(position, _)| *position)
            .collect();
        for position in gone {
            self.remove_shown(position);
        }
        for hidden in self.hidden.values_mut() {
            hidden.retain(|event| keeps(event));
        }
        self.hidden.retain(|_, hidden| !hidden.is_empty());
        self.hidden_count = self.hidden.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, user_id};

    use super::*;

    fn change(n: i64, room: i64, is_shown: bool) -> JournalChange {
        JournalChange::StickyEvent {
            event: Arc::new(StickyEvent {
                event_id: format!("$e{n}").try_into().unwrap(),
                room: RoomNum::new(room),
                sender: owned_user_id!("@a:b"),
                expires_ts: 100 + n,
                is_shown,
            }),
        }
    }

    fn positions(found: &[ShownStickyEvent]) -> Vec<i64> {
        let positions = found.iter().map(|found| found.position.as_i64());
        positions.collect()
    }

    fn between(index: &StickyIndex, after: i64, up_to: i64, now_ms: i64) -> Vec<i64> {
        let range = PositionRange {
            after: Position::new(after),
            up_to: Position::new(up_to),
        };
        positions(&index.shown_between(range, now_ms))
    }

    #[test]
    fn events_are_found_by_position_until_they_expire() {
        let index = StickyIndex::default();
        for n in 1..=4 {
            index.apply_change(Position::new(n), &change(n, n % 2, true));
        }

        assert_eq!(between(&index, 1, 3, 0), [2, 3]);
        assert_eq!(between(&index, 0, 9, 102), [3, 4]);
        let of_room = index.shown_in_room(RoomNum::new(0), 0);
        assert_eq!(positions(&of_room), [2, 4]);
        index.remove_expired(103);
        assert_eq!(between(&index, 0, 9, 0), [4]);
        assert!(index.shown_in_room(RoomNum::new(1), 0).is_empty());
    }

    #[test]
    fn a_room_keeps_its_newest_events() {
        let index = StickyIndex::default();
        index.apply_change(Position::new(1), &change(1, 1, true));
        for n in 2..=1_101 {
            index.apply_change(Position::new(n), &change(n, 2, true));
        }

        let of_room = index.shown_in_room(RoomNum::new(2), 0);
        assert_eq!(of_room.len(), MAX_STICKY_EVENTS_PER_ROOM);
        assert_eq!(of_room[0].position, Position::new(102));
        assert_eq!(index.shown_in_room(RoomNum::new(1), 0).len(), 1);
    }

    #[test]
    fn a_hidden_event_is_found_by_its_sender_until_it_is_shown() {
        let index = StickyIndex::default();
        let room = RoomNum::new(1);
        let hidden = |index: &StickyIndex| {
            let hidden = index.hidden_of_sender(room, user_id!("@a:b"), 0);
            hidden.len()
        };

        index.apply_change(Position::new(1), &change(1, 1, false));
        assert_eq!((hidden(&index), between(&index, 0, 9, 0).len()), (1, 0));
        let users = || ["@a:b", "@c:d"].into_iter();
        let senders = index.hidden_senders(room, users());
        assert_eq!(senders, HashSet::from([owned_user_id!("@a:b")]));
        index.apply_change(Position::new(2), &change(1, 1, true));

        assert_eq!((hidden(&index), between(&index, 0, 9, 0).len()), (0, 1));
        assert!(index.hidden_senders(room, users()).is_empty());
    }
}
