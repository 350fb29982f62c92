//! Look-ups in the networks to which application services bridge.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#third-party-networks).

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use ruma::api::client::thirdparty::{
    get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols,
    get_user_for_protocol, get_user_for_user_id,
};
use serde_json::Value;

use crate::{
    api::{App, MatrixRequest, endpoint, endpoint::read_query},
    application_services::{ServiceQueries, ThirdPartyKind},
    error::{Error, Result},
};

/// The parameters that authenticate a request, which services are not sent.
const AUTHENTICATION_PARAMETERS: [&str; 4] = [
    "access_token",
    "user_id",
    "device_id",
    "org.matrix.msc3202.device_id",
];

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_protocols::v3::Request, _>(get_protocols))
        .merge(endpoint::<get_protocol::v3::Request, _>(get_protocol))
        .merge(endpoint::<get_location_for_protocol::v3::Request, _>(
            get_location_for_protocol,
        ))
        .merge(endpoint::<get_location_for_room_alias::v3::Request, _>(
            get_location_for_room_alias,
        ))
        .merge(endpoint::<get_user_for_protocol::v3::Request, _>(
            get_user_for_protocol,
        ))
        .merge(endpoint::<get_user_for_user_id::v3::Request, _>(
            get_user_for_user_id,
        ))
}

/// The parameters of a search, which only the application service understands.
struct SearchFields(Vec<(String, String)>);

impl FromRequestParts<App> for SearchFields {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self> {
        let mut fields: Vec<(String, String)> = read_query(&parts.uri)?;
        fields.retain(|(name, _)| !AUTHENTICATION_PARAMETERS.contains(&&**name));
        Ok(Self(fields))
    }
}

/// `GET /_matrix/client/*/thirdparty/protocols`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyprotocols).
async fn get_protocols(
    State(queries): State<ServiceQueries>,
    _: MatrixRequest<get_protocols::v3::Request>,
) -> Json<BTreeMap<String, Value>> {
    Json(queries.protocols().await)
}

/// `GET /_matrix/client/*/thirdparty/protocol/{protocol}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyprotocolprotocol).
async fn get_protocol(
    State(queries): State<ServiceQueries>,
    MatrixRequest { request, .. }: MatrixRequest<get_protocol::v3::Request>,
) -> Result<Json<Value>> {
    let protocol = queries.protocol(&request.protocol).await;
    protocol
        .map(Json)
        .ok_or_else(|| Error::not_found("no bridge of this server knows the network"))
}

/// `GET /_matrix/client/*/thirdparty/location/{protocol}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartylocationprotocol).
async fn get_location_for_protocol(
    State(queries): State<ServiceQueries>,
    SearchFields(fields): SearchFields,
    MatrixRequest { request, .. }: MatrixRequest<get_location_for_protocol::v3::Request>,
) -> Result<Json<Vec<Value>>> {
    let found = queries.search_network(ThirdPartyKind::Location, &request.protocol, fields);
    found_or_unknown(found.await)
}

/// `GET /_matrix/client/*/thirdparty/location`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartylocation).
async fn get_location_for_room_alias(
    State(queries): State<ServiceQueries>,
    MatrixRequest { request, .. }: MatrixRequest<get_location_for_room_alias::v3::Request>,
) -> Result<Json<Vec<Value>>> {
    let found = queries.find_in_networks(ThirdPartyKind::Location, request.alias.as_str());
    found_or_unknown(found.await)
}

/// `GET /_matrix/client/*/thirdparty/user/{protocol}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyuserprotocol).
async fn get_user_for_protocol(
    State(queries): State<ServiceQueries>,
    SearchFields(fields): SearchFields,
    MatrixRequest { request, .. }: MatrixRequest<get_user_for_protocol::v3::Request>,
) -> Result<Json<Vec<Value>>> {
    let found = queries.search_network(ThirdPartyKind::User, &request.protocol, fields);
    found_or_unknown(found.await)
}

/// `GET /_matrix/client/*/thirdparty/user`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyuser).
async fn get_user_for_user_id(
    State(queries): State<ServiceQueries>,
    MatrixRequest { request, .. }: MatrixRequest<get_user_for_user_id::v3::Request>,
) -> Result<Json<Vec<Value>>> {
    let found = queries.find_in_networks(ThirdPartyKind::User, request.userid.as_str());
    found_or_unknown(found.await)
}

fn found_or_unknown(found: Vec<Value>) -> Result<Json<Vec<Value>>> {
    if found.is_empty() {
        return Err(Error::not_found("no bridge of this server knows it"));
    }
    Ok(Json(found))
}
