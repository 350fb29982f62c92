//! Spaces, and what rooms are like for those who are not in them.

use axum::{Json, Router, extract::State, http::Uri};
use ruma::{
    RoomId,
    api::client::{membership::get_mutual_rooms, room::get_summary, space::get_hierarchy},
};
use serde_json::{Value, json};

use crate::{
    api::{App, Class, Incoming, Limits, Peer, endpoint},
    error::{Error, Result},
    rooms::{HierarchyRequest, Rooms, Summary},
    users::Session,
};

/// An older path of the summary, by which there are clients that still ask.
const OLD_SUMMARY: &str = "/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_hierarchy::v1::Request, _>(get_hierarchy))
        .merge(endpoint::<get_summary::v1::Request, _>(get_summary))
        .route(OLD_SUMMARY, axum::routing::get(get_summary))
        .merge(endpoint::<get_mutual_rooms::v1::Request, _>(
            get_mutual_rooms,
        ))
        .merge(endpoint::<get_mutual_rooms::unstable::Request, _>(
            get_mutual_rooms_unstable,
        ))
}

/// `GET /_matrix/client/*/rooms/{roomId}/hierarchy`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy
async fn get_hierarchy(
    State(rooms): State<Rooms>,
    Incoming { from, request }: Incoming<get_hierarchy::v1::Request>,
) -> Result<Json<Value>> {
    let wish = HierarchyRequest {
        from: request.from,
        limit: request.limit.map(u64::from),
        max_depth: request.max_depth.map(u64::from),
        suggested_only: request.suggested_only,
    };
    let page = rooms
        .hierarchy(&from.user_id, &request.room_id, &wish)
        .await?;
    let mut body = json!({ "rooms": page.rooms });
    if let (Some(body), Some(next)) = (body.as_object_mut(), page.next_batch) {
        body.insert("next_batch".to_owned(), next.into());
    }
    Ok(Json(body))
}

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias
async fn get_summary(
    State(rooms): State<Rooms>,
    State(limits): State<Limits>,
    peer: Peer,
    uri: Uri,
    Incoming { from, request }: Incoming<get_summary::v1::Request>,
) -> Result<Json<Value>> {
    limits.check(Class::Send, &peer)?;
    let unknown = || Error::not_found("there is no such room, or you may not see it");
    let room_id = match <&RoomId>::try_from(&*request.room_id_or_alias) {
        Ok(room_id) => room_id.to_owned(),
        Err(alias) => rooms.resolve_alias(alias).await.map_err(|_| unknown())?,
    };
    let room = rooms.room(&room_id).await.map_err(|error| match error {
        Error::NotFound(_) => unknown(),
        other => other,
    })?;
    let user_id = from.as_ref().map(|session| &*session.user_id);
    if !rooms.may_preview(&room, user_id).await? {
        return Err(unknown());
    }
    let summary = Summary::of(&room);
    let mut body = serde_json::to_value(&summary)?;
    if let Some(body) = body.as_object_mut() {
        if let Some(user_id) = user_id {
            let membership = room.view().state.membership(user_id);
            body.insert("membership".to_owned(), json!(membership));
        }
        if uri.path().contains("/unstable/") {
            let version = json!(summary.room_version);
            body.insert("im.nheko.summary.room_version".to_owned(), version.clone());
            body.insert("im.nheko.summary.version".to_owned(), version);
            if let Some(algorithm) = summary.encryption {
                body.insert("im.nheko.summary.encryption".to_owned(), algorithm.into());
            }
        }
    }
    Ok(Json(body))
}

/// `GET /_matrix/client/v1/mutual_rooms`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms
async fn get_mutual_rooms(
    State(rooms): State<Rooms>,
    Incoming { from, request }: Incoming<get_mutual_rooms::v1::Request>,
) -> Result<Json<Value>> {
    mutual_rooms(&rooms, &from, &request.user_id, request.from.as_deref()).await
}

/// `GET /_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms`
///
/// [MSC2666](https://github.com/matrix-org/matrix-spec-proposals/pull/2666)
async fn get_mutual_rooms_unstable(
    State(rooms): State<Rooms>,
    Incoming { from, request }: Incoming<get_mutual_rooms::unstable::Request>,
) -> Result<Json<Value>> {
    mutual_rooms(&rooms, &from, &request.user_id, request.from.as_deref()).await
}

async fn mutual_rooms(
    rooms: &Rooms,
    session: &Session,
    other: &ruma::UserId,
    from: Option<&str>,
) -> Result<Json<Value>> {
    if other == session.user_id {
        return Err(Error::invalid_param("user_id is your own"));
    }
    let invalid = || Error::invalid_param("from is no token of this server");
    let after = match from {
        Some(token) => Some(token.strip_prefix('m').ok_or_else(invalid)?),
        None => None,
    };
    let after = after.map(|after| after.parse().map_err(|_| invalid()));
    let shared = rooms
        .mutual_rooms(session.user, other, after.transpose()?)
        .await?;
    let mut body = json!({ "joined": shared.page, "count": shared.count });
    if let (Some(body), Some(next)) = (body.as_object_mut(), shared.next) {
        body.insert("next_batch".to_owned(), format!("m{next}").into());
    }
    Ok(Json(body))
}
