//! The timeline of a room.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Router,
    extract::{RawQuery, Request, State},
    middleware::map_request,
};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedUserId, UInt,
    api::{
        Direction,
        client::{
            context::get_context,
            filter::{EventFormat, RoomEventFilter},
            message::get_message_events,
            room::get_event_by_timestamp,
        },
    },
    serde::Raw,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::state::state_event_in_format;
use crate::{
    api::{App, CompleteResponse, MatrixRequest, MatrixResponse, endpoint},
    clock::Clock,
    error::{Error, Result},
    matrix::{Pdu, RelationFilter, StateMap, TimelineEvent, is_known_format, wants_event},
    numbers::Position,
    rooms::{
        AggregationViewer, EventSources, PageRequest, Room, Rooms, TimelineContext, TimelinePage,
        TimelineSelection, UserAccess,
    },
    sync::{EventRecipient, event_in_format, parse_timeline_token, timeline_token},
    users::Session,
    workflows::Workflows,
};

/// The maximum number of backfills for one page.
const MAX_BACKFILLS: usize = 3;
/// The maximum number of events in a page.
const MAX_LIMIT: u64 = 1_000;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(
            endpoint::<get_message_events::v3::Request, _>(get_message_events)
                .layer(map_request(add_default_direction)),
        )
        .merge(endpoint::<get_context::v3::Request, _>(get_context))
        .merge(endpoint::<get_event_by_timestamp::v1::Request, _>(
            get_event_by_timestamp,
        ))
}

/// Makes a request without a direction read backwards, which such clients usually mean.
async fn add_default_direction(mut request: Request) -> Request {
    let query = request.uri().query().unwrap_or_default();
    if query.split('&').any(|field| field.starts_with("dir=")) {
        return request;
    }
    let path = request.uri().path();
    let with_direction = match query {
        "" => format!("{path}?dir=b"),
        query => format!("{path}?{query}&dir=b"),
    };
    if let Ok(uri) = with_direction.parse() {
        *request.uri_mut() = uri;
    }
    request
}

/// `GET /_matrix/client/*/rooms/{roomId}/messages`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages).
async fn get_message_events(
    State(rooms): State<Rooms>,
    State(workflows): State<Workflows>,
    State(clock): State<Clock>,
    RawQuery(query): RawQuery,
    MatrixRequest { from, request }: MatrixRequest<get_message_events::v3::Request>,
) -> Result<CompleteResponse<get_message_events::v3::Response>> {
    let (room, access) = rooms
        .access
        .load_readable_room(&request.room_id, from.user, &from.user_id)
        .await?;
    let wanted_page = page_request(&request, &room)?;
    let filter = &request.filter;
    let wanted = |pdu: &Pdu| wants_event(filter, pdu);
    let query = query.as_deref().unwrap_or_default();
    let relations: RelationFilter = parse_filter_fields(query)?;
    let history = HistoryReader {
        rooms: &rooms,
        workflows: &workflows,
        room: &room,
        access: &access,
    };
    let selection = history.select_events(&wanted);
    let page = history
        .read_page(selection, wanted_page, &relations)
        .await?;
    let bundles = rooms
        .relations
        .load_aggregations(&room, audience(&from, &access), &page.events)
        .await?;
    let far_end = (excludes_events(filter) && !page.events.is_empty()).then(|| match request.dir {
        Direction::Backward => Position::ZERO,
        Direction::Forward => room.view().newest_place(),
    });
    let state = room.view().state.clone();
    let members = sender_members(&state, filter, page.events.iter());
    let sources = event_sources(&rooms, query, page.events.iter(), members.iter()).await?;
    let now = clock.now_ms();
    let recipient = EventRecipient {
        session: &from,
        access: &access,
    };
    let show = |event: &Arc<TimelineEvent>| {
        let written = event_in_format(event, recipient, &bundles, &sources, now);
        Raw::from_json(written)
    };
    let mut response = get_message_events::v3::Response::new();
    response.start = request
        .from
        .clone()
        .unwrap_or_else(|| timeline_token(wanted_page.from));
    // A non-empty page that was shortened by a filter also has an end token, because clients expect it.
    response.end = page.end.or(far_end).map(timeline_token);
    response.state = members
        .iter()
        .map(|pdu| Raw::from_json(state_event_in_format(&room, pdu, &sources, now)))
        .collect();
    response.chunk = page.events.iter().map(show).collect();
    Ok(CompleteResponse(response))
}

/// Returns the page that a request wants.
fn page_request(request: &get_message_events::v3::Request, room: &Room) -> Result<PageRequest> {
    let (from, to) = (request.from.as_deref(), request.to.as_deref());
    let start = match from.map(parse_timeline_token).transpose()? {
        Some(place) => place,
        None if request.dir == Direction::Forward => Position::MIN,
        None => room.view().newest_place(),
    };
    let limit = request.filter.limit.unwrap_or(request.limit);
    Ok(PageRequest {
        from: start,
        to: to.map(parse_timeline_token).transpose()?,
        dir: request.dir,
        limit: page_size(limit.min(request.limit).into()),
    })
}

