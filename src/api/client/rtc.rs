//! The LiveKit server through which clients make calls with MatrixRTC.

use axum::{Router, extract::State, http::Method};
use ruma::api::client::rtc::{RtcTransport, transports};
use serde_json::Map;

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint, endpoint_at},
    calls::Calls,
};

/// The path under which the endpoint is to become a part of the specification.
const STABLE_TRANSPORTS_PATH: &str = "/_matrix/client/v1/rtc/transports";
/// The name of the transport in an earlier draft.
const EARLIER_TRANSPORT_NAME: &str = "livekit_multi_sfu";

pub(super) fn routes() -> Router<App> {
    endpoint::<transports::v1::Request, _>(get_transports).merge(endpoint_at(
        Method::GET,
        STABLE_TRANSPORTS_PATH,
        get_transports,
    ))
}

/// `GET /_matrix/client/v1/rtc/transports`
///
/// See [MSC4143](https://github.com/matrix-org/matrix-spec-proposals/pull/4143).
async fn get_transports(
    State(calls): State<Calls>,
    _: MatrixRequest<transports::v1::Request>,
) -> MatrixResponse<transports::v1::Response> {
    let mut transports = livekit_transports(&calls);
    if let Some(services) = calls.services() {
        let url = services.service_url.as_str().into();
        let fields = Map::from_iter([("livekit_service_url".to_owned(), url)]);
        transports.extend(RtcTransport::new(EARLIER_TRANSPORT_NAME, fields));
    }
    MatrixResponse(transports::v1::Response::new(transports))
}

/// Returns the LiveKit server as the newest clients read it, which is also the form in `.well-known`.
pub(super) fn livekit_transports(calls: &Calls) -> Vec<RtcTransport> {
    let services = calls.services().into_iter();
    services
        .map(|services| RtcTransport::livekit(services.service_url.clone()))
        .collect()
}
