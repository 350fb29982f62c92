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
    rooms::{Rooms, TurnToBeTold},
};

/// The number of events that are read and written at the same time, of 64 KiB at most each.
const EVENTS: usize = 100;

/// A response that is written in pieces.
pub(super) struct Writing {
    rooms: Rooms,
    /// The server that sent the request.
    server: OwnedServerName,
    pieces: VecDeque<Piece>,
    /// Whether the current list already contains an event.
    has_events: bool,
    /// The permit of that server, which limits its large requests.
    _turn: TurnToBeTold,
}

enum Piece {
    Text(String),
    Events(Vec<OwnedEventId>),
}

impl Writing {
    /// Begins a response with events of these rooms, for a server that has a permit for large requests.
    pub(super) fn new(rooms: &Rooms, server: &ServerName, turn: TurnToBeTold) -> Self {
        Self {
            rooms: rooms.clone(),
            server: server.to_owned(),
            pieces: VecDeque::new(),
            has_events: false,
            _turn: turn,
        }
    }

    /// Adds JSON text to the response.
    pub(super) fn text(&mut self, text: impl Into<String>) {
        self.pieces.push_back(Piece::Text(text.into()));
    }

    /// Adds a list of events. Events that are not stored are left out.
    pub(super) fn events(&mut self, ids: &[OwnedEventId]) {
        self.text("[");
        let chunks = ids.chunks(EVENTS);
        let chunks = chunks.map(|chunk| Piece::Events(chunk.to_vec()));
        self.pieces.extend(chunks);
        self.text("]");
    }

    /// Adds a list of event ids.
    pub(super) fn ids(&mut self, ids: &[OwnedEventId]) -> Result<()> {
        self.text(serde_json::to_string(ids)?);
        Ok(())
    }

    /// Returns the response. Its pieces are made while the body is read.
    pub(super) fn into_response(self) -> Response {
        let written = stream::unfold(self, |mut writing: Self| async move {
            let piece = writing.pieces.pop_front()?;
            let bytes = writing.write(piece).await;
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

    async fn write(&mut self, piece: Piece) -> Result<Bytes> {
        let ids = match piece {
            Piece::Text(text) => {
                self.has_events = false;
                return Ok(text.into());
            }
            Piece::Events(ids) => ids,
        };
        let mut text = String::new();
        for event in self.rooms.federation.jsons(&self.server, &ids).await? {
            if self.has_events {
                text.push(',');
            }
            text.push_str(event.get());
            self.has_events = true;
        }
        Ok(text.into())
    }
}