/// Reads the history of a room, and fetches from other servers the events that this server lacks.
struct HistoryReader<'a> {
    rooms: &'a Rooms,
    workflows: &'a Workflows,
    room: &'a Arc<Room>,
    access: &'a UserAccess,
}

impl HistoryReader<'_> {
    fn select_events<'a>(
        &'a self,
        wanted: &'a (dyn Fn(&Pdu) -> bool + Sync),
    ) -> TimelineSelection<'a> {
        TimelineSelection {
            room: self.room,
            access: self.access,
            wanted,
        }
    }

    /// Reads a page. When other servers had the missing events, it reads the page again.
    async fn read_page(
        &self,
        selection: TimelineSelection<'_>,
        request: PageRequest,
        relations: &RelationFilter,
    ) -> Result<TimelinePage> {
        let timeline = &self.rooms.timeline;
        let mut page = timeline
            .page_by_relations(selection, request, relations)
            .await?;
        for _ in 0..MAX_BACKFILLS {
            let (after, up_to) = backfill_range(request, &page);
            let filling = self.workflows.history.fill_history(self.room, after, up_to);
            if !filling.await? {
                break;
            }
            page = timeline
                .page_by_relations(selection, request, relations)
                .await?;
        }
        if let (Direction::Backward, None, Some(last)) = (request.dir, page.end, page.events.last())
            && self
                .workflows
                .history
                .lacks_history(self.room, last.timeline)
                .await?
        {
            // No server sends the earlier events now; the client may ask again later.
            page.end = Some(last.timeline.previous());
        }
        Ok(page)
    }

    /// Reads the events around an event. When other servers had the events missing before it, it reads them again.
    async fn read_context(
        &self,
        selection: TimelineSelection<'_>,
        event_id: &EventId,
        limit: usize,
    ) -> Result<TimelineContext> {
        let timeline = &self.rooms.timeline;
        let context = timeline.load_context(selection, event_id, limit).await?;
        let stop = context.before.end.unwrap_or(Position::MIN).next();
        let place = context.event.timeline;
        if limit > 1
            && self
                .workflows
                .history
                .fill_history(self.room, stop, place)
                .await?
        {
            return timeline.load_context(selection, event_id, limit).await;
        }
        Ok(context)
    }
}

/// Returns the span in which missing events belong to a page. A position is between two events, and events missing
/// before an event belong to a page that extends beyond that event.
fn backfill_range(request: PageRequest, page: &TimelinePage) -> (Position, Position) {
    let end = page.end.or(request.to);
    match request.dir {
        Direction::Backward => {
            let stop = end.unwrap_or(Position::MIN).next();
            (stop, request.from.next())
        }
        Direction::Forward => (request.from, end.unwrap_or(Position::MAX)),
    }
}

/// `GET /_matrix/client/*/rooms/{roomId}/context/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidcontexteventid).
async fn get_context(
    State(rooms): State<Rooms>,
    State(workflows): State<Workflows>,
    State(clock): State<Clock>,
    RawQuery(query): RawQuery,
    MatrixRequest { from, request }: MatrixRequest<get_context::v3::Request>,
) -> Result<CompleteResponse<get_context::v3::Response>> {
    let (room, access) = rooms
        .access
        .load_readable_room(&request.room_id, from.user, &from.user_id)
        .await?;
    let filter = &request.filter;
    let limit = usize::try_from(u64::from(request.limit).min(MAX_LIMIT)).unwrap_or(0);
    let wanted = |pdu: &Pdu| wants_event(filter, pdu);
    let history = HistoryReader {
        rooms: &rooms,
        workflows: &workflows,
        room: &room,
        access: &access,
    };
    let context = history
        .read_context(history.select_events(&wanted), &request.event_id, limit)
        .await?;
    let now = clock.now_ms();
    let all = context.before.events.iter().chain(&context.after.events);
    let all = all.chain([&context.event]);
    let bundles = rooms
        .relations
        .load_aggregations(&room, audience(&from, &access), all.clone())
        .await?;
    let last = context.after.events.last().unwrap_or(&context.event);
    let state = rooms.state.state_at(&room, last.timeline).await?;
    let state = context_state(&state, filter, all.clone());
    let query = query.as_deref().unwrap_or_default();
    let sources = event_sources(&rooms, query, all, state.iter()).await?;
    let recipient = EventRecipient {
        session: &from,
        access: &access,
    };
    let show = |event: &Arc<TimelineEvent>| {
        let written = event_in_format(event, recipient, &bundles, &sources, now);
        Raw::from_json(written)
    };
    let mut response = get_context::v3::Response::new();
    let first = context
        .before
        .events
        .last()
        .unwrap_or(&context.event)
        .timeline
        .previous();
    response.start = Some(timeline_token(context.before.end.unwrap_or(first)));
    response.end = Some(timeline_token(context.after.end.unwrap_or(last.timeline)));
    response.events_before = context.before.events.iter().map(show).collect();
    response.events_after = context.after.events.iter().map(show).collect();
    response.event = Some(show(&context.event));
    response.state = state
        .iter()
        .map(|pdu| Raw::from_json(state_event_in_format(&room, pdu, &sources, now)))
        .collect();
    Ok(CompleteResponse(response))
}

