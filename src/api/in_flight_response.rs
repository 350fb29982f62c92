//! Responses that count as in flight until the connection has taken them.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::{IntoResponse, Response},
};
use http_body::{Frame, SizeHint};

use crate::sync::SendInFlight;

/// The response to a request that sends something. It is in flight until the connection has taken the whole response or
/// has closed.
pub struct InFlightResponse<T>(pub SendInFlight, pub T);

/// The body of such a response. The connection drops it after writing all of it.
struct InFlightBody {
    body: Body,
    _sending: SendInFlight,
}

impl<T: IntoResponse> IntoResponse for InFlightResponse<T> {
    fn into_response(self) -> Response {
        let Self(sending, answer) = self;
        let respond = |body| InFlightBody {
            body,
            _sending: sending,
        };
        answer.into_response().map(respond).map(Body::new)
    }
}

impl HttpBody for InFlightBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
