//! Templates of events that another server will complete and sign.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#joining-rooms).

use std::sync::Arc;

use ruma::{
    OwnedEventId, RoomId,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    events::StateEventType,
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::{
    Pdu, SigningKey,
    event_builder::{
        EventContext, EventDraft, authorize, canonical_integer, select_auth_events, unsigned_object,
    },
    event_format,
    verified_event::authorize_by_auth_events,
};
use crate::error::{Error, Result};

/// An event without hashes and signatures.
#[derive(Debug)]
pub struct EventTemplate {
    pub event: Box<RawValue>,
}

/// An event that this server has signed, and that others may have to sign as well.
#[derive(Clone, Debug)]
pub struct CompletedEvent {
    pub event_id: OwnedEventId,
    pub event: Box<RawValue>,
}

/// The fields of a template that the other server decides: the position of the event in the room.
const TEMPLATE_FIELDS: [&str; 3] = ["auth_events", "prev_events", "depth"];

/// Completes an event from a template that another server made. Only the position in the room is taken from the
/// template.
///
/// # Errors
///
/// [`Error::BadJson`] when the template is malformed.
pub fn complete_template(
    template: &RawValue,
    draft: EventDraft,
    room_id: &RoomId,
    rules: &RoomVersionRules,
    key: &SigningKey,
) -> Result<CompletedEvent> {
    let mut template: CanonicalJsonObject = serde_json::from_str(template.get())
        .map_err(|e| Error::BadJson(format!("the template is not an event: {e}")))?;
    let content: CanonicalJsonValue = serde_json::from_str(draft.content.get())
        .map_err(|e| Error::BadJson(format!("the content is not canonical JSON: {e}")))?;
    let mut object = CanonicalJsonObject::new();
    for field in TEMPLATE_FIELDS {
        let taken = template.remove(field);
        let taken =
            taken.ok_or_else(|| Error::BadJson(format!("the template has no `{field}`")))?;
        object.insert(field.to_owned(), taken);
    }
    let mut put = |field: &str, value: CanonicalJsonValue| object.insert(field.to_owned(), value);
    put("content", content);
    put("room_id", room_id.to_string().into());
    put("sender", draft.sender.to_string().into());
    put("type", draft.kind.to_string().into());
    put("origin_server_ts", canonical_integer(draft.timestamp.0)?);
    if let Some(state_key) = draft.state_key {
        put("state_key", state_key.into());
    }
    if let Some(event_id) = draft.event_id {
        put("event_id", event_id.to_string().into());
    }
    key.hash_and_sign(&mut object, rules)?;
    event_format::check_own_event(&object, rules)?;
    let (pdu, json) = Pdu::from_object(&object, rules)?;
    Ok(CompletedEvent {
        event_id: pdu.event_id,
        event: RawValue::from_string(json)?,
    })
}

/// Returns a template that another server may sign, if the authorization rules allow the event.
///
/// # Errors
///
/// [`Error::Forbidden`] with the rule that refuses it.
pub fn build_template(draft: EventDraft, context: EventContext<'_>) -> Result<EventTemplate> {
    let auth_events = select_auth_events(&draft, context)?;
    let mut object = unsigned_object(draft, context, &auth_events)?;
    event_format::check_own_event(&object, context.rules)?;
    let (pdu, json) = Pdu::from_object(&object, context.rules)?;
    let create = context.state.get(&StateEventType::RoomCreate, "");
    let known: Vec<Arc<Pdu>> = auth_events.iter().chain(create).cloned().collect();
    authorize_by_auth_events(&pdu, context.rules, &known)?;
    authorize(&pdu, context.rules, context.state)?;
    let event = if object.remove("event_id").is_some() {
        serde_json::to_string(&object)?
    } else {
        json
    };
    Ok(EventTemplate {
        event: RawValue::from_string(event)?,
    })
}
