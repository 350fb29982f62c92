//! Serves the devices and encryption keys of this server's users to other servers.

use axum::{Router, extract::State};
use ruma::api::federation::{
    device::get_devices,
    keys::{claim_keys, get_keys},
};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    devices::{Devices, check_user_count},
    error::{Error, Result},
    rooms::Rooms,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_devices::v1::Request, _>(get_devices))
        .merge(endpoint::<get_keys::v1::Request, _>(get_keys))
        .merge(endpoint::<claim_keys::v1::Request, _>(claim_keys))
}

/// `GET /_matrix/federation/v1/user/devices/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1userdevicesuserid).
async fn get_devices(
    State(devices): State<Devices>,
    State(rooms): State<Rooms>,
    MatrixRequest { request, .. }: MatrixRequest<get_devices::v1::Request>,
) -> Result<MatrixResponse<get_devices::v1::Response>> {
    if !rooms.memory.is_local(&request.user_id) {
        return Err(Error::invalid_param("the user belongs to another server"));
    }
    Ok(MatrixResponse(
        devices
            .key_queries
            .federation_devices(&request.user_id)
            .await?,
    ))
}

/// `POST /_matrix/federation/v1/user/keys/query`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysquery).
async fn get_keys(
    State(devices): State<Devices>,
    MatrixRequest { request, .. }: MatrixRequest<get_keys::v1::Request>,
) -> Result<MatrixResponse<get_keys::v1::Response>> {
    check_user_count(&request.device_keys)?;
    let found = devices
        .key_queries
        .query(None, &request.device_keys)
        .await?;
    let mut response = get_keys::v1::Response::new(found.device_keys);
    response.master_keys = found.master_keys;
    response.self_signing_keys = found.self_signing_keys;
    Ok(MatrixResponse(response))
}

/// `POST /_matrix/federation/v1/user/keys/claim`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysclaim).
async fn claim_keys(
    State(devices): State<Devices>,
    MatrixRequest { request, .. }: MatrixRequest<claim_keys::v1::Request>,
) -> Result<MatrixResponse<claim_keys::v1::Response>> {
    check_user_count(&request.one_time_keys)?;
    let claimed = devices.keys.claim(&request.one_time_keys).await?;
    Ok(MatrixResponse(claim_keys::v1::Response::new(claimed)))
}
