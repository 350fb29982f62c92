//! The size limits for other servers' answers about keys: per client request, and for all running requests together.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::federation::{RequestFailure, RequestLimits};

/// The longest time that a client may wait for other servers.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer of a server: a base, plus an amount for each queried user, or for each device with a claimed
/// one-time key.
const BASE_ANSWER_BYTES: usize = 256 * 1024;
pub(super) const BYTES_PER_USER: usize = 256 * 1024;
pub(super) const BYTES_PER_KEY: usize = 16 * 1024;
/// The largest answer, and the largest total size of the answers for one client request: sufficient for a thousand
/// users with ten devices each.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// The total size of all answers in progress: 128 MB.
const TOTAL_ANSWERS_KIB: usize = 128 * 1024;

/// The memory that is available for answers.
pub(super) struct AnswerMemory {
    free_kib: Semaphore,
}

impl Default for AnswerMemory {
    fn default() -> Self {
        Self {
            free_kib: Semaphore::new(TOTAL_ANSWERS_KIB),
        }
    }
}

impl AnswerMemory {
    /// Runs a request as soon as there is memory for its answer. The memory is released when the returned permit is
    /// dropped.
    pub(super) async fn run_request<T>(
        &self,
        allowance: RequestLimits,
        asking: impl Future<Output = Result<T, RequestFailure>>,
    ) -> (Result<T, RequestFailure>, Option<SemaphorePermit<'_>>) {
        let kib = u32::try_from(allowance.bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let room = timeout(allowance.time, self.free_kib.acquire_many(kib)).await;
        let Some(room) = room.ok().and_then(Result::ok) else {
            let failure =
                RequestFailure::Unreachable("too many requests for keys are running".to_owned());
            return (Err(failure), None);
        };
        (asking.await, Some(room))
    }
}

/// The remaining size of the answers to one client request.
pub(super) struct AnswerBudget {
    bytes_left: usize,
}

impl AnswerBudget {
    /// Returns the budget for answers of these largest sizes.
    pub(super) fn for_answers(answers: impl Iterator<Item = usize>) -> Self {
        let all = answers.fold(0, usize::saturating_add);
        Self {
            bytes_left: all.min(MAX_ANSWER_BYTES),
        }
    }

    /// Returns the budget for stored lists.
    pub(super) fn for_stored_lists() -> Self {
        Self {
            bytes_left: MAX_ANSWER_BYTES,
        }
    }

    /// Accepts an answer of a size, unless the total would exceed the budget.
    pub(super) fn accept<T>(&mut self, answer: T, bytes: usize) -> Result<T, RequestFailure> {
        let left = self.bytes_left.checked_sub(bytes);
        let too_much = || RequestFailure::Unreachable("the answers are too large".to_owned());
        self.bytes_left = left.ok_or_else(too_much)?;
        Ok(answer)
    }
}

/// Returns the size limit of an answer with a number of items of a size.
pub(super) fn max_answer_bytes(count: usize, each: usize) -> usize {
    let all = count.saturating_mul(each).saturating_add(BASE_ANSWER_BYTES);
    all.min(MAX_ANSWER_BYTES)
}

/// Returns the limits of a request to another server on behalf of a client.
pub(super) fn request_limits(timeout: Option<Duration>, bytes: usize) -> RequestLimits {
    RequestLimits {
        time: timeout
            .unwrap_or(RequestLimits::QUICK_RESPONSE.time)
            .min(MAX_TIMEOUT),
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_answers_share_the_limit_of_the_largest() {
        let one = max_answer_bytes(2, BYTES_PER_USER);
        assert_eq!(one, BASE_ANSWER_BYTES + 2 * BYTES_PER_USER);
        assert_eq!(
            max_answer_bytes(1_000_000, BYTES_PER_USER),
            MAX_ANSWER_BYTES
        );

        let mut few = AnswerBudget::for_answers([one, one].into_iter());
        assert!(few.accept((), 2 * one).is_ok());
        assert!(few.accept((), 1).is_err());
        let mut many = AnswerBudget::for_answers(std::iter::repeat_n(one, 1_000));
        assert!(many.accept((), MAX_ANSWER_BYTES + 1).is_err());
        assert!(many.accept((), MAX_ANSWER_BYTES).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_memory_until_its_timeout() {
        let answers = AnswerMemory::default();
        let large = request_limits(None, MAX_ANSWER_BYTES);
        let answer = || async { Ok(()) };
        let mut running = Vec::new();
        for _ in 0..TOTAL_ANSWERS_KIB * 1024 / MAX_ANSWER_BYTES {
            running.push(answers.run_request(large, answer()).await);
        }
        assert!(running.iter().all(|(answer, _)| answer.is_ok()));

        let (refused, _) = answers.run_request(large, answer()).await;
        running.pop();
        let (answer, _room) = answers.run_request(large, answer()).await;

        assert!(refused.is_err());
        assert!(answer.is_ok());
    }
}
