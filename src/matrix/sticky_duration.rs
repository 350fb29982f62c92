//! The time for which an event is sticky, that is, delivered reliably.
//!
//! See [MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354).

use ruma::{
    MilliSecondsSinceUnixEpoch, canonical_json::CanonicalJsonObject,
    events::sticky::StickyDurationMs,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The longest time for which an event is sticky, in milliseconds.
const MAX_STICKY_MS: i64 = 3_600_000;
/// The field of an event.
pub(super) const STICKY_FIELD: &str = "msc4354_sticky";
/// The field of that object.
pub(super) const STICKY_DURATION_FIELD: &str = "duration_ms";

/// The time for which an event is sticky, as its sender chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickyDuration(i64);

#[derive(Deserialize)]
struct StickyObject {
    duration_ms: i64,
}

impl StickyDuration {
    /// Returns a duration in milliseconds, or `None` if it is negative.
    pub fn from_ms(ms: i64) -> Option<Self> {
        (ms >= 0).then_some(Self(ms))
    }

    /// Reads the field of an event. An event with another value there is not sticky.
    pub(super) fn from_field(field: &RawValue) -> Option<Self> {
        let object: StickyObject = serde_json::from_str(field.get()).ok()?;
        Self::from_ms(object.duration_ms)
    }

    /// Returns the duration in milliseconds. It may be longer than the event is sticky.
    pub fn as_ms(self) -> i64 {
        self.0
    }

    /// Returns the time at which an event is no longer sticky, in milliseconds since the Unix epoch.
    ///
    /// "The start time is `min(received_ts, origin_server_ts)`", and the end time is
    /// "`start_time + min(sticky_duration_ms, 3600000)`".
    pub fn expires_at(self, sent: MilliSecondsSinceUnixEpoch, received_ms: i64) -> i64 {
        let start = i64::from(sent.0).min(received_ms);
        start.saturating_add(self.0.min(MAX_STICKY_MS))
    }

    /// Returns the object in the field of an event.
    pub(super) fn to_object(self) -> Option<CanonicalJsonObject> {
        let ms = ruma::Int::new(self.0)?;
        let field = (STICKY_DURATION_FIELD.to_owned(), ms.into());
        Some(CanonicalJsonObject::from([field]))
    }
}

/// A client may ask for an hour at most.
impl From<StickyDurationMs> for StickyDuration {
    fn from(requested: StickyDurationMs) -> Self {
        Self(requested.get().into())
    }
}

#[cfg(test)]
mod tests {
    use ruma::uint;

    use super::*;

    fn read(json: &str) -> Option<i64> {
        let field = RawValue::from_string(json.to_owned()).unwrap();
        StickyDuration::from_field(&field).map(StickyDuration::as_ms)
    }

    #[test]
    fn only_a_whole_number_that_is_not_negative_is_a_duration() {
        assert_eq!(read(r#"{"duration_ms":300000}"#), Some(300_000));
        assert_eq!(read(r#"{"duration_ms":0,"more":1}"#), Some(0));
        for other in [
            "{}",
            "5",
            "null",
            r#"{"duration_ms":-1}"#,
            r#"{"duration_ms":1.5}"#,
            r#"{"duration_ms":"1"}"#,
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn an_event_is_sticky_for_an_hour_at_most() {
        let sent = MilliSecondsSinceUnixEpoch(uint!(10_000));
        let expires = |ms, received| StickyDuration(ms).expires_at(sent, received);

        assert_eq!(expires(5_000, 12_000), 15_000);
        assert_eq!(expires(7_200_000, 12_000), 3_610_000);
        // A server cannot make an event sticky for longer by a time in the future.
        assert_eq!(expires(5_000, 8_000), 13_000);
    }
}
