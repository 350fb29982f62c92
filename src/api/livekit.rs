//! The service from which clients get tokens for the LiveKit server. Its URL is the `livekit_service_url` of
//! [MSC4195](https://github.com/matrix-org/matrix-spec-proposals/pull/4195).
//!
//! Users of other servers use it, too, so requests have no access token. An `OpenID` token in the body says who makes
//! them.

use axum::{
    Json, Router,
    extract::{FromRequest, Request, State},
    http::Method,
};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    App,
    endpoint::{endpoint_at, object_text, read_body},
    endpoint_policies::AdmissionCheck,
};
use crate::{
    calls::{CALL_SERVICE_PATH, CallToken, CallTokenRequest, Calls, MemberClaim, OpenIdProof},
    config::Config,
    error::{Error, Result},
    matrix::MAX_JSON_DEPTH,
};

/// The largest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The longest id of a slot, a device or a membership, in bytes.
const MAX_ID_BYTES: usize = 255;

/// Returns the routes. If no LiveKit server is configured there are none, because clients conclude from the status 404
/// that there is no service.
pub(super) fn routes(config: &Config) -> Router<App> {
    if config.rtc.livekit().is_none() {
        return Router::new();
    }
    let path = |name: &str| format!("{CALL_SERVICE_PATH}/{name}");
    Router::new()
        .merge(endpoint_at(Method::POST, &path("get_token"), get_token))
        .merge(endpoint_at(
            Method::POST,
            &path("sfu/get"),
            get_device_token,
        ))
}

/// A request whose sender is not authenticated by a header.
struct ServiceRequest<T>(T);

impl<T: DeserializeOwned + Send> FromRequest<App> for ServiceRequest<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let admission = AdmissionCheck::of_request(app, &parts, None).await;
        admission.admit(app, None)?;
        let whole = read_body(body, MAX_BODY_BYTES).await?;
        let text = object_text(&whole, MAX_JSON_DEPTH)?;
        let body = serde_json::from_str(&text).map_err(|e| Error::BadJson(e.to_string()))?;
        Ok(Self(body))
    }
}

/// The `OpenID` token, as the homeserver of the user issued it.
#[derive(Deserialize)]
struct OpenIdTokenBody {
    access_token: String,
    matrix_server_name: OwnedServerName,
}

#[derive(Deserialize)]
struct GetTokenBody {
    room_id: OwnedRoomId,
    slot_id: String,
    openid_token: OpenIdTokenBody,
    member: MemberBody,
}

#[derive(Deserialize)]
struct MemberBody {
    id: String,
    claimed_user_id: OwnedUserId,
    claimed_device_id: String,
}

#[derive(Deserialize)]
struct GetDeviceTokenBody {
    room: OwnedRoomId,
    openid_token: OpenIdTokenBody,
    device_id: String,
}

impl From<OpenIdTokenBody> for OpenIdProof {
    fn from(body: OpenIdTokenBody) -> Self {
        Self {
            access_token: body.access_token,
            server: body.matrix_server_name,
        }
    }
}

/// `POST {livekit_service_url}/get_token`
///
/// See [MSC4195](https://github.com/matrix-org/matrix-spec-proposals/pull/4195).
async fn get_token(
    State(calls): State<Calls>,
    ServiceRequest(body): ServiceRequest<GetTokenBody>,
) -> Result<Json<CallToken>> {
    let MemberBody {
        id,
        claimed_user_id,
        claimed_device_id,
    } = body.member;
    check_ids(&[&body.slot_id, &id, &claimed_device_id])?;
    let request = CallTokenRequest {
        room_id: body.room_id,
        proof: body.openid_token.into(),
        member: MemberClaim::Slot {
            slot_id: body.slot_id,
            member_id: id,
            user_id: claimed_user_id,
            device_id: claimed_device_id,
        },
    };
    let tokens = &calls.required_services()?.tokens;
    Ok(Json(tokens.issue_token(&request).await?))
}

/// `POST {livekit_service_url}/sfu/get`
///
/// The form of the request in the time before slots, which most clients use today.
async fn get_device_token(
    State(calls): State<Calls>,
    ServiceRequest(body): ServiceRequest<GetDeviceTokenBody>,
) -> Result<Json<CallToken>> {
    check_ids(&[&body.device_id])?;
    let request = CallTokenRequest {
        room_id: body.room,
        proof: body.openid_token.into(),
        member: MemberClaim::Device {
            device_id: body.device_id,
        },
    };
    let tokens = &calls.required_services()?.tokens;
    Ok(Json(tokens.issue_token(&request).await?))
}

fn check_ids(ids: &[&str]) -> Result<()> {
    if ids
        .iter()
        .any(|id| id.is_empty() || id.len() > MAX_ID_BYTES)
    {
        return Err(Error::BadJson(format!(
            "the ids of slots, devices and members must have 1 to {MAX_ID_BYTES} bytes"
        )));
    }
    Ok(())
}
