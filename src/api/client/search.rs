//! Search in the events of rooms.

use std::{collections::HashMap, sync::Arc};

use axum::{Json, Router, extract::State};
use futures_util::future::try_join_all;
use ruma::{
    OwnedRoomId,
    api::client::search::search_events::{
        self,
        v3::{Criteria, GroupingKey, OrderBy, SearchKeys},
    },
};
use serde_json::{Map, Value, json, value::RawValue};

use super::{messages::audience, state::state_event};
use crate::{
    api::{App, RequestWithBody, endpoint},
    clock::Clock,
    error::{Error, Result},
    matrix::{Pdu, StateMap, TimelineEvent, wants_event},
    numbers::Position,
    rooms::{
        AggregationsByEvent, ContextLimits, Rooms, SearchHit, SearchKey, SearchPage, SearchQuery,
        TimelineSelection,
    },
    sync::{client_event, timeline_token},
    users::Session,
};

/// The number of events in a page if the client gives none, and the maximum.
const DEFAULT_LIMIT: u64 = 10;
const MAX_LIMIT: u64 = 100;
/// The maximum number of context events on each side of a result.
const MAX_CONTEXT: u64 = 20;
/// The number of results whose contexts are read at the same time.
const MAX_CONCURRENT_CONTEXTS: usize = 4;

pub(super) fn routes() -> Router<App> {
    endpoint::<search_events::v3::Request, _>(search_events)
}

/// `POST /_matrix/client/*/search`
///
/// The response contains its list even when it is empty, unlike ruma's.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3search).
async fn search_events(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    RequestWithBody {
        from,
        request,
        body,
    }: RequestWithBody<search_events::v3::Request>,
) -> Result<Json<Value>> {
    let Some(criteria) = &request.search_categories.room_events else {
        return Ok(Json(json!({ "search_categories": {} })));
    };
    check_groupings(criteria)?;
    let limit = criteria.filter.limit.map_or(DEFAULT_LIMIT, u64::from);
    let query = SearchQuery {
        term: &criteria.search_term,
        keys: search_keys(criteria)?,
        filter: &criteria.filter,
        by_rank: match &criteria.order_by {
            None | Some(OrderBy::Rank) => true,
            Some(OrderBy::Recent) => false,
            Some(_) => return Err(Error::invalid_param("order_by must be rank or recent")),
        },
        from: request
            .next_batch
            .as_deref()
            .map(parse_search_token)
            .transpose()?,
        limit: usize::try_from(limit.clamp(1, MAX_LIMIT)).unwrap_or(1),
    };
    let page = rooms
        .search
        .find_events(from.user, &from.user_id, &query)
        .await?;
    let answer = SearchResultWriter {
        rooms: &rooms,
        session: &from,
        criteria,
        // A request without this field wants no context, but ruma reads a missing field as the default context.
        has_context: body
            .get("search_categories")
            .and_then(|categories| categories.get("room_events")?.get("event_context"))
            .is_some_and(Value::is_object),
        now_ms: clock.now_ms(),
    };
    let found = answer.write_results(&page).await?;
    Ok(Json(
        json!({ "search_categories": { "room_events": found } }),
    ))
}

fn check_groupings(criteria: &Criteria) -> Result<()> {
    let is_known = |key: &GroupingKey| matches!(key, GroupingKey::RoomId | GroupingKey::Sender);
    let mut keys = criteria.groupings.group_by.iter().map(|by| by.key.as_ref());
    if keys.all(|key| key.is_none_or(is_known)) {
        return Ok(());
    }
    Err(Error::invalid_param(
        "results can be grouped only by room_id or sender",
    ))
}

fn search_keys(criteria: &Criteria) -> Result<Vec<SearchKey>> {
    let Some(keys) = &criteria.keys else {
        return Ok(vec![SearchKey::Body, SearchKey::Name, SearchKey::Topic]);
    };
    let known = keys.iter().map(|key| match key {
        SearchKeys::ContentBody => Ok(SearchKey::Body),
        SearchKeys::ContentName => Ok(SearchKey::Name),
        SearchKeys::ContentTopic => Ok(SearchKey::Topic),
        other => Err(Error::invalid_param(format!(
            "the search key {other} is not supported"
        ))),
    });
    known.collect()
}

