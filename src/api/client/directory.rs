//! Room aliases and the public room directory.

use axum::{Json, Router, extract::State};
use ruma::{
    OwnedServerName, UInt,
    api::client::{
        alias::{create_alias, delete_alias, get_alias},
        directory::{
            get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility,
        },
        room::Visibility,
    },
    directory::RoomTypeFilter,
    room::RoomType,
};

use serde_json::{Value, json};

use super::optional_fields::WithDefaults;
use crate::{
    api::{
        App, ClientAddress, MatrixRequest, MatrixResponse, MaybeSession, RateLimitKey,
        RequestClass, endpoint,
    },
    error::{Error, Result},
    rooms::{AliasCreator, DirectorySearch, Rooms, check_visibility},
    users::Users,
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<create_alias::v3::Request, _>(create_alias))
        .merge(endpoint::<get_alias::v3::Request, _>(get_alias))
        .merge(endpoint::<delete_alias::v3::Request, _>(delete_alias))
        .merge(endpoint::<get_room_visibility::v3::Request, _>(
            get_room_visibility,
        ))
        .merge(endpoint::<WithDefaults<set_room_visibility::v3::Request>, _>(set_room_visibility))
        .merge(endpoint::<get_public_rooms::v3::Request, _>(
            get_public_rooms,
        ))
        .merge(endpoint::<get_public_rooms_filtered::v3::Request, _>(
            get_public_rooms_filtered,
        ))
}

/// `PUT /_matrix/client/*/directory/room/{roomAlias}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directoryroomroomalias).
async fn create_alias(
    State(rooms): State<Rooms>,
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<create_alias::v3::Request>,
) -> Result<MatrixResponse<create_alias::v3::Response>> {
    if request.room_alias.server_name() != rooms.memory.server_name() {
        return Err(Error::invalid_param("the alias belongs to another server"));
    }
    users
        .application_services
        .check_alias(&request.room_alias, from.application_service.as_deref())?;
    let creator = AliasCreator {
        user_id: &from.user_id,
        is_limited: from.application_service.is_none(),
    };
    rooms
        .directory
        .create_alias(&request.room_alias, &request.room_id, creator)
        .await?;
    Ok(MatrixResponse(create_alias::v3::Response::new()))
}

/// `GET /_matrix/client/*/directory/room/{roomAlias}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directoryroomroomalias).
async fn get_alias(
    State(workflows): State<Workflows>,
    MatrixRequest { request, .. }: MatrixRequest<get_alias::v3::Request>,
) -> Result<MatrixResponse<get_alias::v3::Response>> {
    let (room_id, servers) = workflows
        .directory
        .resolve_alias(&request.room_alias)
        .await?;
    Ok(MatrixResponse(get_alias::v3::Response::new(
        room_id, servers,
    )))
}

/// `DELETE /_matrix/client/*/directory/room/{roomAlias}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3directoryroomroomalias).
async fn delete_alias(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<delete_alias::v3::Request>,
) -> Result<MatrixResponse<delete_alias::v3::Response>> {
    let service = from.application_service.as_ref();
    let may_always = from.is_admin
        || service.is_some_and(|service| {
            let namespaces = &service.registration.namespaces;
            namespaces.has_alias(&request.room_alias)
        });
    rooms
        .directory
        .delete_alias(&request.room_alias, from.user, &from.user_id, may_always)
        .await?;
    Ok(MatrixResponse(delete_alias::v3::Response::new()))
}

/// `GET /_matrix/client/*/directory/list/room/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directorylistroomroomid).
async fn get_room_visibility(
    State(rooms): State<Rooms>,
    MatrixRequest { request, .. }: MatrixRequest<get_room_visibility::v3::Request>,
) -> Result<MatrixResponse<get_room_visibility::v3::Response>> {
    let room = rooms.memory.room(&request.room_id).await?;
    let visibility = if rooms.directory.is_published(&room).await? {
        Visibility::Public
    } else {
        Visibility::Private
    };
    Ok(MatrixResponse(get_room_visibility::v3::Response::new(
        visibility,
    )))
}

