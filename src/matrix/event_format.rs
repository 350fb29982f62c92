//! The format of events: the fields that they have, and their size limits.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#size-limits).

use std::collections::BTreeMap;

use ruma::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    room_version_rules::RoomVersionRules,
    state_res::check_pdu_format,
};

use serde_json::value::RawValue;

use super::{MAX_SERVER_JSON_DEPTH, check_depth};
use crate::error::{Error, Result};

/// The largest size of an event in canonical JSON, with its signatures.
const MAX_EVENT_BYTES: usize = 65_536;
/// The largest size of an event that ruma accepts: one byte less than the specification allows.
const MAX_RUMA_EVENT_BYTES: usize = 65_535;
/// The longest type, state key or event id of an event, in bytes.
const MAX_FIELD_BYTES: usize = 255;

/// Reads an event of another server, without `unsigned`. That field is neither signed nor hashed, so that nothing in it
/// is a reason to refuse the event.
///
/// # Errors
///
/// [`Error::BadJson`] when the event is nested too deeply, or has no canonical form.
pub fn read_event(event: &RawValue) -> Result<CanonicalJsonObject> {
    let text = event.get();
    check_depth(text, MAX_SERVER_JSON_DEPTH)?;
    let bad = |error: serde_json::Error| Error::BadJson(error.to_string());
    if let Ok(mut object) = serde_json::from_str::<CanonicalJsonObject>(text) {
        object.remove("unsigned");
        return Ok(object);
    }
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(bad)?;
    fields.remove("unsigned");
    serde_json::from_str(&serde_json::to_string(&fields)?).map_err(bad)
}

