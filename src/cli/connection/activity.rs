//! Tracks the requests on a connection, so that an unused connection is closed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

use crate::config::ConnectionsSection;

/// The activity on one connection. The socket, the requests and the responses report to it.
pub(super) struct ConnectionActivity {
    state: Mutex<ActivityState>,
}

struct ActivityState {
    open_requests: usize,
    is_http2: bool,
    /// The time when the last request finished, or when bytes of its response were last written.
    last_used: Instant,
    /// The time when the client began to send the head of the next request. The first head is expected immediately.
    head_began: Option<Instant>,
    /// For HTTP/2: the time when each response offered the client a chunk that it has not taken yet.
    untaken_chunks: HashMap<ResponseNum, Instant>,
    next_response: ResponseNum,
}

/// The number of a response on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ResponseNum(u64);

/// A request whose response is not complete. The connection stays open while one of these exists.
pub(super) struct OpenRequest {
    activity: Arc<ConnectionActivity>,
}

impl ConnectionActivity {
    /// Starts to track a new connection.
    pub(super) fn start() -> Arc<Self> {
        let now = Instant::now();
        let state = ActivityState {
            open_requests: 0,
            is_http2: false,
            last_used: now,
            head_began: Some(now),
            untaken_chunks: HashMap::new(),
            next_response: ResponseNum(0),
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ActivityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that bytes arrived from the client.
    pub(super) fn record_bytes_read(&self) {
        let mut state = self.lock();
        // HTTP/2 has frames that belong to no request, such as the reply to a ping.
        if state.open_requests == 0 && !state.is_http2 && state.head_began.is_none() {
            state.head_began = Some(Instant::now());
        }
    }

    /// Records that the client's system took bytes.
    pub(super) fn record_bytes_written(&self) {
        let mut state = self.lock();
        if !state.is_http2 {
            state.last_used = Instant::now();
        }
    }

    /// Records that the head of a request is complete.
    pub(super) fn begin_request(self: &Arc<Self>, is_http2: bool) -> OpenRequest {
        let mut state = self.lock();
        state.open_requests += 1;
        state.is_http2 = is_http2;
        state.head_began = None;
        OpenRequest {
            activity: Arc::clone(self),
        }
    }

    /// Returns a number for a response that is about to be written.
    pub(super) fn begin_response(&self) -> ResponseNum {
        let mut state = self.lock();
        let answer = state.next_response;
        state.next_response = ResponseNum(answer.0.wrapping_add(1));
        answer
    }

    /// Records that a chunk of a response waits for the client to take it.
    pub(super) fn record_chunk_offered(&self, answer: ResponseNum) {
        self.lock().untaken_chunks.insert(answer, Instant::now());
    }

    /// Records that the client took all offered chunks of a response.
    pub(super) fn record_chunks_taken(&self, answer: ResponseNum) {
        self.lock().untaken_chunks.remove(&answer);
    }

    /// Returns the time when the connection is to be closed, unless there is activity before.
    pub(super) fn deadline(&self, timeouts: &ConnectionsSection) -> Option<Instant> {
        let state = self.lock();
        let oldest_chunk = state.untaken_chunks.values().min();
        let untaken = oldest_chunk.map(|offered| *offered + timeouts.write_timeout());
        let unused = (state.open_requests == 0).then(|| match state.head_began {
            Some(began) => began + timeouts.head_timeout(),
            None => state.last_used + timeouts.idle_timeout(),
        });
        [untaken, unused].into_iter().flatten().min()
    }

    /// Returns the time since which no request has been open, or `None` if one is open.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.open_requests == 0).then_some(state.last_used)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.open_requests = state.open_requests.saturating_sub(1);
        state.last_used = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn timeouts() -> ConnectionsSection {
        ConnectionsSection::default()
    }

    /// Returns the number of seconds until the connection is closed.
    fn closed_in(activity: &ConnectionActivity) -> Option<u64> {
        let deadline = activity.deadline(&timeouts())?;
        Some((deadline - Instant::now()).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_may_wait_for_one_head() {
        let activity = ConnectionActivity::start();

        tokio::time::advance(Duration::from_secs(10)).await;
        activity.record_bytes_read();

        assert_eq!(closed_in(&activity), Some(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_an_open_request_stays_open() {
        let activity = ConnectionActivity::start();

        let request = activity.begin_request(false);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(closed_in(&activity), None);

        drop(request);
        assert_eq!(closed_in(&activity), Some(75));
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_of_a_head_begins_with_its_first_byte() {
        let activity = ConnectionActivity::start();
        drop(activity.begin_request(false));

        tokio::time::advance(Duration::from_mins(1)).await;
        activity.record_bytes_read();
        tokio::time::advance(Duration::from_secs(10)).await;
        activity.record_bytes_read();

        assert_eq!(closed_in(&activity), Some(20));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_http_2_do_not_begin_a_head() {
        let activity = ConnectionActivity::start();
        drop(activity.begin_request(true));

        tokio::time::advance(Duration::from_mins(1)).await;
        activity.record_bytes_read();
        activity.record_bytes_written();

        assert_eq!(closed_in(&activity), Some(15));
    }

    #[tokio::test(start_paused = true)]
    async fn an_untaken_chunk_closes_the_connection() {
        let activity = ConnectionActivity::start();
        let _request = activity.begin_request(true);
        let answer = activity.begin_response();

        activity.record_chunk_offered(answer);
        assert_eq!(closed_in(&activity), Some(60));

        activity.record_chunks_taken(answer);
        assert_eq!(closed_in(&activity), None);
    }
}
