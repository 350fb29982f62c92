//! The bodies of requests and responses. The part of a request that its handler does not read is discarded.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    BoxError, Error,
    body::{Body, Bytes, HttpBody},
};
use http_body::{Frame, SizeHint};

use super::{
    activity::{ConnectionActivity, OpenRequest, ResponseNum},
    discard::DiscardSender,
    timed_body::TimedBody,
};

/// The size of the chunks that are passed to HTTP/2. The client must take each within the timeout.
const HTTP2_CHUNK_BYTES: usize = 16 * 1024;

/// The body of a request, as passed to its handler.
pub(super) struct RequestBody {
    /// `None` after the end of the body or an error.
    body: Option<TimedBody>,
    rest: Option<RestOfBody>,
}

/// The handling of the part of a body that its handler does not read.
pub(super) struct RestOfBody {
    /// Takes the rest.
    pub(super) sender: DiscardSender,
    /// Keeps the request open until the rest is discarded.
    pub(super) request: Arc<OpenRequest>,
    /// Whether the client waits for `100 Continue`, which the first read sends.
    pub(super) awaits_continue: bool,
}

impl RequestBody {
    /// Wraps a body. Without `rest`, HTTP itself handles what the handler does not read.
    pub(super) fn new(body: TimedBody, rest: Option<RestOfBody>) -> Self {
        Self {
            body: Some(body),
            rest,
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(cx);
        if let Some(rest) = &mut self.rest {
            rest.awaits_continue = false;
        }
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let (Some(body), Some(rest)) = (self.body.take(), self.rest.take()) else {
            return;
        };
        // A client that did not receive `100 Continue` sends no body.
        if !body.is_end_stream() && !rest.awaits_continue {
            rest.sender.discard(body, rest.request);
        }
    }
}

/// The body of a response. Its request counts as open until all of it is written.
pub(super) struct ResponseBody {
    body: Body,
    /// For HTTP/2: the chunks that the client must take.
    chunks: Option<ResponseChunks>,
    _request: Arc<OpenRequest>,
}

/// Splits a response into small chunks. HTTP/2 has its own flow control, so the socket does not show whether a client
/// takes a response. With small chunks, the next one is requested only when the client has room for it.
struct ResponseChunks {
    activity: Arc<ConnectionActivity>,
    response: ResponseNum,
    rest: Bytes,
}

impl ResponseBody {
    /// Wraps a body that is written over HTTP/1.
    pub(super) fn http1(body: Body, request: Arc<OpenRequest>) -> Self {
        Self {
            body,
            chunks: None,
            _request: request,
        }
    }

    /// Wraps a body that is written over HTTP/2.
    pub(super) fn http2(
        body: Body,
        request: Arc<OpenRequest>,
        activity: Arc<ConnectionActivity>,
    ) -> Self {
        let answer = activity.begin_response();
        Self {
            body,
            chunks: Some(ResponseChunks {
                activity,
                response: answer,
                rest: Bytes::new(),
            }),
            _request: request,
        }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Some(chunks) = &mut this.chunks else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        chunks.activity.record_chunks_taken(chunks.response);
        if chunks.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => chunks.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let length = chunks.rest.len().min(HTTP2_CHUNK_BYTES);
        let chunk = chunks.rest.split_to(length);
        chunks.activity.record_chunk_offered(chunks.response);
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        let has_rest = self.chunks.as_ref().is_some_and(|c| !c.rest.is_empty());
        !has_rest && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.chunks.as_ref().map_or(0, |chunks| chunks.rest.len());
        let rest = u64::try_from(rest).unwrap_or(u64::MAX);
        let upper = hint.upper().map(|upper| upper.saturating_add(rest));
        if let Some(upper) = upper {
            hint.set_upper(upper);
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

impl Drop for ResponseChunks {
    fn drop(&mut self) {
        self.activity.record_chunks_taken(self.response);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn http_2_chunks_add_up_to_the_whole_response() {
        let activity = ConnectionActivity::start();
        let request = Arc::new(activity.begin_request(true));
        let text = "0123456789".repeat(10_000);

        let body = ResponseBody::http2(Body::from(text.clone()), request, activity.clone());
        assert_eq!(body.size_hint().exact(), Some(100_000));
        let read = to_bytes(Body::new(body), usize::MAX).await;

        assert_eq!(read.unwrap(), text);
        assert!(activity.unused_since().is_some());
    }
}
