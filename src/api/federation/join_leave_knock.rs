//! Joins, leaves and knocks of users of other servers. Each has two steps: a template, and the signed event.
//!
//! See [Joining rooms](https://spec.matrix.org/v1.19/server-server-api/#joining-rooms).

use axum::{Json, Router, extract::State, response::Response, routing::put};
use ruma::{
    OwnedEventId, OwnedRoomId,
    api::federation::membership::{
        RawStrippedState, create_join_event, create_knock_event, create_leave_event,
        prepare_join_event, prepare_knock_event, prepare_leave_event,
    },
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{signed_request::SignedRequest, streamed_response::StreamedResponse};
use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    error::Result,
    rooms::{MembershipHandshake, RemoteApplicant, Rooms},
    workflows::{SignedEvent, Workflows},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<prepare_join_event::v1::Request, _>(
            prepare_join_event,
        ))
        .merge(endpoint::<create_join_event::v2::Request, _>(
            create_join_event,
        ))
        .merge(endpoint::<prepare_leave_event::v1::Request, _>(
            prepare_leave_event,
        ))
        .merge(endpoint::<create_leave_event::v2::Request, _>(
            create_leave_event,
        ))
        .merge(endpoint::<prepare_knock_event::v1::Request, _>(
            prepare_knock_event,
        ))
        .merge(endpoint::<create_knock_event::v1::Request, _>(
            create_knock_event,
        ))
        .route(
            "/_matrix/federation/v1/send_join/{room_id}/{event_id}",
            put(create_join_event_v1),
        )
        .route(
            "/_matrix/federation/v1/send_leave/{room_id}/{event_id}",
            put(create_leave_event_v1),
        )
}

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid).
async fn prepare_join_event(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<prepare_join_event::v1::Request>,
) -> Result<MatrixResponse<prepare_join_event::v1::Response>> {
    let applicant = RemoteApplicant {
        origin: from,
        user_id: request.user_id,
        room_id: request.room_id,
    };
    let offer = rooms
        .resident
        .make_membership_event(MembershipHandshake::Join, &applicant, &request.ver)
        .await?;
    let mut response = prepare_join_event::v1::Response::new(offer.event);
    response.room_version = Some(offer.version);
    Ok(MatrixResponse(response))
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid).
async fn create_join_event(
    State(workflows): State<Workflows>,
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<create_join_event::v2::Request>,
) -> Result<Response> {
    let mut writing = StreamedResponse::begin(&rooms, &from).await?;
    let join = SignedEvent {
        origin: from,
        room_id: request.room_id,
        event_id: request.event_id,
        event: request.pdu,
    };
    let omit_members = request.omit_members;
    write_join(&workflows, &rooms, join, omit_members, &mut writing).await?;
    Ok(writing.into_response())
}

/// `PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}`, whose response form was corrected in v2.
///
/// See the [specification](https://spec.matrix.org/v1.11/server-server-api/#put_matrixfederationv1send_joinroomideventid).
async fn create_join_event_v1(
    State(workflows): State<Workflows>,
    State(rooms): State<Rooms>,
    signed: SignedRequest<Box<RawValue>>,
) -> Result<Response> {
    let mut writing = StreamedResponse::begin(&rooms, &signed.from).await?;
    let join = signed_event(signed)?;
    writing.push_text("[200,");
    write_join(&workflows, &rooms, join, false, &mut writing).await?;
    writing.push_text("]");
    Ok(writing.into_response())
}

