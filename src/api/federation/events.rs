//! Serves events, their auth chains and room state to servers in the room.
//!
//! See [Retrieving events](https://spec.matrix.org/v1.19/server-server-api/#retrieving-events).

use axum::{Json, Router, extract::State, response::Response};
use ruma::api::federation::{
    authorization::get_event_authorization,
    backfill::get_backfill,
    event::{
        get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids,
    },
    space::get_hierarchy,
};

use super::streamed_response::StreamedResponse;
use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    clock::{Clock, timestamp},
    error::Result,
    rooms::{MissingEventsQuery, Rooms, ServerHierarchy},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_event::v1::Request, _>(get_event))
        .merge(endpoint::<get_room_state::v1::Request, _>(get_room_state))
        .merge(endpoint::<get_room_state_ids::v1::Request, _>(
            get_room_state_ids,
        ))
        .merge(endpoint::<get_event_authorization::v1::Request, _>(
            get_event_authorization,
        ))
        .merge(endpoint::<get_backfill::v1::Request, _>(get_backfill))
        .merge(endpoint::<get_missing_events::v1::Request, _>(
            get_missing_events,
        ))
        .merge(endpoint::<get_event_by_timestamp::v1::Request, _>(
            get_event_by_timestamp,
        ))
        .merge(endpoint::<get_hierarchy::v1::Request, _>(get_hierarchy))
}

/// `GET /_matrix/federation/v1/event/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1eventeventid).
async fn get_event(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_event::v1::Request>,
) -> Result<MatrixResponse<get_event::v1::Response>> {
    let event = rooms
        .federation
        .event_for_server(&from, &request.event_id)
        .await?;
    let (own, now) = (rooms.memory.server_name().to_owned(), clock.now());
    Ok(MatrixResponse(get_event::v1::Response::new(
        own, now, event,
    )))
}

/// `GET /_matrix/federation/v1/state/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1stateroomid).
async fn get_room_state(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_room_state::v1::Request>,
) -> Result<Response> {
    let room = rooms
        .federation
        .shared_room(&from, &request.room_id)
        .await?;
    let mut writing = StreamedResponse::begin(&rooms, &from).await?;
    let answer = rooms
        .federation
        .state_answer(&room, &request.event_id)
        .await?;
    writing.push_text(r#"{"auth_chain":"#);
    writing.push_events(&answer.auth_chain);
    writing.push_text(r#","pdus":"#);
    writing.push_events(&answer.state);
    writing.push_text("}");
    Ok(writing.into_response())
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid).
async fn get_room_state_ids(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_room_state_ids::v1::Request>,
) -> Result<Response> {
    let room = rooms
        .federation
        .shared_room(&from, &request.room_id)
        .await?;
    let mut writing = StreamedResponse::begin(&rooms, &from).await?;
    let answer = rooms
        .federation
        .state_answer(&room, &request.event_id)
        .await?;
    writing.push_text(r#"{"auth_chain_ids":"#);
    writing.push_ids(&answer.auth_chain)?;
    writing.push_text(r#","pdu_ids":"#);
    writing.push_ids(&answer.state)?;
    writing.push_text("}");
    Ok(writing.into_response())
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1event_authroomideventid).
async fn get_event_authorization(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_event_authorization::v1::Request>,
) -> Result<Response> {
    let room = rooms
        .federation
        .shared_room(&from, &request.room_id)
        .await?;
    let mut writing = StreamedResponse::begin(&rooms, &from).await?;
    let chain = rooms
        .federation
        .auth_chain_of(&room, &request.event_id)
        .await?;
    writing.push_text(r#"{"auth_chain":"#);
    writing.push_events(&chain);
    writing.push_text("}");
    Ok(writing.into_response())
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid).
async fn get_backfill(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_backfill::v1::Request>,
) -> Result<MatrixResponse<get_backfill::v1::Response>> {
    let room = rooms
        .federation
        .shared_room(&from, &request.room_id)
        .await?;
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let pdus = rooms
        .federation
        .backfill_for_server(&room, &from, &request.v, limit)
        .await?;
    let (own, now) = (rooms.memory.server_name().to_owned(), clock.now());
    Ok(MatrixResponse(get_backfill::v1::Response::new(
        own, now, pdus,
    )))
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid).
async fn get_missing_events(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_missing_events::v1::Request>,
) -> Result<MatrixResponse<get_missing_events::v1::Response>> {
    let room = rooms
        .federation
        .shared_room(&from, &request.room_id)
        .await?;
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let query = MissingEventsQuery {
        earliest: &request.earliest_events,
        latest: &request.latest_events,
        min_depth: request.min_depth.into(),
        limit,
    };
    let events = rooms
        .federation
        .missing_events_for_server(&room, &from, query)
        .await?;
    Ok(MatrixResponse(get_missing_events::v1::Response::new(
        events,
    )))
}

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid).
async fn get_event_by_timestamp(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_event_by_timestamp::v1::Request>,
) -> Result<MatrixResponse<get_event_by_timestamp::v1::Response>> {
    let room = rooms
        .federation
        .shared_room(&from, &request.room_id)
        .await?;
    let ts = i64::from(request.ts.0);
    let (event_id, made_at) = rooms
        .federation
        .event_at_time_for_server(&room, &from, ts, request.dir)
        .await?;
    let made_at = timestamp(made_at);
    Ok(MatrixResponse(get_event_by_timestamp::v1::Response::new(
        event_id, made_at,
    )))
}

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid).
async fn get_hierarchy(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_hierarchy::v1::Request>,
) -> Result<Json<ServerHierarchy>> {
    let (space, suggested_only) = (&request.room_id, request.suggested_only);
    let hierarchy = rooms
        .previews
        .load_server_hierarchy(&from, space, suggested_only)
        .await?;
    Ok(Json(hierarchy))
}
