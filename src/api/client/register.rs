//! Account registration.

use axum::{Json, Router, extract::State};
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::client::{
        account::{
            check_registration_token_validity, get_username_availability,
            register::{self, LoginType, RegistrationKind},
        },
        uiaa::AuthData,
    },
};
use serde::Serialize;

use crate::{
    api::{App, ClientAddress, MatrixRequest, MatrixResponse, RateLimits, RequestClass, endpoint},
    error::{Error, Result},
    users::{RegisteredAccount, Users},
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<register::v3::Request, _>(register))
        .merge(endpoint::<get_username_availability::v3::Request, _>(
            get_username_availability,
        ))
        .merge(
            endpoint::<check_registration_token_validity::v1::Request, _>(
                check_registration_token_validity,
            ),
        )
}

/// The response to a registration. ruma's response has `device_id: null` where the field should be absent.
#[derive(Serialize)]
struct RegistrationResponse {
    user_id: OwnedUserId,
    /// The new session, unless the client inhibited the login.
    #[serde(flatten)]
    session: Option<NewSession>,
}

#[derive(Serialize)]
struct NewSession {
    device_id: OwnedDeviceId,
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u128>,
}

/// `POST /_matrix/client/*/register`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register).
async fn register(
    State(users): State<Users>,
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    peer: ClientAddress,
    MatrixRequest {
        from: token,
        request,
    }: MatrixRequest<register::v3::Request>,
) -> Result<Json<RegistrationResponse>> {
    if request.login_type == Some(LoginType::ApplicationService) {
        let service = token.application_service(&users)?;
        let registered = users.registration.register_for_service(request, &service);
        return registered.await.map(registration_response);
    }
    // A request without authentication only asks for the registration flows, and costs nothing.
    let is_complete = request.auth.is_some() || request.kind == RegistrationKind::Guest;
    let account = is_complete.then(|| limits.charge(RequestClass::Register, &peer));
    let account = account.transpose()?;
    let shows_token = matches!(request.auth, Some(AuthData::RegistrationToken(_)));
    let registered = workflows.invite_links.register(request).await;
    if shows_token && is_token_wrong(&registered) {
        limits.check(RequestClass::WrongToken, &peer)?;
    }
    let registered = registered?;
    if let Some(account) = account {
        account.keep();
    }
    Ok(registration_response(registered))
}

fn registration_response(registered: RegisteredAccount) -> Json<RegistrationResponse> {
    Json(RegistrationResponse {
        user_id: registered.user_id,
        session: registered.login.map(|login| NewSession {
            device_id: login.device_id,
            access_token: login.tokens.access_token,
            refresh_token: login.tokens.refresh_token,
            expires_in_ms: login.tokens.expires_in.map(|time| time.as_millis()),
        }),
    })
}

/// Returns whether a registration failed because its token is not valid.
fn is_token_wrong(registered: &Result<RegisteredAccount>) -> bool {
    match registered {
        Err(Error::Uia(info)) => info.auth_error.is_some(),
        Err(Error::Forbidden(_)) => true,
        _ => false,
    }
}

/// `GET /_matrix/client/*/register/available`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3registeravailable).
async fn get_username_availability(
    State(users): State<Users>,
    MatrixRequest { request, .. }: MatrixRequest<get_username_availability::v3::Request>,
) -> Result<MatrixResponse<get_username_availability::v3::Response>> {
    users.usernames.available_user_id(&request.username).await?;
    Ok(MatrixResponse(
        get_username_availability::v3::Response::new(true),
    ))
}

/// `GET /_matrix/client/v1/register/m.login.registration_token/validity`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity).
async fn check_registration_token_validity(
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    peer: ClientAddress,
    MatrixRequest { request, .. }: MatrixRequest<check_registration_token_validity::v1::Request>,
) -> Result<MatrixResponse<check_registration_token_validity::v1::Response>> {
    let is_valid = workflows
        .invite_links
        .registration_token_is_valid(&request.token)
        .await?;
    if !is_valid {
        limits.check(RequestClass::WrongToken, &peer)?;
    }
    let response = check_registration_token_validity::v1::Response::new(is_valid);
    Ok(MatrixResponse(response))
}