/// Checks the format of an event of this server.
///
/// # Errors
///
/// [`Error::TooLarge`] or [`Error::BadJson`].
pub(super) fn check_own_event(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<()> {
    check_nul_characters(object)?;
    check_references(object, rules)?;
    let Err(reason) = check_pdu_format(object, &rules.event_format) else {
        return Ok(());
    };
    let bytes = serde_json::to_string(object)?.len();
    if bytes > MAX_EVENT_BYTES {
        return Err(Error::TooLarge(format!(
            "the event would have {bytes} bytes, and an event may have at most {MAX_EVENT_BYTES}"
        )));
    }
    let reason = if bytes > MAX_RUMA_EVENT_BYTES {
        let mut smaller = object.clone();
        let empty = CanonicalJsonValue::Object(CanonicalJsonObject::new());
        smaller.insert("content".to_owned(), empty);
        match check_pdu_format(&smaller, &rules.event_format) {
            Ok(()) => return Ok(()),
            Err(reason) => reason,
        }
    } else {
        reason
    };
    if reason.contains("larger") {
        Err(Error::TooLarge(reason))
    } else {
        Err(Error::BadJson(reason))
    }
}

/// Checks the format of an event that may come from another server.
///
/// # Errors
///
/// The same as [`check_own_event`].
pub(super) fn check_any_event(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<()> {
    // Before version 11, servers counted characters where the specification counts bytes. Some rooms have such events,
    // and to drop them would split these rooms.
    let counts_bytes = rules.authorization.use_room_create_sender;
    let is_long = |field: &&str| {
        let text = object.get(*field).and_then(CanonicalJsonValue::as_str);
        text.is_some_and(|text| {
            text.len() > MAX_FIELD_BYTES && text.chars().nth(MAX_FIELD_BYTES).is_none()
        })
    };
    let long_fields: Vec<&str> = ["type", "state_key"]
        .into_iter()
        .filter(|field| !counts_bytes && is_long(field))
        .collect();
    if long_fields.is_empty() {
        return check_own_event(object, rules);
    }
    let bytes = serde_json::to_string(object)?.len();
    if bytes > MAX_EVENT_BYTES {
        return Err(Error::TooLarge(format!(
            "an event may have at most {MAX_EVENT_BYTES} bytes"
        )));
    }
    let mut shortened = object.clone();
    for field in long_fields {
        shortened.insert(field.to_owned(), CanonicalJsonValue::String(String::new()));
    }
    check_own_event(&shortened, rules)
}

/// Refuses U+0000 in fields where no honest event has it: PostgreSQL cannot store it in text columns.
fn check_nul_characters(object: &CanonicalJsonObject) -> Result<()> {
    for field in [
        "type",
        "state_key",
        "sender",
        "room_id",
        "event_id",
        "redacts",
    ] {
        let text = object.get(field).and_then(CanonicalJsonValue::as_str);
        if text.is_some_and(|text| text.contains('\0')) {
            return Err(Error::BadJson(format!("`{field}` contains U+0000")));
        }
    }
    Ok(())
}

/// Checks the form of references to other events: ids, and in versions 1 and 2 ids with hashes.
fn check_references(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<()> {
    let has_hashes = rules.event_format.require_event_id;
    let is_id = |id: &CanonicalJsonValue| {
        id.as_str()
            .is_some_and(|id| id.len() <= MAX_FIELD_BYTES && !id.contains('\0'))
    };
    let is_reference = |reference: &CanonicalJsonValue| match reference {
        CanonicalJsonValue::Array(pair) if has_hashes => match &**pair {
            [id, CanonicalJsonValue::Object(_)] => is_id(id),
            _ => false,
        },
        id => !has_hashes && is_id(id),
    };
    for field in ["prev_events", "auth_events"] {
        let references = object.get(field).and_then(CanonicalJsonValue::as_array);
        if !references.is_none_or(|references| references.iter().all(is_reference)) {
            return Err(Error::BadJson(format!(
                "`{field}` does not reference events in the form of this room version"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::room_version_rules::RoomVersionRules;
    use serde_json::json;

    use super::*;

    fn event_of_size(bytes: usize) -> CanonicalJsonObject {
        let event = |body: &str| {
            let event = json!({
                "auth_events": [], "content": { "body": body }, "depth": 1, "hashes": {},
                "origin_server_ts": 1, "prev_events": [], "room_id": "!r:x", "sender": "@a:x",
                "signatures": {}, "type": "m.room.message",
            });
            serde_json::from_value::<CanonicalJsonObject>(event).unwrap()
        };
        let smallest = serde_json::to_string(&event("")).unwrap().len();
        event(&"x".repeat(bytes - smallest))
    }

    #[test]
    fn an_event_has_at_most_65536_bytes() {
        for check in [check_own_event, check_any_event] {
            for rules in [RoomVersionRules::V1, RoomVersionRules::V11] {
                let mut rules = rules;
                rules.event_format.require_event_id = false;
                check(&event_of_size(65_536), &rules).unwrap();
                let refused = check(&event_of_size(65_537), &rules);
                assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
            }
        }
    }

    #[test]
    fn references_have_the_form_of_the_room_version() {
        let pair = json!(["$a:x", { "sha256": "h" }]);
        let long = format!("${}", "a".repeat(255));
        for (rules, good, odd) in [
            (
                RoomVersionRules::V2,
                pair.clone(),
                [json!("$a:x"), json!(["$a:x"])],
            ),
            (RoomVersionRules::V11, json!("$a"), [pair, json!(long)]),
            (
                RoomVersionRules::V11,
                json!("$a"),
                [json!("$a\0"), json!(5)],
            ),
        ] {
            let with = |reference: &serde_json::Value| {
                let mut event = event_of_size(500);
                let list = json!([reference]);
                let list = serde_json::from_value(list).unwrap();
                event.insert("prev_events".to_owned(), list);
                event.insert("event_id".to_owned(), "$b:x".to_owned().into());
                event
            };
            check_own_event(&with(&good), &rules).unwrap();
            for odd in odd {
                let refused = check_any_event(&with(&odd), &rules);
                assert!(matches!(refused, Err(Error::BadJson(_))), "{odd}");
            }
        }
    }

    #[test]
    fn a_type_or_state_key_with_nul_is_refused() {
        for field in ["type", "state_key"] {
            let mut event = event_of_size(500);
            event.insert(field.to_owned(), "a\0b".to_owned().into());
            let refused = check_own_event(&event, &RoomVersionRules::V11);
            assert!(matches!(refused, Err(Error::BadJson(_))), "{field}");
        }
    }

    #[test]
    fn malformed_unsigned_data_is_ignored() {
        for unsigned in ["1.5", "1e999", "12345678901234567890", r#""\ud800""#] {
            let text = format!(r#"{{"type":"a","unsigned":{{"x":{unsigned}}}}}"#);
            let read = read_event(&RawValue::from_string(text).unwrap()).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), r#"{"type":"a"}"#);
        }
        let text = r#"{"type":"a","content":{"x":1.5},"unsigned":{}}"#.to_owned();
        assert!(read_event(&RawValue::from_string(text).unwrap()).is_err());
    }

    #[test]
    fn a_large_event_without_depth_is_refused() {
        let mut event = event_of_size(65_536 + r#","depth":1"#.len());
        event.remove("depth");

        let refused = check_own_event(&event, &RoomVersionRules::V11);

        assert!(matches!(refused, Err(Error::BadJson(_))), "{refused:?}");
    }
}
