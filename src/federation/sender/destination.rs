//! The queue for one destination server, and the history of its failures.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use tokio::sync::Notify;

use super::batch::Batch;
use crate::storage::{
    Position, Receipt, RoomNum,
    federation::outbox::{DestinationRow, UnsentRow},
};

/// The first pause after a failure, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// The longest duration of a transaction that does not delay others.
const QUICK: Duration = Duration::from_secs(5);
/// The pause before a sign of life causes a retry. It grows with the square of the number of failures, up to a limit: a
/// server may be able to reach this one without being reachable itself.
const SHORTEST_LIFE: Duration = Duration::from_millis(300);
const LONGEST_LIFE: Duration = Duration::from_mins(1);
/// The number of receipts, presence updates and typing users that wait for one server.
const RECEIPTS: usize = 1_000;
const PRESENCES: usize = 1_000;
const TYPISTS: usize = 200;

/// A server that receives events and EDUs.
pub(super) struct Destination {
    pub(super) server: OwnedServerName,
    state: Mutex<State>,
    /// Notified when the server shows a sign of life.
    pub(super) woken: Notify,
}

/// The waiting items, and the health of the server.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each flag concerns a different kind of work"
)]
#[derive(Default)]
pub(super) struct State {
    /// The rooms with events that were not sent.
    pub(super) unsent: BTreeMap<RoomNum, Unsent>,
    /// The stored copy of `unsent`.
    stored: HashMap<RoomNum, Position>,
    /// Whether to-device messages may be waiting on disk.
    pub(super) has_messages: bool,
    /// Whether device list updates may be waiting on disk.
    pub(super) has_lists: bool,
    /// Whether the server must be sent an empty transaction to announce that this server is running again.
    pub(super) greet: bool,
    pub(super) receipts: BTreeMap<ReceiptKey, Arc<Receipt>>,
    pub(super) typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    pub(super) presence: BTreeSet<OwnedUserId>,
    /// Whether it has failed, and not received everything since. Older events of busy rooms are then left out.
    pub(super) catches_up: bool,
    pub(super) health: Health,
    /// Whether its last transaction was quick; `false` if it has not been sent any.
    is_quick: bool,
    stored_health: Option<Health>,
    /// Whether a task is sending to it.
    is_served: bool,
    is_dirty: bool,
}

/// The room, the user and the thread of a receipt.
pub(super) type ReceiptKey = (OwnedRoomId, OwnedUserId, String);

/// The unsent events of a room: positions of its timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsent {
    pub(super) first: Position,
    pub(super) last: Position,
}

/// The health of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// The number of consecutive failed transactions.
    pub(super) failures: u32,
    /// The time of the first of these failures, in milliseconds since the Unix epoch.
    pub(super) failing_since: i64,
    /// The time of the next attempt.
    pub(super) retry_at: i64,
    /// The time of the last attempt.
    last_try: i64,
}

