//! Invites that expire.

use axum::{Json, Router, extract::State, routing::post};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ParlourRequest, PathRoomId, path};
use crate::{
    api::{App, RateLimits, RequestClass},
    error::Result,
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new().route(&path("rooms/{room_id}/invite"), post(invite))
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
    limits.check(RequestClass::Send, &*from.user_id)?;
    limits.check_invitations(&from.user_id, [&*body.user_id])?;
    let event_id = workflows
        .invitations
        .invite_until(&from, &room_id, &body.user_id, body.expires_at, body.reason)
        .await?;
    Ok(Json(json!({ "event_id": event_id })))
}
