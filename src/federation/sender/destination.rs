//! The queue for one destination server, and the history of its failures.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use tokio::sync::Notify;

use super::{
    destination_health::DestinationHealth,
    transaction_batch::{ReceiptKey, TransactionBatch, UnsentEvents},
};
use crate::{
    numbers::{Position, RoomNum},
    storage::{
        Receipt,
        federation::outbox::{DestinationRow, UnsentRoomRow},
    },
};

/// The longest duration of a transaction that does not delay others.
const MAX_QUICK_DURATION: Duration = Duration::from_secs(5);
/// The number of receipts, presence updates and typing users that wait for one server.
const MAX_RECEIPTS: usize = 1_000;
const MAX_PRESENCE_UPDATES: usize = 1_000;
const MAX_TYPING_USERS: usize = 200;

/// A server that receives events and EDUs.
pub(super) struct Destination {
    pub(super) server: OwnedServerName,
    state: Mutex<DestinationState>,
    /// Notified when the server shows a sign of life.
    pub(super) contacted: Notify,
}

/// The waiting items, and the health of the server.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each flag concerns a different kind of work"
)]
#[derive(Default)]
pub(super) struct DestinationState {
    /// The rooms with events that were not sent.
    pub(super) unsent: BTreeMap<RoomNum, UnsentEvents>,
    /// The rooms with sticky events that the server may lack, and the positions after which these are.
    pub(super) sticky_events: BTreeMap<RoomNum, Position>,
    /// The stored copy of `unsent`.
    stored_unsent: HashMap<RoomNum, Position>,
    /// Whether to-device messages may be waiting on disk.
    pub(super) has_messages: bool,
    /// Whether device list updates may be waiting on disk.
    pub(super) has_device_lists: bool,
    /// Whether the server must be sent an empty transaction to announce that this server is running again.
    pub(super) announces_restart: bool,
    pub(super) receipts: BTreeMap<ReceiptKey, Arc<Receipt>>,
    pub(super) typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    pub(super) presence: BTreeSet<OwnedUserId>,
    /// Whether it has failed, and not received everything since. Older events of busy rooms are then left out.
    pub(super) is_catching_up: bool,
    pub(super) health: DestinationHealth,
    /// Whether its last transaction was quick; `false` if it has not been sent any.
    is_quick: bool,
    stored_health: Option<DestinationHealth>,
    /// Whether a task is sending to it.
    is_delivering: bool,
    is_dirty: bool,
}

impl Destination {
    pub(super) fn new(server: OwnedServerName) -> Self {
        Self {
            server,
            state: Mutex::new(DestinationState {
                is_dirty: true,
                ..DestinationState::default()
            }),
            contacted: Notify::new(),
        }
    }

