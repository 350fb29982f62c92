//! Sending events to a room.

use axum::{
    Json, Router,
    extract::State,
    http,
    response::{IntoResponse, Response},
};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomId,
    api::{
        IncomingRequest, Metadata,
        auth_scheme::AccessToken,
        client::{message::send_message_event, redact::redact_event, state::send_state_event},
        error::DeserializationError,
        path_builder::SinglePath,
    },
    events::TimelineEventType,
};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};

use super::delayed_events::DelayMs;
use crate::{
    api::{
        App, InFlightResponse, MatrixRequest, MatrixResponse, RequestWithBody,
        RequestWithOptionalBody, endpoint,
    },
    error::{Error, Result},
    rooms::{ClientTransaction, DelayRequest, EventToSend, RelatedRedactionRequest, Rooms},
    sync::Sync,
    users::Session,
    workflows::{StateEventRequest, Workflows},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<send_message_event::v3::Request, _>(
            send_message_event,
        ))
        .merge(endpoint::<send_state_event::v3::Request, _>(
            send_state_event,
        ))
        .merge(endpoint::<redact_event::v3::Request, _>(redact_event))
        .merge(endpoint::<RedactionRequest, _>(redact_once))
}

/// `PUT /_matrix/client/*/rooms/{roomId}/send/{eventType}/{txnId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid).
async fn send_message_event(
    State(rooms): State<Rooms>,
    State(workflows): State<Workflows>,
    State(sync): State<Sync>,
    DelayMs(delay_ms): DelayMs,
    RequestWithOptionalBody {
        from,
        request,
        has_body,
    }: RequestWithOptionalBody<send_message_event::v3::Request>,
) -> Result<Response> {
    let sending = sync.begin_send(from.device);
    if let Some(delay_ms) = delay_ms {
        let delay = DelayRequest {
            user: from.user,
            user_id: from.user_id.clone(),
            device: from.device,
            txn_id: Some(request.txn_id.to_string()),
            kind: request.event_type.to_string(),
            state_key: None,
            content: request.body.into_json(),
            sticky: request.sticky_duration_ms.map(Into::into),
            delay_ms,
        };
        if !has_body {
            let delay_id = rooms
                .delayed_events
                .delay_id_of_transaction(&request.room_id, &delay)
                .await?;
            return Ok(Json(json!({ "delay_id": delay_id })).into_response());
        }
        return delay_event(&workflows, &from, &request.room_id, delay).await;
    }
    let event = EventToSend::message(
        from.user_id.clone(),
        request.event_type.to_string().into(),
        request.body.into_json(),
        Some(ClientTransaction {
            device: from.device,
            txn_id: request.txn_id.to_string(),
        }),
    )
    .at(service_timestamp(&from, request.timestamp))
    .sticky_for(request.sticky_duration_ms.map(Into::into));
    // Some clients send only the transaction id, to learn the event id of an earlier request.
    let event_id = if has_body {
        rooms.sender.send(&request.room_id, event).await?
    } else {
        rooms
            .sender
            .event_id_of_transaction(&request.room_id, &event)
            .await?
    };
    let response = MatrixResponse(send_message_event::v3::Response::new(event_id));
    Ok(InFlightResponse(sending, response).into_response())
}

/// `PUT /_matrix/client/*/rooms/{roomId}/state/{eventType}/{stateKey}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey).
async fn send_state_event(
    State(app): State<App>,
    DelayMs(delay_ms): DelayMs,
    MatrixRequest { from, request }: MatrixRequest<send_state_event::v3::Request>,
) -> Result<Response> {
    let sending = app.sync.begin_send(from.device);
    let content = request.body.into_json();
    let (kind, state_key) = (&request.event_type, request.state_key.as_str());
    app.limits.check_state(&from, kind, state_key, &content)?;
    if let Some(delay_ms) = delay_ms {
        let delay = DelayRequest {
            user: from.user,
            user_id: from.user_id.clone(),
            device: from.device,
            txn_id: None,
            kind: request.event_type.to_string(),
            state_key: Some(request.state_key),
            content,
            sticky: request.sticky_duration_ms.map(Into::into),
            delay_ms,
        };
        return delay_event(&app.workflows, &from, &request.room_id, delay).await;
    }
    let request = StateEventRequest {
        timestamp: service_timestamp(&from, request.timestamp),
        room_id: request.room_id,
        kind: request.event_type,
        state_key: request.state_key,
        content,
        sticky: request.sticky_duration_ms.map(Into::into),
    };
    let event_id = app
        .workflows
        .state_events
        .send_state_event(&from, request)
        .await?;
    let response = MatrixResponse(send_state_event::v3::Response::new(event_id));
    Ok(InFlightResponse(sending, response).into_response())
}

/// Returns the time that the event gets. Only application services may choose it.
///
/// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#timestamp-massaging).
fn service_timestamp(
    session: &Session,
    requested: Option<MilliSecondsSinceUnixEpoch>,
) -> Option<MilliSecondsSinceUnixEpoch> {
    requested.filter(|_| session.application_service.is_some())
}

