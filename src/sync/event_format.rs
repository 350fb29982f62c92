//! Events as one client receives them, with the fields of `unsigned` that depend on the recipient.

use ruma::{RoomId, events::room::member::MembershipState};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    matrix::{self, Pdu, TimelineEvent, UnsignedFields},
    rooms::{AggregationsByEvent, BundledAggregations, EventSources, UserAccess},
    users::Session,
};

/// The recipient and the format of events.
#[derive(Clone, Copy)]
pub(super) struct EventFormatter<'a> {
    pub(super) session: &'a Session,
    /// `None` for a user who was a member the whole time.
    pub(super) access: Option<&'a UserAccess>,
    pub(super) bundles: &'a AggregationsByEvent,
    pub(super) now_ms: i64,
    /// Set when the response does not name the room elsewhere.
    pub(super) room_id: Option<&'a RoomId>,
    /// The events in the federation format, for a client that asks for it.
    pub(super) sources: &'a EventSources,
}

/// The recipient of an event, and their access to its room.
#[derive(Clone, Copy)]
pub struct EventRecipient<'a> {
    pub session: &'a Session,
    pub access: &'a UserAccess,
}

/// Writes an event in the format that clients receive outside of `/sync`.
pub fn client_event(
    event: &TimelineEvent,
    session: &Session,
    access: &UserAccess,
    bundles: &AggregationsByEvent,
    now_ms: i64,
) -> Box<RawValue> {
    let recipient = EventRecipient { session, access };
    event_in_format(event, recipient, bundles, &EventSources::default(), now_ms)
}

/// Like [`client_event`], but an event that is in `sources` is written in the federation format.
pub fn event_in_format(
    event: &TimelineEvent,
    recipient: EventRecipient<'_>,
    bundles: &AggregationsByEvent,
    sources: &EventSources,
    now_ms: i64,
) -> Box<RawValue> {
    let formatter = EventFormatter {
        session: recipient.session,
        access: Some(recipient.access),
        bundles,
        now_ms,
        room_id: Some(&event.pdu.room_id),
        sources,
    };
    formatter.format_event(event)
}

impl EventFormatter<'_> {
    /// Writes an event with its bundled aggregations.
    pub(super) fn format_event(&self, event: &TimelineEvent) -> Box<RawValue> {
        let bundle = self.bundles.get(&event.pdu.event_id);
        self.format_with_relations(
            event,
            bundle.map(|bundle| self.format_relations(bundle)).as_ref(),
        )
    }

    /// Writes the newest reply of a thread, without a thread summary of its own.
    fn format_thread_reply(&self, event: &TimelineEvent) -> Box<RawValue> {
        let bundle = self.bundles.get(&event.pdu.event_id).cloned();
        let bundle = bundle.map(|bundle| BundledAggregations {
            thread: None,
            ..bundle
        });
        self.format_with_relations(
            event,
            bundle.map(|bundle| self.format_relations(&bundle)).as_ref(),
        )
    }

    /// Returns the time for which an event is still sticky.
    fn sticky_ttl_ms(&self, pdu: &Pdu) -> Option<i64> {
        // The time of receipt is not stored. It differs only for a time in the future.
        let expires = pdu.sticky?.expires_at(pdu.origin_server_ts, self.now_ms);
        Some(expires - self.now_ms).filter(|left| *left > 0)
    }

    fn format_relations(&self, bundle: &BundledAggregations) -> Value {
        let mut relations = serde_json::Map::new();
        if let Some(edit) = &bundle.edit {
            relations.insert(
                "m.replace".to_owned(),
                json!(self.format_with_relations(edit, None)),
            );
        }
        if let Some(thread) = &bundle.thread {
            let summary = json!({
                "count": thread.count,
                "latest_event": self.format_thread_reply(&thread.latest),
                "current_user_participated": thread.participated,
            });
            relations.insert("m.thread".to_owned(), summary);
        }
        if !bundle.references.is_empty() {
            let chunk = bundle.references.iter();
            let chunk: Vec<Value> = chunk.map(|id| json!({ "event_id": id })).collect();
            relations.insert("m.reference".to_owned(), json!({ "chunk": chunk }));
        }
        Value::Object(relations)
    }

    fn format_with_relations(
        &self,
        event: &TimelineEvent,
        relations: Option<&Value>,
    ) -> Box<RawValue> {
        let redaction = event.redacted_by.as_ref().map(|redaction| {
            // In every room version, the content of a redaction has only a reason and a target.
            let head = matrix::write_event_head(
                redaction,
                &ruma::room_version_rules::RoomVersionRules::V10,
            );
            matrix::client_event(
                &head,
                redaction.room_id.as_str(),
                &UnsignedFields::default(),
            )
        });
        let membership = match self.access {
            Some(access) => access.membership_at(event.timeline),
            None => MembershipState::Join,
        };
        let relations = relations.filter(|relations| **relations != json!({}));
        let relations = relations.and_then(|relations| to_raw_value(relations).ok());
        let unsigned = UnsignedFields {
            age: Some((self.now_ms - i64::from(event.pdu.origin_server_ts.0)).max(0)),
            transaction_id: event
                .txn_id
                .as_deref()
                .filter(|_| event.device == Some(self.session.device)),
            replaces: event.replaced_state_event().map(|pdu| &**pdu),
            membership: Some(membership.as_str()),
            redacted_by: event
                .redacted_by
                .as_ref()
                .map(|redaction| redaction.event_id.as_str()),
            redacted_because: redaction.as_deref(),
            relations: relations.as_deref(),
            sticky_ttl_ms: self.sticky_ttl_ms(&event.pdu),
            invite_room_state: None,
        };
        if let Some(source) = self.sources.get(&event.pdu.event_id)
            && let Some(event) = matrix::federation_event(source, &event.pdu, &unsigned)
        {
            return event;
        }
        match self.room_id {
            Some(room_id) => matrix::client_event(&event.head, room_id.as_str(), &unsigned),
            None => matrix::sync_event(&event.head, &unsigned),
        }
    }
}