    /// Returns a destination as it was stored.
    pub(super) fn from_row(server: OwnedServerName, row: &DestinationRow, now: i64) -> Self {
        let mut health = DestinationHealth {
            failures: u32::try_from(row.failures).unwrap_or(u32::MAX),
            failing_since: row.failing_since,
            retry_at: row.retry_ts,
            last_attempt_at: 0,
        };
        health.limit_pause(now);
        let state = DestinationState {
            announces_restart: health.failures == 0,
            is_catching_up: health.failures > 0,
            health,
            stored_health: Some(health),
            ..DestinationState::default()
        };
        Self {
            server,
            state: Mutex::new(state),
            contacted: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, DestinationState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a sign of life. A server that has failed is tried again soon.
    pub(super) fn record_contact(&self, now: i64) {
        if self.lock().health.record_contact(now) {
            self.contacted.notify_one();
        }
    }
}

impl DestinationState {
    /// Restores the unsent events of a room, which were stored when everything up to `known` had been distributed.
    pub(super) fn restore_unsent(&mut self, row: &UnsentRoomRow, known: Position) {
        let (first, last) = (row.since, known.max(row.since));
        self.unsent.insert(row.room, UnsentEvents { first, last });
        self.stored_unsent.insert(row.room, row.since);
    }

    /// Adds an event of a room to the queue.
    pub(super) fn queue_event(&mut self, room: RoomNum, position: Position) {
        let unsent = self.unsent.entry(room).or_insert(UnsentEvents {
            first: position,
            last: position,
        });
        unsent.last = unsent.last.max(position);
        self.is_dirty = true;
    }

    /// Adds the sticky events of a room after a position to the queue.
    ///
    /// They are not stored: a server that restarts has either distributed the event that caused this, or does so again.
    pub(super) fn queue_sticky_events(&mut self, room: RoomNum, after: Position) {
        let known = self.sticky_events.entry(room).or_insert(after);
        *known = after.min(*known);
    }

    pub(super) fn queue_receipts(&mut self, room_id: &OwnedRoomId, receipts: &[Arc<Receipt>]) {
        for receipt in receipts {
            self.queue_receipt(room_id, receipt);
        }
    }

    fn queue_receipt(&mut self, room_id: &OwnedRoomId, receipt: &Arc<Receipt>) {
        if self.receipts.len() < MAX_RECEIPTS {
            let user_id = receipt.user_id.clone();
            let key = ReceiptKey {
                room_id: room_id.clone(),
                user_id,
                thread: receipt.thread.clone(),
            };
            self.receipts.insert(key, receipt.clone());
        }
    }

    pub(super) fn queue_presence_of_all<'a>(
        &mut self,
        user_ids: impl IntoIterator<Item = &'a OwnedUserId>,
    ) {
        for user_id in user_ids {
            self.queue_presence(user_id);
        }
    }

    pub(super) fn queue_presence(&mut self, user_id: &OwnedUserId) {
        if self.presence.len() < MAX_PRESENCE_UPDATES {
            self.presence.insert(user_id.clone());
        }
    }

    /// Adds a change in typing to the queue. It is not kept for a server that fails, because it would arrive too late.
    pub(super) fn queue_typing(&mut self, room_id: &OwnedRoomId, user_id: &OwnedUserId, is: bool) {
        if self.health.failures == 0 && self.typing.len() < MAX_TYPING_USERS {
            let key = (room_id.clone(), user_id.clone());
            self.typing.insert(key, is);
        }
    }

    /// Returns whether events or to-device messages are waiting.
    pub(super) fn has_durable_items(&self) -> bool {
        !self.unsent.is_empty() || self.has_messages
    }

    /// Returns whether anything is waiting.
    pub(super) fn has_work(&self) -> bool {
        !self.unsent.is_empty()
            || !self.sticky_events.is_empty()
            || self.has_messages
            || self.has_device_lists
            || self.announces_restart
            || !self.receipts.is_empty()
            || !self.typing.is_empty()
            || !self.presence.is_empty()
    }

    /// Returns whether a task must be started to send to the server, and marks it as started.
    pub(super) fn begin_delivery(&mut self) -> bool {
        let begins = !self.is_delivering && self.has_work();
        self.is_delivering |= begins;
        begins
    }

    /// Returns whether the sending task may end, and marks it as ended.
    pub(super) fn end_delivery(&mut self) -> bool {
        if self.has_work() {
            return false;
        }
        self.is_delivering = false;
        true
    }

    /// Returns whether a transaction may take long, in which case it must not occupy a fast slot.
    pub(super) fn is_slow(&self) -> bool {
        !self.is_quick || self.announces_restart || self.health.failures > 0
    }

    /// Records the duration of a transaction.
    pub(super) fn record_duration(&mut self, time: Duration) {
        self.is_quick = time <= MAX_QUICK_DURATION;
    }

    /// Marks the sending task as ended, even if something is waiting.
    pub(super) fn abandon_delivery(&mut self) {
        self.is_delivering = false;
    }

    /// Records that the server has received a batch. It was sent, unless it was empty.
    pub(super) fn record_delivery(&mut self, batch: &TransactionBatch) {
        for (room, through) in &batch.complete_up_to {
            let Some(unsent) = self.unsent.get_mut(room) else {
                continue;
            };
            if unsent.last <= *through {
                self.unsent.remove(room);
            } else {
                unsent.first = unsent.first.max(through.next());
            }
        }
        if let Some(sent) = &batch.sticky_events
            && self.sticky_events.get(&sent.room) == Some(&sent.after)
        {
            match sent.up_to {
                Some(up_to) => self.sticky_events.insert(sent.room, up_to),
                None => self.sticky_events.remove(&sent.room),
            };
        }
        self.is_catching_up &= !self.unsent.is_empty();
        if !batch.is_empty() {
            self.announces_restart = false;
            self.health = DestinationHealth::default();
        }
        self.is_dirty = true;
    }

    /// Records that the server did not accept a batch, and puts back the items that are still useful.
    pub(super) fn record_refusal(&mut self, batch: TransactionBatch, now: i64) {
        self.restore_batch(batch);
        self.typing.clear();
        self.is_catching_up = true;
        let jitter = f64::from(rand::random::<u16>()) / f64::from(u16::MAX);
        self.health.record_failure(now, jitter);
        self.is_dirty = true;
    }

    /// Puts back the items of a batch.
    pub(super) fn restore_batch(&mut self, batch: TransactionBatch) {
        self.has_messages |= batch.messages_up_to.is_some();
        self.has_device_lists |= !batch.device_list_updates.is_empty();
        for queued in batch.receipts {
            self.receipts.entry(queued.key).or_insert(queued.receipt);
        }
        self.presence.extend(batch.presence);
    }

    /// Returns the changes that must be stored for this server, and marks them as stored.
    pub(super) fn take_changes(&mut self, server: &OwnedServerName) -> Option<DestinationChanges> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        let mut to_store = DestinationChanges::default();
        for (room, unsent) in &self.unsent {
            if self.stored_unsent.get(room) != Some(&unsent.first) {
                to_store.unsent.push(UnsentRoomRow {
                    server: server.to_string(),
                    room: *room,
                    since: unsent.first,
                });
            }
        }
        let sent = self.stored_unsent.keys();
        let sent = sent.filter(|room| !self.unsent.contains_key(room));
        to_store.sent = sent.copied().collect();
        let all = self.unsent.iter();
        self.stored_unsent = all.map(|(room, unsent)| (*room, unsent.first)).collect();
        let is_stored = |stored: DestinationHealth| self.health.is_stored_as(&stored);
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
    pub(super) fn forget_stored(&mut self, to_store: &DestinationChanges) {
        for room in &to_store.sent {
            self.stored_unsent.insert(*room, Position::MAX);
        }
        for row in &to_store.unsent {
            self.stored_unsent.insert(row.room, Position::MAX);
        }
        self.stored_health = None;
        self.is_dirty = true;
    }
}

/// The changes that must be stored for a server.
#[derive(Default)]
pub(super) struct DestinationChanges {
    pub(super) unsent: Vec<UnsentRoomRow>,
    /// The rooms of which all events were sent.
    pub(super) sent: Vec<RoomNum>,
    pub(super) health: Option<DestinationRow>,
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::*;
    use crate::federation::sender::transaction_batch::SentStickyEvents;

