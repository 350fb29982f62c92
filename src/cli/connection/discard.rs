//! Reads and discards the rest of requests that are answered before their body ends, like nginx's `lingering_close`.
//!
//! Many clients read a response only after writing their whole request. If the connection closed earlier, they would
//! see a connection error instead of the response. HTTP/2 does not need this: the server can ask the client to stop
//! sending one request.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use axum::body::Body;
use futures_util::StreamExt;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{activity::OpenRequest, timed_body::TimedBody};

/// The number of bytes of one body that are discarded beyond the maximum body size.
const MAX_EXTRA_BYTES: u64 = 64 * 1024 * 1024;
/// The time for which one body is discarded. A connection may be open that long without a request.
const DISCARD_TIMEOUT: Duration = Duration::from_mins(1);
/// The number of bodies that may wait to be discarded. Over HTTP/1, a connection has at most one.
const MAX_WAITING_BODIES: usize = 1;

/// The rest of a body that a handler has not read. Its request counts as open until the rest is discarded.
struct UnreadBody {
    body: TimedBody,
    _request: Arc<OpenRequest>,
}

/// Receives the bodies of one connection that will be discarded.
#[derive(Clone)]
pub(super) struct DiscardSender(Sender<UnreadBody>);

/// Discards the bodies of one connection.
pub(super) struct BodyDiscarder {
    unread: Receiver<UnreadBody>,
    max_bytes: u64,
    stopping: CancellationToken,
}

impl DiscardSender {
    /// Queues the rest of a body to be discarded.
    pub(super) fn discard(&self, body: TimedBody, request: Arc<OpenRequest>) {
        // If the queue is full, the body is dropped, which closes its connection.
        let _ = self.0.try_send(UnreadBody {
            body,
            _request: request,
        });
    }
}

impl BodyDiscarder {
    /// Returns a discarder for one connection. `largest_body` is the maximum body size of the server.
    pub(super) fn new(largest_body: u64, stopping: CancellationToken) -> (DiscardSender, Self) {
        let (sender, unread) = channel(MAX_WAITING_BODIES);
        let discarder = Self {
            unread,
            max_bytes: largest_body.saturating_add(MAX_EXTRA_BYTES),
            stopping,
        };
        (DiscardSender(sender), discarder)
    }

    /// Discards one body after another while the connection is served.
    pub(super) async fn run(mut self) -> Infallible {
        while let Some(UnreadBody { body, _request }) = self.unread.recv().await {
            let discarding = discard(Body::new(body), self.max_bytes);
            let whole = self.stopping.run_until_cancelled(discarding).await;
            if whole != Some(true) {
                tracing::debug!("stopped discarding an unread request body");
            }
        }
        pending().await
    }
}

/// Discards a body, and returns whether its end was reached. If not, its connection is closed.
async fn discard(body: Body, max_bytes: u64) -> bool {
    let discarding = async {
        let mut chunks = body.into_data_stream();
        let mut discarded = 0_u64;
        while let Some(chunk) = chunks.next().await {
            let Ok(chunk) = chunk else { return false };
            let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            discarded = discarded.saturating_add(bytes);
            if discarded > max_bytes {
                return false;
            }
        }
        true
    };
    timeout(DISCARD_TIMEOUT, discarding).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use axum::{BoxError, body::Bytes};
    use futures_util::stream;

    use super::*;

    /// Returns a body of 10-byte chunks, with one second between them.
    fn slow_body(chunks: usize) -> Body {
        let chunk = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, BoxError>(Bytes::from_static(b"0123456789"))
        };
        Body::from_stream(stream::repeat_with(chunk).take(chunks).then(|chunk| chunk))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_discarded_to_its_end() {
        assert!(discard(slow_body(50), 500).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_too_large_body_is_not_discarded_to_its_end() {
        assert!(!discard(slow_body(50), 499).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_too_slow_body_is_not_discarded_to_its_end() {
        assert!(!discard(slow_body(61), 1000).await);
    }
}
