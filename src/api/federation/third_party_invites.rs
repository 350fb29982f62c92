//! Third-party invites of users whose Matrix ID is not known when they are invited.
//!
//! See [Third-party invites](https://spec.matrix.org/v1.19/server-server-api/#third-party-invites).

use axum::{Router, extract::State};
use ruma::api::federation::thirdparty::{bind_callback, exchange_invite};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    error::Result,
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
/// An identity server reports that an address belongs to a user of this server, and the invites to this address.
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv13pidonbind).
async fn bind_callback(
    State(workflows): State<Workflows>,
    MatrixRequest { request, .. }: MatrixRequest<bind_callback::v1::Request>,
) -> Result<MatrixResponse<bind_callback::v1::Response>> {
    workflows
        .third_party_invites
        .receive_report(request)
        .await?;
    Ok(MatrixResponse(bind_callback::v1::Response::new()))
}
