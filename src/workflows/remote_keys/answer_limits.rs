//! The size limits for other servers' answers about keys: per client request, and for all running requests together.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::federation::{Allowance, Failure};

/// The longest time that a client may wait for other servers.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer of a server: a base, plus an amount for each queried user, or for each device with a claimed
/// one-time key.
const ANSWER_BYTES: usize = 256 * 1024;
pub(super) const USER_BYTES: usize = 256 * 1024;
pub(super) const KEY_BYTES: usize = 16 * 1024;
/// The largest answer, and the largest total size of the answers for one client request: sufficient for a thousand
/// users with ten devices each.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// The total size of all answers in progress: 128 MB.
const UNDER_WAY_KIB: usize = 128 * 1024;

/// The memory that is available for answers.
pub(in crate::workflows) struct Answers {
    kib: Semaphore,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            kib: Semaphore::new(UNDER_WAY_KIB),
        }
    }
}

impl Answers {
    /// Runs a request as soon as there is memory for its answer. The memory is released when the returned permit is
    /// dropped.
    pub(super) async fn ask<T>(
        &self,
        allowance: Allowance,
        asking: impl Future<Output = Result<T, Failure>>,
    ) -> (Result<T, Failure>, Option<SemaphorePermit<'_>>) {
        let kib = u32::try_from(allowance.bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let room = timeout(allowance.time, self.kib.acquire_many(kib)).await;
        let Some(room) = room.ok().and_then(Result::ok) else {
            let failure = Failure::Unreachable("too many requests for keys are running".to_owned());
            return (Err(failure), None);
        };
        (asking.await, Some(room))
    }
}

/// The remaining size of the answers to one client request.
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    /// Returns the budget for answers of these largest sizes.
    pub(super) fn of(answers: impl Iterator<Item = usize>) -> Self {
        let all = answers.fold(0, usize::saturating_add);
        Self {
            left: all.min(MAX_BYTES),
        }
    }

    /// Returns the budget for stored lists.
    pub(super) fn of_known() -> Self {
        Self { left: MAX_BYTES }
    }

    /// Accepts an answer of a size, unless the total would exceed the budget.
    pub(super) fn take<T>(&mut self, answer: T, bytes: usize) -> Result<T, Failure> {
        let left = self.left.checked_sub(bytes);
        let too_much = || Failure::Unreachable("the answers are too large".to_owned());
        self.left = left.ok_or_else(too_much)?;
        Ok(answer)
    }
}

/// Returns the size limit of an answer with a number of items of a size.
pub(super) fn bytes_for(count: usize, each: usize) -> usize {
    let all = count.saturating_mul(each).saturating_add(ANSWER_BYTES);
    all.min(MAX_BYTES)
}

/// Returns the limits of a request to another server on behalf of a client.
pub(super) fn allowance(timeout: Option<Duration>, bytes: usize) -> Allowance {
    Allowance {
        time: timeout.unwrap_or(Allowance::QUICK.time).min(MAX_TIMEOUT),
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_answers_have_no_more_together_than_the_largest_one() {
        let one = bytes_for(2, USER_BYTES);
        assert_eq!(one, ANSWER_BYTES + 2 * USER_BYTES);
        assert_eq!(bytes_for(1_000_000, USER_BYTES), MAX_BYTES);

        let mut few = Budget::of([one, one].into_iter());
        assert!(few.take((), 2 * one).is_ok());
        assert!(few.take((), 1).is_err());
        let mut many = Budget::of(std::iter::repeat_n(one, 1_000));
        assert!(many.take((), MAX_BYTES + 1).is_err());
        assert!(many.take((), MAX_BYTES).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_room_no_longer_than_it_may_take() {
        let answers = Answers::default();
        let large = allowance(None, MAX_BYTES);
        let mut held = Vec::new();
        for _ in 0..UNDER_WAY_KIB * 1024 / MAX_BYTES {
            held.push(answers.ask(large, async { Ok(()) }).await);
        }
        assert!(held.iter().all(|(answer, _)| answer.is_ok()));

        let (refused, _) = answers.ask(large, async { Ok(()) }).await;
        held.pop();
        let (answer, _room) = answers.ask(large, async { Ok(()) }).await;

        assert!(refused.is_err());
        assert!(answer.is_ok());
    }
}
