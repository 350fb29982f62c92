//! End-to-end encryption: the keys of devices and users.

use axum::{Router, extract::State};
use ruma::api::client::keys::{
    claim_keys, get_key_changes, get_keys, upload_keys, upload_signatures, upload_signing_keys,
};
use serde_json::json;

use super::interactive_auth::{InteractiveRequest, check_login_limit};
use crate::{
    api::{App, CompleteResponse, MatrixRequest, MatrixResponse, RateLimits, endpoint},
    devices::{DeviceOwner, Devices, KeyOwner, KeyViewer, UiaProof},
    error::Result,
    sync::Sync,
    users::{Session, Users},
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<upload_keys::v3::Request, _>(upload_keys))
        .merge(endpoint::<get_keys::v3::Request, _>(get_keys))
        .merge(endpoint::<claim_keys::v3::Request, _>(claim_keys))
        .merge(endpoint::<get_key_changes::v3::Request, _>(get_key_changes))
        .merge(endpoint::<upload_signing_keys::v3::Request, _>(
            upload_signing_keys,
        ))
        .merge(endpoint::<upload_signatures::v3::Request, _>(
            upload_signatures,
        ))
}

fn owner(session: &Session) -> KeyOwner<'_> {
    KeyOwner {
        user: session.user,
        user_id: &session.user_id,
    }
}

/// `POST /_matrix/client/*/keys/upload`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysupload).
async fn upload_keys(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<upload_keys::v3::Request>,
) -> Result<MatrixResponse<upload_keys::v3::Response>> {
    let owner = DeviceOwner {
        user: from.user,
        user_id: &from.user_id,
        device: from.device,
        device_id: from.require_device_id()?,
    };
    let counts = devices.keys.upload(&owner, &request).await?;
    Ok(MatrixResponse(upload_keys::v3::Response::new(counts)))
}

/// `POST /_matrix/client/*/keys/query`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysquery).
async fn get_keys(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<get_keys::v3::Request>,
) -> Result<CompleteResponse<get_keys::v3::Response>> {
    let viewer = KeyViewer {
        user: from.user,
        user_id: &from.user_id,
    };
    let response = workflows.keys.query_keys(viewer, &request).await?;
    Ok(CompleteResponse(response))
}

/// `POST /_matrix/client/*/keys/claim`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysclaim).
async fn claim_keys(
    State(workflows): State<Workflows>,
    MatrixRequest { request, .. }: MatrixRequest<claim_keys::v3::Request>,
) -> Result<CompleteResponse<claim_keys::v3::Response>> {
    Ok(CompleteResponse(workflows.keys.claim_keys(&request).await?))
}

/// `GET /_matrix/client/*/keys/changes`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges).
async fn get_key_changes(
    State(sync): State<Sync>,
    MatrixRequest { from, request }: MatrixRequest<get_key_changes::v3::Request>,
) -> Result<MatrixResponse<get_key_changes::v3::Response>> {
    let (start, end) = (request.from.parse()?, request.to.parse()?);
    let lists = sync.key_changes(&from, start, end).await?;
    let response = get_key_changes::v3::Response::new(lists.changed, lists.left);
    Ok(MatrixResponse(response))
}

/// `POST /_matrix/client/*/keys/device_signing/upload`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload).
async fn upload_signing_keys(
    State(users): State<Users>,
    State(devices): State<Devices>,
    State(limits): State<RateLimits>,
    InteractiveRequest {
        from,
        request,
        parameters,
    }: InteractiveRequest<upload_signing_keys::v3::Request>,
) -> Result<MatrixResponse<upload_signing_keys::v3::Response>> {
    let owner = owner(&from);
    let mut proof = UiaProof::Missing;
    if devices.cross_signing.need_proof(&owner, &request).await? {
        let new_keys = json!([
            request.master_key,
            request.self_signing_key,
            request.user_signing_key
        ]);
        check_login_limit(&limits, &from, request.auth.as_ref())?;
        let authorized = users
            .uia
            .authorize_cross_signing_reset(&from, &new_keys, request.auth.as_ref())
            .await;
        parameters.store_for_session(&users, authorized)?;
        proof = UiaProof::Given;
    }
    devices
        .cross_signing
        .upload(&owner, &request, proof)
        .await?;
    Ok(MatrixResponse(upload_signing_keys::v3::Response::new()))
}

/// `POST /_matrix/client/*/keys/signatures/upload`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload).
async fn upload_signatures(
    State(devices): State<Devices>,
    MatrixRequest { from, request }: MatrixRequest<upload_signatures::v3::Request>,
) -> Result<CompleteResponse<upload_signatures::v3::Response>> {
    let response = devices.signatures.upload(&owner(&from), &request).await?;
    Ok(CompleteResponse(response))
}
