//! Server-side key backups.

use std::collections::BTreeMap;

use axum::{Router, extract::State};
use ruma::{
    api::client::backup::{
        RoomKeyBackup, add_backup_keys, add_backup_keys_for_room, add_backup_keys_for_session,
        create_backup_version, delete_backup_keys, delete_backup_keys_for_room,
        delete_backup_keys_for_session, delete_backup_version, get_backup_info, get_backup_keys,
        get_backup_keys_for_room, get_backup_keys_for_session, get_latest_backup_info,
        update_backup_version,
    },
    serde::Raw,
};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    devices::{BackedUpKeys, BackupPart, Devices},
    error::{Error, Result},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<create_backup_version::v3::Request, _>(
            create_backup_version,
        ))
        .merge(endpoint::<get_latest_backup_info::v3::Request, _>(
            get_latest_backup_info,
        ))
        .merge(endpoint::<get_backup_info::v3::Request, _>(get_backup_info))
        .merge(endpoint::<update_backup_version::v3::Request, _>(
            update_backup_version,
        ))
        .merge(endpoint::<delete_backup_version::v3::Request, _>(
            delete_backup_version,
        ))
        .merge(whole_backup_routes())
        .merge(room_routes())
        .merge(session_routes())
}

fn whole_backup_routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<add_backup_keys::v3::Request, _>(add_backup_keys))
        .merge(endpoint::<get_backup_keys::v3::Request, _>(get_backup_keys))
        .merge(endpoint::<delete_backup_keys::v3::Request, _>(
            delete_backup_keys,
        ))
}

fn room_routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<add_backup_keys_for_room::v3::Request, _>(
            add_backup_keys_for_room,
        ))
        .merge(endpoint::<get_backup_keys_for_room::v3::Request, _>(
            get_backup_keys_for_room,
        ))
        .merge(endpoint::<delete_backup_keys_for_room::v3::Request, _>(
            delete_backup_keys_for_room,
        ))
}

fn session_routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<add_backup_keys_for_session::v3::Request, _>(
            add_backup_keys_for_session,
        ))
        .merge(endpoint::<get_backup_keys_for_session::v3::Request, _>(
            get_backup_keys_for_session,
        ))
        .merge(endpoint::<delete_backup_keys_for_session::v3::Request, _>(
            delete_backup_keys_for_session,
        ))
}

/// `POST /_matrix/client/*/room_keys/version`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3room_keysversion).
async fn create_backup_version(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<create_backup_version::v3::Request>,
) -> Result<MatrixResponse<create_backup_version::v3::Response>> {
    let definition = request.algorithm.json().get();
    let version = devices.backups.create(from.user, definition).await?;
    Ok(MatrixResponse(create_backup_version::v3::Response::new(
        version,
    )))
}

/// `GET /_matrix/client/*/room_keys/version`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keysversion).
async fn get_latest_backup_info(
    State(devices): State<Devices>,
    MatrixRequest { from, .. }: MatrixRequest<get_latest_backup_info::v3::Request>,
) -> Result<MatrixResponse<get_latest_backup_info::v3::Response>> {
    let backup = devices.backups.get(from.user, None).await?;
    let definition = Raw::from_json_string(backup.definition)?;
    let (count, etag) = (backup.state.count, backup.state.etag);
    let response =
        get_latest_backup_info::v3::Response::new(definition, count, etag, backup.version);
    Ok(MatrixResponse(response))
}

/// `GET /_matrix/client/*/room_keys/version/{version}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keysversionversion).
async fn get_backup_info(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<get_backup_info::v3::Request>,
) -> Result<MatrixResponse<get_backup_info::v3::Response>> {
    let backup = devices
        .backups
        .get(from.user, Some(&request.version))
        .await?;
    let definition = Raw::from_json_string(backup.definition)?;
    let (count, etag) = (backup.state.count, backup.state.etag);
    let response = get_backup_info::v3::Response::new(definition, count, etag, backup.version);
    Ok(MatrixResponse(response))
}

/// `PUT /_matrix/client/*/room_keys/version/{version}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keysversionversion).
async fn update_backup_version(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<update_backup_version::v3::Request>,
) -> Result<MatrixResponse<update_backup_version::v3::Response>> {
    let definition = request.algorithm.json().get();
    devices
        .backups
        .update(from.user, &request.version, definition)
        .await?;
    Ok(MatrixResponse(update_backup_version::v3::Response::new()))
}

/// `DELETE /_matrix/client/*/room_keys/version/{version}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keysversionversion).
async fn delete_backup_version(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<delete_backup_version::v3::Request>,
) -> Result<MatrixResponse<delete_backup_version::v3::Response>> {
    devices.backups.delete(from.user, &request.version).await?;
    Ok(MatrixResponse(delete_backup_version::v3::Response::new()))
}

/// `PUT /_matrix/client/*/room_keys/keys`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeys).
async fn add_backup_keys(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<add_backup_keys::v3::Request>,
) -> Result<MatrixResponse<add_backup_keys::v3::Response>> {
    let rooms = request.rooms.into_iter();
    let keys = rooms.map(|(room_id, room)| (room_id, room.sessions));
    let keys: BackedUpKeys = keys.collect();
    let state = devices
        .backups
        .store_keys(from.user, &request.version, &keys)
        .await?;
    let response = add_backup_keys::v3::Response::new(state.etag, state.count);
    Ok(MatrixResponse(response))
}

