//! Sending events to a room.

use axum::{
    Json, Router,
    extract::State,
    http,
    response::{IntoResponse, Response},
};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, RoomId,
    api::{
        IncomingRequest, Metadata,
        auth_scheme::AccessToken,
        client::{message::send_message_event, redact::redact_event, state::send_state_event},
        error::DeserializationError,
        path_builder::SinglePath,
    },
    events::{StateEventType, TimelineEventType},
};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};

use super::delayed_events::DelayMs;
use crate::{
    api::{Answered, App, Class, Incoming, Limits, Outgoing, WithOptionalBody, endpoint},
    ephemeral::{Ephemeral, PresenceUpdate},
    error::Result,
    rooms::{Delay, NewEvent, Rooms, Transaction},
    sync::Sync,
    users::Session,
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
        .merge(endpoint::<RedactOnce, _>(redact_once))
}

/// `PUT /_matrix/client/*/rooms/{roomId}/send/{eventType}/{txnId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid).
async fn send_message_event(
    State(rooms): State<Rooms>,
    State(ephemeral): State<Ephemeral>,
    State(limits): State<Limits>,
    State(sync): State<Sync>,
    DelayMs(delay_ms): DelayMs,
    WithOptionalBody {
        from,
        request,
        has_body,
    }: WithOptionalBody<send_message_event::v3::Request>,
) -> Result<Response> {
    limits.check(Class::Send, &*from.user_id)?;
    let sending = sync.sending(from.device);
    acted(&ephemeral, &from);
    if let Some(delay_ms) = delay_ms {
        let delay = Delay {
            user: from.user,
            user_id: from.user_id.clone(),
            device: from.device,
            txn_id: Some(request.txn_id.to_string()),
            kind: request.event_type.to_string(),
            state_key: None,
            content: request.body.into_json(),
            delay_ms,
        };
        if !has_body {
            let delay_id = rooms
                .delayed_events
                .delayed_before(&request.room_id, &delay)
                .await?;
            return Ok(Json(json!({ "delay_id": delay_id })).into_response());
        }
        return delayed(&rooms, &request.room_id, delay).await;
    }
    let event = NewEvent::message(
        from.user_id.clone(),
        request.event_type.to_string().into(),
        request.body.into_json(),
        Some(Transaction {
            device: from.device,
            txn_id: request.txn_id.to_string(),
        }),
    );
    // Some clients send only the transaction id, to learn the event id of an earlier request.
    let event_id = if has_body {
        rooms.sender.send(&request.room_id, event).await?
    } else {
        rooms.sender.sent_before(&request.room_id, &event).await?
    };
    let response = Outgoing(send_message_event::v3::Response::new(event_id));
    Ok(Answered(sending, response).into_response())
}

/// `PUT /_matrix/client/*/rooms/{roomId}/state/{eventType}/{stateKey}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey).
async fn send_state_event(
    State(app): State<App>,
    DelayMs(delay_ms): DelayMs,
    Incoming { from, request }: Incoming<send_state_event::v3::Request>,
) -> Result<Response> {
    app.limits.check(Class::Send, &*from.user_id)?;
    let sending = app.sync.sending(from.device);
    acted(&app.ephemeral, &from);
    let content = request.body.into_json();
    let key = (&request.event_type, request.state_key.as_str());
    app.limits.check_state(&from.user_id, key, &content)?;
    app.workflows
        .check_state(&from, &request.room_id, key, &content)
        .await?;
    if let Some(delay_ms) = delay_ms {
        let delay = Delay {
            user: from.user,
            user_id: from.user_id.clone(),
            device: from.device,
            txn_id: None,
            kind: request.event_type.to_string(),
            state_key: Some(request.state_key),
            content,
            delay_ms,
        };
        return delayed(&app.rooms, &request.room_id, delay).await;
    }
    let sender = from.user_id.clone();
    let event = NewEvent::state(sender, &request.event_type, &request.state_key, content);
    let event_id: OwnedEventId = app.workflows.send(&request.room_id, event).await?;
    if request.event_type == StateEventType::RoomGuestAccess {
        app.workflows.expel_guests(&request.room_id).await?;
    }
    let response = Outgoing(send_state_event::v3::Response::new(event_id));
    Ok(Answered(sending, response).into_response())
}