/// Lets a user join, and writes the room's state for their server.
async fn write_join(
    workflows: &Workflows,
    rooms: &Rooms,
    join: SignedEvent,
    omit_members: bool,
    writing: &mut StreamedResponse,
) -> Result<()> {
    let taken = workflows
        .signed_events
        .accept_signed_event(MembershipHandshake::Join, join)
        .await?;
    let join = taken.event.pdu();
    let answer = rooms
        .federation
        .join_answer(join, &taken.before, omit_members)
        .await?;
    let own = to_raw_value(rooms.memory.server_name())?;
    writing.push_text(format!(
        r#"{{"origin":{own},"event":{},"members_omitted":{},"#,
        taken.event.json(),
        answer.members_omitted,
    ));
    if answer.members_omitted {
        let servers = to_raw_value(&answer.servers_in_room)?;
        writing.push_text(format!(r#""servers_in_room":{servers},"#));
    }
    // A server that reads this as a stream can check each event on arrival, because its auth events come before it.
    writing.push_text(r#""auth_chain":"#);
    writing.push_events(&answer.auth_chain);
    writing.push_text(r#","state":"#);
    writing.push_events(&answer.state);
    writing.push_text("}");
    Ok(())
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_leaveroomiduserid).
async fn prepare_leave_event(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<prepare_leave_event::v1::Request>,
) -> Result<MatrixResponse<prepare_leave_event::v1::Response>> {
    let applicant = RemoteApplicant {
        origin: from,
        user_id: request.user_id,
        room_id: request.room_id,
    };
    let offer = rooms
        .resident
        .make_membership_event(MembershipHandshake::Leave, &applicant, &[])
        .await?;
    let response = prepare_leave_event::v1::Response::new(Some(offer.version), offer.event);
    Ok(MatrixResponse(response))
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_leaveroomideventid).
async fn create_leave_event(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<create_leave_event::v2::Request>,
) -> Result<MatrixResponse<create_leave_event::v2::Response>> {
    let leave = SignedEvent {
        origin: from,
        room_id: request.room_id,
        event_id: request.event_id,
        event: request.pdu,
    };
    workflows
        .signed_events
        .accept_signed_event(MembershipHandshake::Leave, leave)
        .await?;
    Ok(MatrixResponse(create_leave_event::v2::Response::new()))
}

/// `PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}`, whose response form was corrected in v2.
///
/// See the [specification](https://spec.matrix.org/v1.11/server-server-api/#put_matrixfederationv1send_leaveroomideventid).
async fn create_leave_event_v1(
    State(workflows): State<Workflows>,
    signed: SignedRequest<Box<RawValue>>,
) -> Result<Json<Value>> {
    let leave = signed_event(signed)?;
    workflows
        .signed_events
        .accept_signed_event(MembershipHandshake::Leave, leave)
        .await?;
    Ok(Json(json!([200, {}])))
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_knockroomiduserid).
async fn prepare_knock_event(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<prepare_knock_event::v1::Request>,
) -> Result<MatrixResponse<prepare_knock_event::v1::Response>> {
    let applicant = RemoteApplicant {
        origin: from,
        user_id: request.user_id,
        room_id: request.room_id,
    };
    let offer = rooms
        .resident
        .make_membership_event(MembershipHandshake::Knock, &applicant, &request.ver)
        .await?;
    let response = prepare_knock_event::v1::Response::new(offer.version, offer.event);
    Ok(MatrixResponse(response))
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_knockroomideventid).
async fn create_knock_event(
    State(workflows): State<Workflows>,
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<create_knock_event::v1::Request>,
) -> Result<MatrixResponse<create_knock_event::v1::Response>> {
    let knock = SignedEvent {
        origin: from.clone(),
        room_id: request.room_id,
        event_id: request.event_id,
        event: request.pdu,
    };
    let taken = workflows
        .signed_events
        .accept_signed_event(MembershipHandshake::Knock, knock)
        .await?;
    let state = rooms
        .federation
        .load_events_for_server(&from, &rooms.resident.stripped_state_ids(&taken.before))
        .await?;
    let state = state.into_iter().map(RawStrippedState::Pdu).collect();
    Ok(MatrixResponse(create_knock_event::v1::Response::new(state)))
}

fn signed_event(mut signed: SignedRequest<Box<RawValue>>) -> Result<SignedEvent> {
    Ok(SignedEvent {
        room_id: signed.next_param::<OwnedRoomId>()?,
        event_id: signed.next_param::<OwnedEventId>()?,
        origin: signed.from,
        event: signed.body,
    })
}
