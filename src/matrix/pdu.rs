//! An event as servers exchange it, parsed once and shared.

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    UserId,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, redact_content_in_place},
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    signatures::reference_hash,
    state_res::Event,
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    relation::{RelatesTo, rel_type},
    sticky_duration::StickyDuration,
};
use crate::error::{Error, Result};

/// A persistent data unit: an event of a room, without signatures and hashes.
#[derive(Clone, Debug)]
pub struct Pdu {
    pub event_id: OwnedEventId,
    /// The room; for a create event of version 12 it follows from the event id.
    pub room_id: OwnedRoomId,
    pub sender: OwnedUserId,
    pub kind: TimelineEventType,
    /// The state key, if this is a state event.
    pub state_key: Option<String>,
    /// The time at which the sender's server made the event.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// One more than the greatest depth of its `prev_events`.
    pub depth: UInt,
    pub prev_events: Vec<OwnedEventId>,
    pub auth_events: Vec<OwnedEventId>,
    pub(super) redacts: RedactsFields,
    /// The event that it relates to, and the relationship type.
    pub relates_to: Option<RelatesTo>,
    pub content: Box<RawValue>,
    /// The time for which it is sticky.
    pub sticky: Option<StickyDuration>,
    /// Whether the checks on receipt rejected it.
    pub rejected: bool,
    /// The reference hash, for versions in which the event id is not made from it.
    pub reference_hash: Option<String>,
    /// Whether the event itself has a `room_id`: all events do, except the create event of version 12.
    pub(super) names_room: bool,
}

/// The two fields in which a redaction may name its target. The room version decides which of them counts.
#[derive(Clone, Debug, Default)]
pub(super) struct RedactsFields {
    /// The field at the top level of the event: up to version 10.
    top_level: Option<OwnedEventId>,
    /// The field in the content: from version 11 on.
    content: Option<OwnedEventId>,
}

