//! The name and version of this server.

use axum::Router;
use ruma::api::federation::discovery::get_server_version::v1 as get_server_version;

use crate::api::{App, MatrixRequest, MatrixResponse, endpoint};

pub(super) fn routes() -> Router<App> {
    endpoint::<get_server_version::Request, _>(version)
}

/// `GET /_matrix/federation/v1/version`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1version).
async fn version(
    _: MatrixRequest<get_server_version::Request>,
) -> MatrixResponse<get_server_version::Response> {
    let mut server = get_server_version::Server::new();
    server.name = Some("Parlour".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = get_server_version::Response::new();
    response.server = Some(server);
    MatrixResponse(response)
}