/// Reads the position at which a page of a search begins.
fn parse_search_token(token: &str) -> Result<(Position, usize)> {
    let parse = || {
        let (up_to, skipped) = token.strip_prefix('q')?.split_once('_')?;
        Some((up_to.parse().ok()?, skipped.parse().ok()?))
    };
    parse().ok_or_else(|| Error::invalid_param("this is not a token of a search"))
}

fn search_token(up_to: Position, skipped: usize) -> String {
    format!("q{up_to}_{skipped}")
}

/// Returns the profiles of the senders of events, as their member events show them.
fn sender_profiles<'a>(
    state: &StateMap,
    events: impl Iterator<Item = &'a Arc<TimelineEvent>>,
) -> Value {
    let mut profiles = Map::new();
    for event in events {
        let member = state.member(&event.pdu.sender);
        let fields = ["displayname", "avatar_url"]
            .into_iter()
            .filter_map(|field| {
                let text = member?.content_str(field)?;
                Some((field.to_owned(), Value::String(text)))
            });
        let profile = Value::Object(fields.collect());
        profiles.insert(event.pdu.sender.to_string(), profile);
    }
    Value::Object(profiles)
}

/// The context in which search results are written.
struct SearchResultWriter<'a> {
    rooms: &'a Rooms,
    session: &'a Session,
    criteria: &'a Criteria,
    has_context: bool,
    now_ms: i64,
}

