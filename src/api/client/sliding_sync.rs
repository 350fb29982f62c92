//! Sliding sync.

use axum::{
    Json, Router,
    extract::State,
    http::{self, Method},
};
use ruma::{
    api::{
        IncomingRequest, Metadata, auth_scheme::AccessToken, client::sync::sync_events::v5,
        error::DeserializationError,
    },
    presence::PresenceState,
};
use serde::Deserialize;

use crate::{
    api::{App, MatrixRequest, endpoint, endpoint_at},
    error::Result,
    sync::{SlidingRequest, SlidingResponse, Sync},
};

/// The path that the endpoint will have in the specification.
const STABLE_PATH: &str = "/_matrix/client/v4/sync";

/// A request in the form of the proposal or of its drafts, which ruma implements. The drafts have some parameters in
/// the query.
struct IncomingSlidingSync(SlidingRequest);

/// The query parameters of the drafts.
#[derive(Deserialize)]
struct SlidingSyncQuery {
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<PresenceState>,
}

impl Metadata for IncomingSlidingSync {
    const METHOD: http::Method = v5::Request::METHOD;
    const RATE_LIMITED: bool = v5::Request::RATE_LIMITED;
    type Authentication = AccessToken;
    type PathBuilder = <v5::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = v5::Request::PATH_BUILDER;
}

impl IncomingRequest for IncomingSlidingSync {
    type EndpointError = <v5::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = v5::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        _: &[&str],
    ) -> Result<Self, DeserializationError> {
        let query = request.uri().query().unwrap_or_default();
        let query: SlidingSyncQuery = ruma::exports::serde_html_form::from_str(query)?;
        let mut sliding: SlidingRequest = serde_json::from_slice(request.body())?;
        sliding.bytes = request.body().len();
        sliding.pos = query.pos.or(sliding.pos);
        sliding.timeout = query.timeout.or(sliding.timeout);
        sliding.set_presence = query.set_presence.or(sliding.set_presence);
        Ok(Self(sliding))
    }
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<IncomingSlidingSync, _>(sliding_sync))
        .merge(endpoint_at(Method::POST, STABLE_PATH, sliding_sync))
}

/// `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync` and `POST /_matrix/client/v4/sync`
///
/// See [MSC4186](https://github.com/matrix-org/matrix-spec-proposals/pull/4186).
async fn sliding_sync(
    State(sync): State<Sync>,
    MatrixRequest { from, request }: MatrixRequest<IncomingSlidingSync>,
) -> Result<Json<SlidingResponse>> {
    sync.sliding_sync(&from, request.0).await.map(Json)
}
