//! Sending events to a room.

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
};
use ruma::{
    OwnedEventId, RoomId,
    api::client::{message::send_message_event, redact::redact_event, state::send_state_event},
    events::{StateEventType, TimelineEventType},
};
use serde_json::{json, value::to_raw_value};

use super::delayed_events::DelayMs;
use crate::{
    api::{App, Class, Incoming, Limits, Outgoing, endpoint},
    ephemeral::{Ephemeral, PresenceUpdate},
    error::Result,
    rooms::{Delay, NewEvent, Rooms, Transaction},
    users::Session,
    workflows::Workflows,
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
}

/// `PUT /_matrix/client/*/rooms/{roomId}/send/{eventType}/{txnId}`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid
async fn send_message_event(
    State(rooms): State<Rooms>,
    State(ephemeral): State<Ephemeral>,
    State(limits): State<Limits>,
    DelayMs(delay_ms): DelayMs,
    Incoming { from, request }: Incoming<send_message_event::v3::Request>,
) -> Result<Response> {
    limits.check(Class::Send, &*from.user_id)?;
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
    let event_id = rooms.send(&request.room_id, event).await?;
    Ok(Outgoing(send_message_event::v3::Response::new(event_id)).into_response())
}

/// `PUT /_matrix/client/*/rooms/{roomId}/state/{eventType}/{stateKey}`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
async fn send_state_event(
    State(rooms): State<Rooms>,
    State(workflows): State<Workflows>,
    State(ephemeral): State<Ephemeral>,
    State(limits): State<Limits>,
    DelayMs(delay_ms): DelayMs,
    Incoming { from, request }: Incoming<send_state_event::v3::Request>,
) -> Result<Response> {
    limits.check(Class::Send, &*from.user_id)?;
    acted(&ephemeral, &from);
    let content = request.body.into_json();
    let key = (&request.event_type, request.state_key.as_str());
    limits.check_state(&from.user_id, key, &content)?;
    workflows
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
        return delayed(&rooms, &request.room_id, delay).await;
    }
    let sender = from.user_id.clone();
    let event = NewEvent::state(sender, &request.event_type, &request.state_key, content);
    let event_id: OwnedEventId = workflows.send(&request.room_id, event).await?;
    if request.event_type == StateEventType::RoomGuestAccess {
        workflows.expel_guests(&request.room_id).await?;
    }
    Ok(Outgoing(send_state_event::v3::Response::new(event_id)).into_response())
}

/// `PUT /_matrix/client/*/rooms/{roomId}/redact/{eventId}/{txnId}`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid
async fn redact_event(
    State(rooms): State<Rooms>,
    State(limits): State<Limits>,
    Incoming { from, request }: Incoming<redact_event::v3::Request>,
) -> Result<Outgoing<redact_event::v3::Response>> {
    limits.check(Class::Send, &*from.user_id)?;
    if from.is_suspended {
        must_be_own(&rooms, &from, &request).await?;
    }
    let mut content = json!({ "redacts": request.event_id });
    if let (Some(content), Some(reason)) = (content.as_object_mut(), request.reason) {
        content.insert("reason".to_owned(), reason.into());
    }
    let event = NewEvent::message(
        from.user_id.clone(),
        TimelineEventType::RoomRedaction,
        to_raw_value(&content)?,
        Some(Transaction {
            device: from.device,
            txn_id: request.txn_id.to_string(),
        }),
    );
    let event_id = rooms.send(&request.room_id, event).await?;
    Ok(Outgoing(redact_event::v3::Response::new(event_id)))
}

/// One who is suspended may redact their own events alone.
async fn must_be_own(
    rooms: &Rooms,
    session: &Session,
    request: &redact_event::v3::Request,
) -> Result<()> {
    let (room, access) = rooms
        .enter(&request.room_id, session.user, &session.user_id)
        .await?;
    let event = rooms.event(&room, &access, &request.event_id).await?;
    if event.pdu.sender != session.user_id {
        return session.must_not_be_suspended();
    }
    Ok(())
}

async fn delayed(rooms: &Rooms, room_id: &RoomId, delay: Delay) -> Result<Response> {
    let delay_id = rooms.delay(room_id, delay).await?;
    Ok(Json(json!({ "delay_id": delay_id })).into_response())
}

fn acted(ephemeral: &Ephemeral, session: &Session) {
    ephemeral
        .presence
        .update(session.user, &session.user_id, PresenceUpdate::Active);
}