    fn batch(through: &[(RoomNum, Position)]) -> TransactionBatch {
        TransactionBatch {
            complete_up_to: through.iter().copied().collect(),
            ..TransactionBatch::default()
        }
    }

    #[test]
    fn events_queued_during_a_delivery_are_kept() {
        let mut state = DestinationState::default();
        state.queue_event(RoomNum::new(1), Position::new(5));
        state.queue_event(RoomNum::new(2), Position::new(6));
        state.queue_event(RoomNum::new(1), Position::new(7));

        state.record_delivery(&batch(&[
            (RoomNum::new(1), Position::new(5)),
            (RoomNum::new(2), Position::new(6)),
        ]));

        assert_eq!(
            state.unsent,
            BTreeMap::from([(
                RoomNum::new(1),
                UnsentEvents {
                    first: Position::new(6),
                    last: Position::new(7)
                }
            )])
        );
        state.record_delivery(&batch(&[(RoomNum::new(1), Position::new(7))]));
        assert!(!state.has_work());
    }

    #[test]
    fn sticky_events_queued_during_a_delivery_are_kept() {
        let room = RoomNum::new(1);
        let sent = |after: i64, up_to: Option<i64>| TransactionBatch {
            sticky_events: Some(SentStickyEvents {
                room,
                after: Position::new(after),
                up_to: up_to.map(Position::new),
            }),
            ..TransactionBatch::default()
        };
        let mut state = DestinationState::default();
        state.queue_sticky_events(room, Position::new(5));
        state.record_delivery(&sent(5, Some(9)));
        assert_eq!(state.sticky_events.get(&room), Some(&Position::new(9)));

        state.queue_sticky_events(room, Position::new(2));
        state.record_delivery(&sent(9, None));
        assert_eq!(state.sticky_events.get(&room), Some(&Position::new(2)));
        state.record_delivery(&sent(2, None));
        assert!(!state.has_work());
    }

