//! The user's own account: identity, password change and deactivation.

use axum::{Router, extract::State};
use ruma::api::client::account::{change_password, deactivate, whoami};

use super::interactive_auth::{InteractiveRequest, ProtectedOperation, check_login_limit};
use crate::{
    api::{App, ClientAddress, MatrixRequest, MatrixResponse, RateLimits, RequestClass, endpoint},
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
/// A user without an access token authenticates with the e-mail address of the account.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpassword).
async fn change_password(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    peer: ClientAddress,
    InteractiveRequest {
        from,
        request,
        parameters,
    }: InteractiveRequest<change_password::v3::Request>,
) -> Result<MatrixResponse<change_password::v3::Response>> {
    let changed = if let Some(from) = from {
        check_login_limit(&limits, &from, request.auth.as_ref())?;
        users.account.change_password(&from, request).await
    } else {
        // Clients repeat the request until the user has opened the link.
        limits.check(RequestClass::Lookup, &peer)?;
        users.account.reset_password(request).await
    };
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
    let status = workflows.identity_bindings.unbind_all(&from).await?;
    let response = deactivate::v3::Response::new(status);
    Ok(MatrixResponse(response))
}
