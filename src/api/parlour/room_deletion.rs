//! The deletion of rooms.

use axum::{Json, Router, extract::State, routing::delete};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ParlourRequest, PathRoomId, path};
use crate::{
    api::{App, RateLimits, RequestClass},
    error::Result,
    rooms::{DeletionRequester, Rooms},
};

pub(super) fn routes() -> Router<App> {
    Router::new().route(&path("rooms/{room_id}"), delete(delete_room))
}

#[derive(Deserialize)]
struct DeleteRoomBody {
    reason: Option<String>,
}

/// `DELETE_DEVICES_PATH /_parlour/client/v1/rooms/{roomId}`
async fn delete_room(
    State(rooms): State<Rooms>,
    State(limits): State<RateLimits>,
    PathRoomId(room_id): PathRoomId,
    ParlourRequest { from, body }: ParlourRequest<DeleteRoomBody>,
) -> Result<Json<Value>> {
    limits.check(RequestClass::Send, &*from.user_id)?;
    let requester = DeletionRequester {
        user_id: &from.user_id,
        is_admin: from.is_admin,
    };
    rooms
        .deletion
        .delete_room(&room_id, requester, body.reason)
        .await?;
    Ok(Json(json!({})))
}
