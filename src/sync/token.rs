//! Tokens for positions in the journal and in a room's timeline, which clients send back.

use std::{fmt, str::FromStr};

use crate::{
    ephemeral::EphemeralTick,
    error::{Error, Result},
    storage::Position,
};

/// The position up to which a client has received everything. Opaque to clients, and valid across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// The position in the journal.
    pub position: Position,
    /// The position up to which to-device messages were sent. It is behind `position` when there were too many.
    pub to_device: Position,
    /// The tick of the in-memory state …
    pub tick: EphemeralTick,
    /// … in this run of the server.
    pub boot: u32,
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            position,
            to_device,
            tick,
            boot,
        } = self;
        write!(f, "s{position}_{to_device}_{tick}_{boot:x}")
    }
}

impl FromStr for SyncToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.strip_prefix('s')?.split('_');
            let token = Self {
                position: parts.next()?.parse().ok()?,
                to_device: parts.next()?.parse().ok()?,
                tick: EphemeralTick::new(parts.next()?.parse().ok()?),
                boot: u32::from_str_radix(parts.next()?, 16).ok()?,
            };
            parts.next().is_none().then_some(token)
        };
        parse().ok_or_else(|| Error::invalid_param("this is not a sync token of this server"))
    }
}

/// Returns the token for a point in a room's timeline: between the event with this number and the next.
pub fn timeline_token(place: i64) -> String {
    format!("t{place}")
}

/// Returns the point in a room's timeline that a token means. The tokens of a sync, sliding or not, have one, too.
///
/// # Errors
///
/// [`Error::InvalidParam`] for a token that is not from this server.
pub fn parse_timeline_token(token: &str) -> Result<i64> {
    let number = |text: &str| {
        let number = text.parse();
        number.map_err(|_| Error::invalid_param("this is not a token of this server"))
    };
    if let Some(place) = token.strip_prefix('t') {
        return number(place);
    }
    if let Some((position, _)) = token.strip_prefix('p').and_then(|pos| pos.split_once('_')) {
        return number(position);
    }
    token.parse::<SyncToken>().map(|token| token.position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_writing_and_parsing() {
        let token = SyncToken {
            position: 12,
            to_device: 10,
            tick: EphemeralTick::new(3),
            boot: 0xbeef,
        };

        assert_eq!(token.to_string().parse::<SyncToken>().unwrap(), token);
        assert_eq!(parse_timeline_token(&token.to_string()).unwrap(), 12);
        assert_eq!(parse_timeline_token(&timeline_token(-4)).unwrap(), -4);
        assert_eq!(parse_timeline_token("p12_beef").unwrap(), 12);
    }

    #[test]
    fn a_malformed_token_is_refused() {
        for text in [
            "",
            "s",
            "s1",
            "s1_2_3",
            "s1_2_3_x",
            "s1_2_3_4_5",
            "t",
            "tx",
            "p12",
            "px_1",
            "42",
        ] {
            assert!(parse_timeline_token(text).is_err(), "{text}");
        }
    }
}
