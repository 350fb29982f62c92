//! Filters: the events that a client asks for.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#filtering).

use ruma::{
    OwnedUserId, RoomId, UserId,
    api::client::filter::{EventFormat, Filter, RoomEventFilter, RoomFilter, UrlFilter},
};
use serde::Deserialize;

use super::Pdu;

/// Returns whether a filter includes an event of a room's timeline or state.
pub fn wants_event(filter: &RoomEventFilter, pdu: &Pdu) -> bool {
    wants_room_in(filter.rooms.as_deref(), &filter.not_rooms, &pdu.room_id)
        && wants_type(
            filter.types.as_deref(),
            &filter.not_types,
            &pdu.kind.to_string(),
        )
        && wants_sender(filter.senders.as_deref(), &filter.not_senders, &pdu.sender)
        && match filter.url_filter {
            None => true,
            Some(UrlFilter::EventsWithUrl) => has_url(pdu),
            Some(UrlFilter::EventsWithoutUrl) => !has_url(pdu),
        }
}

/// Returns whether the event format of a filter is one of the specification's.
pub fn is_known_format(format: &EventFormat) -> bool {
    matches!(format, EventFormat::Client | EventFormat::Federation)
}

/// The part of a filter that is about relationships between events.
///
/// See [MSC3874](https://github.com/matrix-org/matrix-spec-proposals/pull/3874) and, for threads,
/// [MSC3440](https://github.com/matrix-org/matrix-spec-proposals/pull/3440).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RelationFilter {
    /// Includes only events that relate to others with one of these types.
    #[serde(alias = "org.matrix.msc3874.rel_types")]
    pub rel_types: Option<Vec<String>>,
    /// Excludes events that relate to others with one of these types.
    #[serde(alias = "org.matrix.msc3874.not_rel_types")]
    pub not_rel_types: Vec<String>,
    /// Includes only events to which others relate with one of these types.
    #[serde(alias = "io.element.relation_types")]
    pub related_by_rel_types: Option<Vec<String>>,
    /// Includes only events to which events of one of these users relate.
    #[serde(alias = "io.element.relation_senders")]
    pub related_by_senders: Option<Vec<OwnedUserId>>,
}

impl RelationFilter {
    /// Returns whether the filter includes an event, judged by the relationship in the event itself.
    pub fn wants_event(&self, pdu: &Pdu) -> bool {
        let names = |types: &[String]| {
            let relates_to = pdu.relates_to.as_ref();
            relates_to.is_some_and(|relates_to| types.contains(&relates_to.rel_type))
        };
        !names(&self.not_rel_types) && self.rel_types.as_deref().is_none_or(names)
    }

    /// Returns whether the filter depends on the events that relate to an event.
    pub fn depends_on_children(&self) -> bool {
        self.related_by_rel_types.is_some() || self.related_by_senders.is_some()
    }
}

/// Returns whether a filter includes events of a type and a sender. Its other conditions are not checked.
pub fn wants_type_of(filter: &RoomEventFilter, kind: &str, sender: &UserId) -> bool {
    wants_type(filter.types.as_deref(), &filter.not_types, kind)
        && wants_sender(filter.senders.as_deref(), &filter.not_senders, sender)
}

/// Returns whether a filter includes data of a room that are not events: typing, receipts, account data.
pub fn wants_room_data(filter: &RoomEventFilter, room_id: &RoomId, kind: &str) -> bool {
    wants_room_in(filter.rooms.as_deref(), &filter.not_rooms, room_id)
        && wants_type(filter.types.as_deref(), &filter.not_types, kind)
}

/// Returns whether a filter includes data that belong to no room.
pub fn wants_global(filter: &Filter, kind: &str, sender: Option<&UserId>) -> bool {
    wants_type(filter.types.as_deref(), &filter.not_types, kind)
        && sender.is_none_or(|sender| {
            wants_sender(filter.senders.as_deref(), &filter.not_senders, sender)
        })
}

/// Returns whether a filter includes a room.
pub fn wants_room(filter: &RoomFilter, room_id: &RoomId) -> bool {
    wants_room_in(filter.rooms.as_deref(), &filter.not_rooms, room_id)
}

fn wants_room_in<R: AsRef<RoomId>>(rooms: Option<&[R]>, not_rooms: &[R], room_id: &RoomId) -> bool {
    let names = |rooms: &[R]| rooms.iter().any(|room| room.as_ref() == room_id);
    !names(not_rooms) && rooms.is_none_or(names)
}

fn wants_sender<U: AsRef<UserId>>(
    senders: Option<&[U]>,
    not_senders: &[U],
    sender: &UserId,
) -> bool {
    let names = |senders: &[U]| senders.iter().any(|named| named.as_ref() == sender);
    !names(not_senders) && senders.is_none_or(names)
}

fn wants_type(types: Option<&[String]>, not_types: &[String], kind: &str) -> bool {
    let names = |types: &[String]| types.iter().any(|pattern| matches_type(pattern, kind));
    !names(not_types) && types.is_none_or(names)
}