impl SearchResultWriter<'_> {
    async fn write_results(&self, page: &SearchPage) -> Result<Value> {
        let bundles = self.bundles(&page.hits).await?;
        let mut results = Vec::with_capacity(page.hits.len());
        for hits in page.hits.chunks(MAX_CONCURRENT_CONTEXTS) {
            let reading = hits
                .iter()
                .map(|hit| self.write_result(hit, bundles.get(&hit.room_access.0.room_id)));
            results.extend(try_join_all(reading).await?);
        }
        let mut found = Map::new();
        found.insert("count".to_owned(), json!(page.count));
        found.insert("highlights".to_owned(), json!(page.words));
        found.insert("results".to_owned(), Value::Array(results));
        if let Some((up_to, skipped)) = page.next {
            let token = search_token(up_to, skipped);
            found.insert("next_batch".to_owned(), json!(token));
        }
        let groups = self.group_results(page);
        if !groups.is_empty() {
            found.insert("groups".to_owned(), Value::Object(groups));
        }
        if self.criteria.include_state == Some(true) {
            found.insert("state".to_owned(), self.room_states(&page.hits).await?);
        }
        Ok(Value::Object(found))
    }

    /// Returns the aggregations of the results by room.
    async fn bundles(
        &self,
        hits: &[SearchHit],
    ) -> Result<HashMap<OwnedRoomId, AggregationsByEvent>> {
        let mut by_room: HashMap<&OwnedRoomId, Vec<&SearchHit>> = HashMap::new();
        for hit in hits {
            by_room
                .entry(&hit.room_access.0.room_id)
                .or_default()
                .push(hit);
        }
        let mut bundles = HashMap::new();
        for (room_id, hits) in by_room {
            let Some(place) = hits.first().map(|hit| &hit.room_access) else {
                continue;
            };
            let events = hits.iter().map(|hit| &hit.event);
            let audience = audience(self.session, &place.1);
            let of_room = self
                .rooms
                .relations
                .load_aggregations(&place.0, audience, events)
                .await?;
            bundles.insert(room_id.clone(), of_room);
        }
        Ok(bundles)
    }

    async fn write_result(
        &self,
        hit: &SearchHit,
        bundles: Option<&AggregationsByEvent>,
    ) -> Result<Value> {
        let none = AggregationsByEvent::default();
        let bundles = bundles.unwrap_or(&none);
        let mut result = Map::new();
        result.insert("rank".to_owned(), json!(hit.rank));
        let event = self.write_event(hit, &hit.event, bundles);
        result.insert("result".to_owned(), json!(event));
        if self.has_context {
            let context = self.write_context(hit, bundles).await?;
            result.insert("context".to_owned(), context);
        }
        Ok(Value::Object(result))
    }

    fn write_event(
        &self,
        hit: &SearchHit,
        event: &Arc<TimelineEvent>,
        bundles: &AggregationsByEvent,
    ) -> Box<RawValue> {
        let access = &hit.room_access.1;
        client_event(event, self.session, access, bundles, self.now_ms)
    }

    /// Returns the events before and after a found event.
    async fn write_context(&self, hit: &SearchHit, bundles: &AggregationsByEvent) -> Result<Value> {
        let wanted = &self.criteria.event_context;
        let limit = |limit: ruma::UInt| {
            usize::try_from(u64::from(limit).min(MAX_CONTEXT)).unwrap_or_default()
        };
        let limits = ContextLimits {
            before: limit(wanted.before_limit),
            after: limit(wanted.after_limit),
        };
        let filter = &self.criteria.filter;
        let is_wanted = |pdu: &Pdu| wants_event(filter, pdu);
        let (room, access) = (&*hit.room_access.0, &hit.room_access.1);
        let selection = TimelineSelection {
            room,
            access,
            wanted: &is_wanted,
        };
        let context = self
            .rooms
            .timeline
            .load_events_around(selection, hit.event.clone(), limits)
            .await?;
        let (before, after) = (&context.before, &context.after);
        let first = before.events.last().unwrap_or(&hit.event).timeline;
        let last = after.events.last().unwrap_or(&hit.event).timeline;
        let start = timeline_token(before.end.unwrap_or(first.previous()));
        let end = timeline_token(after.end.unwrap_or(last));
        let show = |event: &Arc<_>| self.write_event(hit, event, bundles);
        let show_all = |events: &[Arc<_>]| json!(events.iter().map(show).collect::<Vec<_>>());
        let mut shown = Map::from_iter([
            ("start".to_owned(), json!(start)),
            ("end".to_owned(), json!(end)),
            ("events_before".to_owned(), show_all(&before.events)),
            ("events_after".to_owned(), show_all(&after.events)),
        ]);
        if wanted.include_profile {
            let state = self.rooms.state.state_at(room, last).await?;
            let around = before.events.iter().chain(&after.events);
            let profiles = sender_profiles(&state, around.chain([&hit.event]));
            shown.insert("profile_info".to_owned(), profiles);
        }
        Ok(Value::Object(shown))
    }

    /// Groups the results by room or sender.
    fn group_results(&self, page: &SearchPage) -> Map<String, Value> {
        let mut groups = Map::new();
        if page.hits.is_empty() {
            return groups;
        }
        for grouping in &self.criteria.groupings.group_by {
            let (name, by_key) = match grouping.key {
                Some(GroupingKey::RoomId) => {
                    let room_id = |hit: &SearchHit| hit.room_access.0.room_id.to_string();
                    ("room_id", group_hits(&page.hits, room_id))
                }
                Some(GroupingKey::Sender) => {
                    let sender = |hit: &SearchHit| hit.event.pdu.sender.to_string();
                    ("sender", group_hits(&page.hits, sender))
                }
                // Other groupings were refused before.
                _ => continue,
            };
            groups.insert(name.to_owned(), Value::Object(by_key));
        }
        groups
    }

    async fn room_states(&self, hits: &[SearchHit]) -> Result<Value> {
        let mut states = Map::new();
        for hit in hits {
            let room = &hit.room_access.0;
            if states.contains_key(room.room_id.as_str()) {
                continue;
            }
            let (user, user_id) = (self.session.user, &self.session.user_id);
            let state = self
                .rooms
                .state
                .visible_state_at(room, user, user_id, None)
                .await?;
            let events = state.iter().map(|pdu| state_event(room, pdu, self.now_ms));
            states.insert(room.room_id.to_string(), json!(events.collect::<Vec<_>>()));
        }
        Ok(Value::Object(states))
    }
}

/// Groups results by a key, in the order of the best result of each group.
fn group_hits(hits: &[SearchHit], key_of: impl Fn(&SearchHit) -> String) -> Map<String, Value> {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for hit in hits {
        let key = key_of(hit);
        let event_id = hit.event.pdu.event_id.as_str();
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, ids)) => ids.push(event_id),
            None => groups.push((key, vec![event_id])),
        }
    }
    let groups = groups.into_iter().enumerate();
    groups
        .map(|(order, (key, ids))| (key, json!({ "order": order, "results": ids })))
        .collect()
}
