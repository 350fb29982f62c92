//! Reads and discards the bodies of requests that are answered before their end, as nginx's `lingering_close` does.
//!
//! Many clients read an answer only after they have written their whole request. If the connection closed earlier, they
//! would see a broken connection in place of the answer. HTTP/2 needs none of this: there the server tells the client
//! to send no more of one request.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use axum::body::Body;
use futures_util::StreamExt;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{activity::OpenRequest, body::TimedBody};

/// The bytes of one body that are discarded in addition to the size of the largest body that the server takes.
const EXTRA_BYTES: u64 = 64 * 1024 * 1024;
/// How long the bytes of one body are discarded. A connection may be open for as long without any request.
const DISCARD_TIMEOUT: Duration = Duration::from_mins(1);
/// The bodies that wait to be discarded: over HTTP/1, a connection has one at a time.
const MAX_WAITING: usize = 1;

/// The rest of a body that a handler has not read. Its request counts as open until the rest is discarded.
struct UnreadBody {
    body: TimedBody,
    _request: Arc<OpenRequest>,
}

/// Takes the bodies of one connection that are to be discarded.
#[derive(Clone)]
pub(super) struct DiscardSender(Sender<UnreadBody>);

/// Discards the bodies of one connection.
pub(super) struct Discarder {
    unread: Receiver<UnreadBody>,
    max_bytes: u64,
    stopping: CancellationToken,
}

impl DiscardSender {
    /// Has the rest of a body discarded.
    pub(super) fn discard(&self, body: TimedBody, request: Arc<OpenRequest>) {
        // A body that is dropped instead closes its connection.
        let _ = self.0.try_send(UnreadBody {
            body,
            _request: request,
        });
    }
}

impl Discarder {
    /// Returns a discarder for one connection; `largest_body` is the size of the largest body that the server takes.
    pub(super) fn new(largest_body: u64, stopping: CancellationToken) -> (DiscardSender, Self) {
        let (sender, unread) = channel(MAX_WAITING);
        let discarder = Self {
            unread,
            max_bytes: largest_body.saturating_add(EXTRA_BYTES),
            stopping,
        };
        (DiscardSender(sender), discarder)
    }

    /// Discards one body after the other, as long as the connection is served.
    pub(super) async fn run(mut self) -> Infallible {
        while let Some(UnreadBody { body, _request }) = self.unread.recv().await {
            let discarding = discard(Body::new(body), self.max_bytes);
            let whole = self.stopping.run_until_cancelled(discarding).await;
            if whole != Some(true) {
                tracing::debug!("gave up a body that nobody reads");
            }
        }
        pending().await
    }
}

/// Discards a body, and returns whether it came to its end. A body that is given up closes its connection.
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

    /// Returns a body of chunks of 10 bytes, each a second after the one before.
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
    async fn a_body_that_is_too_large_is_given_up() {
        assert!(!discard(slow_body(50), 499).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_takes_too_long_is_given_up() {
        assert!(!discard(slow_body(61), 1000).await);
    }
}
