//! Links that let people join rooms.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::{Method, request::Parts},
};
use ruma::events::StateEventType;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ParlourRequest, PathRoomId, path, path_parameter};
use crate::{
    api::{
        App, AuthenticatedSession, ClientAddress, LimitedRequest, RateLimits, RequestClass,
        endpoint_at,
    },
    config::Config,
    error::{Error, Result},
    rooms::{InviteLink, NewInviteLink, Rooms},
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    let of_room = path("rooms/{room_id}/invite_links");
    let of_link = path("rooms/{room_id}/invite_links/{token}");
    let preview = path("invite_links/{token}");
    let redeem = path("invite_links/{token}/redeem");
    Router::new()
        .merge(endpoint_at(Method::GET, &of_room, list_links))
        .merge(endpoint_at(Method::POST, &of_room, create_link))
        .merge(endpoint_at(Method::DELETE, &of_link, revoke_link))
        .merge(endpoint_at(Method::GET, &preview, preview_link))
        .merge(endpoint_at(Method::POST, &redeem, redeem_link))
}

/// The token of a link in the path of a request.
struct InviteLinkToken(String);

impl FromRequestParts<App> for InviteLinkToken {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        path_parameter(parts, "token").await.map(Self)
    }
}

#[derive(Deserialize)]
struct CreateLinkBody {
    expires_at: Option<i64>,
    max_uses: Option<i64>,
    label: Option<String>,
}

#[derive(Deserialize)]
struct EmptyBody {}

/// `POST /_parlour/client/v1/rooms/{roomId}/invite_links`
async fn create_link(
    State(rooms): State<Rooms>,
    State(config): State<Arc<Config>>,
    PathRoomId(room_id): PathRoomId,
    ParlourRequest { from, body }: ParlourRequest<CreateLinkBody>,
) -> Result<Json<Value>> {
    let link = NewInviteLink {
        expires_at: body.expires_at,
        max_uses: body.max_uses,
        label: body.label.filter(|label| !label.is_empty()),
    };
    let link = rooms
        .invite_links
        .create_link(&room_id, from.user, &from.user_id, link)
        .await?;
    Ok(Json(invite_link_json(&link, &config)))
}

/// `GET /_parlour/client/v1/rooms/{roomId}/invite_links`
async fn list_links(
    State(rooms): State<Rooms>,
    State(config): State<Arc<Config>>,
    PathRoomId(room_id): PathRoomId,
    AuthenticatedSession(from): AuthenticatedSession,
) -> Result<Json<Value>> {
    let links = rooms
        .invite_links
        .list_links(&room_id, from.user, &from.user_id)
        .await?;
    let links: Vec<Value> = links
        .iter()
        .map(|link| invite_link_json(link, &config))
        .collect();
    Ok(Json(json!({ "links": links })))
}

/// `DELETE /_parlour/client/v1/rooms/{roomId}/invite_links/{token}`
async fn revoke_link(
    State(rooms): State<Rooms>,
    PathRoomId(room_id): PathRoomId,
    InviteLinkToken(token): InviteLinkToken,
    AuthenticatedSession(from): AuthenticatedSession,
) -> Result<Json<Value>> {
    rooms
        .invite_links
        .revoke_link(&room_id, &token, from.user, &from.user_id)
        .await?;
    Ok(Json(json!({})))
}

/// `GET /_parlour/client/v1/invite_links/{token}`
async fn preview_link(
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    peer: ClientAddress,
    InviteLinkToken(token): InviteLinkToken,
    _: LimitedRequest,
) -> Result<Json<Value>> {
    let preview = workflows.invite_links.preview_link(&token).await;
    if matches!(preview, Err(Error::NotFound(_))) {
        limits.check(RequestClass::WrongToken, &peer)?;
    }
    let preview = preview?;
    let room = json!({
        "room_id": preview.room.room_id,
        "name": preview.state_text(&StateEventType::RoomName, "name"),
        "avatar_url": preview.state_text(&StateEventType::RoomAvatar, "url"),
        "topic": preview.state_text(&StateEventType::RoomTopic, "topic"),
        "joined_members": preview.room.view().joined_members,
    });
    Ok(Json(json!({
        "room": room,
        "inviter": { "user_id": preview.inviter, "displayname": preview.inviter_name },
        "expires_at": preview.expires_at,
        "registration": preview.registration,
    })))
}

/// `POST /_parlour/client/v1/invite_links/{token}/redeem`
async fn redeem_link(
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    InviteLinkToken(token): InviteLinkToken,
    ParlourRequest { from, .. }: ParlourRequest<EmptyBody>,
) -> Result<Json<Value>> {
    let room_id = workflows.invite_links.redeem_link(&from, &token).await;
    if matches!(room_id, Err(Error::NotFound(_))) {
        limits.check(RequestClass::WrongToken, &*from)?;
    }
    let room_id = room_id?;
    Ok(Json(json!({ "room_id": room_id })))
}

fn invite_link_json(link: &InviteLink, config: &Config) -> Value {
    let row = &link.row;
    // The token is after the hash, so no other server and no server log receives it.
    let url = format!("{}/#/invite/{}", config.public_url(), row.token);
    json!({
        "token": row.token, "room_id": link.room_id, "creator": link.creator, "created_at": row.created_ts,
        "expires_at": row.expires_ts, "max_uses": row.max_uses, "uses": row.uses, "label": row.label, "url": url,
    })
}
