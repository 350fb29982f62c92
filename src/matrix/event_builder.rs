//! Builds, authorizes and signs the events of this server.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, UInt,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, redact},
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res::{
        auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
        events::RoomCreateEvent,
    },
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    Pdu, SigningKey, StateMap, StickyDuration, event_format, owned_state::as_own_state,
    sticky_duration::STICKY_FIELD,
};
use crate::error::{Error, Result};

/// An event that a user wants to send, before it has its place in the room.
#[derive(Clone, Debug)]
pub struct EventDraft {
    pub sender: OwnedUserId,
    pub kind: TimelineEventType,
    pub state_key: Option<String>,
    pub content: Box<RawValue>,
    /// The event that this one redacts.
    pub redacts: Option<OwnedEventId>,
    /// The time for which it is sticky.
    pub sticky: Option<StickyDuration>,
    pub timestamp: MilliSecondsSinceUnixEpoch,
    /// The event id, for room versions in which the sender's server chooses it.
    pub event_id: Option<OwnedEventId>,
}

/// The place of the next event in a room.
#[derive(Clone, Copy, Debug)]
pub struct EventContext<'a> {
    /// The room; `None` for the create event of a version in which the room id follows from that event.
    pub room_id: Option<&'a OwnedRoomId>,
    pub rules: &'a RoomVersionRules,
    /// The state before the event.
    pub state: &'a StateMap,
    pub prev_events: &'a [OwnedEventId],
    /// The reference hashes of the forward extremities, for versions that name them.
    pub prev_hashes: &'a [String],
    /// One more than the greatest depth among the forward extremities.
    pub depth: UInt,
}

/// The users who have a power level of their own.
#[derive(Default, Deserialize)]
struct UserPowerLevels {
    #[serde(default)]
    users: BTreeMap<String, Value>,
}

/// Builds, authorizes and signs an event. Returns it with its canonical JSON.
///
/// # Errors
///
/// [`Error::Forbidden`] with the rule that refuses it; [`Error::TooLarge`] or [`Error::BadJson`] when it is not a valid
/// event.
pub fn build_event(
    draft: EventDraft,
    context: EventContext<'_>,
    key: &SigningKey,
) -> Result<(Pdu, String)> {
    if draft.kind.to_string().is_empty() {
        return Err(Error::BadJson("the event type is empty".to_owned()));
    }
    let auth_events = select_auth_events(&draft, context)?;
    let mut object = unsigned_object(draft, context, &auth_events)?;
    key.hash_and_sign(&mut object, context.rules)?;
    event_format::check_own_event(&object, context.rules)?;
    let (pdu, json) = Pdu::from_object(&object, context.rules)?;
    refuse_creator_power_levels(&pdu, context)?;
    check_state_independent_auth_rules(&context.rules.authorization, &pdu, |event_id| {
        let create = context.state.get(&StateEventType::RoomCreate, "");
        auth_events
            .iter()
            .chain(create)
            .find(|event| event.event_id == event_id)
            .map(|event| &**event)
    })
    .map_err(Error::Forbidden)?;
    authorize(&pdu, context.rules, context.state)?;
    Ok((pdu, json))
}

/// Refuses a power level for a creator, who is above all levels: this is a mistake in the request, not a lack of power.
fn refuse_creator_power_levels(pdu: &Pdu, context: EventContext<'_>) -> Result<()> {
    let privileges_creators = context
        .rules
        .authorization
        .explicitly_privilege_room_creators;
    let create = context.state.get(&StateEventType::RoomCreate, "");
    let (Some(create), true) = (
        create,
        privileges_creators && pdu.is_state(&TimelineEventType::RoomPowerLevels, ""),
    ) else {
        return Ok(());
    };
    let creators = RoomCreateEvent::new(&**create).creators(&context.rules.authorization);
    let levels: UserPowerLevels = pdu.content_as().unwrap_or_default();
    for creator in creators.map_err(Error::BadJson)? {
        if levels.users.contains_key(creator.as_str()) {
            return Err(Error::BadJson(format!(
                "{creator} created the room and must not be given a power level"
            )));
        }
    }
    Ok(())
}

/// Checks an event against a state by the authorization rules of its room version.
///
/// # Errors
///
/// [`Error::Forbidden`] with the rule that refuses it.
pub fn authorize(pdu: &Pdu, rules: &RoomVersionRules, state: &StateMap) -> Result<()> {
    let own = as_own_state(pdu, rules, state)?;
    let pdu = own.as_ref().unwrap_or(pdu);
    check_state_dependent_auth_rules(&rules.authorization, pdu, |kind, state_key| {
        state.get(kind, state_key).map(|event| &**event)
    })
    .map_err(Error::Forbidden)
}