/// `PUT /_matrix/client/*/rooms/{roomId}/redact/{eventId}/{txnId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid).
async fn redact_event(
    State(rooms): State<Rooms>,
    State(limits): State<Limits>,
    State(sync): State<Sync>,
    Incoming { from, request }: Incoming<redact_event::v3::Request>,
) -> Result<Answered<Outgoing<redact_event::v3::Response>>> {
    let sending = sync.sending(from.device);
    let transaction = Transaction {
        device: from.device,
        txn_id: request.txn_id.to_string(),
    };
    let redaction = RedactOnce {
        room_id: request.room_id,
        event_id: request.event_id,
        reason: request.reason,
    };
    let response = redact(&rooms, &limits, (&from, redaction, Some(transaction))).await?;
    Ok(Answered(sending, Outgoing(response)))
}

/// A redaction request without a transaction id.
struct RedactOnce {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct RedactBody {
    reason: Option<String>,
}

impl Metadata for RedactOnce {
    const METHOD: http::Method = http::Method::POST;
    const RATE_LIMITED: bool = redact_event::v3::Request::RATE_LIMITED;
    type Authentication = AccessToken;
    type PathBuilder = SinglePath;
    const PATH_BUILDER: Self::PathBuilder =
        SinglePath::new("/_matrix/client/v3/rooms/{room_id}/redact/{event_id}");
}

impl IncomingRequest for RedactOnce {
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
            reason: body.reason,
        })
    }
}

/// `POST /_matrix/client/*/rooms/{roomId}/redact/{eventId}`
///
/// The first versions of the specification had this endpoint, and bots still use it.
async fn redact_once(
    State(rooms): State<Rooms>,
    State(limits): State<Limits>,
    State(sync): State<Sync>,
    Incoming { from, request }: Incoming<RedactOnce>,
) -> Result<Answered<Outgoing<redact_event::v3::Response>>> {
    let sending = sync.sending(from.device);
    let response = redact(&rooms, &limits, (&from, request, None)).await?;
    Ok(Answered(sending, Outgoing(response)))
}

async fn redact(
    rooms: &Rooms,
    limits: &Limits,
    (from, request, transaction): (&Session, RedactOnce, Option<Transaction>),
) -> Result<redact_event::v3::Response> {
    limits.check(Class::Send, &*from.user_id)?;
    if from.is_suspended {
        must_be_own(rooms, from, &request).await?;
    }
    let mut content = json!({ "redacts": request.event_id });
    if let (Some(content), Some(reason)) = (content.as_object_mut(), request.reason) {
        content.insert("reason".to_owned(), reason.into());
    }
    let event = NewEvent::message(
        from.user_id.clone(),
        TimelineEventType::RoomRedaction,
        to_raw_value(&content)?,
        transaction,
    );
    let event_id = rooms.sender.send(&request.room_id, event).await?;
    Ok(redact_event::v3::Response::new(event_id))
}

/// A suspended user may redact only their own events.
async fn must_be_own(rooms: &Rooms, session: &Session, request: &RedactOnce) -> Result<()> {
    let (room, access) = rooms
        .access
        .enter(&request.room_id, session.user, &session.user_id)
        .await?;
    let event = rooms
        .timeline
        .event(&room, &access, &request.event_id)
        .await?;
    if event.pdu.sender != session.user_id {
        return session.must_not_be_suspended();
    }
    Ok(())
}

async fn delayed(rooms: &Rooms, room_id: &RoomId, delay: Delay) -> Result<Response> {
    let delay_id = rooms.delayed_events.delay(room_id, delay).await?;
    Ok(Json(json!({ "delay_id": delay_id })).into_response())
}

fn acted(ephemeral: &Ephemeral, session: &Session) {
    ephemeral
        .presence
        .update(session.user, &session.user_id, PresenceUpdate::Active);
}