#[derive(Deserialize)]
struct PduFields<'a> {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: TimelineEventType,
    state_key: Option<String>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    depth: UInt,
    prev_events: Vec<EventReference>,
    auth_events: Vec<EventReference>,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
    #[serde(borrow, rename = "msc4354_sticky")]
    sticky: Option<&'a RawValue>,
    content: Box<RawValue>,
    event_id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct ReplacementContent {
    #[serde(rename = "m.new_content")]
    new_content: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A reference to another event; versions 1 and 2 add its hash.
#[derive(Deserialize)]
#[serde(untagged)]
enum EventReference {
    Id(OwnedEventId),
    Pair(OwnedEventId, IgnoredAny),
}

impl EventReference {
    fn ids(references: Vec<Self>) -> Vec<OwnedEventId> {
        let id = |reference| match reference {
            Self::Id(id) | Self::Pair(id, _) => id,
        };
        references.into_iter().map(id).collect()
    }
}

impl RedactsFields {
    fn from_fields(wire: &PduFields<'_>) -> Self {
        #[derive(Deserialize)]
        struct RedactionContent {
            redacts: OwnedEventId,
        }
        if wire.kind != TimelineEventType::RoomRedaction {
            return Self::default();
        }
        // No event has an id that is longer, or that contains U+0000.
        let may_be = |id: &OwnedEventId| id.as_str().len() <= 255 && !id.as_str().contains('\0');
        let content = serde_json::from_str::<RedactionContent>(wire.content.get());
        let top_level = wire
            .redacts
            .and_then(|redacts| serde_json::from_str(redacts.get()).ok());
        Self {
            top_level: top_level.filter(may_be),
            content: content.ok().map(|content| content.redacts).filter(may_be),
        }
    }
}

impl Pdu {
    /// Parses the JSON of an event whose id is known.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] when a field is missing or of the wrong type.
    pub fn parse(event_id: OwnedEventId, json: &str) -> Result<Self> {
        let wire: PduFields<'_> =
            serde_json::from_str(json).map_err(|e| Error::BadJson(format!("not an event: {e}")))?;
        let redacts = RedactsFields::from_fields(&wire);
        let names_room = wire.room_id.is_some();
        let room_id = match wire.room_id {
            Some(room_id) => room_id,
            None => RoomId::new_v2(event_id.localpart())
                .map_err(|e| Error::BadJson(format!("the event has no room_id: {e}")))?,
        };
        let reference_hash = match wire.event_id {
            Some(_) => Some(compute_reference_hash(
                &serde_json::from_str(json)?,
                &RoomVersionRules::V2,
            )?),
            None => None,
        };
        Ok(Self {
            event_id,
            room_id,
            sender: wire.sender,
            kind: wire.kind,
            state_key: wire.state_key,
            origin_server_ts: wire.origin_server_ts,
            depth: wire.depth,
            prev_events: EventReference::ids(wire.prev_events),
            auth_events: EventReference::ids(wire.auth_events),
            redacts,
            sticky: wire.sticky.and_then(StickyDuration::from_field),
            relates_to: RelatesTo::from_content(&wire.content),
            content: wire.content,
            rejected: false,
            reference_hash,
            names_room,
        })
    }

    /// Parses an event object and computes its id.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] when it is not a valid event of this room version.
    pub fn from_object(
        object: &CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<(Self, String)> {
        let event_id = Self::id_of(object, rules)?;
        let json = serde_json::to_string(object)?;
        Ok((Self::parse(event_id, &json)?, json))
    }

    /// Returns the id of an event, even if the event is otherwise malformed.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] when it has none.
    pub fn id_of(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<OwnedEventId> {
        let own_id = object.get("event_id").and_then(CanonicalJsonValue::as_str);
        let event_id = match own_id {
            Some(event_id) if rules.event_format.require_event_id => event_id.to_owned(),
            _ => format!("${}", compute_reference_hash(object, rules)?),
        };
        EventId::parse(event_id).map_err(|e| Error::BadJson(format!("not an event: {e}")))
    }

    /// Returns the target of a redaction.
    pub fn redacts(&self, rules: &RoomVersionRules) -> Option<&OwnedEventId> {
        if rules.redaction.content_field_redacts {
            self.redacts.content.as_ref()
        } else {
            self.redacts.top_level.as_ref()
        }
    }

    /// Returns the event with its content redacted.
    #[must_use]
    pub fn redacted(&self, rules: &RoomVersionRules) -> Self {
        let mut redacted = self.clone();
        let mut content: CanonicalJsonObject = self.content_as().unwrap_or_default();
        redact_content_in_place(&mut content, &rules.redaction, self.kind.to_string());
        if let Ok(content) = to_raw_value(&content) {
            redacted.content = content;
            redacted.relates_to = None;
            redacted.sticky = None;
        }
        redacted
    }

    /// Returns the content as `T`, or `None` if it does not have that form.
    pub fn content_as<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.content.get()).ok()
    }

    /// Returns a string field of the content.
    pub fn content_str(&self, field: &str) -> Option<String> {
        let content: serde_json::Map<String, serde_json::Value> = self.content_as()?;
        content.get(field)?.as_str().map(ToOwned::to_owned)
    }

    /// Returns the type as that of a state event.
    pub fn state_type(&self) -> StateEventType {
        StateEventType::from(self.kind.to_string())
    }

    /// Returns whether this is the state event with this type and key.
    pub fn is_state(&self, kind: &TimelineEventType, state_key: &str) -> bool {
        self.kind == *kind && self.state_key.as_deref() == Some(state_key)
    }

    /// Returns the user whose membership this event sets.
    pub fn member(&self) -> Option<&UserId> {
        if self.kind != TimelineEventType::RoomMember {
            return None;
        }
        self.state_key
            .as_deref()
            .and_then(|key| <&UserId>::try_from(key).ok())
    }

    /// Returns the `membership` of a member event.
    pub fn membership(&self) -> Option<ruma::events::room::member::MembershipState> {
        #[derive(Deserialize)]
        struct MembershipContent {
            membership: ruma::events::room::member::MembershipState,
        }
        self.content_as::<MembershipContent>()
            .map(|content| content.membership)
    }
}

fn compute_reference_hash(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<String> {
    reference_hash(object, rules).map_err(|e| Error::BadJson(format!("not an event: {e}")))
}

impl Pdu {
    /// Returns the event to which this one relates with the given type.
    pub fn relation_target(&self, rel_type: &str) -> Option<&OwnedEventId> {
        let relates_to = self.relates_to.as_ref()?;
        (relates_to.rel_type == rel_type).then_some(&relates_to.event_id)
    }

    /// Returns whether this has the form of a valid replacement. The replaced event is not checked.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events).
    pub fn is_edit(&self) -> bool {
        if self.relation_target(rel_type::M_REPLACE).is_none() || self.state_key.is_some() {
            return false;
        }
        // The new content of an encrypted event is in the ciphertext, which this server cannot read.
        self.kind == TimelineEventType::RoomEncrypted
            || self
                .content_as::<ReplacementContent>()
                .is_some_and(|content| content.new_content.is_some())
    }
}

impl AsRef<Pdu> for Pdu {
    fn as_ref(&self) -> &Pdu {
        self
    }
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        &self.event_id
    }
    fn room_id(&self) -> Option<&RoomId> {
        self.names_room.then_some(&*self.room_id)
    }
    fn sender(&self) -> &UserId {
        &self.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.auth_events.iter())
    }
    // Only the rules of versions 1 and 2 need this.
    fn redacts(&self) -> Option<&Self::Id> {
        self.redacts.top_level.as_ref()
    }
    fn rejected(&self) -> bool {
        self.rejected
    }
}
