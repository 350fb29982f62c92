//! The list of public rooms, if the configuration opens it to other servers.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    UInt,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
    directory::RoomTypeFilter,
    room::RoomType,
};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    config::Config,
    error::{Error, Result},
    rooms::{DirectorySearch, Rooms},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_public_rooms::v1::Request, _>(
            get_public_rooms,
        ))
        .merge(endpoint::<get_public_rooms_filtered::v1::Request, _>(
            get_public_rooms_filtered,
        ))
}

/// `GET /_matrix/federation/v1/publicRooms`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1publicrooms).
async fn get_public_rooms(
    State(rooms): State<Rooms>,
    State(config): State<Arc<Config>>,
    MatrixRequest { request, .. }: MatrixRequest<get_public_rooms::v1::Request>,
) -> Result<MatrixResponse<get_public_rooms::v1::Response>> {
    must_be_public(&config)?;
    let search = DirectorySearch {
        network: request.room_network,
        since: request.since,
        limit: page_limit(request.limit),
        ..DirectorySearch::default()
    };
    let page = rooms.directory.list_public_rooms(search).await?;
    let mut response = get_public_rooms::v1::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.total_room_count_estimate = Some(UInt::new_saturating(page.total));
    Ok(MatrixResponse(response))
}

/// `POST /_matrix/federation/v1/publicRooms`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1publicrooms).
async fn get_public_rooms_filtered(
    State(rooms): State<Rooms>,
    State(config): State<Arc<Config>>,
    MatrixRequest { request, .. }: MatrixRequest<get_public_rooms_filtered::v1::Request>,
) -> Result<MatrixResponse<get_public_rooms_filtered::v1::Response>> {
    must_be_public(&config)?;
    let types = &request.filter.room_types;
    let search = DirectorySearch {
        term: request.filter.generic_search_term,
        room_types: (!types.is_empty()).then(|| types.iter().map(room_type).collect()),
        network: request.room_network,
        since: request.since,
        limit: page_limit(request.limit),
    };
    let page = rooms.directory.list_public_rooms(search).await?;
    let mut response = get_public_rooms_filtered::v1::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.total_room_count_estimate = Some(UInt::new_saturating(page.total));
    Ok(MatrixResponse(response))
}

fn must_be_public(config: &Config) -> Result<()> {
    if config.directory.public_without_login {
        return Ok(());
    }
    Err(Error::forbidden(
        "the list of public rooms is only for users of this server",
    ))
}

/// "Defaults to 0 (no limit)."
fn page_limit(requested: Option<UInt>) -> Option<u64> {
    requested.map(u64::from).filter(|limit| *limit > 0)
}

fn room_type(filter: &RoomTypeFilter) -> Option<RoomType> {
    match filter {
        RoomTypeFilter::Default => None,
        other => other.as_str().map(RoomType::from),
    }
}
