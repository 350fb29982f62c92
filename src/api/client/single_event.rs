//! A single event of a room.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{EventId, api::client::room::get_room_event, serde::Raw};
use serde_json::value::RawValue;

use super::messages::audience;
use crate::{
    api::{App, MatrixRequest, MatrixResponse, RequestClass, endpoint},
    clock::Clock,
    error::{Error, Result},
    matrix::{self, UnsignedFields},
    rooms::{Room, UserAccess},
    sync::client_event,
    users::Session,
    workflows::FetchedEvent,
};

pub(super) fn routes() -> Router<App> {
    endpoint::<get_room_event::v3::Request, _>(get_room_event)
}

/// `GET /_matrix/client/*/rooms/{roomId}/event/{eventId}`
///
/// An event that this server lacks is fetched from others.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomideventeventid).
async fn get_room_event(
    State(app): State<App>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_room_event::v3::Request>,
) -> Result<MatrixResponse<get_room_event::v3::Response>> {
    let rooms = &app.rooms;
    let room = rooms.memory.room(&request.room_id).await?;
    let access = rooms
        .access
        .load_access(&room, from.user, &from.user_id)
        .await?;
    if rooms.memory.has_forgotten(from.user, &room).await? {
        return Err(Error::not_found("you have forgotten this room"));
    }
    let event = rooms
        .timeline
        .load_event(&room, &access, &request.event_id)
        .await;
    let event = match event {
        Err(Error::NotFound(reason)) => {
            let fetched = fetch_event(&app, &from, &room, &request.event_id).await?;
            let Some(fetched) = fetched.filter(|found| !access.hides_event(&found.event.pdu))
            else {
                return Err(Error::NotFound(reason));
            };
            let event = format_fetched_event(&fetched, &room, &access, &from, clock.now_ms());
            let event = Raw::from_json(event);
            return Ok(MatrixResponse(get_room_event::v3::Response::new(event)));
        }
        event => event?,
    };
    let bundles = rooms
        .relations
        .load_aggregations(&room, audience(&from, &access), [&event])
        .await?;
    let event = client_event(&event, &from, &access, &bundles, clock.now_ms());
    let event = Raw::from_json(event);
    Ok(MatrixResponse(get_room_event::v3::Response::new(event)))
}

/// Fetches an event that this server lacks from another server.
async fn fetch_event(
    app: &App,
    session: &Session,
    room: &Arc<Room>,
    event_id: &EventId,
) -> Result<Option<FetchedEvent>> {
    let (history, user_id) = (&app.workflows.history, &session.user_id);
    if !history.may_fetch_event(room, user_id, event_id).await? {
        return Ok(None);
    }
    app.limits.check(RequestClass::Lookup, session)?;
    let fetched = history.fetch_event(room, session.user, user_id, event_id);
    fetched.await.map(Some)
}

fn format_fetched_event(
    fetched: &FetchedEvent,
    room: &Room,
    access: &UserAccess,
    session: &Session,
    now_ms: i64,
) -> Box<RawValue> {
    let mut pdu = fetched.event.pdu.clone();
    if fetched.redaction.is_some() || access.sees_as_erased(&pdu.sender) {
        pdu = Arc::new(pdu.redacted(&room.rules));
    }
    let room_id = room.room_id.as_str();
    let redaction = fetched.redaction.as_ref().map(|redaction| {
        let head = matrix::write_event_head(redaction, &room.rules);
        matrix::client_event(&head, room_id, &UnsignedFields::default())
    });
    let membership = fetched.event.membership(&session.user_id);
    let unsigned = UnsignedFields {
        age: Some((now_ms - i64::from(pdu.origin_server_ts.0)).max(0)),
        membership: Some(membership.as_str()),
        redacted_by: fetched.redaction.as_ref().map(|it| it.event_id.as_str()),
        redacted_because: redaction.as_deref(),
        ..UnsignedFields::default()
    };
    let head = matrix::write_event_head(&pdu, &room.rules);
    matrix::client_event(&head, room_id, &unsigned)
}
