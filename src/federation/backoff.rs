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
const FAILURES_BEFORE_PAUSE: u32 = 3;
/// The first pause, and the longest one. The pause doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_mins(5);
/// The number of servers that are remembered (about 1 MB).
const MAX_SERVERS: usize = 10_000;

/// Remembers servers that do not answer.
pub(super) struct ServerBackoff {
    clock: Clock,
    failures: Mutex<HashMap<OwnedServerName, ServerFailures>>,
}

#[derive(Clone, Copy, Default)]
struct ServerFailures {
    /// The number of failures in a row.
    in_a_row: u32,
    /// The time until which the server is left alone.
    paused_until_ms: i64,
}

impl ServerBackoff {
    pub(super) fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            failures: Mutex::default(),
        }
    }

    /// Returns whether a server may be tried.
    pub(super) fn may_try(&self, server: &ServerName) -> bool {
        let failing = self.lock().get(server).copied().unwrap_or_default();
        failing.paused_until_ms <= self.clock.now_ms()
    }

    /// Records that a server did not answer.
    pub(super) fn record_failure(&self, server: &ServerName) {
        let now = self.clock.now_ms();
        let mut all = self.lock();
        if all.len() >= MAX_SERVERS && !all.contains_key(server) {
            all.retain(|_, failing| failing.paused_until_ms > now);
            if all.len() >= MAX_SERVERS {
                return;
            }
        }
        let failing = all.entry(server.to_owned()).or_default();
        failing.in_a_row = failing.in_a_row.saturating_add(1);
        if let Some(more) = failing.in_a_row.checked_sub(FAILURES_BEFORE_PAUSE) {
            let pause = FIRST_PAUSE.saturating_mul(1 << more.min(16));
            let pause = pause.min(MAX_PAUSE).as_millis();
            failing.paused_until_ms = now.saturating_add(i64::try_from(pause).unwrap_or(i64::MAX));
        }
    }

    /// Records that a server answered, or sent a request itself.
    pub(super) fn record_answer(&self, server: &ServerName) {
        self.lock().remove(server);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OwnedServerName, ServerFailures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn a_server_that_fails_repeatedly_is_paused_until_it_answers() {
        let clock = Clock::manual(1_000_000);
        let backoff = ServerBackoff::new(&clock);
        let server = server_name!("a.example");

        backoff.record_failure(server);
        backoff.record_failure(server);
        assert!(backoff.may_try(server));
        backoff.record_failure(server);
        assert!(!backoff.may_try(server));
        assert!(backoff.may_try(server_name!("b.example")));
        clock.advance(FIRST_PAUSE);
        assert!(backoff.may_try(server));
        for _ in 0..100 {
            backoff.record_failure(server);
        }
        clock.advance(MAX_PAUSE / 2);
        assert!(!backoff.may_try(server));
        backoff.record_answer(server);
        assert!(backoff.may_try(server));
    }
}
