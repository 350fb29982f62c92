//! Identity servers, and telephone numbers, which this server does not support. E-mail addresses are in
//! `email_addresses`.
//!
//! Clients call the endpoints for telephone numbers nevertheless, and the specification has a response for each case.

use axum::{Router, extract::State, http::Method};
use ruma::api::{
    IncomingRequest, Metadata,
    client::account::{
        bind_3pid, request_3pid_management_token_via_msisdn,
        request_password_change_token_via_msisdn, request_registration_token_via_msisdn,
        unbind_3pid,
    },
};

use crate::{
    api::{
        App, AuthenticatedSession, MatrixRequest, MatrixResponse, RequestAuthenticator, endpoint,
        endpoint_at,
    },
    error::{Error, RefusalCode, Result},
    federation::ThirdPartyAddress,
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    let mut router = Router::new();
    for version in ["v3", "r0"] {
        let path = format!("/_matrix/client/{version}/account/3pid");
        router = router.merge(endpoint_at(Method::POST, &path, post_3pids));
    }
    router
        .merge(endpoint::<bind_3pid::v3::Request, _>(bind_3pid))
        .merge(endpoint::<unbind_3pid::v3::Request, _>(unbind_3pid))
        .merge(route_denied::<
            request_registration_token_via_msisdn::v3::Request,
        >())
        .merge(route_denied::<
            request_password_change_token_via_msisdn::v3::Request,
        >())
        .merge(route_denied::<
            request_3pid_management_token_via_msisdn::v3::Request,
        >())
}

/// `POST /_matrix/client/*/account/3pid`
///
/// This deprecated endpoint adds an identifier that an identity server has validated. This server trusts no identity
/// server, and adds an address only after the user has authenticated again.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pid).
async fn post_3pids(_: AuthenticatedSession) -> Error {
    Error::refused(
        RefusalCode::ThreepidAuthFailed,
        "no identity server is trusted here: add an e-mail address with /account/3pid/add",
    )
}

/// `POST /_matrix/client/*/account/3pid/bind`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidbind).
async fn bind_3pid(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<bind_3pid::v3::Request>,
) -> Result<MatrixResponse<bind_3pid::v3::Response>> {
    workflows.identity_bindings.bind(&from, request).await?;
    Ok(MatrixResponse(bind_3pid::v3::Response::new()))
}

/// `POST /_matrix/client/*/account/3pid/unbind`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidunbind).
async fn unbind_3pid(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<unbind_3pid::v3::Request>,
) -> Result<MatrixResponse<unbind_3pid::v3::Response>> {
    let address = ThirdPartyAddress {
        medium: request.medium,
        address: request.address,
    };
    let status = workflows
        .identity_bindings
        .unbind(&from, request.id_server.as_deref(), address)
        .await?;
    Ok(MatrixResponse(unbind_3pid::v3::Response::new(status)))
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
            "accounts have no identifiers of this kind on this server".to_owned(),
        )
    })
}