/// `PUT /_matrix/client/*/directory/list/room/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directorylistroomroomid).
async fn set_room_visibility(
    State(rooms): State<Rooms>,
    MatrixRequest {
        from,
        request: WithDefaults(request),
    }: MatrixRequest<WithDefaults<set_room_visibility::v3::Request>>,
) -> Result<MatrixResponse<set_room_visibility::v3::Response>> {
    let room = rooms.memory.room(&request.room_id).await?;
    check_visibility(&request.visibility)?;
    let is_public = request.visibility == Visibility::Public;
    rooms
        .directory
        .set_published(&room, &from.user_id, is_public)
        .await?;
    Ok(MatrixResponse(set_room_visibility::v3::Response::new()))
}

/// `GET /_matrix/client/*/publicRooms`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3publicrooms).
async fn get_public_rooms(
    State(app): State<App>,
    MaybeSession(session): MaybeSession,
    peer: ClientAddress,
    MatrixRequest { request, .. }: MatrixRequest<get_public_rooms::v3::Request>,
) -> Result<Json<Value>> {
    if session.is_none() && !app.config.directory.public_without_login {
        return Err(Error::MissingToken);
    }
    let search = DirectorySearch {
        since: request.since,
        limit: request.limit.map(u64::from),
        ..DirectorySearch::default()
    };
    let asker = session.map_or_else(
        || RateLimitKey::from(&peer),
        |session| RateLimitKey::from(&*session),
    );
    list_public_rooms(&app, asker, request.server, search).await
}

/// `POST /_matrix/client/*/publicRooms`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3publicrooms).
async fn get_public_rooms_filtered(
    State(app): State<App>,
    MatrixRequest { from, request }: MatrixRequest<get_public_rooms_filtered::v3::Request>,
) -> Result<Json<Value>> {
    let types = &request.filter.room_types;
    let search = DirectorySearch {
        term: request.filter.generic_search_term,
        room_types: (!types.is_empty()).then(|| types.iter().map(room_type).collect()),
        network: request.room_network,
        since: request.since,
        limit: request.limit.map(u64::from),
    };
    list_public_rooms(&app, RateLimitKey::from(&*from), request.server, search).await
}

fn room_type(filter: &RoomTypeFilter) -> Option<RoomType> {
    match filter {
        RoomTypeFilter::Default => None,
        other => other.as_str().map(RoomType::from),
    }
}

/// Lists the rooms in the directory of a server; without a name, of this one.
async fn list_public_rooms(
    app: &App,
    asker: RateLimitKey,
    server: Option<OwnedServerName>,
    search: DirectorySearch,
) -> Result<Json<Value>> {
    let other = server.filter(|server| server != app.rooms.memory.server_name());
    let page = match other {
        Some(server) => {
            app.limits.check(RequestClass::Lookup, asker)?;
            app.workflows
                .directory
                .fetch_public_rooms(&server, search)
                .await?
        }
        None => app.rooms.directory.list_public_rooms(search).await?,
    };
    let mut response = get_public_rooms::v3::Response::new(page.chunk);
    response.total_room_count_estimate = Some(UInt::new_saturating(page.total));
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    directory_json(&response)
}

/// Returns the JSON of a page of the directory. The join rule of a public room is optional, and ruma omits it, but some
/// clients do not assume the default.
fn directory_json(response: &get_public_rooms::v3::Response) -> Result<Json<Value>> {
    let mut chunk = Vec::with_capacity(response.chunk.len());
    for room in &response.chunk {
        let mut shown = serde_json::to_value(room)?;
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("join_rule".to_owned(), json!(room.join_rule));
        }
        chunk.push(shown);
    }
    let mut page = json!({ "chunk": chunk });
    if let Some(page) = page.as_object_mut() {
        let tokens = [
            ("next_batch", &response.next_batch),
            ("prev_batch", &response.prev_batch),
        ];
        for (name, token) in tokens {
            page.extend(token.iter().map(|token| (name.to_owned(), json!(token))));
        }
        let total = response.total_room_count_estimate;
        page.insert("total_room_count_estimate".to_owned(), json!(total));
    }
    Ok(Json(page))
}
