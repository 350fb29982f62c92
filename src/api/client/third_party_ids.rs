//! Third-party identifiers. Accounts have none.
//!
//! Clients call these endpoints nevertheless, and the specification has a response for each case.

use axum::Router;
use ruma::api::{
    IncomingRequest, Metadata,
    client::account::{
        ThirdPartyIdRemovalStatus, add_3pid, bind_3pid, delete_3pid, get_3pids,
        request_3pid_management_token_via_email, request_3pid_management_token_via_msisdn,
        request_password_change_token_via_email, request_password_change_token_via_msisdn,
        request_registration_token_via_email, request_registration_token_via_msisdn, unbind_3pid,
    },
};

use crate::{
    api::{App, CompleteResponse, MatrixRequest, MatrixResponse, RequestAuthenticator, endpoint},
    error::{Error, RefusalCode},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_3pids::v3::Request, _>(get_3pids))
        .merge(route_denied::<add_3pid::v3::Request>())
        .merge(route_denied::<bind_3pid::v3::Request>())
        .merge(endpoint::<delete_3pid::v3::Request, _>(delete_3pid))
        .merge(endpoint::<unbind_3pid::v3::Request, _>(unbind_3pid))
        .merge(route_denied::<
            request_registration_token_via_email::v3::Request,
        >())
        .merge(route_denied::<
            request_registration_token_via_msisdn::v3::Request,
        >())
        .merge(route_denied::<
            request_password_change_token_via_email::v3::Request,
        >())
        .merge(route_denied::<
            request_password_change_token_via_msisdn::v3::Request,
        >())
        .merge(route_denied::<
            request_3pid_management_token_via_email::v3::Request,
        >())
        .merge(route_denied::<
            request_3pid_management_token_via_msisdn::v3::Request,
        >())
}

/// `GET /_matrix/client/*/account/3pid`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3account3pid).
async fn get_3pids(
    _: MatrixRequest<get_3pids::v3::Request>,
) -> CompleteResponse<get_3pids::v3::Response> {
    CompleteResponse(get_3pids::v3::Response::new(Vec::new()))
}

/// `POST /_matrix/client/*/account/3pid/delete`
///
/// Removing an identifier that does not exist succeeds. No identity server can know it.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3piddelete).
async fn delete_3pid(
    _: MatrixRequest<delete_3pid::v3::Request>,
) -> MatrixResponse<delete_3pid::v3::Response> {
    let status = ThirdPartyIdRemovalStatus::NoSupport;
    MatrixResponse(delete_3pid::v3::Response::new(status))
}

/// `POST /_matrix/client/*/account/3pid/unbind`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidunbind).
async fn unbind_3pid(
    _: MatrixRequest<unbind_3pid::v3::Request>,
) -> MatrixResponse<unbind_3pid::v3::Response> {
    let status = ThirdPartyIdRemovalStatus::NoSupport;
    MatrixResponse(unbind_3pid::v3::Response::new(status))
}

/// Routes an endpoint that would add an identifier to an account: "The homeserver does not allow the third-party
/// identifier as a contact option."
fn route_denied<R>() -> Router<App>
where
    R: IncomingRequest + Metadata<Authentication: RequestAuthenticator> + Send + 'static,
{
    endpoint::<R, _>(async |_: MatrixRequest<R>| {
        Error::refused(
            RefusalCode::ThreepidDenied,
            "accounts have no third-party identifiers on this server".to_owned(),
        )
    })
}
