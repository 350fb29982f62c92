//! The deprecated endpoints that preceded `/sync`, and peeking into rooms.

use std::{slice, time::Duration};

use axum::{Json, Router, extract::State, http::Uri, routing::get};
use ruma::{
    EventId, OwnedRoomId,
    api::{
        Direction,
        client::{
            peeking::get_current_state::{self, v3::PaginationChunk},
            room::Visibility,
        },
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Value, json, value::to_raw_value};

use super::{messages::audience, state::state_event};
use crate::{
    api::{
        App, CompleteResponse, MatrixRequest, MaybeSession, endpoint,
        endpoint::{PathParams, read_query},
    },
    clock::Clock,
    error::{Error, Result},
    numbers::Position,
    rooms::{PageRequest, Rooms, TimelineSelection},
    sync::{Sync, client_event, parse_timeline_token, timeline_token},
    users::Users,
};

/// The number of latest messages in the initial sync of a room.
const MAX_INITIAL_MESSAGES: usize = 20;

#[derive(Deserialize)]
struct EventsQuery {
    from: Option<String>,
    timeout: Option<u64>,
    room_id: Option<OwnedRoomId>,
}

#[derive(Deserialize)]
struct InitialSyncQuery {
    limit: Option<u32>,
    #[serde(default)]
    archived: bool,
}

pub(super) fn routes() -> Router<App> {
    let mut router = endpoint::<get_current_state::v3::Request, _>(get_current_state);
    for version in ["v3", "r0"] {
        let path = |rest: &str| format!("/_matrix/client/{version}/{rest}");
        router = router
            .route(&path("events"), get(get_events))
            .route(&path("events/{event_id}"), get(get_one_event))
            .route(&path("initialSync"), get(initial_sync));
    }
    router
}

/// `GET /_matrix/client/*/rooms/{roomId}/initialSync`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidinitialsync).
async fn get_current_state(
    State(rooms): State<Rooms>,
    State(users): State<Users>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_current_state::v3::Request>,
) -> Result<CompleteResponse<get_current_state::v3::Response>> {
    let (room, access) = rooms
        .access
        .load_readable_room(&request.room_id, from.user, &from.user_id)
        .await?;
    let state = rooms
        .state
        .visible_state_at(&room, from.user, &from.user_id, None)
        .await?;
    let place = room.view().newest_place();
    let page = PageRequest {
        from: place,
        to: None,
        dir: Direction::Backward,
        limit: MAX_INITIAL_MESSAGES,
    };
    let selection = TimelineSelection::all(&room, &access);
    let page = rooms.timeline.load_page(selection, page).await?;
    let bundles = rooms
        .relations
        .load_aggregations(&room, audience(&from, &access), &page.events)
        .await?;
    let now = clock.now_ms();
    let show = |event| Raw::from_json(client_event(event, &from, &access, &bundles, now));
    let events = page.events.iter().rev().map(|event| show(event)).collect();
    let mut messages = PaginationChunk::new(events, timeline_token(place));
    messages.start = page.end.map(timeline_token);
    let mut response = get_current_state::v3::Response::new(request.room_id);
    response.membership = Some(state.membership(&from.user_id));
    response.messages = Some(messages);
    let state = state.iter();
    response.state = state
        .map(|pdu| Raw::from_json(state_event(&room, pdu, now)))
        .collect();
    response.visibility = Some(if rooms.directory.is_published(&room).await? {
        Visibility::Public
    } else {
        Visibility::Private
    });
    for data in users
        .account_data
        .changed_between(from.user, Position::ZERO, Position::MAX)
        .await?
    {
        if data.room() == Some(room.num) {
            let content: Value = serde_json::from_str(&data.content)?;
            let event = json!({ "type": data.kind, "content": content });
            response
                .account_data
                .push(Raw::from_json(to_raw_value(&event)?));
        }
    }
    Ok(CompleteResponse(response))
}

/// `GET /_matrix/client/*/events`
///
/// With a room, it peeks into that room only. The user need not be in it.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#peeking_get_matrixclientv3events).
async fn get_events(
    State(sync): State<Sync>,
    MaybeSession(session): MaybeSession,
    uri: Uri,
) -> Result<Json<Value>> {
    let session = session.ok_or(Error::MissingToken)?;
    let query: EventsQuery = read_query(&uri)?;
    let timeout = Duration::from_millis(query.timeout.unwrap_or(0));
    let events = if let Some(room_id) = query.room_id {
        let from = query
            .from
            .as_deref()
            .map(parse_timeline_token)
            .transpose()?;
        sync.peek_room(&session, &room_id, from, timeout).await?
    } else {
        let from = query.from.as_deref().map(str::parse).transpose()?;
        sync.events(&session, from, timeout).await?
    };
    Ok(Json(events))
}

/// `GET /_matrix/client/*/events/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3eventseventid).
async fn get_one_event(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MaybeSession(session): MaybeSession,
    PathParams(event_id): PathParams<String>,
) -> Result<Json<Value>> {
    let session = session.ok_or(Error::MissingToken)?;
    let event_id = EventId::parse(event_id).map_err(|e| Error::invalid_param(e.to_string()))?;
    let room = rooms.timeline.find_room_of_event(&event_id).await?;
    if rooms.memory.has_forgotten(session.user, &room).await? {
        return Err(Error::not_found(
            "there is no such event, or you may not see it",
        ));
    }
    let access = rooms
        .access
        .load_access(&room, session.user, &session.user_id)
        .await?;
    let event = rooms.timeline.load_event(&room, &access, &event_id).await?;
    let bundles = rooms
        .relations
        .load_aggregations(&room, audience(&session, &access), slice::from_ref(&event))
        .await?;
    let event = client_event(&event, &session, &access, &bundles, clock.now_ms());
    Ok(Json(serde_json::from_str(event.get())?))
}

/// `GET /_matrix/client/*/initialSync`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3initialsync).
async fn initial_sync(
    State(sync): State<Sync>,
    MaybeSession(session): MaybeSession,
    uri: Uri,
) -> Result<Json<Value>> {
    let session = session.ok_or(Error::MissingToken)?;
    let query: InitialSyncQuery = read_query(&uri)?;
    let answer = sync
        .initial_sync(&session, query.limit, query.archived)
        .await?;
    Ok(Json(answer))
}
