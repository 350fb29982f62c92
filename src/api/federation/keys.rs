//! The keys with which this server signs, and, as a notary, those of others.

use std::collections::BTreeSet;

use axum::{Router, extract::State};
use futures_util::{StreamExt, stream};
use ruma::{
    OwnedServerName,
    api::federation::discovery::{
        ServerSigningKeys, get_remote_server_keys, get_remote_server_keys_batch, get_server_keys,
    },
    serde::Raw,
};

use crate::{
    api::{App, Incoming, Outgoing, endpoint},
    clock::Clock,
    error::{Error, Result},
    federation::Federation,
};

/// Servers of whose keys one request may ask.
const MAX_SERVERS: usize = 100;
/// How many of them are asked at once.
const AT_ONCE: usize = 10;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_server_keys::v2::Request, _>(get_server_keys))
        .merge(endpoint::<get_remote_server_keys::v2::Request, _>(
            get_remote_server_keys,
        ))
        .merge(endpoint::<get_remote_server_keys_batch::v2::Request, _>(
            get_remote_server_keys_batch,
        ))
}

/// `GET /_matrix/key/v2/server`
///
/// [spec]: https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server
async fn get_server_keys(
    State(federation): State<Federation>,
    _: Incoming<get_server_keys::v2::Request>,
) -> Result<Outgoing<get_server_keys::v2::Response>> {
    let keys = federation.own_keys()?;
    Ok(Outgoing(get_server_keys::v2::Response::new(keys)))
}

/// `GET /_matrix/key/v2/query/{serverName}`
///
/// [spec]: https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2queryservername
async fn get_remote_server_keys(
    State(federation): State<Federation>,
    Incoming { request, .. }: Incoming<get_remote_server_keys::v2::Request>,
) -> Result<Outgoing<get_remote_server_keys::v2::Response>> {
    let until = i64::from(request.minimum_valid_until_ts.0);
    let keys = known(&federation, [(request.server_name, until)]).await?;
    Ok(Outgoing(get_remote_server_keys::v2::Response::new(keys)))
}

/// `POST /_matrix/key/v2/query`
///
/// [spec]: https://spec.matrix.org/v1.19/server-server-api/#post_matrixkeyv2query
async fn get_remote_server_keys_batch(
    State(federation): State<Federation>,
    State(clock): State<Clock>,
    Incoming { request, .. }: Incoming<get_remote_server_keys_batch::v2::Request>,
) -> Result<Outgoing<get_remote_server_keys_batch::v2::Response>> {
    if request.server_keys.len() > MAX_SERVERS {
        return Err(Error::TooLarge(format!(
            "one request may ask for the keys of {MAX_SERVERS} servers"
        )));
    }
    let now = clock.now_ms();
    // All keys of a server come together: what is wanted longest decides.
    let wanted = request.server_keys.into_iter().map(|(server, keys)| {
        let until = keys.values().filter_map(|key| key.minimum_valid_until_ts);
        let until = until.map(|until| i64::from(until.0)).max();
        (server, until.unwrap_or(now))
    });
    let keys = known(&federation, wanted).await?;
    let response = get_remote_server_keys_batch::v2::Response::new(keys);
    Ok(Outgoing(response))
}

/// Returns the keys of those servers of which any are known.
async fn known(
    federation: &Federation,
    wanted: impl IntoIterator<Item = (OwnedServerName, i64)>,
) -> Result<Vec<Raw<ServerSigningKeys>>> {
    let wanted: BTreeSet<(OwnedServerName, i64)> = wanted.into_iter().collect();
    let asking = stream::iter(wanted)
        .map(async |(server, until)| federation.keys_of(&server, until).await)
        .buffered(AT_ONCE);
    let found: Vec<_> = asking.collect().await;
    found.into_iter().filter_map(Result::transpose).collect()
}
