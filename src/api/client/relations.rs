//! Events that relate to an event.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    OwnedRoomId, UInt,
    api::{
        Direction,
        client::relations::{
            get_relating_events, get_relating_events_with_rel_type,
            get_relating_events_with_rel_type_and_event_type,
        },
    },
    serde::Raw,
};

use super::messages::audience;
use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    clock::Clock,
    error::Result,
    numbers::Position,
    rooms::{RelatedEventsRequest, Rooms},
    sync::{client_event, parse_timeline_token, timeline_token},
    users::Session,
};

/// The maximum number of events in a page, and the number if the client gives none.
const MAX_LIMIT: u64 = 100;
const DEFAULT_LIMIT: u64 = 20;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_relating_events::v1::Request, _>(
            get_relating_events,
        ))
        .merge(
            endpoint::<get_relating_events_with_rel_type::v1::Request, _>(
                get_relating_events_with_rel_type,
            ),
        )
        .merge(endpoint::<
            get_relating_events_with_rel_type_and_event_type::v1::Request,
            _,
        >(get_relating_events_with_rel_type_and_event_type))
}

/// A page of events that relate to another event.
struct RelationsPage<T> {
    chunk: Vec<Raw<T>>,
    next_batch: Option<String>,
    recursion_depth: Option<UInt>,
}

/// Returns the number of events or threads in a page.
pub(super) fn page_size(limit: Option<UInt>) -> usize {
    let limit = limit.map_or(DEFAULT_LIMIT, u64::from);
    usize::try_from(limit.clamp(1, MAX_LIMIT)).unwrap_or(1)
}

/// The place and the direction of a page.
struct PageRange {
    from: Option<Position>,
    to: Option<Position>,
    dir: Direction,
}

fn parse_page_range(from: Option<&str>, to: Option<&str>, dir: Direction) -> Result<PageRange> {
    Ok(PageRange {
        from: from.map(parse_timeline_token).transpose()?,
        to: to.map(parse_timeline_token).transpose()?,
        dir,
    })
}

async fn find_relations<T>(
    rooms: &Rooms,
    clock: &Clock,
    session: &Session,
    room_id: &OwnedRoomId,
    request: &RelatedEventsRequest,
) -> Result<RelationsPage<T>> {
    let (room, access) = rooms
        .access
        .load_readable_room(room_id, session.user, &session.user_id)
        .await?;
    let related = rooms
        .relations
        .load_related_events(&room, &access, request)
        .await?;
    let events = &related.page.events;
    let bundles = rooms
        .relations
        .load_aggregations(&room, audience(session, &access), events)
        .await?;
    let now = clock.now_ms();
    let show =
        |event: &Arc<_>| Raw::from_json(client_event(event, session, &access, &bundles, now));
    let depth = u64::try_from(related.depth).unwrap_or(0);
    Ok(RelationsPage {
        chunk: events.iter().map(show).collect(),
        next_batch: related.page.end.map(timeline_token),
        recursion_depth: request.recurse.then(|| UInt::new_saturating(depth)),
    })
}

/// `GET /_matrix/client/*/rooms/{roomId}/relations/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventid).
async fn get_relating_events(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_relating_events::v1::Request>,
) -> Result<MatrixResponse<get_relating_events::v1::Response>> {
    let range = parse_page_range(request.from.as_deref(), request.to.as_deref(), request.dir)?;
    let wanted = RelatedEventsRequest {
        parent: request.event_id,
        rel_type: None,
        kind: None,
        recurse: request.recurse,
        from: range.from,
        to: range.to,
        dir: range.dir,
        limit: page_size(request.limit),
    };
    let found = find_relations(&rooms, &clock, &from, &request.room_id, &wanted).await?;
    let mut response = get_relating_events::v1::Response::new(found.chunk);
    response.next_batch = found.next_batch;
    response.prev_batch = request.from;
    response.recursion_depth = found.recursion_depth;
    Ok(MatrixResponse(response))
}

/// `GET /_matrix/client/*/rooms/{roomId}/relations/{eventId}/{relType}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltype).
async fn get_relating_events_with_rel_type(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_relating_events_with_rel_type::v1::Request>,
) -> Result<MatrixResponse<get_relating_events_with_rel_type::v1::Response>> {
    let range = parse_page_range(request.from.as_deref(), request.to.as_deref(), request.dir)?;
    let wanted = RelatedEventsRequest {
        parent: request.event_id,
        rel_type: Some(request.rel_type.to_string()),
        kind: None,
        recurse: request.recurse,
        from: range.from,
        to: range.to,
        dir: range.dir,
        limit: page_size(request.limit),
    };
    let found = find_relations(&rooms, &clock, &from, &request.room_id, &wanted).await?;
    let mut response = get_relating_events_with_rel_type::v1::Response::new(found.chunk);
    response.next_batch = found.next_batch;
    response.prev_batch = request.from;
    response.recursion_depth = found.recursion_depth;
    Ok(MatrixResponse(response))
}

/// `GET /_matrix/client/*/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidrelationseventidreltypeeventtype).
async fn get_relating_events_with_rel_type_and_event_type(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<
        get_relating_events_with_rel_type_and_event_type::v1::Request,
    >,
) -> Result<MatrixResponse<get_relating_events_with_rel_type_and_event_type::v1::Response>> {
    let range = parse_page_range(request.from.as_deref(), request.to.as_deref(), request.dir)?;
    let wanted = RelatedEventsRequest {
        parent: request.event_id,
        rel_type: Some(request.rel_type.to_string()),
        kind: Some(request.event_type.to_string()),
        recurse: request.recurse,
        from: range.from,
        to: range.to,
        dir: range.dir,
        limit: page_size(request.limit),
    };
    let found = find_relations(&rooms, &clock, &from, &request.room_id, &wanted).await?;
    let mut response =
        get_relating_events_with_rel_type_and_event_type::v1::Response::new(found.chunk);
    response.next_batch = found.next_batch;
    response.prev_batch = request.from;
    response.recursion_depth = found.recursion_depth;
    Ok(MatrixResponse(response))
}
