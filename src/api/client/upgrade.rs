//! Room upgrades.

use axum::{
    Router,
    body::Body,
    extract::{FromRequest, Request, State},
};
use ruma::{RoomVersionId, api::client::room::upgrade_room};
use serde::Deserialize;

use crate::{
    api::{App, InFlightResponse, MatrixRequest, MatrixResponse, endpoint, endpoint::read_body},
    error::{Error, Result},
    sync::Sync,
    workflows::Workflows,
};

/// An upgrade request whose room version is a valid identifier.
struct RoomUpgradeRequest(MatrixRequest<upgrade_room::v3::Request>);

/// The relevant part of the body.
#[derive(Default, Deserialize)]
struct WantedVersion {
    #[serde(default)]
    new_version: Option<String>,
}

impl FromRequest<App> for RoomUpgradeRequest {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let whole = read_body(body, app.config.limits.max_request_bytes).await?;
        let wanted: WantedVersion = serde_json::from_slice(&whole).unwrap_or_default();
        let request = Request::from_parts(parts, Body::from(whole));
        match (
            MatrixRequest::from_request(request, app).await,
            wanted.new_version,
        ) {
            (Ok(incoming), _) => Ok(Self(incoming)),
            // An identifier that is not valid for any room version counts as an unsupported
            // version.
            (Err(Error::BadJson(_)), Some(version))
                if RoomVersionId::try_from(&*version).is_err() =>
            {
                let text = format!("room version {version:?} is not supported");
                Err(Error::UnsupportedRoomVersion(text))
            }
            (Err(error), _) => Err(error),
        }
    }
}

pub(super) fn routes() -> Router<App> {
    endpoint::<upgrade_room::v3::Request, _>(upgrade_room)
}

/// `POST /_matrix/client/*/rooms/{roomId}/upgrade`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidupgrade).
async fn upgrade_room(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    RoomUpgradeRequest(MatrixRequest { from, request }): RoomUpgradeRequest,
) -> Result<InFlightResponse<MatrixResponse<upgrade_room::v3::Response>>> {
    let sending = sync.begin_send(from.device);
    from.must_not_be_guest()?;
    let creators = request.additional_creators;
    let new = workflows
        .upgrades
        .upgrade_room(&from, &request.room_id, request.new_version, creators)
        .await?;
    let response = upgrade_room::v3::Response::new(new);
    Ok(InFlightResponse(sending, MatrixResponse(response)))
}
