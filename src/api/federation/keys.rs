//! Serves the signing keys of this server and, as a notary, those of other servers.

use std::collections::BTreeSet;

use axum::{Router, extract::State, http::Uri, routing::get};
use futures_util::{StreamExt, stream};
use ruma::{
    OwnedServerName,
    api::federation::discovery::{
        ServerSigningKeys, get_remote_server_keys, get_remote_server_keys_batch, get_server_keys,
    },
    serde::Raw,
};
use serde::Deserialize;

use crate::{
    api::{
        App, MatrixRequest, MatrixResponse, endpoint,
        endpoint::{PathParams, read_query},
    },
    clock::Clock,
    error::{Error, Result},
    federation::Federation,
};

/// The maximum number of servers in one request.
const MAX_SERVERS: usize = 100;
/// The number of servers that are queried at the same time.
const MAX_CONCURRENT_SERVERS: usize = 10;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_server_keys::v2::Request, _>(get_server_keys))
        .merge(endpoint::<get_remote_server_keys::v2::Request, _>(
            get_remote_server_keys,
        ))
        .merge(endpoint::<get_remote_server_keys_batch::v2::Request, _>(
            get_remote_server_keys_batch,
        ))
        .route(
            "/_matrix/key/v2/server/{key_id}",
            get(get_server_keys_by_id),
        )
        .route("/_matrix/key/v2/server/", get(get_server_keys_by_id))
        .route(
            "/_matrix/key/v2/query/{server_name}/{key_id}",
            get(get_remote_server_keys_by_id),
        )
}

/// `GET /_matrix/key/v2/server`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server).
async fn get_server_keys(
    State(federation): State<Federation>,
    _: MatrixRequest<get_server_keys::v2::Request>,
) -> Result<MatrixResponse<get_server_keys::v2::Response>> {
    let keys = federation.own_keys()?;
    Ok(MatrixResponse(get_server_keys::v2::Response::new(keys)))
}

/// `GET /_matrix/key/v2/server/{keyId}`, used by older servers. The response is the same for every id.
///
/// See the [specification](https://spec.matrix.org/v1.5/server-server-api/#get_matrixkeyv2serverkeyid).
async fn get_server_keys_by_id(
    State(federation): State<Federation>,
) -> Result<MatrixResponse<get_server_keys::v2::Response>> {
    let keys = federation.own_keys()?;
    Ok(MatrixResponse(get_server_keys::v2::Response::new(keys)))
}

/// `GET /_matrix/key/v2/query/{serverName}/{keyId}`, used by older servers.
///
/// See the [specification](https://spec.matrix.org/v1.5/server-server-api/#get_matrixkeyv2queryservernamekeyid).
async fn get_remote_server_keys_by_id(
    State(federation): State<Federation>,
    State(clock): State<Clock>,
    PathParams((server, key_id)): PathParams<(String, String)>,
    uri: Uri,
) -> Result<MatrixResponse<get_remote_server_keys::v2::Response>> {
    let server = OwnedServerName::try_from(server)
        .map_err(|error| Error::invalid_param(error.to_string()))?;
    let query: ValidityQuery = read_query(&uri)?;
    let wanted = ServerKeysRequest {
        server,
        valid_until: query.minimum_valid_until_ts.unwrap_or(clock.now_ms()),
        key_ids: BTreeSet::from([key_id]),
    };
    let keys = keys_of_servers(&federation, [wanted]).await?;
    Ok(MatrixResponse(get_remote_server_keys::v2::Response::new(
        keys,
    )))
}

/// The time until which the keys must be valid.
#[derive(Deserialize)]
struct ValidityQuery {
    minimum_valid_until_ts: Option<i64>,
}

/// `GET /_matrix/key/v2/query/{serverName}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2queryservername).
async fn get_remote_server_keys(
    State(federation): State<Federation>,
    MatrixRequest { request, .. }: MatrixRequest<get_remote_server_keys::v2::Request>,
) -> Result<MatrixResponse<get_remote_server_keys::v2::Response>> {
    let until = i64::from(request.minimum_valid_until_ts.0);
    let wanted = ServerKeysRequest {
        server: request.server_name,
        valid_until: until,
        key_ids: BTreeSet::new(),
    };
    let keys = keys_of_servers(&federation, [wanted]).await?;
    Ok(MatrixResponse(get_remote_server_keys::v2::Response::new(
        keys,
    )))
}

/// `POST /_matrix/key/v2/query`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#post_matrixkeyv2query).
async fn get_remote_server_keys_batch(
    State(federation): State<Federation>,
    State(clock): State<Clock>,
    MatrixRequest { request, .. }: MatrixRequest<get_remote_server_keys_batch::v2::Request>,
) -> Result<MatrixResponse<get_remote_server_keys_batch::v2::Response>> {
    if request.server_keys.len() > MAX_SERVERS {
        return Err(Error::TooLarge(format!(
            "one request may query the keys of at most {MAX_SERVERS} servers"
        )));
    }
    let now = clock.now_ms();
    // All keys of a list have the same lifetime, so the latest requested time applies.
    let wanted = request.server_keys.into_iter().map(|(server, keys)| {
        let until = keys.values().filter_map(|key| key.minimum_valid_until_ts);
        let until = until.map(|until| i64::from(until.0)).max();
        ServerKeysRequest {
            server,
            valid_until: until.unwrap_or(now),
            key_ids: keys.keys().map(ToString::to_string).collect(),
        }
    });
    let keys = keys_of_servers(&federation, wanted).await?;
    let response = get_remote_server_keys_batch::v2::Response::new(keys);
    Ok(MatrixResponse(response))
}

/// A request for the keys of a server.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ServerKeysRequest {
    server: OwnedServerName,
    /// The time until which the keys must be valid, in milliseconds since the Unix epoch.
    valid_until: i64,
    /// The ids of the keys; empty for all.
    key_ids: BTreeSet<String>,
}

/// Returns the known keys of the requested servers.
async fn keys_of_servers(
    federation: &Federation,
    wanted: impl IntoIterator<Item = ServerKeysRequest>,
) -> Result<Vec<Raw<ServerSigningKeys>>> {
    let wanted: BTreeSet<ServerKeysRequest> = wanted.into_iter().collect();
    let asking = stream::iter(wanted)
        .map(async |wanted| {
            federation
                .notary_keys(&wanted.server, &wanted.key_ids, wanted.valid_until)
                .await
        })
        .buffered(MAX_CONCURRENT_SERVERS);
    let found: Vec<Result<Vec<_>>> = asking.collect().await;
    let mut keys = Vec::new();
    for of_server in found {
        keys.extend(of_server?);
    }
    Ok(keys)
}
