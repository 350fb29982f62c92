//! Relationships between events, read from the event that relates to another.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events).

use ruma::OwnedEventId;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The relationship types that have a meaning for this server.
pub mod rel_type {
    /// The event replaces the content of another.
    pub const M_REPLACE: &str = "m.replace";
    /// The event belongs to the thread of another.
    pub const M_THREAD: &str = "m.thread";
    /// The event refers to another.
    pub const M_REFERENCE: &str = "m.reference";
    /// The event is a reaction to another.
    pub const M_ANNOTATION: &str = "m.annotation";
}

/// The longest relationship type, event id or key that is stored, in bytes.
const MAX_FIELD_BYTES: usize = 255;

/// `m.relates_to` with a `rel_type`: rich replies have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelatesTo {
    pub rel_type: String,
    /// The event that it relates to.
    pub event_id: OwnedEventId,
    /// The key of an annotation.
    pub key: Option<String>,
}

#[derive(Deserialize)]
struct RelatesToContent {
    #[serde(rename = "m.relates_to")]
    relates_to: serde_json::Map<String, serde_json::Value>,
}

impl RelatesTo {
    /// Returns the relationship in a content. A malformed one counts as none.
    pub fn from_content(content: &RawValue) -> Option<Self> {
        // Most events relate to nothing, and this shows it without parsing them.
        if !content.get().contains("m.relates_to") {
            return None;
        }
        let content: RelatesToContent = serde_json::from_str(content.get()).ok()?;
        let text = |field: &str| {
            content
                .relates_to
                .get(field)?
                .as_str()
                .map(ToOwned::to_owned)
        };
        let relates_to = Self {
            rel_type: text("rel_type")?,
            event_id: OwnedEventId::try_from(text("event_id")?).ok()?,
            key: text("key"),
        };
        let is_short = |text: &str| text.len() <= MAX_FIELD_BYTES && !text.contains('\0');
        (is_short(&relates_to.rel_type) && is_short(relates_to.event_id.as_str()))
            .then_some(relates_to)
    }

    /// Returns the key of an annotation, if it can be stored.
    pub fn annotation_key(&self) -> Option<&str> {
        let key = self.key.as_deref()?;
        let is_kept = key.len() <= MAX_FIELD_BYTES && !key.contains('\0');
        (self.rel_type == rel_type::M_ANNOTATION && is_kept).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn relation(relates_to: &Value) -> Option<RelatesTo> {
        let content = json!({ "body": "x", "m.relates_to": relates_to });
        RelatesTo::from_content(&to_raw_value(&content).unwrap())
    }

    #[test]
    fn a_relationship_has_a_type_and_an_event() {
        let thread = relation(&json!({ "rel_type": "m.thread", "event_id": "$a" })).unwrap();

        assert_eq!(thread.rel_type, "m.thread");
        assert_eq!(thread.event_id, "$a");
        assert_eq!(thread.annotation_key(), None);
    }

    #[test]
    fn a_malformed_relationship_counts_as_none() {
        for relates_to in [
            json!({ "m.in_reply_to": { "event_id": "$a" } }),
            json!({ "rel_type": "m.thread" }),
            json!({ "rel_type": "m.thread", "event_id": "no id" }),
            json!({ "rel_type": 1, "event_id": "$a" }),
            json!({ "rel_type": "x".repeat(256), "event_id": "$a" }),
            json!(["m.thread", "$a"]),
            json!("$a"),
        ] {
            assert_eq!(relation(&relates_to), None, "{relates_to}");
        }
    }

    #[test]
    fn only_an_annotation_has_a_key() {
        let key = |rel_type: &str| {
            relation(&json!({ "rel_type": rel_type, "event_id": "$a", "key": "+1" }))
                .unwrap()
                .annotation_key()
                .map(ToOwned::to_owned)
        };

        assert_eq!(key("m.annotation").as_deref(), Some("+1"));
        assert_eq!(key("m.reference"), None);
    }
}