impl Health {
    /// Records a failure; `jitter` is between 0 and 1.
    fn failed(&mut self, now: i64, jitter: f64) {
        if self.failures == 0 {
            self.failing_since = now;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        let pause = pause.min(LONGEST_PAUSE).mul_f64(0.75 + jitter / 4.0);
        self.failures = self.failures.saturating_add(1);
        self.last_try = now;
        self.retry_at = now.saturating_add(milliseconds(pause));
    }

    /// Limits the pause to its maximum, in case the clock was set back.
    fn clamp(&mut self, now: i64) {
        let latest = now.saturating_add(milliseconds(LONGEST_PAUSE));
        self.retry_at = self.retry_at.min(latest);
        self.last_try = self.last_try.min(now);
    }

    /// Returns the time of the next attempt.
    pub(super) fn next_try(&mut self, now: i64) -> i64 {
        self.clamp(now);
        self.retry_at
    }

    /// Records a sign of life; returns whether this makes the next attempt earlier.
    fn lives(&mut self, now: i64) -> bool {
        self.clamp(now);
        let pause = SHORTEST_LIFE.saturating_mul(self.failures.saturating_mul(self.failures));
        let pause = milliseconds(pause.min(LONGEST_LIFE));
        let soonest = self.last_try.saturating_add(pause);
        let is_sooner = self.failures > 0 && soonest < self.retry_at;
        if is_sooner {
            self.retry_at = soonest;
        }
        is_sooner
    }

    /// Returns whether the stored parts of two states are equal.
    fn is_stored_as(&self, other: &Self) -> bool {
        (self.failures, self.failing_since, self.retry_at)
            == (other.failures, other.failing_since, other.retry_at)
    }
}

pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Destination {
    pub(super) fn new(server: OwnedServerName) -> Self {
        Self {
            server,
            state: Mutex::new(State {
                is_dirty: true,
                ..State::default()
            }),
            woken: Notify::new(),
        }
    }

    /// Returns a destination as it was stored.
    pub(super) fn stored(server: OwnedServerName, row: &DestinationRow, now: i64) -> Self {
        let mut health = Health {
            failures: u32::try_from(row.failures).unwrap_or(u32::MAX),
            failing_since: row.failing_since,
            retry_at: row.retry_ts,
            last_try: 0,
        };
        health.clamp(now);
        let state = State {
            greet: health.failures == 0,
            catches_up: health.failures > 0,
            health,
            stored_health: Some(health),
            ..State::default()
        };
        Self {
            server,
            state: Mutex::new(state),
            woken: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a sign of life. A server that has failed is tried again soon.
    pub(super) fn lives(&self, now: i64) {
        if self.lock().health.lives(now) {
            self.woken.notify_one();
        }
    }
}

impl State {
    /// Restores the unsent events of a room, which were stored when everything up to `known` had been distributed.
    pub(super) fn recall(&mut self, row: &UnsentRow, known: Position) {
        let (first, last) = (row.since, known.max(row.since));
        self.unsent.insert(row.room, Unsent { first, last });
        self.stored.insert(row.room, row.since);
    }

    /// Adds an event of a room to the queue.
    pub(super) fn note_event(&mut self, room: RoomNum, position: Position) {
        let unsent = self.unsent.entry(room).or_insert(Unsent {
            first: position,
            last: position,
        });
        unsent.last = unsent.last.max(position);
        self.is_dirty = true;
    }

    pub(super) fn note_receipt(&mut self, room_id: &OwnedRoomId, receipt: &Arc<Receipt>) {
        if self.receipts.len() < RECEIPTS {
            let user_id = receipt.user_id.clone();
            let key = (room_id.clone(), user_id, receipt.thread.clone());
            self.receipts.insert(key, receipt.clone());
        }
    }

    pub(super) fn note_presence(&mut self, user_id: &OwnedUserId) {
        if self.presence.len() < PRESENCES {
            self.presence.insert(user_id.clone());
        }
    }

    /// Adds a change in typing to the queue. It is not kept for a server that fails, because it would arrive too late.
    pub(super) fn note_typing(&mut self, room_id: &OwnedRoomId, user_id: &OwnedUserId, is: bool) {
        if self.health.failures == 0 && self.typing.len() < TYPISTS {
            let key = (room_id.clone(), user_id.clone());
            self.typing.insert(key, is);
        }
    }

    /// Returns whether events or to-device messages are waiting.
    pub(super) fn has_letters(&self) -> bool {
        !self.unsent.is_empty() || self.has_messages
    }

    /// Returns whether anything is waiting.
    pub(super) fn has_work(&self) -> bool {
        !self.unsent.is_empty()
            || self.has_messages
            || self.has_lists
            || self.greet
            || !self.receipts.is_empty()
            || !self.typing.is_empty()
            || !self.presence.is_empty()
    }

    /// Returns whether a task must be started to send to the server, and marks it as started.
    pub(super) fn begin(&mut self) -> bool {
        let begins = !self.is_served && self.has_work();
        self.is_served |= begins;
        begins
    }

    /// Returns whether the sending task may end, and marks it as ended.
    pub(super) fn end(&mut self) -> bool {
        if self.has_work() {
            return false;
        }
        self.is_served = false;
        true
    }

    /// Returns whether a transaction may take long, in which case it must not occupy a fast slot.
    pub(super) fn is_slow(&self) -> bool {
        !self.is_quick || self.greet || self.health.failures > 0
    }

    /// Records the duration of a transaction.
    pub(super) fn answered_after(&mut self, time: Duration) {
        self.is_quick = time <= QUICK;
    }

    /// Marks the sending task as ended, even if something is waiting.
    pub(super) fn abandon(&mut self) {
        self.is_served = false;
    }

    /// Records that the server has received a batch. It was sent, unless it was empty.
    pub(super) fn took(&mut self, batch: &Batch) {
        for (room, through) in &batch.through {
            let Some(unsent) = self.unsent.get_mut(room) else {
                continue;
            };
            if unsent.last <= *through {
                self.unsent.remove(room);
            } else {
                unsent.first = unsent.first.max(through + 1);
            }
        }
        self.catches_up &= !self.unsent.is_empty();
        if !batch.is_empty() {
            self.greet = false;
            self.health = Health::default();
        }
        self.is_dirty = true;
    }

    /// Records that the server did not accept a batch, and puts back the items that are still useful.
    pub(super) fn refused(&mut self, batch: Batch, now: i64) {
        self.restore(batch);
        self.typing.clear();
        self.catches_up = true;
        let jitter = f64::from(rand::random::<u16>()) / f64::from(u16::MAX);
        self.health.failed(now, jitter);
        self.is_dirty = true;
    }

    /// Puts back the items of a batch.
    pub(super) fn restore(&mut self, batch: Batch) {
        self.has_messages |= batch.messages.is_some();
        self.has_lists |= !batch.tellings.is_empty();
        for (key, receipt) in batch.receipts {
            self.receipts.entry(key).or_insert(receipt);
        }
        self.presence.extend(batch.presence);
    }

    /// Returns the changes that must be stored for this server, and marks them as stored.
    pub(super) fn take_changes(&mut self, server: &OwnedServerName) -> Option<ToStore> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        let mut to_store = ToStore::default();
        for (room, unsent) in &self.unsent {
            if self.stored.get(room) != Some(&unsent.first) {
                to_store.unsent.push(UnsentRow {
                    server: server.to_string(),
                    room: *room,
                    since: unsent.first,
                });
            }
        }
        let sent = self.stored.keys();
        let sent = sent.filter(|room| !self.unsent.contains_key(room));
        to_store.sent = sent.copied().collect();
        let all = self.unsent.iter();
        self.stored = all.map(|(room, unsent)| (*room, unsent.first)).collect();
        let is_stored = |stored: Health| self.health.is_stored_as(&stored);
        if !self.stored_health.is_some_and(is_stored) {
            to_store.health = Some(DestinationRow {
                server: server.to_string(),
                failures: i64::from(self.health.failures),
                failing_since: self.health.failing_since,
                retry_ts: self.health.retry_at,
            });
            self.stored_health = Some(self.health);
        }
        Some(to_store)
    }

    /// Forgets the stored state, because storing it failed.
    pub(super) fn forget_stored(&mut self, to_store: &ToStore) {
        for room in &to_store.sent {
            self.stored.insert(*room, Position::MAX);
        }
        for row in &to_store.unsent {
            self.stored.insert(row.room, Position::MAX);
        }
        self.stored_health = None;
        self.is_dirty = true;
    }
}

/// The changes that must be stored for a server.
#[derive(Default)]
pub(super) struct ToStore {
    pub(super) unsent: Vec<UnsentRow>,
    /// The rooms of which all events were sent.
    pub(super) sent: Vec<RoomNum>,
    pub(super) health: Option<DestinationRow>,
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::*;

    fn batch(through: &[(RoomNum, Position)]) -> Batch {
        Batch {
            through: through.iter().copied().collect(),
            ..Batch::default()
        }
    }

    #[test]
    fn what_was_said_while_a_batch_was_under_way_waits() {
        let mut state = State::default();
        state.note_event(1, 5);
        state.note_event(2, 6);
        state.note_event(1, 7);

        state.took(&batch(&[(1, 5), (2, 6)]));

        assert_eq!(
            state.unsent,
            BTreeMap::from([(1, Unsent { first: 6, last: 7 })])
        );
        state.took(&batch(&[(1, 7)]));
        assert!(!state.has_work());
    }

    #[test]
    fn ten_thousand_events_for_a_server_that_is_gone_are_one_entry_a_room() {
        let mut state = State::default();
        state.refused(Batch::default(), 5);

        for position in 0..10_000 {
            state.note_event(position % 20, position);
        }

        assert_eq!(state.unsent.len(), 20);
        let server = owned_server_name!("a.example");
        let changes = state.take_changes(&server).expect("something");
        assert_eq!(changes.unsent.len(), 20);
    }

    #[test]
    fn only_what_changed_is_stored() {
        let server = owned_server_name!("a.example");
        let mut state = State::default();
        state.note_event(1, 5);
        state.note_event(2, 6);

        let first = state.take_changes(&server).expect("something");
        assert_eq!((first.unsent.len(), first.health.is_some()), (2, true));
        assert!(state.take_changes(&server).is_none());
        state.took(&batch(&[(1, 5)]));
        state.note_event(2, 7);
        let second = state.take_changes(&server).expect("something");

        assert_eq!((second.unsent.len(), second.sent), (0, vec![1]));
        assert!(second.health.is_none());
    }

    #[test]
    fn a_server_is_left_alone_for_longer_and_longer_up_to_an_hour() {
        let mut health = Health::default();
        let mut pauses = Vec::new();
        for _ in 0..30 {
            health.failed(1_000, 1.0);
            pauses.push(health.retry_at - 1_000);
        }

        assert_eq!(pauses[..4], [1_000, 2_000, 4_000, 8_000]);
        assert_eq!(pauses[29], 3_600_000);
        assert_eq!((health.failures, health.failing_since), (30, 1_000));
    }

    #[test]
    fn a_sign_of_life_ends_the_pause_but_not_again_and_again() {
        let mut health = Health::default();
        assert!(!health.lives(1_000_000), "nobody waits");
        for _ in 0..20 {
            health.failed(1_000_000, 1.0);
        }

        assert!(health.lives(1_000_000));
        assert_eq!(health.retry_at, 1_060_000);
        assert!(!health.lives(1_000_000));
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_no_pause() {
        let mut health = Health::default();
        for _ in 0..20 {
            health.failed(90_000_000, 1.0);
        }

        let now = 1_000_000;
        assert_eq!(health.next_try(now), now + 3_600_000);
        assert!(health.lives(now));
        assert_eq!(health.retry_at, now + 60_000);
        let row = DestinationRow {
            server: "a.example".to_owned(),
            failures: 3,
            failing_since: 90_000_000,
            retry_ts: 90_000_000,
        };
        let stored = Destination::stored(owned_server_name!("a.example"), &row, now);
        assert_eq!(stored.lock().health.retry_at, now + 3_600_000);
    }

    #[test]
    fn who_was_slow_or_is_not_known_is_sent_to_among_the_slow() {
        let mut state = State::default();
        assert!(state.is_slow(), "nobody knows");
        state.answered_after(Duration::from_millis(300));
        assert!(!state.is_slow());

        state.answered_after(Duration::from_secs(59));
        assert!(state.is_slow());
        state.answered_after(Duration::from_secs(1));
        state.refused(Batch::default(), 5);
        assert!(state.is_slow(), "it fails");
    }

    #[test]
    fn nobody_who_fails_is_told_who_types() {
        let mut state = State::default();
        let (room, user) = (ruma::owned_room_id!("!r:a"), ruma::owned_user_id!("@u:a"));
        state.note_typing(&room, &user, true);
        state.refused(Batch::default(), 5);
        state.note_typing(&room, &user, true);

        assert!(state.typing.is_empty());
    }
}
