//! Events that are sent later.
//!
//! Supports both [MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140) and its earlier drafts,
//! because existing clients use either.

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use ruma::api::client::delayed_events::{
    get_all_delayed_events, get_delayed_event, send_delayed_event,
    update_delayed_event::{UpdateAction, unstable_v1, unstable_v2},
};
use serde_json::{Value, json};

use crate::{
    api::{
        App, ClientAddress, MatrixRequest, MatrixResponse, RateLimits, RequestClass,
        RequestWithBody, endpoint,
    },
    error::{Error, RefusalCode, Result},
    rooms::{DelayAction, DelayRequest, DelayedEvent, Rooms},
    workflows::Workflows,
};

/// The query parameter that delays an event sent through the usual endpoint.
const DELAY_PARAMETER: &str = "org.matrix.msc4140.delay";

/// An action on the delayed event with this id.
struct DelayedEventUpdate<'a> {
    delay_id: &'a str,
    action: DelayAction,
}

/// The delay of an event sent through the usual endpoint.
pub(super) struct DelayMs(pub(super) Option<i64>);

impl FromRequestParts<App> for DelayMs {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        let query = parts.uri.query().unwrap_or_default();
        let mut fields = url::form_urlencoded::parse(query.as_bytes());
        let Some((_, delay)) = fields.find(|(name, _)| name == DELAY_PARAMETER) else {
            return Ok(Self(None));
        };
        let delay = delay.parse();
        let delay = delay
            .map_err(|_| Error::invalid_param(format!("{DELAY_PARAMETER} is not a number")))?;
        Ok(Self(Some(delay)))
    }
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<send_delayed_event::unstable::Request, _>(
            send_delayed_event,
        ))
        .merge(endpoint::<get_all_delayed_events::unstable::Request, _>(
            get_all_delayed_events,
        ))
        .merge(endpoint::<get_delayed_event::unstable::Request, _>(
            get_delayed_event,
        ))
        .merge(endpoint::<unstable_v1::Request, _>(
            update_delayed_event_of_session,
        ))
        .merge(endpoint::<unstable_v2::Request, _>(update_delayed_event))
}

/// `PUT /_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId}`
///
/// See [MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140).
async fn send_delayed_event(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<send_delayed_event::unstable::Request>,
) -> Result<Json<Value>> {
    let delay = DelayRequest {
        user: from.user,
        user_id: from.user_id.clone(),
        device: from.device,
        txn_id: Some(request.txn_id.to_string()),
        kind: request.event_type.to_string(),
        state_key: request.state_key,
        content: request.content.into_json(),
        sticky: request.sticky_duration_ms.map(Into::into),
        delay_ms: i64::try_from(request.delay.as_millis()).unwrap_or(i64::MAX),
    };
    let delay_id = workflows
        .state_events
        .schedule_event(&from, &request.room_id, delay)
        .await?;
    Ok(Json(json!({ "delay_id": delay_id })))
}

/// `GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events`
///
/// See [MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140).
async fn get_all_delayed_events(
    State(rooms): State<Rooms>,
    MatrixRequest { from, .. }: MatrixRequest<get_all_delayed_events::unstable::Request>,
) -> Result<Json<Value>> {
    let events = rooms.delayed_events.list_scheduled(from.user).await?;
    let events: Vec<Value> = events.iter().map(delayed_event_json).collect();
    Ok(Json(json!({ "delayed_events": events })))
}

/// `GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}`
///
/// See [MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140).
async fn get_delayed_event(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_delayed_event::unstable::Request>,
) -> Result<Json<Value>> {
    let event = rooms
        .delayed_events
        .find_delayed_event(from.user, &request.delay_id)
        .await?;
    Ok(Json(delayed_event_json(&event)))
}

/// `POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}`, with the action in the body.
///
/// See [MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140).
async fn update_delayed_event_of_session(
    State(rooms): State<Rooms>,
    State(limits): State<RateLimits>,
    peer: ClientAddress,
    RequestWithBody { from, request, .. }: RequestWithBody<unstable_v1::Request>,
) -> Result<MatrixResponse<unstable_v1::Response>> {
    let action = delay_action(&request.action)
        .ok_or_else(|| Error::invalid_param("action: expected restart, send or cancel"))?;
    if action != DelayAction::Cancel {
        from.must_not_be_suspended()?;
    }
    update_with_limit(
        &rooms,
        &limits,
        peer,
        DelayedEventUpdate {
            delay_id: &request.delay_id,
            action,
        },
    )
    .await?;
    Ok(MatrixResponse(unstable_v1::Response::new()))
}

/// `POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/{action}`
///
/// Anyone who knows the id may do this. The server of a call does so for users whose connection was lost.
///
/// See [MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140).
async fn update_delayed_event(
    State(rooms): State<Rooms>,
    State(limits): State<RateLimits>,
    peer: ClientAddress,
    MatrixRequest { request, .. }: MatrixRequest<unstable_v2::Request>,
) -> Result<MatrixResponse<unstable_v2::Response>> {
    // In this form, each action is an endpoint of its own.
    let action = delay_action(&request.action)
        .ok_or_else(|| Error::refused(RefusalCode::Unrecognized, "unknown endpoint".to_owned()))?;
    update_with_limit(
        &rooms,
        &limits,
        peer,
        DelayedEventUpdate {
            delay_id: &request.delay_id,
            action,
        },
    )
    .await?;
    Ok(MatrixResponse(unstable_v2::Response::new()))
}

/// Counts an action against the rate limit, and does it.
///
/// The action counts for the user whose event it is, because it may come from a server that does so for many users. Wrong
/// ids count for the address.
async fn update_with_limit(
    rooms: &Rooms,
    limits: &RateLimits,
    peer: ClientAddress,
    update: DelayedEventUpdate<'_>,
) -> Result<()> {
    let DelayedEventUpdate { delay_id, action } = update;
    let class = match action {
        DelayAction::Send => RequestClass::Send,
        DelayAction::Cancel | DelayAction::Restart => RequestClass::DelayedEventUpdate,
    };
    match rooms.delayed_events.find_owner(delay_id).await? {
        Some(owner) => limits.check(class, &*owner)?,
        None => limits.check(RequestClass::Lookup, &peer)?,
    }
    let delayed_events = &rooms.delayed_events;
    delayed_events.update_delayed_event(delay_id, action).await
}

fn delay_action(action: &UpdateAction) -> Option<DelayAction> {
    match action {
        UpdateAction::Restart => Some(DelayAction::Restart),
        UpdateAction::Send => Some(DelayAction::Send),
        UpdateAction::Cancel => Some(DelayAction::Cancel),
        _ => None,
    }
}

/// Returns the JSON of a delayed event. The drafts use different names for the delay and its start, so both are
/// written.
fn delayed_event_json(event: &DelayedEvent) -> Value {
    let row = &event.row;
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let mut shown = json!({
        "delay_id": row.delay_id, "room_id": event.room_id, "type": row.kind, "content": parsed(&row.content),
        "delay": row.delay_ms, "delay_ms": row.delay_ms,
        "running_since": row.running_since, "scheduled_at": row.running_since,
    });
    let optional = [
        ("state_key", row.state_key.as_ref().map(|key| json!(key))),
        ("finalised_ts", row.finalised_ts.map(|ts| json!(ts))),
        ("event_id", row.event_id.as_ref().map(|id| json!(id))),
        ("error", row.error.as_deref().map(parsed)),
    ];
    if let Some(shown) = shown.as_object_mut() {
        for (name, value) in optional {
            shown.extend(value.map(|value| (name.to_owned(), value)));
        }
    }
    shown
}
