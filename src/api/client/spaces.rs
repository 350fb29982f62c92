//! Spaces, and summaries of rooms for users who are not in them.

use axum::{
    Json, Router,
    extract::State,
    http::{Method, Uri},
};
use ruma::{
    OwnedServerName, RoomId, UserId,
    api::client::{membership::get_mutual_rooms, room::get_summary, space::get_hierarchy},
    events::room::member::MembershipState,
};
use serde_json::{Value, json};

use crate::{
    api::{App, MatrixRequest, endpoint, endpoint_at},
    error::{Error, Result},
    rooms::{HierarchyRequest, RoomPreview, Rooms},
    users::Session,
    workflows::Workflows,
};

/// An older path of the summary, which some clients still use.
const OLD_SUMMARY_PATH: &str =
    "/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_hierarchy::v1::Request, _>(get_hierarchy))
        .merge(endpoint::<get_summary::v1::Request, _>(get_summary))
        .merge(endpoint_at(Method::GET, OLD_SUMMARY_PATH, get_summary))
        .merge(endpoint::<get_mutual_rooms::v1::Request, _>(
            get_mutual_rooms,
        ))
        .merge(endpoint::<get_mutual_rooms::unstable::Request, _>(
            get_mutual_rooms_unstable,
        ))
}

/// `GET /_matrix/client/*/rooms/{roomId}/hierarchy`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidhierarchy).
async fn get_hierarchy(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<get_hierarchy::v1::Request>,
) -> Result<Json<Value>> {
    let hierarchy_request = HierarchyRequest {
        from: request.from,
        limit: request.limit.map(u64::from),
        max_depth: request.max_depth.map(u64::from),
        suggested_only: request.suggested_only,
    };
    let page = workflows
        .spaces
        .hierarchy(&from.user_id, &request.room_id, &hierarchy_request)
        .await?;
    let mut body = json!({ "rooms": page.rooms });
    if let (Some(body), Some(next)) = (body.as_object_mut(), page.next_batch) {
        body.insert("next_batch".to_owned(), next.into());
    }
    Ok(Json(body))
}

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias).
async fn get_summary(
    State(rooms): State<Rooms>,
    State(workflows): State<Workflows>,
    uri: Uri,
    MatrixRequest { from, request }: MatrixRequest<get_summary::v1::Request>,
) -> Result<Json<Value>> {
    let unknown = || Error::not_found("there is no such room, or you may not see it");
    let (room_id, mut via) = match <&RoomId>::try_from(&*request.room_id_or_alias) {
        Ok(room_id) => (room_id.to_owned(), Vec::new()),
        Err(alias) => {
            let found = workflows.directory.resolve_alias(alias).await;
            found.map_err(|_| unknown())?
        }
    };
    via.extend(request.via);
    let user_id = from.as_ref().map(|session| &*session.user_id);
    let (summary, membership) = match rooms.memory.resident_room(&room_id).await {
        Ok(room) if rooms.previews.may_preview(&room, user_id).await? => {
            let membership = user_id.map(|user_id| room.view().state.membership(user_id));
            (RoomPreview::from_room(&room), membership)
        }
        Ok(_) => return Err(unknown()),
        Err(Error::NotFound(_)) => {
            let wanted = RemoteSummaryRequest {
                user_id,
                room_id: &room_id,
                via: &via,
            };
            let summary = summary_elsewhere(&rooms, &workflows, &wanted).await?;
            let summary = summary.ok_or_else(unknown)?;
            let membership = match &from {
                Some(session) => Some(membership_elsewhere(&rooms, session, &room_id).await?),
                None => None,
            };
            (summary, membership)
        }
        Err(error) => return Err(error),
    };
    let mut body = serde_json::to_value(&summary)?;
    if let Some(body) = body.as_object_mut() {
        if let Some(membership) = membership {
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

/// A request for the summary of a room in which this server has no members.
struct RemoteSummaryRequest<'a> {
    /// The user who wants the summary, if they are logged in.
    user_id: Option<&'a UserId>,
    room_id: &'a RoomId,
    /// The servers that may know the room.
    via: &'a [OwnedServerName],
}

/// Returns the summary of a room in which this server has no members: from other servers or, failing that, from the
/// last known state.
async fn summary_elsewhere(
    rooms: &Rooms,
    workflows: &Workflows,
    wanted: &RemoteSummaryRequest<'_>,
) -> Result<Option<RoomPreview>> {
    let RemoteSummaryRequest {
        user_id,
        room_id,
        via,
    } = *wanted;
    let summary = workflows
        .spaces
        .remote_summary(user_id, room_id, via)
        .await?;
    if summary.is_some() {
        return Ok(summary);
    }
    match rooms.memory.room(room_id).await {
        Ok(room) if rooms.previews.may_preview(&room, user_id).await? => {
            Ok(Some(RoomPreview::from_room(&room)))
        }
        Ok(_) | Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the membership of a user in a room in which this server has no members.
async fn membership_elsewhere(
    rooms: &Rooms,
    session: &Session,
    room_id: &RoomId,
) -> Result<MembershipState> {
    match rooms.memory.room_number(room_id).await {
        Ok(num) => Ok(rooms
            .memory
            .rooms_of_user(session.user)
            .await?
            .membership(num)),
        Err(Error::NotFound(_)) => Ok(MembershipState::Leave),
        Err(error) => Err(error),
    }
}

/// `GET /_matrix/client/v1/mutual_rooms`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mutual_rooms).
async fn get_mutual_rooms(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_mutual_rooms::v1::Request>,
) -> Result<Json<Value>> {
    mutual_rooms(&rooms, &from, &request.user_id, request.from.as_deref()).await
}

/// `GET /_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms`
///
/// See [MSC2666](https://github.com/matrix-org/matrix-spec-proposals/pull/2666).
async fn get_mutual_rooms_unstable(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<get_mutual_rooms::unstable::Request>,
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
        return Err(Error::invalid_param("user_id must not be your own"));
    }
    let invalid = || Error::invalid_param("from is not a token of this server");
    let after = match from {
        Some(token) => Some(token.strip_prefix('m').ok_or_else(invalid)?),
        None => None,
    };
    let after = after.map(|after| after.parse().map_err(|_| invalid()));
    let shared = rooms
        .previews
        .find_mutual_rooms(session.user, other, after.transpose()?)
        .await?;
    let mut body = json!({ "joined": shared.page, "count": shared.count });
    if let (Some(body), Some(next)) = (body.as_object_mut(), shared.next) {
        body.insert("next_batch".to_owned(), format!("m{next}").into());
    }
    Ok(Json(body))
}