    #[test]
    fn the_queue_has_one_entry_for_each_room() {
        let mut state = DestinationState::default();
        state.record_refusal(TransactionBatch::default(), 5);

        for position in 0..10_000 {
            state.queue_event(RoomNum::new(position % 20), Position::new(position));
        }

        assert_eq!(state.unsent.len(), 20);
        let server = owned_server_name!("a.example");
        let changes = state.take_changes(&server).expect("something");
        assert_eq!(changes.unsent.len(), 20);
    }

    #[test]
    fn only_changed_entries_are_stored() {
        let server = owned_server_name!("a.example");
        let mut state = DestinationState::default();
        state.queue_event(RoomNum::new(1), Position::new(5));
        state.queue_event(RoomNum::new(2), Position::new(6));

        let first = state.take_changes(&server).expect("something");
        assert_eq!((first.unsent.len(), first.health.is_some()), (2, true));
        assert!(state.take_changes(&server).is_none());
        state.record_delivery(&batch(&[(RoomNum::new(1), Position::new(5))]));
        state.queue_event(RoomNum::new(2), Position::new(7));
        let second = state.take_changes(&server).expect("something");

        assert_eq!(
            (second.unsent.len(), second.sent),
            (0, vec![RoomNum::new(1)])
        );
        assert!(second.health.is_none());
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_no_pause() {
        let mut health = DestinationHealth::default();
        for _ in 0..20 {
            health.record_failure(90_000_000, 1.0);
        }

        let now = 1_000_000;
        assert_eq!(health.next_attempt(now), now + 3_600_000);
        assert!(health.record_contact(now));
        assert_eq!(health.retry_at, now + 60_000);
        let row = DestinationRow {
            server: "a.example".to_owned(),
            failures: 3,
            failing_since: 90_000_000,
            retry_ts: 90_000_000,
        };
        let stored = Destination::from_row(owned_server_name!("a.example"), &row, now);
        assert_eq!(stored.lock().health.retry_at, now + 3_600_000);
    }

    #[test]
    fn slow_failing_or_unknown_servers_count_as_slow() {
        let mut state = DestinationState::default();
        assert!(state.is_slow(), "nobody knows");
        state.record_duration(Duration::from_millis(300));
        assert!(!state.is_slow());

        state.record_duration(Duration::from_secs(59));
        assert!(state.is_slow());
        state.record_duration(Duration::from_secs(1));
        state.record_refusal(TransactionBatch::default(), 5);
        assert!(state.is_slow(), "it fails");
    }

    #[test]
    fn typing_is_not_queued_for_a_failing_server() {
        let mut state = DestinationState::default();
        let (room, user) = (ruma::owned_room_id!("!r:a"), ruma::owned_user_id!("@u:a"));
        state.queue_typing(&room, &user, true);
        state.record_refusal(TransactionBatch::default(), 5);
        state.queue_typing(&room, &user, true);

        assert!(state.typing.is_empty());
    }
}
