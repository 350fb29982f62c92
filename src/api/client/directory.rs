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
    directory::{RoomNetwork, RoomTypeFilter},
    room::RoomType,
};

use serde_json::{Value, json};

use super::optional_fields::WithDefaults;
use crate::{
    api::{App, Class, Incoming, Key, MaybeSession, MaybeStranger, Outgoing, Peer, endpoint},
    error::{Error, Result},
    rooms::{DirectorySearch, Rooms, check_visibility},
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
    Incoming { from, request }: Incoming<create_alias::v3::Request>,
) -> Result<Outgoing<create_alias::v3::Response>> {
    if request.room_alias.server_name() != rooms.memory.server_name() {
        return Err(Error::invalid_param("the alias belongs to another server"));
    }
    rooms
        .directory
        .create_alias(&request.room_alias, &request.room_id, &from.user_id)
        .await?;
    Ok(Outgoing(create_alias::v3::Response::new()))
}

/// `GET /_matrix/client/*/directory/room/{roomAlias}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directoryroomroomalias).
async fn get_alias(
    State(workflows): State<Workflows>,
    asker: MaybeStranger,
    Incoming { request, .. }: Incoming<get_alias::v3::Request>,
) -> Result<Outgoing<get_alias::v3::Response>> {
    asker.check_limit()?;
    let (room_id, servers) = workflows.resolve_alias(&request.room_alias).await?;
    Ok(Outgoing(get_alias::v3::Response::new(room_id, servers)))
}

/// `DELETE /_matrix/client/*/directory/room/{roomAlias}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3directoryroomroomalias).
async fn delete_alias(
    State(rooms): State<Rooms>,
    Incoming { from, request }: Incoming<delete_alias::v3::Request>,
) -> Result<Outgoing<delete_alias::v3::Response>> {
    rooms
        .directory
        .delete_alias(&request.room_alias, from.user, &from.user_id, from.is_admin)
        .await?;
    Ok(Outgoing(delete_alias::v3::Response::new()))
}

/// `GET /_matrix/client/*/directory/list/room/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3directorylistroomroomid).
async fn get_room_visibility(
    State(rooms): State<Rooms>,
    Incoming { request, .. }: Incoming<get_room_visibility::v3::Request>,
) -> Result<Outgoing<get_room_visibility::v3::Response>> {
    let room = rooms.memory.room(&request.room_id).await?;
    let visibility = if rooms.directory.is_published(&room).await? {
        Visibility::Public
    } else {
        Visibility::Private
    };
    Ok(Outgoing(get_room_visibility::v3::Response::new(visibility)))
}

/// `PUT /_matrix/client/*/directory/list/room/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3directorylistroomroomid).
async fn set_room_visibility(
    State(rooms): State<Rooms>,
    Incoming {
        from,
        request: WithDefaults(request),
    }: Incoming<WithDefaults<set_room_visibility::v3::Request>>,
) -> Result<Outgoing<set_room_visibility::v3::Response>> {
    let room = rooms.memory.room(&request.room_id).await?;
    check_visibility(&request.visibility)?;
    let is_public = request.visibility == Visibility::Public;
    rooms
        .directory
        .publish(&room, &from.user_id, is_public)
        .await?;
    Ok(Outgoing(set_room_visibility::v3::Response::new()))
}

/// `GET /_matrix/client/*/publicRooms`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3publicrooms).
async fn get_public_rooms(
    State(app): State<App>,
    MaybeSession(session): MaybeSession,
    peer: Peer,
    Incoming { request, .. }: Incoming<get_public_rooms::v3::Request>,
) -> Result<Json<Value>> {
    if session.is_none() && !app.config.directory.public_without_login {
        return Err(Error::MissingToken);
    }
    let search = DirectorySearch {
        since: request.since,
        limit: request.limit.map(u64::from),
        ..DirectorySearch::default()
    };
    let asker = session.map_or_else(|| Key::from(&peer), |session| Key::from(&*session.user_id));
    let place = (request.server, RoomNetwork::default());
    directory(&app, asker, place, search).await
}

/// `POST /_matrix/client/*/publicRooms`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3publicrooms).
async fn get_public_rooms_filtered(
    State(app): State<App>,
    Incoming { from, request }: Incoming<get_public_rooms_filtered::v3::Request>,
) -> Result<Json<Value>> {
    let types = &request.filter.room_types;
    let search = DirectorySearch {
        term: request.filter.generic_search_term,
        room_types: (!types.is_empty()).then(|| types.iter().map(room_type).collect()),
        since: request.since,
        limit: request.limit.map(u64::from),
    };
    let place = (request.server, request.room_network);
    directory(&app, Key::from(&*from.user_id), place, search).await
}

fn room_type(filter: &RoomTypeFilter) -> Option<RoomType> {
    match filter {
        RoomTypeFilter::Default => None,
        other => other.as_str().map(RoomType::from),
    }
}

async fn directory(
    app: &App,
    asker: Key,
    (server, network): (Option<OwnedServerName>, RoomNetwork),
    search: DirectorySearch,
) -> Result<Json<Value>> {
    let other = server.filter(|server| server != app.rooms.memory.server_name());
    let page = match other {
        Some(server) => {
            app.limits.check(Class::Look, asker)?;
            app.workflows.directory_of(&server, search, network).await?
        }
        None => app.rooms.directory.directory(search).await?,
    };
    let mut response = get_public_rooms::v3::Response::new(page.chunk);
    response.total_room_count_estimate = Some(UInt::new_saturating(page.total));
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    written(&response)
}

/// Returns the JSON of a page of the directory. The join rule of a public room is optional, and ruma omits it, but some
/// clients do not assume the default.
fn written(response: &get_public_rooms::v3::Response) -> Result<Json<Value>> {
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
