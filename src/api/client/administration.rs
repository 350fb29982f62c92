//! Server administration: the sessions of a user, and suspended and locked accounts.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State};
use ruma::api::client::admin::{
    get_user_info::{
        self,
        v3::{ConnectionInfo, DeviceInfo, SessionInfo},
    },
    is_user_locked, is_user_suspended, lock_user, suspend_user,
};
use serde_json::{Value, json};

use super::devices::without_nulls;
use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    devices::Devices,
    error::Result,
    users::{AccountRestriction, Users},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_user_info::v3::Request, _>(get_user_info))
        .merge(endpoint::<is_user_suspended::v1::Request, _>(
            is_user_suspended,
        ))
        .merge(endpoint::<suspend_user::v1::Request, _>(suspend_user))
        .merge(endpoint::<is_user_locked::v1::Request, _>(is_user_locked))
        .merge(endpoint::<lock_user::v1::Request, _>(lock_user))
}

/// `GET /_matrix/client/*/admin/whois/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3adminwhoisuserid).
async fn get_user_info(
    State(users): State<Users>,
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<get_user_info::v3::Request>,
) -> Result<Json<Value>> {
    let user = users
        .moderation
        .inspectable_user(&from, &request.user_id)
        .await?;
    let mut sessions = BTreeMap::new();
    for device in devices.management.list(user).await? {
        let mut connection = ConnectionInfo::new();
        connection.ip = device.last_seen_ip;
        connection.last_seen = device.last_seen_ts;
        let mut session = SessionInfo::new();
        session.connections = vec![connection];
        let mut info = DeviceInfo::new();
        info.sessions = vec![session];
        sessions.insert(device.device_id, info);
    }
    let sessions = without_nulls(&sessions)?;
    Ok(Json(
        json!({ "user_id": request.user_id, "devices": sessions }),
    ))
}

/// `GET /_matrix/client/v1/admin/suspend/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1adminsuspenduserid).
async fn is_user_suspended(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<is_user_suspended::v1::Request>,
) -> Result<MatrixResponse<is_user_suspended::v1::Response>> {
    let suspended = users
        .moderation
        .restriction(&from, &request.user_id, AccountRestriction::Suspended)
        .await?;
    Ok(MatrixResponse(is_user_suspended::v1::Response::new(
        suspended,
    )))
}

/// `PUT /_matrix/client/v1/admin/suspend/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv1adminsuspenduserid).
async fn suspend_user(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<suspend_user::v1::Request>,
) -> Result<MatrixResponse<suspend_user::v1::Response>> {
    let (user_id, suspended) = (&request.user_id, request.suspended);
    users
        .moderation
        .set_restriction(&from, user_id, AccountRestriction::Suspended, suspended)
        .await?;
    Ok(MatrixResponse(suspend_user::v1::Response::new(suspended)))
}

/// `GET /_matrix/client/v1/admin/lock/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1adminlockuserid).
async fn is_user_locked(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<is_user_locked::v1::Request>,
) -> Result<MatrixResponse<is_user_locked::v1::Response>> {
    let locked = users
        .moderation
        .restriction(&from, &request.user_id, AccountRestriction::Locked)
        .await?;
    Ok(MatrixResponse(is_user_locked::v1::Response::new(locked)))
}

/// `PUT /_matrix/client/v1/admin/lock/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv1adminlockuserid).
async fn lock_user(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<lock_user::v1::Request>,
) -> Result<MatrixResponse<lock_user::v1::Response>> {
    let (user_id, locked) = (&request.user_id, request.locked);
    users
        .moderation
        .set_restriction(&from, user_id, AccountRestriction::Locked, locked)
        .await?;
    Ok(MatrixResponse(lock_user::v1::Response::new(locked)))
}
