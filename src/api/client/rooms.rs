//! Room creation and lists of rooms.

use axum::{Router, extract::State};
use ruma::api::client::{membership::joined_rooms, room::aliases, room::create_room};

use crate::{
    api::{App, InFlightResponse, MatrixRequest, MatrixResponse, RateLimits, endpoint},
    error::{Error, Result},
    matrix::EventVisibility,
    rooms::Rooms,
    sync::Sync,
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<create_room::v3::Request, _>(create_room))
        .merge(endpoint::<joined_rooms::v3::Request, _>(joined_rooms))
        .merge(endpoint::<aliases::v3::Request, _>(aliases))
}

/// `POST /_matrix/client/*/createRoom`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom).
async fn create_room(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    MatrixRequest { from, request }: MatrixRequest<create_room::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<create_room::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    from.must_not_be_guest()?;
    limits.check_invitations(&from, request.invite.iter().map(|user_id| &**user_id))?;
    for _ in &request.invite_3pid {
        limits.check_third_party_invitation(&from)?;
    }
    let room_id = workflows.creation.create_room(&from, request).await?;
    let response = create_room::v3::Response::new(room_id);
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}

/// `GET /_matrix/client/*/joined_rooms`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3joined_rooms).
async fn joined_rooms(
    State(rooms): State<Rooms>,
    MatrixRequest { from, .. }: MatrixRequest<joined_rooms::v3::Request>,
) -> Result<MatrixResponse<joined_rooms::v3::Response>> {
    let mut joined = Vec::new();
    for room in rooms.memory.rooms_of_user(from.user).await?.joined_rooms() {
        joined.push(rooms.memory.room_id(room).await?);
    }
    Ok(MatrixResponse(joined_rooms::v3::Response::new(joined)))
}

/// `GET /_matrix/client/*/rooms/{roomId}/aliases`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidaliases).
async fn aliases(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<aliases::v3::Request>,
) -> Result<MatrixResponse<aliases::v3::Response>> {
    let room = rooms.memory.room_of_member(&request.room_id).await?;
    let state = room.view().state.clone();
    let is_member = rooms.memory.is_joined(from.user, &room).await?;
    if !is_member && EventVisibility::of_state(&state) != EventVisibility::WorldReadable {
        return Err(Error::forbidden("you are not in this room"));
    }
    let aliases = rooms.directory.aliases(&room).await?;
    Ok(MatrixResponse(aliases::v3::Response::new(aliases)))
}
