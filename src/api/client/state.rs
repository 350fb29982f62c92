//! The state of a room.

use axum::{Router, extract::State};
use ruma::{
    api::client::state::{
        get_state_event_for_key::{self, v3::StateEventFormat},
        get_state_events,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    clock::Clock,
    error::{Error, Result},
    matrix::{self, Pdu, UnsignedFields},
    rooms::{EventSources, Room, Rooms},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_state_events::v3::Request, _>(
            get_state_events,
        ))
        .merge(endpoint::<get_state_event_for_key::v3::Request, _>(
            get_state_event_for_key,
        ))
}

/// `GET /_matrix/client/*/rooms/{roomId}/state`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstate).
async fn get_state_events(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_state_events::v3::Request>,
) -> Result<MatrixResponse<get_state_events::v3::Response>> {
    let room = rooms.memory.room_of_member(&request.room_id).await?;
    let state = rooms
        .state
        .visible_state_at(&room, from.user, &from.user_id, None)
        .await?;
    let now = clock.now_ms();
    let events = state
        .iter()
        .map(|pdu| Raw::from_json(state_event(&room, pdu, now)))
        .collect();
    Ok(MatrixResponse(get_state_events::v3::Response::new(events)))
}

/// `GET /_matrix/client/*/rooms/{roomId}/state/{eventType}/{stateKey}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey).
async fn get_state_event_for_key(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_state_event_for_key::v3::Request>,
) -> Result<MatrixResponse<get_state_event_for_key::v3::Response>> {
    let room = rooms.memory.room_of_member(&request.room_id).await?;
    let state = rooms
        .state
        .visible_state_at(&room, from.user, &from.user_id, None)
        .await?;
    let pdu = state
        .get(&request.event_type, &request.state_key)
        .ok_or_else(|| Error::not_found("the room has no such state"))?;
    let json = if request.format == StateEventFormat::Event {
        state_event(&room, pdu, clock.now_ms())
    } else {
        pdu.content.clone()
    };
    Ok(MatrixResponse(get_state_event_for_key::v3::Response::new(
        json,
    )))
}

/// Returns the JSON of a state event for clients.
pub(super) fn state_event(room: &Room, pdu: &Pdu, now_ms: i64) -> Box<RawValue> {
    state_event_in_format(room, pdu, &EventSources::default(), now_ms)
}

/// Like [`state_event`], but returns an event whose source is given in the federation format.
pub(super) fn state_event_in_format(
    room: &Room,
    pdu: &Pdu,
    sources: &EventSources,
    now_ms: i64,
) -> Box<RawValue> {
    let age = (now_ms - i64::from(pdu.origin_server_ts.0)).max(0);
    let unsigned = UnsignedFields {
        age: Some(age),
        ..UnsignedFields::default()
    };
    if let Some(source) = sources.get(&pdu.event_id)
        && let Some(event) = matrix::federation_event(source, pdu, &unsigned)
    {
        return event;
    }
    matrix::client_event(
        &matrix::write_event_head(pdu, &room.rules),
        room.room_id.as_str(),
        &unsigned,
    )
}
