//! Tokens for the positions of this run of the server, and the limits of those that clients send.

use super::{SyncRequest, SyncToken};
use crate::{
    ephemeral::{EphemeralState, EphemeralTick},
    numbers::Position,
    storage::Db,
};

/// Makes tokens, and reads the ticks of tokens. Cheap to clone.
#[derive(Clone)]
pub(super) struct TokenReader {
    db: Db,
    ephemeral: EphemeralState,
}

impl TokenReader {
    pub(super) fn new(db: Db, ephemeral: EphemeralState) -> Self {
        Self { db, ephemeral }
    }

    /// Returns a request whose token is not in the future: no client can have received changes that do not exist.
    pub(super) fn clamp_request(&self, request: &SyncRequest) -> SyncRequest {
        SyncRequest {
            since: request.since.map(|since| self.clamp(since)),
            ..request.clone()
        }
    }

    /// Returns a token that is not in the future.
    pub(super) fn clamp(&self, token: SyncToken) -> SyncToken {
        let now = self.db.journal().published_position();
        SyncToken {
            position: token.position.clamp(Position::ZERO, now),
            to_device: token.to_device.clamp(Position::ZERO, now),
            sticky: token.sticky.clamp(Position::ZERO, now),
            ..token
        }
    }

    /// Returns the tick of a token. A token of an earlier run of the server has seen no tick of this run.
    pub(super) fn tick_of(&self, since: &SyncToken) -> EphemeralTick {
        if since.run_id == self.ephemeral.run_id() {
            since.tick
        } else {
            EphemeralTick::ZERO
        }
    }

    /// Returns the token for a position and a tick of this run. It acknowledges no to-device messages.
    pub(super) fn token_at(&self, position: Position, tick: EphemeralTick) -> SyncToken {
        SyncToken {
            position,
            to_device: Position::ZERO,
            sticky: position,
            tick,
            run_id: self.ephemeral.run_id(),
        }
    }

    /// Returns the token for the current position.
    pub(super) fn current_token(&self) -> SyncToken {
        let position = self.db.journal().published_position();
        self.token_at(position, self.ephemeral.newest_tick())
    }
}
