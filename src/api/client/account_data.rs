//! Account data, global and for each room.

use axum::{Json, Router, extract::State, routing::delete};
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::config::{
        get_global_account_data, get_room_account_data, set_global_account_data,
        set_room_account_data,
    },
    serde::Raw,
};
use serde_json::{Value, json};

use crate::{
    api::{
        App, AuthenticatedSession, MatrixRequest, MatrixResponse, endpoint, endpoint::PathParams,
    },
    error::{Error, Result},
    users::{AccountDataEntry, Users},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_global_account_data::v3::Request, _>(
            get_global_account_data,
        ))
        .merge(endpoint::<set_global_account_data::v3::Request, _>(
            set_global_account_data,
        ))
        .merge(endpoint::<get_room_account_data::v3::Request, _>(
            get_room_account_data,
        ))
        .merge(endpoint::<set_room_account_data::v3::Request, _>(
            set_room_account_data,
        ))
        .route(
            "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{type}",
            delete(delete_global_account_data),
        )
        .route(
            "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{type}",
            delete(delete_room_account_data),
        )
}

/// `GET /_matrix/client/*/user/{userId}/account_data/{type}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridaccount_datatype).
async fn get_global_account_data(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<get_global_account_data::v3::Request>,
) -> Result<MatrixResponse<get_global_account_data::v3::Response>> {
    let kind = request.event_type.to_string();
    let content = users
        .account_data
        .get(&from, &request.user_id, None, &kind)
        .await?;
    let content = Raw::from_json_string(content)?;
    Ok(MatrixResponse(get_global_account_data::v3::Response::new(
        content,
    )))
}

/// `PUT /_matrix/client/*/user/{userId}/account_data/{type}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridaccount_datatype).
async fn set_global_account_data(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<set_global_account_data::v3::Request>,
) -> Result<MatrixResponse<set_global_account_data::v3::Response>> {
    let kind = request.event_type.to_string();
    let content = request.data.json().get();
    let entry = AccountDataEntry {
        room_id: None,
        kind: &kind,
        content,
    };
    let entries = &users.account_data;
    entries.set(&from, &request.user_id, entry).await?;
    Ok(MatrixResponse(set_global_account_data::v3::Response::new()))
}

/// `GET /_matrix/client/*/user/{userId}/rooms/{roomId}/account_data/{type}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridroomsroomidaccount_datatype).
async fn get_room_account_data(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<get_room_account_data::v3::Request>,
) -> Result<MatrixResponse<get_room_account_data::v3::Response>> {
    let kind = request.event_type.to_string();
    let content = users
        .account_data
        .get(&from, &request.user_id, Some(&request.room_id), &kind)
        .await?;
    let content = Raw::from_json_string(content)?;
    Ok(MatrixResponse(get_room_account_data::v3::Response::new(
        content,
    )))
}

/// `PUT /_matrix/client/*/user/{userId}/rooms/{roomId}/account_data/{type}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidaccount_datatype).
async fn set_room_account_data(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<set_room_account_data::v3::Request>,
) -> Result<MatrixResponse<set_room_account_data::v3::Response>> {
    let kind = request.event_type.to_string();
    let content = request.data.json().get();
    let entry = AccountDataEntry {
        room_id: Some(&request.room_id),
        kind: &kind,
        content,
    };
    let entries = &users.account_data;
    entries.set(&from, &request.user_id, entry).await?;
    Ok(MatrixResponse(set_room_account_data::v3::Response::new()))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}`
///
/// See [MSC3391](https://github.com/matrix-org/matrix-spec-proposals/pull/3391).
async fn delete_global_account_data(
    State(users): State<Users>,
    AuthenticatedSession(from): AuthenticatedSession,
    PathParams((user_id, kind)): PathParams<(String, String)>,
) -> Result<Json<Value>> {
    let entry = AccountDataEntry::removed(None, &kind);
    users
        .account_data
        .set(&from, &parse_user_id(&user_id)?, entry)
        .await?;
    Ok(Json(json!({})))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}`
///
/// See [MSC3391](https://github.com/matrix-org/matrix-spec-proposals/pull/3391).
async fn delete_room_account_data(
    State(users): State<Users>,
    AuthenticatedSession(from): AuthenticatedSession,
    PathParams((user_id, room_id, kind)): PathParams<(String, String, String)>,
) -> Result<Json<Value>> {
    let room_id =
        OwnedRoomId::try_from(room_id).map_err(|e| Error::invalid_param(e.to_string()))?;
    let entry = AccountDataEntry::removed(Some(&room_id), &kind);
    users
        .account_data
        .set(&from, &parse_user_id(&user_id)?, entry)
        .await?;
    Ok(Json(json!({})))
}

fn parse_user_id(text: &str) -> Result<OwnedUserId> {
    OwnedUserId::try_from(text).map_err(|e| Error::invalid_param(e.to_string()))
}
