//! Tokens for positions in the journal and in a room's timeline, which clients send back.

use std::{fmt, str::FromStr};

use crate::{
    ephemeral::EphemeralTick,
    error::{Error, Result},
    numbers::Position,
};

/// The position up to which a client has received everything. Opaque to clients, and valid across restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// The position in the journal.
    pub position: Position,
    /// The position up to which to-device messages were sent. It is behind `position` when there were too many for one
    /// response.
    pub to_device: Position,
    /// The position up to which sticky events were sent. It is behind `position` when there were too many for one
    /// response.
    pub sticky: Position,
    /// The tick of the in-memory state. It counts only in the run of the server that `run_id` names.
    pub tick: EphemeralTick,
    /// The random number of the run of the server in which the token was made.
    pub run_id: u32,
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            position,
            to_device,
            sticky,
            tick,
            run_id,
        } = self;
        write!(f, "s{position}_{to_device}_{tick}_{run_id:x}")?;
        if sticky != position {
            write!(f, "_{sticky}")?;
        }
        Ok(())
    }
}

impl FromStr for SyncToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.strip_prefix('s')?.split('_');
            let position = parts.next()?.parse().ok()?;
            let token = Self {
                position,
                to_device: parts.next()?.parse().ok()?,
                tick: EphemeralTick::new(parts.next()?.parse().ok()?),
                run_id: u32::from_str_radix(parts.next()?, 16).ok()?,
                sticky: match parts.next() {
                    Some(sticky) => sticky.parse().ok()?,
                    None => position,
                },
            };
            parts.next().is_none().then_some(token)
        };
        // Only the text that this server writes is a token: no plus signs, leading zeros or capital letters.
        let token = parse().filter(|token| token.to_string() == text);
        token.ok_or_else(|| Error::invalid_param("this is not a sync token of this server"))
    }
}

/// The position up to which a client of sliding sync has received everything, and the number of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlidingToken {
    pub(super) position: Position,
    pub(super) response: u64,
}

impl fmt::Display for SlidingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, response } = self;
        write!(f, "p{position}_{response:x}")
    }
}

impl FromStr for SlidingToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (position, response) = text.strip_prefix('p')?.split_once('_')?;
            Some(Self {
                position: position.parse().ok()?,
                response: u64::from_str_radix(response, 16).ok()?,
            })
        };
        let token = parse().filter(|token| token.to_string() == text);
        token.ok_or(Error::UnknownPos)
    }
}

/// Returns the token for a point in a room's timeline: between the event with this number and the next.
pub fn timeline_token(place: Position) -> String {
    format!("t{place}")
}

/// Returns the point in a room's timeline that a token means. The tokens of a sync, sliding or not, have one, too.
///
/// # Errors
///
/// [`Error::InvalidParam`] for a token that is not from this server.
pub fn parse_timeline_token(token: &str) -> Result<Position> {
    if let Some(place) = token.strip_prefix('t') {
        let number = place.parse().ok();
        let number = number.filter(|number| timeline_token(*number) == token);
        return number.ok_or_else(|| Error::invalid_param("this is not a token of this server"));
    }
    if token.starts_with('p') {
        let sliding = token.parse::<SlidingToken>();
        let position = sliding.map(|token| token.position);
        return position.map_err(|_| Error::invalid_param("this is not a token of this server"));
    }
    token.parse::<SyncToken>().map(|token| token.position)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_sync_token_parses_back_to_itself(
            position: i64,
            to_device: i64,
            sticky: Option<i64>,
            tick: i64,
            run_id: u32,
        ) {
            let (position, to_device) = (Position::new(position), Position::new(to_device));
            let sticky = sticky.map_or(position, Position::new);
            let tick = EphemeralTick::new(tick);
            let token = SyncToken { position, to_device, sticky, tick, run_id };

            prop_assert_eq!(token.to_string().parse::<SyncToken>().unwrap(), token);
            prop_assert_eq!(parse_timeline_token(&token.to_string()).unwrap(), position);
        }

        #[test]
        fn any_sliding_token_parses_back_to_itself(position: i64, response: u64) {
            let position = Position::new(position);
            let token = SlidingToken { position, response };

            prop_assert_eq!(token.to_string().parse::<SlidingToken>().unwrap(), token);
            prop_assert_eq!(parse_timeline_token(&token.to_string()).unwrap(), position);
        }

        #[test]
        fn any_place_in_a_timeline_parses_back_to_itself(place: i64) {
            let place = Position::new(place);
            prop_assert_eq!(parse_timeline_token(&timeline_token(place)).unwrap(), place);
        }

        #[test]
        fn a_parsed_sync_token_is_printed_unchanged(
            text in "s[+-]?[0-9]{1,2}_[+-]?[0-9]{1,2}_[+-]?[0-9]{1,2}_[+]?[0-9a-fA-F]{1,2}(_[+-]?[0-9]{1,2})?",
        ) {
            if let Ok(token) = text.parse::<SyncToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }

        #[test]
        fn a_parsed_sliding_token_is_printed_unchanged(
            text in "p[+-]?[0-9]{1,2}_[+]?[0-9a-fA-F]{1,2}",
        ) {
            if let Ok(token) = text.parse::<SlidingToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }

        #[test]
        fn a_parsed_timeline_token_is_printed_unchanged(text in "t[+-]?[0-9]{1,2}") {
            if let Ok(place) = parse_timeline_token(&text) {
                prop_assert_eq!(timeline_token(place), text);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[stp]?[-+0-9a-f_]{0,12}|.{0,8}") {
            let _ = parse_timeline_token(&text);
        }
    }

    #[test]
    fn a_token_survives_writing_and_parsing() {
        let token = SyncToken {
            position: Position::new(12),
            to_device: Position::new(10),
            sticky: Position::new(12),
            tick: EphemeralTick::new(3),
            run_id: 0xbeef,
        };

        assert_eq!(token.to_string().parse::<SyncToken>().unwrap(), token);
        assert_eq!(
            parse_timeline_token(&token.to_string()).unwrap(),
            Position::new(12)
        );
        assert_eq!(
            parse_timeline_token(&timeline_token(Position::new(-4))).unwrap(),
            Position::new(-4)
        );
        assert_eq!(parse_timeline_token("p12_beef").unwrap(), Position::new(12));
    }

    #[test]
    fn a_malformed_token_is_refused() {
        for text in [
            "",
            "s",
            "s1",
            "s1_2_3",
            "s1_2_3_x",
            "s1_2_3_4_x",
            "s1_2_3_4_1",
            "s1_2_3_4_5_6",
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
