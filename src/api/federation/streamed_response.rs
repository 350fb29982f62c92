//! Responses with many events. They are written in pieces, so that a whole response is never in memory.

use std::collections::VecDeque;

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use futures_util::stream;
use ruma::{OwnedEventId, OwnedServerName, ServerName};

use crate::{
    error::Result,
    rooms::{Rooms, StateAnswerTurn},
};

/// The number of events that are read and written at the same time, of 64 KiB at most each.
const EVENTS_PER_CHUNK: usize = 100;

/// A response that is written in pieces.
pub(super) struct StreamedResponse {
    rooms: Rooms,
    /// The server that sent the request.
    server: OwnedServerName,
    pieces: VecDeque<ResponsePiece>,
    /// Whether the current list already contains an event.
    has_events: bool,
    /// The permit of that server, which limits its large requests.
    _turn: StateAnswerTurn,
}

enum ResponsePiece {
    Text(String),
    Events(Vec<OwnedEventId>),
}

impl StreamedResponse {
    /// Begins a response with events of these rooms, as soon as the server has a permit for a large request.
    ///
    /// # Errors
    ///
    /// As [`crate::rooms::FederationReader::wait_for_answer_turn`].
    pub(super) async fn begin(rooms: &Rooms, server: &ServerName) -> Result<Self> {
        Ok(Self {
            rooms: rooms.clone(),
            server: server.to_owned(),
            pieces: VecDeque::new(),
            has_events: false,
            _turn: rooms.federation.wait_for_answer_turn(server).await?,
        })
    }

    /// Adds JSON text to the response.
    pub(super) fn push_text(&mut self, text: impl Into<String>) {
        self.pieces.push_back(ResponsePiece::Text(text.into()));
    }

    /// Adds a list of events. Events that are not stored are left out.
    pub(super) fn push_events(&mut self, ids: &[OwnedEventId]) {
        self.push_text("[");
        let chunks = ids.chunks(EVENTS_PER_CHUNK);
        let chunks = chunks.map(|chunk| ResponsePiece::Events(chunk.to_vec()));
        self.pieces.extend(chunks);
        self.push_text("]");
    }

    /// Adds a list of event ids.
    pub(super) fn push_ids(&mut self, ids: &[OwnedEventId]) -> Result<()> {
        self.push_text(serde_json::to_string(ids)?);
        Ok(())
    }

    /// Returns the response. Its pieces are made while the body is read.
    pub(super) fn into_response(self) -> Response {
        let written = stream::unfold(self, |mut writing: Self| async move {
            let piece = writing.pieces.pop_front()?;
            let bytes = writing.write_piece(piece).await;
            if bytes.is_err() {
                // The response breaks off, so that the receiver notices that it is incomplete.
                writing.pieces.clear();
            }
            Some((bytes, writing))
        });
        let mut response = Response::new(Body::from_stream(written));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }

    async fn write_piece(&mut self, piece: ResponsePiece) -> Result<Bytes> {
        let ids = match piece {
            ResponsePiece::Text(text) => {
                self.has_events = false;
                return Ok(text.into());
            }
            ResponsePiece::Events(ids) => ids,
        };
        let mut text = String::new();
        for event in self
            .rooms
            .federation
            .load_events_for_server(&self.server, &ids)
            .await?
        {
            if self.has_events {
                text.push(',');
            }
            text.push_str(event.get());
            self.has_events = true;
        }
        Ok(text.into())
    }
}
