//! Device management.

use axum::{Json, Router, extract::State};
use ruma::{
    DeviceId,
    api::client::device::{delete_device, delete_devices, get_device, get_devices, update_device},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::interactive_auth::InteractiveRequest;
use crate::{
    api::{App, MatrixRequest, MatrixResponse, RateLimits, RequestClass, endpoint},
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
    MatrixRequest { from, request }: MatrixRequest<update_device::v3::Request>,
) -> Result<MatrixResponse<update_device::v3::Response>> {
    devices
        .management
        .rename(from.user, &request.device_id, request.display_name)
        .await?;
    Ok(MatrixResponse(update_device::v3::Response::new()))
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
    if request.auth.is_some() {
        limits.check(RequestClass::Login, &*from.user_id)?;
    }
    let (device_id, auth) = (&request.device_id, request.auth.as_ref());
    let shown = users
        .uia
        .reauthenticate("delete_device", &from, device_id, auth)
        .await;
    parameters.store_for_session(&users, shown)?;
    devices.management.delete(from.user, &[device_id]).await?;
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
    if request.auth.is_some() {
        limits.check(RequestClass::Login, &*from.user_id)?;
    }
    let (ids, auth) = (&request.devices, request.auth.as_ref());
    let shown = users
        .uia
        .reauthenticate("delete_devices", &from, ids, auth)
        .await;
    parameters.store_for_session(&users, shown)?;
    let ids: Vec<&DeviceId> = ids.iter().map(AsRef::as_ref).collect();
    devices.management.delete(from.user, &ids).await?;
    Ok(MatrixResponse(delete_devices::v3::Response::new()))
}
