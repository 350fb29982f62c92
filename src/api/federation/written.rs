//! Answers that hold many events: written piece by piece, so that no answer is in memory as a whole.

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

/// Events read and written at once: each has 64 KiB at most.
const EVENTS: usize = 100;

/// An answer that is written.
pub(super) struct Writing {
    rooms: Rooms,
    /// Who asks.
    server: OwnedServerName,
    pieces: VecDeque<Piece>,
    /// Whether the list that is written has an event already.
    has_events: bool,
    /// The turn of whoever asks.
    _turn: TurnToBeTold,
}

enum Piece {
    Text(String),
    Events(Vec<OwnedEventId>),
}

impl Writing {
    /// Begins an answer with events of these rooms, to somebody who has a turn to be told much.
    pub(super) fn new(rooms: &Rooms, server: &ServerName, turn: TurnToBeTold) -> Self {
        Self {
            rooms: rooms.clone(),
            server: server.to_owned(),
            pieces: VecDeque::new(),
            has_events: false,
            _turn: turn,
        }
    }

    /// Adds a part of the answer's JSON.
    pub(super) fn text(&mut self, text: impl Into<String>) {
        self.pieces.push_back(Piece::Text(text.into()));
    }

    /// Adds a list of events; what is not here is left out.
    pub(super) fn events(&mut self, ids: &[OwnedEventId]) {
        self.text("[");
        let chunks = ids.chunks(EVENTS);
        let chunks = chunks.map(|chunk| Piece::Events(chunk.to_vec()));
        self.pieces.extend(chunks);
        self.text("]");
    }

    /// Adds a list of the ids of events.
    pub(super) fn ids(&mut self, ids: &[OwnedEventId]) -> Result<()> {
        self.text(serde_json::to_string(ids)?);
        Ok(())
    }

    /// Returns the answer, which is written as it is read.
    pub(super) fn into_response(self) -> Response {
        let written = stream::unfold(self, |mut writing: Self| async move {
            let piece = writing.pieces.pop_front()?;
            let bytes = writing.write(piece).await;
            if bytes.is_err() {
                // The answer breaks off, so that nobody takes it for whole.
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
