//! The deletion of rooms.

use axum::{Json, Router, extract::State, http::Method};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ParlourRequest, PathRoomId, path};
use crate::{
    api::{App, endpoint_at},
    error::Result,
    rooms::{DeletionRequester, Rooms},
};

pub(super) fn routes() -> Router<App> {
    endpoint_at(Method::DELETE, &path("rooms/{room_id}"), delete_room)
}

#[derive(Deserialize)]
struct DeleteRoomBody {
    reason: Option<String>,
}

/// `DELETE /_parlour/client/v1/rooms/{roomId}`
async fn delete_room(
    State(rooms): State<Rooms>,
    PathRoomId(room_id): PathRoomId,
    ParlourRequest { from, body }: ParlourRequest<DeleteRoomBody>,
) -> Result<Json<Value>> {
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
