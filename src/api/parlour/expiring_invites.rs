//! Invites that expire.

use axum::{Json, Router, extract::State, http::Method};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ParlourRequest, PathRoomId, path};
use crate::{
    api::{App, RateLimits, endpoint_at},
    error::Result,
    workflows::{ExpiringInviteRequest, Workflows},
};

pub(super) fn routes() -> Router<App> {
    endpoint_at(Method::POST, &path("rooms/{room_id}/invite"), invite)
}

#[derive(Deserialize)]
struct ExpiringInviteBody {
    user_id: OwnedUserId,
    reason: Option<String>,
    expires_at: i64,
}

/// `POST /_parlour/client/v1/rooms/{roomId}/invite`
async fn invite(
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    PathRoomId(room_id): PathRoomId,
    ParlourRequest { from, body }: ParlourRequest<ExpiringInviteBody>,
) -> Result<Json<Value>> {
    limits.check_invitations(&from, [&*body.user_id])?;
    let request = ExpiringInviteRequest {
        user_id: body.user_id,
        expires_at: body.expires_at,
        reason: body.reason,
    };
    let event_id = workflows
        .invitations
        .invite_until(&from, &room_id, request)
        .await?;
    Ok(Json(json!({ "event_id": event_id })))
}
