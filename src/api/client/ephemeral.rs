//! Typing, receipts, read markers and presence.

use std::time::Duration;

use axum::{Router, extract::State, http};
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::{
        IncomingRequest, Metadata,
        auth_scheme::AccessToken,
        client::{
            presence::{get_presence, set_presence},
            read_marker::set_read_marker,
            receipt::create_receipt,
            typing::create_typing_event,
        },
        error::DeserializationError,
    },
    events::receipt::ReceiptThread,
    presence::PresenceState,
};
use serde::Deserialize;

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    ephemeral::{EphemeralState, PresenceUpdate},
    error::{Error, Result},
    rooms::Rooms,
    workflows::{ReadReceipt, Workflows},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<TypingRequest, _>(create_typing_event))
        .merge(endpoint::<create_receipt::v3::Request, _>(create_receipt))
        .merge(endpoint::<set_read_marker::v3::Request, _>(set_read_marker))
        .merge(endpoint::<get_presence::v3::Request, _>(get_presence))
        .merge(endpoint::<set_presence::v3::Request, _>(set_presence))
}

/// The typing timeout if a client sends none.
pub(in crate::api) const DEFAULT_TYPING_TIMEOUT: Duration = Duration::from_secs(30);

/// A typing request. Unlike in ruma, its `timeout` is optional.
struct TypingRequest {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    /// The time for which the user types; `None` when they have stopped.
    typing_timeout: Option<Duration>,
}

#[derive(Deserialize)]
struct TypingBody {
    typing: bool,
    /// In milliseconds.
    timeout: Option<u64>,
}

impl Metadata for TypingRequest {
    const METHOD: http::Method = create_typing_event::v3::Request::METHOD;
    const RATE_LIMITED: bool = create_typing_event::v3::Request::RATE_LIMITED;
    type Authentication = AccessToken;
    type PathBuilder = <create_typing_event::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = create_typing_event::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for TypingRequest {
    type EndpointError = <create_typing_event::v3::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = create_typing_event::v3::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (room_id, user_id) = (path_args.first(), path_args.get(1));
        let body: TypingBody = serde_json::from_slice(request.body())?;
        let timeout = body.timeout.map(Duration::from_millis);
        Ok(Self {
            room_id: RoomId::parse(room_id.copied().unwrap_or_default())?,
            user_id: UserId::parse(user_id.copied().unwrap_or_default())?,
            typing_timeout: body
                .typing
                .then(|| timeout.unwrap_or(DEFAULT_TYPING_TIMEOUT)),
        })
    }
}

/// `PUT /_matrix/client/*/rooms/{roomId}/typing/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidtypinguserid).
async fn create_typing_event(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<TypingRequest>,
) -> Result<MatrixResponse<create_typing_event::v3::Response>> {
    from.must_be_user(&request.user_id)?;
    workflows
        .activity
        .set_typing(&from, &request.room_id, request.typing_timeout)
        .await?;
    Ok(MatrixResponse(create_typing_event::v3::Response::new()))
}

/// `POST /_matrix/client/*/rooms/{roomId}/receipt/{receiptType}/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreceiptreceipttypeeventid).
async fn create_receipt(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<create_receipt::v3::Request>,
) -> Result<MatrixResponse<create_receipt::v3::Response>> {
    let receipt = ReadReceipt {
        kind: request.receipt_type.as_ref(),
        event_id: &request.event_id,
        thread: &request.thread,
    };
    workflows
        .activity
        .mark_read(&from, &request.room_id, receipt)
        .await?;
    Ok(MatrixResponse(create_receipt::v3::Response::new()))
}

/// `POST /_matrix/client/*/rooms/{roomId}/read_markers`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidread_markers).
async fn set_read_marker(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<set_read_marker::v3::Request>,
) -> Result<MatrixResponse<set_read_marker::v3::Response>> {
    let markers = [
        ("m.fully_read", request.fully_read),
        ("m.read", request.read_receipt),
        ("m.read.private", request.private_read_receipt),
    ];
    for (kind, event_id) in markers {
        if let Some(event_id) = event_id {
            let receipt = ReadReceipt {
                kind,
                event_id: &event_id,
                thread: &ReceiptThread::Unthreaded,
            };
            workflows
                .activity
                .mark_read(&from, &request.room_id, receipt)
                .await?;
        }
    }
    Ok(MatrixResponse(set_read_marker::v3::Response::new()))
}

/// `PUT /_matrix/client/*/presence/{userId}/status`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3presenceuseridstatus).
async fn set_presence(
    State(ephemeral): State<EphemeralState>,
    MatrixRequest { from, request }: MatrixRequest<set_presence::v3::Request>,
) -> Result<MatrixResponse<set_presence::v3::Response>> {
    from.must_be_user(&request.user_id)?;
    let update = PresenceUpdate::set_by_user(request.presence, request.status_msg)?;
    ephemeral.presence.update(from.user, &from.user_id, update);
    Ok(MatrixResponse(set_presence::v3::Response::new()))
}

/// `GET /_matrix/client/*/presence/{userId}/status`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3presenceuseridstatus).
async fn get_presence(
    State(rooms): State<Rooms>,
    State(ephemeral): State<EphemeralState>,
    MatrixRequest { from, request }: MatrixRequest<get_presence::v3::Request>,
) -> Result<MatrixResponse<get_presence::v3::Response>> {
    let unknown = || Error::not_found("the presence of this user is unknown");
    let user = rooms
        .memory
        .user_number(&request.user_id)
        .await?
        .ok_or_else(unknown)?;
    if user != from.user && !rooms.memory.share_a_room(from.user, user).await? {
        return Err(Error::forbidden("you share no room with this user"));
    }
    let mut response = get_presence::v3::Response::new(PresenceState::Offline);
    if let Some(event) = ephemeral.presence.presence_event(user) {
        response.presence = event.content.presence;
        response.status_msg = event.content.status_msg;
        response.currently_active = event.content.currently_active;
        response.last_active_ago = event
            .content
            .last_active_ago
            .map(|ms| Duration::from_millis(ms.into()));
    }
    Ok(MatrixResponse(response))
}
