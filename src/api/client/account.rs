//! The user's own account: identity, password change and deactivation.

use axum::{Router, extract::State};
use ruma::api::client::account::{ThirdPartyIdRemovalStatus, change_password, deactivate, whoami};

use super::interactive_auth::{InteractiveRequest, ProtectedOperation, check_login_limit};
use crate::{
    api::{App, MatrixRequest, MatrixResponse, RateLimits, endpoint},
    error::{Error, Result},
    users::Users,
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<whoami::v3::Request, _>(whoami))
        .merge(endpoint::<change_password::v3::Request, _>(change_password))
        .merge(endpoint::<deactivate::v3::Request, _>(deactivate))
}

/// `GET /_matrix/client/*/account/whoami`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami).
async fn whoami(
    MatrixRequest { from, .. }: MatrixRequest<whoami::v3::Request>,
) -> MatrixResponse<whoami::v3::Response> {
    let mut response = whoami::v3::Response::new(from.user_id.clone(), from.is_guest);
    response.device_id.clone_from(&from.device_id);
    MatrixResponse(response)
}

/// `POST /_matrix/client/*/account/password`
///
/// The specification also lets a user without an access token authenticate by e-mail. This server
/// has no e-mail addresses.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword).
async fn change_password(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    InteractiveRequest {
        from,
        request,
        parameters,
    }: InteractiveRequest<change_password::v3::Request>,
) -> Result<MatrixResponse<change_password::v3::Response>> {
    let from = from.ok_or(Error::MissingToken)?;
    check_login_limit(&limits, &from, request.auth.as_ref())?;
    let changed = users.account.change_password(&from, request).await;
    parameters.store_for_session(&users, changed)?;
    Ok(MatrixResponse(change_password::v3::Response::new()))
}

/// `POST /_matrix/client/*/account/deactivate`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate).
async fn deactivate(
    State(users): State<Users>,
    State(workflows): State<Workflows>,
    State(limits): State<RateLimits>,
    InteractiveRequest {
        from,
        request,
        parameters,
    }: InteractiveRequest<deactivate::v3::Request>,
) -> Result<MatrixResponse<deactivate::v3::Response>> {
    let from = from.ok_or(Error::MissingToken)?;
    from.must_not_be_guest()?;
    let operation = ProtectedOperation {
        endpoint: "deactivate",
        session: &from,
        parameters: &request.erase,
        auth: request.auth.as_ref(),
    };
    parameters
        .reauthenticate(&users, &limits, operation)
        .await?;
    workflows.accounts.deactivate(&from, request.erase).await?;
    // This server has no third-party identifiers to remove from an identity server.
    let response = deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::Success);
    Ok(MatrixResponse(response))
}
