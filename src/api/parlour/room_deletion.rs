//! The deletion of rooms.

use axum::{Json, Router, extract::State, routing::delete};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, InRoom, path};
use crate::{
    api::{App, Class, Limits},
    error::Result,
    rooms::Rooms,
};

pub(super) fn routes() -> Router<App> {
    Router::new().route(&path("rooms/{room_id}"), delete(delete_room))
}

#[derive(Deserialize)]
struct DeleteRoom {
    reason: Option<String>,
}

/// `DELETE /_parlour/client/v1/rooms/{roomId}`
async fn delete_room(
    State(rooms): State<Rooms>,
    State(limits): State<Limits>,
    InRoom(room_id): InRoom,
    Asked { from, body }: Asked<DeleteRoom>,
) -> Result<Json<Value>> {
    limits.check(Class::Send, &*from.user_id)?;
    let asker = (&*from.user_id, from.is_admin);
    rooms
        .deletion
        .delete_room(&room_id, asker, body.reason)
        .await?;
    Ok(Json(json!({})))
}
