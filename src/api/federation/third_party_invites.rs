//! Third-party invites of users whose Matrix ID is not known when they are invited.
//!
//! See [Third-party invites](https://spec.matrix.org/v1.19/server-server-api/#third-party-invites).

use axum::{Router, extract::State};
use ruma::api::federation::thirdparty::{bind_callback, exchange_invite};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    error::{Error, RefusalCode, Result},
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<exchange_invite::v1::Request, _>(exchange_invite))
        .merge(endpoint::<bind_callback::v1::Request, _>(bind_callback))
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid).
async fn exchange_invite(
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<exchange_invite::v1::Request>,
) -> Result<MatrixResponse<exchange_invite::v1::Response>> {
    workflows
        .received_invitations
        .exchange_third_party_invite(&from, request)
        .await?;
    Ok(MatrixResponse(exchange_invite::v1::Response::new()))
}

/// `PUT /_matrix/federation/v1/3pid/onbind`
///
/// Accounts of this server have no third-party identifiers, so no identity server can report one.
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv13pidonbind).
async fn bind_callback(_: MatrixRequest<bind_callback::v1::Request>) -> Error {
    Error::refused(
        RefusalCode::ThreepidDenied,
        "accounts have no third-party ids on this server".to_owned(),
    )
}