/// `PUT /_matrix/client/*/rooms/{roomId}/redact/{eventId}/{txnId}`
///
/// The events that relate to the event can be redacted, too, as in
/// [MSC3912](https://github.com/matrix-org/matrix-spec-proposals/pull/3912).
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid).
async fn redact_event(
    State(rooms): State<Rooms>,
    State(sync): State<Sync>,
    RequestWithBody {
        from,
        request,
        body,
    }: RequestWithBody<redact_event::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<redact_event::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    let body: RedactBody =
        serde_json::from_value(body.into()).map_err(|e| Error::BadJson(e.to_string()))?;
    let transaction = ClientTransaction {
        device: from.device,
        txn_id: request.txn_id.to_string(),
    };
    let redaction = RedactionRequest {
        room_id: request.room_id,
        event_id: request.event_id,
        body,
    };
    let response = redact(&rooms, &from, redaction, Some(transaction)).await?;
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

/// A redaction request without a transaction id.
struct RedactionRequest {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    body: RedactBody,
}

#[derive(Deserialize)]
struct RedactBody {
    reason: Option<String>,
    /// The relationship types of the related events that are redacted, too.
    with_rel_types: Option<Vec<String>>,
    /// The same, by the name before the proposal is accepted.
    #[serde(rename = "org.matrix.msc3912.with_relations")]
    unstable_rel_types: Option<Vec<String>>,
}

impl Metadata for RedactionRequest {
    const METHOD: http::Method = http::Method::POST;
    const RATE_LIMITED: bool = redact_event::v3::Request::RATE_LIMITED;
    type Authentication = AccessToken;
    type PathBuilder = SinglePath;
    const PATH_BUILDER: Self::PathBuilder =
        SinglePath::new("/_matrix/client/v3/rooms/{room_id}/redact/{event_id}");
}

impl IncomingRequest for RedactionRequest {
    type EndpointError = <redact_event::v3::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = redact_event::v3::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (room_id, event_id) = (path_args.first(), path_args.get(1));
        let body: RedactBody = serde_json::from_slice(request.body())?;
        Ok(Self {
            room_id: RoomId::parse(room_id.copied().unwrap_or_default())?,
            event_id: EventId::parse(event_id.copied().unwrap_or_default())?,
            body,
        })
    }
}

/// `POST /_matrix/client/*/rooms/{roomId}/redact/{eventId}`
///
/// The first versions of the specification had this endpoint, and bots still use it.
async fn redact_once(
    State(rooms): State<Rooms>,
    State(sync): State<Sync>,
    MatrixRequest { from, request }: MatrixRequest<RedactionRequest>,
) -> Result<InFlightResponse<MatrixResponse<redact_event::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    let response = redact(&rooms, &from, request, None).await?;
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

async fn redact(
    rooms: &Rooms,
    from: &Session,
    request: RedactionRequest,
    transaction: Option<ClientTransaction>,
) -> Result<redact_event::v3::Response> {
    if from.is_suspended {
        must_be_own_event(rooms, from, &request).await?;
    }
    let RedactBody {
        reason,
        with_rel_types,
        unstable_rel_types,
    } = request.body;
    let rel_types = with_rel_types.or(unstable_rel_types).unwrap_or_default();
    let target = request.event_id.clone();
    let related = RelatedRedactionRequest::new(target, rel_types, reason.clone())?;
    if related.is_some() {
        // The related events may be those of others.
        from.must_not_be_suspended()?;
    }
    let mut content = json!({ "redacts": request.event_id });
    if let (Some(content), Some(reason)) = (content.as_object_mut(), reason) {
        content.insert("reason".to_owned(), reason.into());
    }
    let event = EventToSend::message(
        from.user_id.clone(),
        TimelineEventType::RoomRedaction,
        to_raw_value(&content)?,
        transaction,
    );
    let event_id = rooms.sender.send(&request.room_id, event).await?;
    if let Some(related) = related {
        let related_redactions = &rooms.related_redactions;
        related_redactions
            .redact_related_events(&request.room_id, from.user, related)
            .await?;
    }
    Ok(redact_event::v3::Response::new(event_id))
}

/// A suspended user may redact only their own events.
async fn must_be_own_event(
    rooms: &Rooms,
    session: &Session,
    request: &RedactionRequest,
) -> Result<()> {
    let (room, access) = rooms
        .access
        .load_readable_room(&request.room_id, session.user, &session.user_id)
        .await?;
    let event = rooms
        .timeline
        .load_event(&room, &access, &request.event_id)
        .await?;
    if event.pdu.sender != session.user_id {
        return session.must_not_be_suspended();
    }
    Ok(())
}

async fn delay_event(
    workflows: &Workflows,
    session: &Session,
    room_id: &RoomId,
    delay: DelayRequest,
) -> Result<Response> {
    let delay_id = workflows
        .state_events
        .schedule_event(session, room_id, delay)
        .await?;
    Ok(Json(json!({ "delay_id": delay_id })).into_response())
}
