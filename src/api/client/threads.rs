//! The threads of a room, and thread subscriptions.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    api::client::threads::{
        get_thread_subscription, get_thread_subscriptions_changes,
        get_threads::{self, v1::IncludeThreads},
        subscribe_thread, unsubscribe_thread,
    },
    serde::Raw,
};

use super::{messages::audience, relations::page_size};
use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    clock::Clock,
    error::{Error, Result},
    matrix::TimelineEvent,
    numbers::{Position, PositionRange},
    rooms::{Rooms, SubscriptionRequest, ThreadFilter, ThreadListRequest},
    sync::{client_event, parse_timeline_token, split_subscription_changes, timeline_token},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_threads::v1::Request, _>(get_threads))
        .merge(endpoint::<get_thread_subscription::unstable::Request, _>(
            get_thread_subscription,
        ))
        .merge(endpoint::<subscribe_thread::unstable::Request, _>(
            subscribe_thread,
        ))
        .merge(endpoint::<unsubscribe_thread::unstable::Request, _>(
            unsubscribe_thread,
        ))
        .merge(endpoint::<
            get_thread_subscriptions_changes::unstable::Request,
            _,
        >(get_thread_subscriptions_changes))
}

/// `GET /_matrix/client/*/rooms/{roomId}/threads`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidthreads).
async fn get_threads(
    State(rooms): State<Rooms>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<get_threads::v1::Request>,
) -> Result<MatrixResponse<get_threads::v1::Response>> {
    let include = match request.include {
        IncludeThreads::All => ThreadFilter::All,
        IncludeThreads::Participated => ThreadFilter::Participated,
        _ => {
            return Err(Error::invalid_param("include must be all or participated"));
        }
    };
    let (room, access) = rooms
        .access
        .load_readable_room(&request.room_id, from.user, &from.user_id)
        .await?;
    let start = request
        .from
        .as_deref()
        .map(parse_timeline_token)
        .transpose()?;
    let audience = audience(&from, &access);
    let wanted = ThreadListRequest {
        include,
        from: start,
        limit: page_size(request.limit),
    };
    let (page, bundles) = rooms
        .relations
        .list_threads(&room, &access, audience, wanted)
        .await?;
    let now = clock.now_ms();
    let show = |event: &Arc<TimelineEvent>| {
        Raw::from_json(client_event(event, &from, &access, &bundles, now))
    };
    let mut response = get_threads::v1::Response::new(page.events.iter().map(show).collect());
    response.next_batch = page.end.map(timeline_token);
    Ok(MatrixResponse(response))
}

/// `GET /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription`
///
/// See [MSC4306](https://github.com/matrix-org/matrix-spec-proposals/pull/4306).
async fn get_thread_subscription(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_thread_subscription::unstable::Request>,
) -> Result<MatrixResponse<get_thread_subscription::unstable::Response>> {
    let (room, access) = rooms
        .access
        .load_readable_room(&request.room_id, from.user, &from.user_id)
        .await?;
    let automatic = rooms
        .relations
        .is_subscription_automatic(&room, &access, from.user, &request.thread_root)
        .await?;
    Ok(MatrixResponse(
        get_thread_subscription::unstable::Response::new(automatic),
    ))
}

/// `PUT /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription`
///
/// See [MSC4306](https://github.com/matrix-org/matrix-spec-proposals/pull/4306).
async fn subscribe_thread(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<subscribe_thread::unstable::Request>,
) -> Result<MatrixResponse<subscribe_thread::unstable::Response>> {
    let (room, access) = rooms
        .access
        .load_readable_room(&request.room_id, from.user, &from.user_id)
        .await?;
    let subscription = SubscriptionRequest {
        thread_root: &request.thread_root,
        cause: request.automatic.as_deref(),
    };
    rooms
        .relations
        .subscribe(&room, &access, from.user, subscription)
        .await?;
    Ok(MatrixResponse(subscribe_thread::unstable::Response::new()))
}

/// `DELETE /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription`
///
/// See [MSC4306](https://github.com/matrix-org/matrix-spec-proposals/pull/4306).
async fn unsubscribe_thread(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<unsubscribe_thread::unstable::Request>,
) -> Result<MatrixResponse<unsubscribe_thread::unstable::Response>> {
    let (room, access) = rooms
        .access
        .load_readable_room(&request.room_id, from.user, &from.user_id)
        .await?;
    rooms
        .relations
        .unsubscribe(&room, &access, from.user, &request.thread_root)
        .await?;
    Ok(MatrixResponse(unsubscribe_thread::unstable::Response::new()))
}

/// `GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions`
///
/// See [MSC4308](https://github.com/matrix-org/matrix-spec-proposals/pull/4308).
async fn get_thread_subscriptions_changes(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<
        get_thread_subscriptions_changes::unstable::Request,
    >,
) -> Result<MatrixResponse<get_thread_subscriptions_changes::unstable::Response>> {
    let before = request
        .from
        .as_deref()
        .map(parse_timeline_token)
        .transpose()?;
    let after = request
        .to
        .as_deref()
        .map(parse_timeline_token)
        .transpose()?;
    let limit = page_size(request.limit);
    let range = PositionRange {
        after: after.unwrap_or(Position::ZERO),
        up_to: before.map_or(Position::MAX, Position::previous),
    };
    let mut changes = rooms
        .relations
        .load_subscription_changes(from.user, range, limit + 1)
        .await?;
    let mut response = get_thread_subscriptions_changes::unstable::Response::new();
    if changes.len() > limit {
        changes.truncate(limit);
        response.end = changes.last().map(|last| timeline_token(last.position));
    }
    (response.subscribed, response.unsubscribed) = split_subscription_changes(changes);
    Ok(MatrixResponse(response))
}
