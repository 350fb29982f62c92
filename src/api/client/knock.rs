//! Knocking on rooms.

use axum::{Router, extract::State};
use ruma::api::client::knock::knock_room;

use crate::{
    api::{App, InFlightResponse, MatrixRequest, MatrixResponse, endpoint},
    error::Result,
    sync::Sync,
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    endpoint::<knock_room::v3::Request, _>(knock_room)
}

/// `POST /_matrix/client/*/knock/{roomIdOrAlias}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3knockroomidoralias).
async fn knock_room(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<knock_room::v3::Request>,
) -> Result<InFlightResponse<MatrixResponse<knock_room::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    from.must_not_be_guest()?;
    let room_id = workflows
        .knocks
        .knock(
            &from,
            &request.room_id_or_alias,
            request.via,
            request.reason,
        )
        .await?;
    let response = knock_room::v3::Response::new(room_id);
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}
