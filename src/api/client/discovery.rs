//! Discovery: the address and the supported features of the server.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    ServerName,
    api::{
        client::discovery::{
            discover_homeserver::{self, HomeserverInfo},
            discover_support::{self, Contact, ContactRole},
            get_supported_versions,
        },
        federation::discovery::discover_homeserver as discover_server,
    },
};

use super::rtc::livekit_transports;
use crate::{
    api::{App, MatrixResponse, endpoint},
    calls::Calls,
    config::Config,
    error::{Error, Result},
};

/// The supported versions of the specification.
///
/// `tests/it/endpoints.rs` checks that the server has all endpoints of the newest version.
const SPEC_VERSIONS: [&str; 19] = [
    "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11",
    "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];
/// Further supported features: unstable proposals, the names by which older clients look for features that are now
/// stable, and the WebSocket channel.
const UNSTABLE_FEATURES: &[&str] = &[
    "org.matrix.msc2285.stable",
    "org.matrix.msc3030",
    "org.matrix.msc3030.stable",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3715.stable",
    "org.matrix.msc3771",
    "org.matrix.msc3773",
    "org.matrix.msc3856.stable",
    "org.matrix.msc3881",
    "org.matrix.msc3912",
    "org.matrix.msc3916.stable",
    "org.matrix.msc3981",
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "org.matrix.msc3827.stable",
    "org.matrix.msc4028",
    "org.matrix.msc4108",
    "org.matrix.msc4140",
    "org.matrix.msc4155",
    "org.matrix.msc4174",
    "org.matrix.msc4222",
    "org.matrix.msc4354",
    "org.matrix.msc4380.stable",
    "io.element.msc4388",
    "org.matrix.msc4429",
    "org.matrix.msc4445.initial_sync_timeline_stream_ordering",
    "org.matrix.simplified_msc3575",
    "dev.parlour.websocket_stream",
];
/// The features of a server with a LiveKit server.
const LIVEKIT_FEATURES: &[&str] = &["org.matrix.msc4143"];

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_supported_versions::Request, _>(
            get_supported_versions,
        ))
        .merge(endpoint::<discover_homeserver::Request, _>(
            discover_homeserver,
        ))
        .merge(endpoint::<discover_server::Request, _>(discover_server))
        .merge(endpoint::<discover_support::Request, _>(discover_support))
}

/// `GET /_matrix/client/versions`
///
/// The response is the same for everyone, so a token is ignored.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientversions).
async fn get_supported_versions(
    State(calls): State<Calls>,
) -> MatrixResponse<get_supported_versions::Response> {
    let versions = SPEC_VERSIONS.map(str::to_owned).to_vec();
    let mut response = get_supported_versions::Response::new(versions);
    let calls = calls.services().map_or(&[][..], |_| LIVEKIT_FEATURES);
    let features = UNSTABLE_FEATURES.iter().chain(calls);
    response.unstable_features = features
        .map(|feature| ((*feature).to_owned(), true))
        .collect();
    MatrixResponse(response)
}

/// `GET /.well-known/matrix/client`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#getwell-knownmatrixclient).
async fn discover_homeserver(
    State(config): State<Arc<Config>>,
    State(calls): State<Calls>,
) -> MatrixResponse<discover_homeserver::Response> {
    let homeserver = HomeserverInfo::new(config.public_url().to_string());
    let mut response = discover_homeserver::Response::new(homeserver);
    response.rtc_foci = livekit_transports(&calls);
    MatrixResponse(response)
}

/// `GET /.well-known/matrix/server`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver).
async fn discover_server(
    State(config): State<Arc<Config>>,
) -> Result<MatrixResponse<discover_server::Response>> {
    if !config.federation.enabled {
        return Err(Error::not_found("federation is disabled on this server"));
    }
    let server = ServerName::parse(config.public_url().host_and_port())
        .map_err(|source| Error::internal("name this server", source))?;
    Ok(MatrixResponse(discover_server::Response::new(server)))
}

/// `GET /.well-known/matrix/support`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#getwell-knownmatrixsupport).
async fn discover_support(
    State(config): State<Arc<Config>>,
) -> Result<MatrixResponse<discover_support::Response>> {
    let support = &config.support;
    let admin = match (&support.admin_email, &support.admin_matrix_id) {
        (Some(email), matrix_id) => {
            let mut contact = Contact::with_email_address(ContactRole::Admin, email.clone());
            contact.matrix_id.clone_from(matrix_id);
            Some(contact)
        }
        (None, Some(id)) => Some(Contact::with_matrix_id(ContactRole::Admin, id.clone())),
        (None, None) => None,
    };
    if admin.is_none() && support.page.is_none() {
        return Err(Error::not_found("this server has no support contact"));
    }
    let mut response = discover_support::Response::with_contacts(admin.into_iter().collect());
    response.support_page.clone_from(&support.page);
    Ok(MatrixResponse(response))
}