/// `GET /_matrix/client/*/room_keys/keys`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeys).
async fn get_backup_keys(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<get_backup_keys::v3::Request>,
) -> Result<MatrixResponse<get_backup_keys::v3::Response>> {
    let keys = devices
        .backups
        .load_keys(from.user, &request.version, BackupPart::all())
        .await?;
    let rooms = keys
        .into_iter()
        .map(|(room_id, sessions)| (room_id, RoomKeyBackup::new(sessions)));
    Ok(MatrixResponse(get_backup_keys::v3::Response::new(
        rooms.collect(),
    )))
}

/// `DELETE /_matrix/client/*/room_keys/keys`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeys).
async fn delete_backup_keys(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<delete_backup_keys::v3::Request>,
) -> Result<MatrixResponse<delete_backup_keys::v3::Response>> {
    let state = devices
        .backups
        .delete_keys(from.user, &request.version, BackupPart::all())
        .await?;
    let response = delete_backup_keys::v3::Response::new(state.etag, state.count);
    Ok(MatrixResponse(response))
}

/// `PUT /_matrix/client/*/room_keys/keys/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeysroomid).
async fn add_backup_keys_for_room(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<add_backup_keys_for_room::v3::Request>,
) -> Result<MatrixResponse<add_backup_keys_for_room::v3::Response>> {
    let keys = BackedUpKeys::from([(request.room_id, request.sessions)]);
    let state = devices
        .backups
        .store_keys(from.user, &request.version, &keys)
        .await?;
    let response = add_backup_keys_for_room::v3::Response::new(state.etag, state.count);
    Ok(MatrixResponse(response))
}

/// `GET /_matrix/client/*/room_keys/keys/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeysroomid).
async fn get_backup_keys_for_room(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<get_backup_keys_for_room::v3::Request>,
) -> Result<MatrixResponse<get_backup_keys_for_room::v3::Response>> {
    let part = BackupPart::room(&request.room_id);
    let mut keys = devices
        .backups
        .load_keys(from.user, &request.version, part)
        .await?;
    let sessions = keys.remove(&request.room_id).unwrap_or_default();
    Ok(MatrixResponse(get_backup_keys_for_room::v3::Response::new(
        sessions,
    )))
}

/// `DELETE /_matrix/client/*/room_keys/keys/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeysroomid).
async fn delete_backup_keys_for_room(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<delete_backup_keys_for_room::v3::Request>,
) -> Result<MatrixResponse<delete_backup_keys_for_room::v3::Response>> {
    let part = BackupPart::room(&request.room_id);
    let state = devices
        .backups
        .delete_keys(from.user, &request.version, part)
        .await?;
    let response = delete_backup_keys_for_room::v3::Response::new(state.etag, state.count);
    Ok(MatrixResponse(response))
}

/// `PUT /_matrix/client/*/room_keys/keys/{roomId}/{sessionId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3room_keyskeysroomidsessionid).
async fn add_backup_keys_for_session(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<add_backup_keys_for_session::v3::Request>,
) -> Result<MatrixResponse<add_backup_keys_for_session::v3::Response>> {
    let sessions = BTreeMap::from([(request.session_id, request.session_data)]);
    let keys = BackedUpKeys::from([(request.room_id, sessions)]);
    let state = devices
        .backups
        .store_keys(from.user, &request.version, &keys)
        .await?;
    let response = add_backup_keys_for_session::v3::Response::new(state.etag, state.count);
    Ok(MatrixResponse(response))
}

/// `GET /_matrix/client/*/room_keys/keys/{roomId}/{sessionId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3room_keyskeysroomidsessionid).
async fn get_backup_keys_for_session(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<get_backup_keys_for_session::v3::Request>,
) -> Result<MatrixResponse<get_backup_keys_for_session::v3::Response>> {
    let part = BackupPart::session(&request.room_id, &request.session_id);
    let mut keys = devices
        .backups
        .load_keys(from.user, &request.version, part)
        .await?;
    let key = keys
        .remove(&request.room_id)
        .and_then(|mut sessions| sessions.remove(&request.session_id))
        .ok_or_else(|| Error::not_found("there is no such key in the backup"))?;
    Ok(MatrixResponse(
        get_backup_keys_for_session::v3::Response::new(key),
    ))
}

/// `DELETE /_matrix/client/*/room_keys/keys/{roomId}/{sessionId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3room_keyskeysroomidsessionid).
async fn delete_backup_keys_for_session(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<delete_backup_keys_for_session::v3::Request>,
) -> Result<MatrixResponse<delete_backup_keys_for_session::v3::Response>> {
    let part = BackupPart::session(&request.room_id, &request.session_id);
    let state = devices
        .backups
        .delete_keys(from.user, &request.version, part)
        .await?;
    let response = delete_backup_keys_for_session::v3::Response::new(state.etag, state.count);
    Ok(MatrixResponse(response))
}