/// Reads the fields of the filter in a query that ruma does not have.
fn parse_filter_fields<T: Default + DeserializeOwned>(query: &str) -> Result<T> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let Some((_, filter)) = pairs.find(|(name, _)| name == "filter") else {
        return Ok(T::default());
    };
    serde_json::from_str(&filter).map_err(|e| Error::invalid_param(format!("filter: {e}")))
}

/// A field that the specification has in the filter of a sync, and that clients also send here.
#[derive(Default, Deserialize)]
struct FormatFilter {
    #[serde(default)]
    event_format: EventFormat,
}

/// Returns events in the federation format, if the filter in a query requests it.
async fn event_sources<'a>(
    rooms: &Rooms,
    query: &str,
    events: impl Iterator<Item = &'a Arc<TimelineEvent>>,
    state: impl Iterator<Item = &'a Arc<Pdu>>,
) -> Result<EventSources> {
    let filter: FormatFilter = parse_filter_fields(query)?;
    if !is_known_format(&filter.event_format) {
        return Err(Error::invalid_param(
            "event_format must be client or federation",
        ));
    }
    if filter.event_format != EventFormat::Federation {
        return Ok(EventSources::default());
    }
    let events = events.map(|event| &*event.pdu.event_id);
    let ids: Vec<&EventId> = events.chain(state.map(|pdu| &*pdu.event_id)).collect();
    rooms.timeline.load_event_sources(&ids).await
}

/// `GET /_matrix/client/*/rooms/{roomId}/timestamp_to_event`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event).
async fn get_event_by_timestamp(
    State(rooms): State<Rooms>,
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<get_event_by_timestamp::v1::Request>,
) -> Result<MatrixResponse<get_event_by_timestamp::v1::Response>> {
    let (room, access) = rooms
        .access
        .load_readable_room(&request.room_id, from.user, &from.user_id)
        .await?;
    let (event_id, ts) = workflows
        .history
        .event_at_time(&room, &access, request.ts, request.dir)
        .await?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(u64::try_from(ts).unwrap_or(0)));
    let response = get_event_by_timestamp::v1::Response::new(event_id, ts);
    Ok(MatrixResponse(response))
}

/// Returns the user for whom aggregations are made.
pub(super) fn audience<'a>(session: &'a Session, access: &'a UserAccess) -> AggregationViewer<'a> {
    AggregationViewer {
        access: Some(access),
        user: session.user,
        user_id: &session.user_id,
    }
}

/// Returns whether a filter excludes events.
fn excludes_events(filter: &RoomEventFilter) -> bool {
    filter.types.is_some()
        || filter.senders.is_some()
        || filter.url_filter.is_some()
        || !filter.not_types.is_empty()
        || !filter.not_senders.is_empty()
}

fn page_size(limit: u64) -> usize {
    usize::try_from(limit.clamp(1, MAX_LIMIT)).unwrap_or(1)
}

/// Returns the member events of the senders of events, if members are loaded lazily.
fn sender_members<'a>(
    state: &StateMap,
    filter: &RoomEventFilter,
    events: impl Iterator<Item = &'a Arc<TimelineEvent>>,
) -> Vec<Arc<Pdu>> {
    if filter.lazy_load_options.is_disabled() {
        return Vec::new();
    }
    let senders: BTreeSet<&OwnedUserId> = events.map(|event| &event.pdu.sender).collect();
    let members = senders
        .into_iter()
        .filter_map(|sender| state.member(sender));
    members.cloned().collect()
}

/// Returns the state of a context: all of it or, with lazy loading, only the senders' member events and all other
/// state.
fn context_state<'a>(
    state: &StateMap,
    filter: &RoomEventFilter,
    events: impl Iterator<Item = &'a Arc<TimelineEvent>>,
) -> Vec<Arc<Pdu>> {
    if filter.lazy_load_options.is_disabled() {
        return state.iter().cloned().collect();
    }
    let others = state.iter().filter(|pdu| pdu.member().is_none());
    let members = sender_members(state, filter, events);
    others.cloned().chain(members).collect()
}
