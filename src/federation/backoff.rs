//! Servers that have recently failed to answer, and are left alone for a while. Kept in memory; used by requests that
//! wait for an answer.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

use crate::clock::Clock;

/// The number of failures in a row after which a server is left alone: one or two can happen to any server.
const PATIENCE: u32 = 3;
/// The first pause, and the longest one. The pause doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// The number of servers that are remembered (about 1 MB).
const SERVERS: usize = 10_000;

/// Remembers servers that do not answer.
pub(super) struct Backoff {
    clock: Clock,
    failing: Mutex<HashMap<OwnedServerName, Failing>>,
}

#[derive(Clone, Copy, Default)]
struct Failing {
    /// The number of failures in a row.
    times: u32,
    /// The time until which the server is left alone.
    until_ms: i64,
}

impl Backoff {
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            failing: Mutex::default(),
        }
    }

    /// Returns whether a server may be tried.
    pub(super) fn may_try(&self, server: &ServerName) -> bool {
        let failing = self.lock().get(server).copied().unwrap_or_default();
        failing.until_ms <= self.clock.now_ms()
    }

    /// Records that a server did not answer.
    pub(super) fn failed(&self, server: &ServerName) {
        let now = self.clock.now_ms();
        let mut all = self.lock();
        if all.len() >= SERVERS && !all.contains_key(server) {
            all.retain(|_, failing| failing.until_ms > now);
            if all.len() >= SERVERS {
                return;
            }
        }
        let failing = all.entry(server.to_owned()).or_default();
        failing.times = failing.times.saturating_add(1);
        if let Some(more) = failing.times.checked_sub(PATIENCE) {
            let pause = FIRST_PAUSE.saturating_mul(1 << more.min(16));
            let pause = pause.min(LONGEST_PAUSE).as_millis();
            failing.until_ms = now.saturating_add(i64::try_from(pause).unwrap_or(i64::MAX));
        }
    }

    /// Records that a server answered, or sent a request itself.
    pub(super) fn answered(&self, server: &ServerName) {
        self.lock().remove(server);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OwnedServerName, Failing>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn a_server_that_fails_again_and_again_is_left_alone_until_it_shows_life() {
        let clock = Clock::manual(1_000_000);
        let backoff = Backoff::new(&clock);
        let server = server_name!("a.example");

        backoff.failed(server);
        backoff.failed(server);
        assert!(backoff.may_try(server));
        backoff.failed(server);
        assert!(!backoff.may_try(server));
        assert!(backoff.may_try(server_name!("b.example")));
        clock.advance(FIRST_PAUSE);
        assert!(backoff.may_try(server));
        for _ in 0..100 {
            backoff.failed(server);
        }
        clock.advance(LONGEST_PAUSE / 2);
        assert!(!backoff.may_try(server));
        backoff.answered(server);
        assert!(backoff.may_try(server));
    }
}