pub(super) fn select_auth_events(
    draft: &EventDraft,
    context: EventContext<'_>,
) -> Result<Vec<Arc<Pdu>>> {
    let types = auth_types_for_event(
        &draft.kind,
        &draft.sender,
        draft.state_key.as_deref(),
        &draft.content,
        &context.rules.authorization,
    )
    .map_err(Error::BadJson)?;
    Ok(types
        .iter()
        .filter_map(|(kind, state_key)| context.state.get(kind, state_key).cloned())
        .collect())
}

pub(super) fn unsigned_object(
    draft: EventDraft,
    event_context: EventContext<'_>,
    auth_events: &[Arc<Pdu>],
) -> Result<CanonicalJsonObject> {
    let content: CanonicalJsonValue = serde_json::from_str(draft.content.get())
        .map_err(|e| Error::BadJson(format!("the content is not canonical JSON: {e}")))?;
    if content.as_object().is_none() {
        return Err(Error::BadJson(
            "the content must be a JSON object".to_owned(),
        ));
    }
    let mut object = CanonicalJsonObject::new();
    let mut put = |field: &str, value: CanonicalJsonValue| object.insert(field.to_owned(), value);
    put("content", content);
    put("sender", draft.sender.to_string().into());
    put("type", draft.kind.to_string().into());
    put("origin_server_ts", canonical_integer(draft.timestamp.0)?);
    put("depth", canonical_integer(event_context.depth)?);
    // An event of a later version can have an `event_id` field, and then looks like one whose id is not a hash.
    let has_hashes = event_context.rules.event_format.require_event_id;
    let mut hashes = event_context.prev_hashes.iter().filter(|_| has_hashes);
    let prev_events = event_context.prev_events.iter();
    put(
        "prev_events",
        event_references(prev_events.map(|id| (id, hashes.next()))),
    );
    let auth_events = auth_events.iter();
    put(
        "auth_events",
        event_references(auth_events.map(|event| {
            let hash = event.reference_hash.as_ref().filter(|_| has_hashes);
            (&event.event_id, hash)
        })),
    );
    if let Some(sticky) = draft.sticky.and_then(StickyDuration::to_object) {
        put(STICKY_FIELD, sticky.into());
    }
    if let Some(event_id) = draft.event_id {
        put("event_id", event_id.to_string().into());
    }
    if let Some(room_id) = event_context.room_id {
        put("room_id", room_id.to_string().into());
    }
    if let Some(state_key) = draft.state_key {
        put("state_key", state_key.into());
    }
    if let Some(redacts) = draft.redacts
        && !event_context.rules.redaction.content_field_redacts
    {
        put("redacts", redacts.to_string().into());
    }
    Ok(object)
}

/// Lists events by their ids, and by their hashes, too, in versions whose ids are not hashes.
fn event_references<'a>(
    events: impl Iterator<Item = (&'a OwnedEventId, Option<&'a String>)>,
) -> CanonicalJsonValue {
    let reference = |(id, hash): (&OwnedEventId, Option<&String>)| {
        let id = CanonicalJsonValue::String(id.to_string());
        let Some(hash) = hash else { return id };
        let hashes = CanonicalJsonObject::from([("sha256".to_owned(), hash.clone().into())]);
        CanonicalJsonValue::Array(vec![id, CanonicalJsonValue::Object(hashes)])
    };
    CanonicalJsonValue::Array(events.map(reference).collect())
}

pub(super) fn canonical_integer(value: UInt) -> Result<CanonicalJsonValue> {
    let value = ruma::Int::try_from(u64::from(value)).map_err(|e| Error::BadJson(e.to_string()))?;
    Ok(CanonicalJsonValue::Integer(value))
}

/// Returns the redacted JSON of an event.
///
/// # Errors
///
/// [`Error::BadJson`] when `json` is not an event.
pub fn redact_json(json: &str, rules: &RoomVersionRules) -> Result<String> {
    let object: CanonicalJsonObject = serde_json::from_str(json)?;
    let redacted =
        redact(object, &rules.redaction, None).map_err(|e| Error::BadJson(e.to_string()))?;
    Ok(serde_json::to_string(&redacted)?)
}
