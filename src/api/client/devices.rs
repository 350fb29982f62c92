//! Device management.

use axum::{Json, Router, extract::State, http::StatusCode};
use ruma::{
    DeviceId,
    api::client::device::{delete_device, delete_devices, get_device, get_devices, update_device},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::interactive_auth::{InteractiveRequest, ProtectedOperation};
use crate::{
    api::{App, MatrixRequest, MatrixResponse, RateLimits, endpoint},
    clock::Clock,
    devices::Devices,
    error::Result,
    users::Users,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_devices::v3::Request, _>(get_devices))
        .merge(endpoint::<get_device::v3::Request, _>(get_device))
        .merge(endpoint::<update_device::v3::Request, _>(update_device))
        .merge(endpoint::<delete_device::v3::Request, _>(delete_device))
        .merge(endpoint::<delete_devices::v3::Request, _>(delete_devices))
}

/// `GET /_matrix/client/*/devices`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3devices).
async fn get_devices(
    State(devices): State<Devices>,
    MatrixRequest { from, .. }: MatrixRequest<get_devices::v3::Request>,
) -> Result<Json<Value>> {
    let devices = devices.management.list(from.user).await?;
    Ok(Json(json!({ "devices": without_nulls(&devices)? })))
}

/// `GET /_matrix/client/*/devices/{deviceId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3devicesdeviceid).
async fn get_device(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<get_device::v3::Request>,
) -> Result<Json<Value>> {
    let device = devices
        .management
        .get(from.user, &request.device_id)
        .await?;
    Ok(Json(without_nulls(&device)?))
}

/// Returns a response without unknown values. ruma writes them as `null`, which some clients refuse.
pub(super) fn without_nulls(answer: &impl Serialize) -> Result<Value> {
    let mut json = serde_json::to_value(answer)?;
    remove_nulls(&mut json);
    Ok(json)
}

fn remove_nulls(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// `PUT /_matrix/client/*/devices/{deviceId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3devicesdeviceid).
async fn update_device(
    State(devices): State<Devices>,
    State(clock): State<Clock>,
    MatrixRequest { from, request }: MatrixRequest<update_device::v3::Request>,
) -> Result<(StatusCode, MatrixResponse<update_device::v3::Response>)> {
    let response = MatrixResponse(update_device::v3::Response::new());
    if from.application_service.is_some() {
        let name = request.display_name.clone();
        let is_new = devices
            .management
            .create(from.user, &request.device_id, name, clock.now_ms())
            .await?;
        if is_new {
            return Ok((StatusCode::CREATED, response));
        }
    }
    devices
        .management
        .rename(from.user, &request.device_id, request.display_name)
        .await?;
    Ok((StatusCode::OK, response))
}

/// `DELETE /_matrix/client/*/devices/{deviceId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3devicesdeviceid).
async fn delete_device(
    State(users): State<Users>,
    State(devices): State<Devices>,
    State(limits): State<RateLimits>,
    InteractiveRequest {
        from,
        request,
        parameters,
    }: InteractiveRequest<delete_device::v3::Request>,
) -> Result<MatrixResponse<delete_device::v3::Response>> {
    let operation = ProtectedOperation {
        endpoint: "delete_device",
        session: &from,
        parameters: &request.device_id,
        auth: request.auth.as_ref(),
    };
    parameters
        .reauthenticate(&users, &limits, operation)
        .await?;
    devices
        .management
        .delete(from.user, &[&request.device_id])
        .await?;
    Ok(MatrixResponse(delete_device::v3::Response::new()))
}

/// `POST /_matrix/client/*/delete_devices`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3delete_devices).
async fn delete_devices(
    State(users): State<Users>,
    State(devices): State<Devices>,
    State(limits): State<RateLimits>,
    InteractiveRequest {
        from,
        request,
        parameters,
    }: InteractiveRequest<delete_devices::v3::Request>,
) -> Result<MatrixResponse<delete_devices::v3::Response>> {
    let operation = ProtectedOperation {
        endpoint: "delete_devices",
        session: &from,
        parameters: &request.devices,
        auth: request.auth.as_ref(),
    };
    parameters
        .reauthenticate(&users, &limits, operation)
        .await?;
    let ids: Vec<&DeviceId> = request.devices.iter().map(AsRef::as_ref).collect();
    devices.management.delete(from.user, &ids).await?;
    Ok(MatrixResponse(delete_devices::v3::Response::new()))
}
