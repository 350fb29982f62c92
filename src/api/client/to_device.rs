//! Send-to-device messaging.

use axum::{Router, extract::State};
use ruma::api::client::to_device::send_event_to_device;

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    clock::Clock,
    devices::Devices,
    error::Result,
};

pub(super) fn routes() -> Router<App> {
    endpoint::<send_event_to_device::v3::Request, _>(send_event_to_device)
}

/// `PUT /_matrix/client/*/sendToDevice/{eventType}/{txnId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid).
async fn send_event_to_device(
    State(devices): State<Devices>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<send_event_to_device::v3::Request>,
) -> Result<MatrixResponse<send_event_to_device::v3::Response>> {
    devices
        .to_device
        .send(&from.user_id, from.device, &request, clock.now_ms())
        .await?;
    Ok(MatrixResponse(send_event_to_device::v3::Response::new()))
}
