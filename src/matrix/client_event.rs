//! Events in the format that clients receive.
//!
//! Everything except `unsigned` is the same for every recipient: it is written once, as a *head*, and shared.

use std::{collections::BTreeMap, fmt::Write as _};

use ruma::{events::TimelineEventType, room_version_rules::RoomVersionRules};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{
    Pdu,
    sticky_duration::{STICKY_DURATION_FIELD, STICKY_FIELD},
};

/// The fields of `unsigned` in an event for a client.
#[derive(Clone, Debug, Default)]
pub struct UnsignedFields<'a> {
    /// The age of the event in milliseconds.
    pub age: Option<i64>,
    /// The transaction id, for the device that sent the event.
    pub transaction_id: Option<&'a str>,
    /// The state event that this one replaced.
    pub replaces: Option<&'a Pdu>,
    pub membership: Option<&'a str>,
    /// The id of the redaction that took effect on the event. The specification has only `redacted_because` today, but
    /// older clients look for this.
    pub redacted_by: Option<&'a str>,
    /// The redaction that took effect on the event, in the client format.
    pub redacted_because: Option<&'a RawValue>,
    /// The aggregations of the events that relate to this one.
    pub relations: Option<&'a RawValue>,
    /// The time for which the event is still sticky, in milliseconds.
    pub sticky_ttl_ms: Option<i64>,
    /// The stripped state of the room of an invitation, as a JSON list.
    pub invite_room_state: Option<&'a str>,
}

