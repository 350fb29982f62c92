//! Third-party identifiers and third-party networks. Accounts have no such identifiers, and no network is bridged yet.
//!
//! Clients call these endpoints nevertheless, and the specification has a response for each case.

use std::collections::BTreeMap;

use axum::Router;
use ruma::api::{
    IncomingRequest, Metadata,
    client::{
        account::{
            ThirdPartyIdRemovalStatus, add_3pid, bind_3pid, delete_3pid, get_3pids,
            request_3pid_management_token_via_email, request_3pid_management_token_via_msisdn,
            request_password_change_token_via_email, request_password_change_token_via_msisdn,
            request_registration_token_via_email, request_registration_token_via_msisdn,
            unbind_3pid,
        },
        thirdparty::{
            get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols,
            get_user_for_protocol, get_user_for_user_id,
        },
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
        .merge(endpoint::<get_protocols::v3::Request, _>(get_protocols))
        .merge(route_not_found::<get_protocol::v3::Request>())
        .merge(route_not_found::<get_location_for_protocol::v3::Request>())
        .merge(route_not_found::<get_location_for_room_alias::v3::Request>())
        .merge(route_not_found::<get_user_for_protocol::v3::Request>())
        .merge(route_not_found::<get_user_for_user_id::v3::Request>())
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

/// `GET /_matrix/client/*/thirdparty/protocols`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyprotocols).
async fn get_protocols(
    _: MatrixRequest<get_protocols::v3::Request>,
) -> MatrixResponse<get_protocols::v3::Response> {
    MatrixResponse(get_protocols::v3::Response::new(BTreeMap::new()))
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

/// Routes an endpoint for lookups in another network.
fn route_not_found<R>() -> Router<App>
where
    R: IncomingRequest + Metadata<Authentication: RequestAuthenticator> + Send + 'static,
{
    endpoint::<R, _>(async |_: MatrixRequest<R>| {
        Error::not_found("this server has no bridges to other networks")
    })
}
