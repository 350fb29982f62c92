//! The state of an e-mail pusher: when the next digest is due, and when the last one was sent.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    numbers::{Position, UserNum},
    storage::users::pushers::{DigestTimes, PusherRow},
};

/// The time after the first unread message at which the digest is due, in milliseconds. Someone who is there reads the
/// message within this time.
const QUIET_TIME_MS: i64 = 10 * 60 * 1000;
/// The shortest time between two digests, in milliseconds.
const MIN_INTERVAL_MS: i64 = 6 * 60 * 60 * 1000;

/// An e-mail pusher.
pub(super) struct EmailDigest {
    pub(super) user: UserNum,
    pub(super) app_id: String,
    pub(super) pushkey: String,
    /// The pusher as JSON, as it is stored.
    json: String,
    state: Mutex<DigestState>,
}

struct DigestState {
    /// Events up to here were handled before the pusher was loaded.
    handled_before_start: Position,
    times: DigestTimes,
    /// The times that are stored; `None` when they must be stored in any case.
    stored_times: Option<DigestTimes>,
    /// Whether a message arrived since the last digest was begun.
    is_unread_again: bool,
    /// Whether a task waits until the digest is due.
    is_waiting: bool,
    is_closed: bool,
}

impl EmailDigest {
    /// Returns the state of a stored pusher. Events up to `distributed` were handled, unless the pusher says otherwise.
    pub(super) fn new(row: PusherRow, distributed: Position) -> Self {
        let times = DigestTimes {
            due_ts: row.digest_due_ts,
            sent_ts: row.digest_sent_ts,
        };
        Self {
            user: row.user_num,
            app_id: row.app_id,
            pushkey: row.pushkey,
            json: row.pusher,
            state: Mutex::new(DigestState {
                handled_before_start: row.unsent_after.unwrap_or(distributed),
                times,
                // The position with which a new pusher begins is removed when the times are stored.
                stored_times: row.unsent_after.is_none().then_some(times),
                is_unread_again: false,
                is_waiting: false,
                is_closed: false,
            }),
        }
    }

    /// Returns whether this is the state of a stored pusher.
    pub(super) fn is_for(&self, row: &PusherRow) -> bool {
        (&self.app_id, &self.pushkey, &self.json) == (&row.app_id, &row.pushkey, &row.pusher)
    }

    /// Records that there is an unread message. Returns whether a task must be started that waits for the digest.
    pub(super) fn add_unread(&self, position: Position, now: i64) -> bool {
        let mut state = self.lock();
        if state.is_closed || position <= state.handled_before_start {
            return false;
        }
        state.is_unread_again = true;
        if state.times.due_ts.is_none() {
            state.set_due(now);
        }
        state.begin_waiting()
    }

    /// Returns whether a task must be started that waits for a digest that was due after the last start.
    pub(super) fn resume(&self) -> bool {
        let mut state = self.lock();
        state.times.due_ts.is_some() && state.begin_waiting()
    }

    /// Returns the time at which the digest is due. `None` ends the task that waits for it.
    pub(super) fn due_ts(&self) -> Option<i64> {
        let mut state = self.lock();
        let due_ts = state.times.due_ts.filter(|_| !state.is_closed);
        state.is_waiting = due_ts.is_some();
        due_ts
    }

    /// Begins to send the digest. Returns `false` if the pusher was removed.
    pub(super) fn begin_sending(&self) -> bool {
        let mut state = self.lock();
        state.is_unread_again = false;
        !state.is_closed
    }

    /// Records that the digest was sent, or that there was nothing to send. A message that arrived in between sets the
    /// time of the next one.
    pub(super) fn finish(&self, sent_ts: Option<i64>, now: i64) {
        let mut state = self.lock();
        state.times = DigestTimes {
            due_ts: None,
            sent_ts: sent_ts.or(state.times.sent_ts),
        };
        if state.is_unread_again {
            state.set_due(now);
        }
    }

    /// Ends the digests: the pusher was removed or replaced.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    /// Returns the times, if they are not those that are stored.
    pub(super) fn times_to_store(&self) -> Option<DigestTimes> {
        let state = self.lock();
        (!state.is_closed && state.stored_times != Some(state.times)).then_some(state.times)
    }

    /// Records that the times were stored.
    pub(super) fn set_stored_times(&self, times: DigestTimes) {
        self.lock().stored_times = Some(times);
    }

    fn lock(&self) -> MutexGuard<'_, DigestState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DigestState {
    fn set_due(&mut self, now: i64) {
        let due_ts = now.saturating_add(QUIET_TIME_MS);
        let earliest = self.times.sent_ts;
        let earliest = earliest.map_or(due_ts, |ts| ts.saturating_add(MIN_INTERVAL_MS));
        self.times.due_ts = Some(due_ts.max(earliest));
    }

    fn begin_waiting(&mut self) -> bool {
        !self.is_closed && !std::mem::replace(&mut self.is_waiting, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::DeviceNum;

    fn digest(sent_ts: Option<i64>) -> EmailDigest {
        let row = PusherRow {
            user_num: UserNum::new(1),
            user_id: "@a:b".to_owned(),
            app_id: "m.email".to_owned(),
            pushkey: "a@b".to_owned(),
            pusher: "{}".to_owned(),
            unsent_after: None,
            digest_due_ts: None,
            digest_sent_ts: sent_ts,
            is_enabled: true,
            activation_token: None,
            activation_expires_ts: None,
            device: DeviceNum::new(1),
            device_id: "PHONE".to_owned(),
        };
        EmailDigest::new(row, Position::new(5))
    }

    #[test]
    fn the_first_unread_message_sets_the_time() {
        let digest = digest(None);

        assert!(!digest.add_unread(Position::new(5), 1_000));
        assert!(digest.add_unread(Position::new(6), 1_000));
        assert!(!digest.add_unread(Position::new(7), 2_000));

        assert_eq!(digest.due_ts(), Some(1_000 + QUIET_TIME_MS));
        assert!(digest.begin_sending());
        digest.finish(Some(9_000), 9_000);
        assert_eq!(digest.due_ts(), None);
    }

    #[test]
    fn a_message_that_arrives_during_sending_is_in_the_next_digest() {
        let digest = digest(None);
        digest.add_unread(Position::new(6), 1_000);

        digest.begin_sending();
        digest.add_unread(Position::new(7), 2_000);
        digest.finish(None, 3_000);

        assert_eq!(digest.due_ts(), Some(3_000 + QUIET_TIME_MS));
    }

    #[test]
    fn there_are_hours_between_two_digests() {
        let digest = digest(Some(1_000));

        digest.add_unread(Position::new(6), 2_000);

        assert_eq!(digest.due_ts(), Some(1_000 + MIN_INTERVAL_MS));
        digest.close();
        assert_eq!(digest.due_ts(), None);
    }
}