/// Writes the part of an event that is the same for every recipient: a JSON object without its closing brace.
pub fn write_event_head(pdu: &Pdu, rules: &RoomVersionRules) -> Box<str> {
    let mut json = String::with_capacity(pdu.content.get().len() + 256);
    let content = redaction_content(pdu, rules);
    let _ = write!(
        json,
        r#"{{"type":{},"sender":{},"event_id":{},"origin_server_ts":{},"content":{}"#,
        quoted(&pdu.kind.to_string()),
        quoted(pdu.sender.as_str()),
        quoted(pdu.event_id.as_str()),
        pdu.origin_server_ts.0,
        content.as_deref().unwrap_or(pdu.content.get()),
    );
    if let Some(state_key) = &pdu.state_key {
        let _ = write!(json, r#","state_key":{}"#, quoted(state_key));
    }
    if let Some(redacts) = pdu.redacts(rules) {
        let _ = write!(json, r#","redacts":{}"#, quoted(redacts.as_str()));
    }
    if let Some(sticky) = pdu.sticky {
        let ms = sticky.as_ms();
        let _ = write!(
            json,
            r#","{STICKY_FIELD}":{{"{STICKY_DURATION_FIELD}":{ms}}}"#
        );
    }
    json.into_boxed_str()
}

/// Returns the content of a redaction with `redacts` added, so that clients find that field in both places in every
/// room version.
fn redaction_content(pdu: &Pdu, rules: &RoomVersionRules) -> Option<String> {
    if pdu.kind != TimelineEventType::RoomRedaction || rules.redaction.content_field_redacts {
        return None;
    }
    let mut content: serde_json::Map<String, Value> = pdu.content_as()?;
    content.insert(
        "redacts".to_owned(),
        Value::String(pdu.redacts(rules)?.to_string()),
    );
    serde_json::to_string(&content).ok()
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Completes a head for `/sync`, in which events have no `room_id`.
pub fn sync_event(head: &str, unsigned: &UnsignedFields<'_>) -> Box<RawValue> {
    finish_event(head, None, unsigned)
}

/// Completes a head for all other responses, with its `room_id`.
pub fn client_event(head: &str, room_id: &str, unsigned: &UnsignedFields<'_>) -> Box<RawValue> {
    finish_event(head, Some(room_id), unsigned)
}

/// Writes an event in the federation format, with `event_id` and `unsigned` in addition.
///
/// `source` is the event as it is stored. The content is that of `pdu`, which may have been redacted for the reader.
pub fn federation_event(
    source: &str,
    pdu: &Pdu,
    unsigned: &UnsignedFields<'_>,
) -> Option<Box<RawValue>> {
    let mut event: BTreeMap<String, Box<RawValue>> = serde_json::from_str(source).ok()?;
    event.remove("unsigned");
    event.insert("content".to_owned(), pdu.content.clone());
    let event_id = to_raw_value(&pdu.event_id).ok()?;
    event.insert("event_id".to_owned(), event_id);
    let mut json = serde_json::to_string(&event).ok()?;
    json.pop();
    write_unsigned(&mut json, unsigned);
    json.push('}');
    Some(raw(json))
}

fn finish_event(head: &str, room_id: Option<&str>, unsigned: &UnsignedFields<'_>) -> Box<RawValue> {
    let mut json = String::with_capacity(head.len() + 128);
    json.push_str(head);
    if let Some(room_id) = room_id {
        let _ = write!(json, r#","room_id":{}"#, quoted(room_id));
    }
    write_unsigned(&mut json, unsigned);
    json.push('}');
    raw(json)
}

fn write_unsigned(json: &mut String, unsigned: &UnsignedFields<'_>) {
    let mut fields = Vec::new();
    if let Some(age) = unsigned.age {
        fields.push(format!(r#""age":{age}"#));
    }
    if let Some(transaction_id) = unsigned.transaction_id {
        fields.push(format!(r#""transaction_id":{}"#, quoted(transaction_id)));
    }
    if let Some(replaces) = unsigned.replaces {
        fields.push(format!(r#""prev_content":{}"#, replaces.content.get()));
        fields.push(format!(
            r#""prev_sender":{}"#,
            quoted(replaces.sender.as_str())
        ));
        fields.push(format!(
            r#""replaces_state":{}"#,
            quoted(replaces.event_id.as_str())
        ));
    }
    if let Some(membership) = unsigned.membership {
        fields.push(format!(r#""membership":{}"#, quoted(membership)));
    }
    if let Some(redacted_by) = unsigned.redacted_by {
        fields.push(format!(r#""redacted_by":{}"#, quoted(redacted_by)));
    }
    if let Some(redaction) = unsigned.redacted_because {
        fields.push(format!(r#""redacted_because":{}"#, redaction.get()));
    }
    if let Some(relations) = unsigned.relations {
        fields.push(format!(r#""m.relations":{}"#, relations.get()));
    }
    if let Some(ttl_ms) = unsigned.sticky_ttl_ms {
        fields.push(format!(r#""msc4354_sticky_duration_ttl_ms":{ttl_ms}"#));
    }
    if let Some(state) = unsigned.invite_room_state {
        fields.push(format!(r#""invite_room_state":{state}"#));
    }
    if !fields.is_empty() {
        let _ = write!(json, r#","unsigned":{{{}}}"#, fields.join(","));
    }
}

/// Writes a state event in the stripped form for users who are not in the room yet. The member event and the create
/// event keep their ids and timestamps, because clients show when an invitation was sent, and look for the time at
/// which the room was created.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#stripped-state).
pub fn stripped_state_event(pdu: &Pdu) -> Box<RawValue> {
    let mut json = format!(
        r#"{{"type":{},"sender":{},"state_key":{},"content":{}"#,
        quoted(&pdu.kind.to_string()),
        quoted(pdu.sender.as_str()),
        quoted(pdu.state_key.as_deref().unwrap_or_default()),
        pdu.content.get(),
    );
    if keeps_timestamp(&pdu.kind) {
        let _ = write!(
            json,
            r#","event_id":{},"origin_server_ts":{}"#,
            quoted(pdu.event_id.as_str()),
            pdu.origin_server_ts.0
        );
    }
    json.push('}');
    raw(json)
}

fn keeps_timestamp(kind: &TimelineEventType) -> bool {
    matches!(
        kind,
        TimelineEventType::RoomCreate | TimelineEventType::RoomMember
    )
}

/// Reduces a state event that another server sent to the stripped form. Returns `None` if it is not a state event.
pub fn strip_remote_event(event: &RawValue) -> Option<Box<RawValue>> {
    #[derive(serde::Deserialize)]
    struct ReceivedStateEvent {
        #[serde(rename = "type")]
        kind: TimelineEventType,
        sender: ruma::OwnedUserId,
        state_key: String,
        content: serde_json::Map<String, Value>,
        #[serde(default)]
        origin_server_ts: Value,
    }
    let received: ReceivedStateEvent = serde_json::from_str(event.get()).ok()?;
    let mut json = format!(
        r#"{{"type":{},"sender":{},"state_key":{},"content":{}"#,
        quoted(&received.kind.to_string()),
        quoted(received.sender.as_str()),
        quoted(&received.state_key),
        Value::Object(received.content),
    );
    let when = received.origin_server_ts.as_u64();
    if let Some(when) = when.filter(|_| keeps_timestamp(&received.kind)) {
        let _ = write!(json, r#","origin_server_ts":{when}"#);
    }
    json.push('}');
    Some(raw(json))
}

fn raw(json: String) -> Box<RawValue> {
    #[expect(clippy::expect_used, reason = "every part written above is JSON")]
    RawValue::from_string(json).expect("an event made of JSON parts is JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pdu(json: &Value) -> Pdu {
        Pdu::parse(
            ruma::OwnedEventId::try_from("$e").unwrap(),
            &json.to_string(),
        )
        .unwrap()
    }

    fn message() -> Pdu {
        pdu(&json!({
            "room_id": "!r:a", "sender": "@u:a", "type": "m.room.message", "origin_server_ts": 7, "depth": 1,
            "prev_events": [], "auth_events": [], "content": {"body": "say \"hi\""},
        }))
    }

    #[test]
    fn a_head_is_finished_with_room_id_then_unsigned() {
        let head = write_event_head(&message(), &RoomVersionRules::V12);
        let unsigned = UnsignedFields {
            age: Some(5),
            transaction_id: Some("t"),
            ..UnsignedFields::default()
        };

        let value: Value =
            serde_json::from_str(client_event(&head, "!r:a", &unsigned).get()).unwrap();

        assert_eq!(
            value,
            json!({
                "type": "m.room.message", "sender": "@u:a", "event_id": "$e", "origin_server_ts": 7,
                "room_id": "!r:a", "content": {"body": "say \"hi\""},
                "unsigned": {"age": 5, "transaction_id": "t"},
            })
        );
    }

    #[test]
    fn a_redaction_names_its_target_in_both_places() {
        let old = pdu(&json!({
            "room_id": "!r:a", "sender": "@u:a", "type": "m.room.redaction", "origin_server_ts": 7, "depth": 1,
            "prev_events": [], "auth_events": [], "content": {}, "redacts": "$x",
        }));
        let new = pdu(&json!({
            "room_id": "!r:a", "sender": "@u:a", "type": "m.room.redaction", "origin_server_ts": 7, "depth": 1,
            "prev_events": [], "auth_events": [], "content": {"redacts": "$x"},
        }));

        for (pdu, rules) in [(old, RoomVersionRules::V10), (new, RoomVersionRules::V12)] {
            let json = sync_event(&write_event_head(&pdu, &rules), &UnsignedFields::default());
            let value: Value = serde_json::from_str(json.get()).unwrap();
            assert_eq!(value["redacts"], "$x");
            assert_eq!(value["content"]["redacts"], "$x");
        }
    }

    #[test]
    fn only_stripped_create_and_member_events_have_timestamps() {
        let of = |kind: &str| {
            json!({
                "type": kind, "sender": "@a:b", "state_key": "", "content": {}, "room_id": "!r:b",
                "origin_server_ts": 7, "depth": 1, "prev_events": [], "auth_events": [],
            })
        };
        let read = |event: Box<RawValue>| serde_json::from_str::<Value>(event.get()).unwrap();
        let stripped = |event: &Value| {
            let event = RawValue::from_string(event.to_string()).unwrap();
            read(strip_remote_event(&event).unwrap())
        };
        let (create, name) = (of("m.room.create"), of("m.room.name"));

        let expected = json!({
            "type": "m.room.create", "sender": "@a:b", "state_key": "", "content": {},
            "event_id": "$e", "origin_server_ts": 7,
        });
        assert_eq!(read(stripped_state_event(&pdu(&create))), expected);
        assert!(
            read(stripped_state_event(&pdu(&name)))
                .get("origin_server_ts")
                .is_none()
        );
        assert_eq!(stripped(&create)["origin_server_ts"], json!(7));
        assert!(stripped(&name).get("origin_server_ts").is_none());
        let mut odd = create;
        odd["origin_server_ts"] = json!("now");
        assert!(stripped(&odd).get("origin_server_ts").is_none());
    }
}