/// Returns whether a type matches a pattern in which `*` is a wildcard for any text.
fn matches_type(pattern: &str, kind: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| kind.strip_prefix(first)) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

fn has_url(pdu: &Pdu) -> bool {
    pdu.content_str("url").is_some()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};
    use ruma::{OwnedRoomId, api::client::filter::FilterDefinition};
    use serde_json::json;

    use super::*;
    use crate::matrix::glob;

    fn any_types() -> impl Strategy<Value = Vec<String>> {
        vec("(m\\.)?[ab*]{0,3}", 0..3)
    }

    fn any_users() -> impl Strategy<Value = Vec<OwnedUserId>> {
        vec("@[ab]:[xy]", 0..3).prop_map(|users| {
            let users = users.into_iter();
            users.map(|user| user.try_into().unwrap()).collect()
        })
    }

    fn any_rooms() -> impl Strategy<Value = Vec<OwnedRoomId>> {
        vec("![ab]:[xy]", 0..3).prop_map(|rooms| {
            let rooms = rooms.into_iter();
            rooms.map(|room| room.try_into().unwrap()).collect()
        })
    }

    prop_compose! {
        fn any_filter()(
            types in option::of(any_types()),
            not_types in any_types(),
            rooms in option::of(any_rooms()),
            not_rooms in any_rooms(),
            senders in option::of(any_users()),
            not_senders in any_users(),
            has_url in option::of(any::<bool>()),
        ) -> RoomEventFilter {
            let mut filter = RoomEventFilter::default();
            (filter.types, filter.not_types) = (types, not_types);
            (filter.rooms, filter.not_rooms) = (rooms, not_rooms);
            (filter.senders, filter.not_senders) = (senders, not_senders);
            filter.url_filter = has_url.map(|has_url| if has_url { UrlFilter::EventsWithUrl } else { UrlFilter::EventsWithoutUrl });
            filter
        }
    }

    prop_compose! {
        fn any_event()(
            kind in "(m\\.)?[ab]{1,3}",
            sender in "@[ab]:[xy]",
            room_id in "![ab]:[xy]",
            has_url: bool,
        ) -> Pdu {
            let content = if has_url { json!({ "url": "mxc://x/y" }) } else { json!({}) };
            let event = json!({
                "room_id": room_id, "sender": sender, "type": kind, "depth": 1, "content": content,
                "origin_server_ts": 1, "prev_events": [], "auth_events": [],
            });
            Pdu::parse("$event".try_into().unwrap(), &event.to_string()).unwrap()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 128,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_filter_means_the_same_after_it_was_stored(filter in any_filter(), pdu in any_event()) {
            let mut definition = FilterDefinition::default();
            definition.room.timeline = filter.clone();
            let json = serde_json::to_value(&definition).unwrap();

            let stored: FilterDefinition = serde_json::from_value(json.clone()).unwrap();

            let timeline = &stored.room.timeline;
            prop_assert_eq!(wants_event(timeline, &pdu), wants_event(&filter, &pdu));
            prop_assert_eq!(serde_json::to_value(&stored).unwrap(), json);
        }

        #[test]
        fn an_empty_filter_wants_everything(pdu in any_event()) {
            let filter: FilterDefinition = serde_json::from_value(json!({})).unwrap();
            let kind = pdu.kind.to_string();

            prop_assert!(wants_event(&filter.room.timeline, &pdu));
            prop_assert!(wants_room(&filter.room, &pdu.room_id));
            prop_assert!(wants_room_data(&filter.room.ephemeral, &pdu.room_id, &kind));
            prop_assert!(wants_global(&filter.presence, &kind, Some(&pdu.sender)));
            prop_assert!(RelationFilter::default().wants_event(&pdu));
        }

        #[test]
        fn a_pattern_of_types_is_a_glob_pattern(pattern in "[ab*]{0,6}", kind in "[ab]{0,6}") {
            prop_assert_eq!(matches_type(&pattern, &kind), glob::matches(&pattern, &kind));
        }
    }

    #[test]
    fn a_star_matches_any_text() {
        assert!(matches_type("m.room.*", "m.room.message"));
        assert!(matches_type("*", "anything"));
        assert!(matches_type("m.*.message", "m.room.message"));
        assert!(matches_type("m.room.message", "m.room.message"));
        assert!(!matches_type("m.room.*", "m.reaction"));
        assert!(!matches_type("m.room", "m.room.message"));
        assert!(!matches_type("*.name", "m.room.message"));
    }

    #[test]
    fn an_excluded_type_is_not_wanted_even_if_included() {
        let types = ["m.room.*".to_owned()];
        let not_types = ["m.room.name".to_owned()];

        assert!(wants_type(Some(&types), &not_types, "m.room.topic"));
        assert!(!wants_type(Some(&types), &not_types, "m.room.name"));
        assert!(!wants_type(Some(&[]), &[], "m.room.topic"));
        assert!(wants_type(None, &[], "m.room.topic"));
    }
}
