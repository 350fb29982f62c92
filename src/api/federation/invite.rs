//! Invites of this server's users into rooms of other servers.
//!
//! See [Inviting to a room](https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room).

use axum::{Json, Router, extract::State, routing::put};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, ServerName,
    api::federation::membership::create_invite,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::signed_request::SignedRequest;
use crate::{
    api::{App, MatrixResponse, RateLimitKey, RateLimits, RequestClass},
    error::{Error, Result},
    matrix::StrippedState,
    workflows::{ReceivedInvitation, SignedEvent, Workflows},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route(
            "/_matrix/federation/v1/invite/{room_id}/{event_id}",
            put(create_invite_v1),
        )
        .route(
            "/_matrix/federation/v2/invite/{room_id}/{event_id}",
            put(create_invite),
        )
}

/// The body of a v2 invite.
#[derive(Deserialize)]
struct InviteBody {
    room_version: RoomVersionId,
    event: Box<RawValue>,
    #[serde(default)]
    invite_room_state: StrippedState,
}

/// The user whom an event invites.
#[derive(Deserialize)]
struct InvitedUser {
    state_key: OwnedUserId,
}

/// The additional content of a v1 invite besides the event.
#[derive(Deserialize)]
struct InviteV1Body {
    #[serde(default)]
    unsigned: InviteUnsigned,
}

#[derive(Default, Deserialize)]
struct InviteUnsigned {
    #[serde(default)]
    invite_room_state: StrippedState,
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid).
async fn create_invite(
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    mut signed: SignedRequest<Box<RawValue>>,
) -> Result<MatrixResponse<create_invite::v2::Response>> {
    let body: InviteBody = serde_json::from_str(signed.body.get())
        .map_err(|error| Error::BadJson(error.to_string()))?;
    check_limits(&limits, &signed.from, &body.event)?;
    let invitation = ReceivedInvitation {
        version: body.room_version,
        signed: SignedEvent {
            room_id: signed.next_param::<OwnedRoomId>()?,
            event_id: signed.next_param::<OwnedEventId>()?,
            origin: signed.from,
            event: body.event,
        },
        room_state: body.invite_room_state.0,
    };
    let event = workflows
        .received_invitations
        .receive_invitation(invitation)
        .await?;
    Ok(MatrixResponse(create_invite::v2::Response::new(event)))
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1inviteroomideventid).
async fn create_invite_v1(
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    mut signed: SignedRequest<Box<RawValue>>,
) -> Result<Json<Value>> {
    check_limits(&limits, &signed.from, &signed.body)?;
    let room_id = signed.next_param::<OwnedRoomId>()?;
    let event_id = signed.next_param::<OwnedEventId>()?;
    let body: InviteV1Body = serde_json::from_str(signed.body.get())
        .map_err(|error| Error::BadJson(error.to_string()))?;
    let invitation = ReceivedInvitation {
        // "This API is for rooms of versions 1 and 2". The exact version becomes known when the user joins.
        version: RoomVersionId::V2,
        signed: SignedEvent {
            origin: signed.from,
            room_id,
            event_id,
            event: signed.body,
        },
        room_state: body.unsigned.invite_room_state.0,
    };
    let event = workflows
        .received_invitations
        .receive_invitation(invitation)
        .await?;
    Ok(Json(json!([200, { "event": event }])))
}

/// Checks that a server does not send too many invites, in total or to one user.
fn check_limits(limits: &RateLimits, from: &ServerName, invitation: &RawValue) -> Result<()> {
    limits.check(RequestClass::FederatedInvite, from)?;
    // An event that is not an invite is refused later, with the reason.
    if let Ok(InvitedUser { state_key }) = serde_json::from_str(invitation.get()) {
        limits.check(
            RequestClass::FederatedInviteToUser,
            RateLimitKey::ServerTo(from.to_owned(), state_key),
        )?;
    }
    Ok(())
}
