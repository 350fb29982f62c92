//! Endpoints that only application services may use.
//!
//! See the [specification](https://spec.matrix.org/v1.19/application-service-api/#client-server-api-extensions).

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ruma::api::client::{
    appservice::{request_ping, set_room_visibility},
    room::Visibility,
};
use serde_json::json;

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    application_services::{PingFailure, ServiceQueries},
    error::{Error, RefusalCode, Result},
    rooms::{NetworkListing, Rooms, check_visibility},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<request_ping::v1::Request, _>(request_ping))
        .merge(endpoint::<set_room_visibility::v3::Request, _>(
            set_room_visibility,
        ))
}

/// `POST /_matrix/client/v1/appservice/{appserviceId}/ping`
///
/// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#post_matrixclientv1appserviceappserviceidping).
async fn request_ping(
    State(queries): State<ServiceQueries>,
    MatrixRequest {
        from: service,
        request,
    }: MatrixRequest<request_ping::v1::Request>,
) -> Result<Response> {
    if request.appservice_id != service.registration.id {
        return Err(Error::forbidden(
            "the access token belongs to another application service",
        ));
    }
    if service.registration.url.is_none() {
        return Err(Error::refused(
            RefusalCode::UrlNotSet,
            "the registration of the application service has no URL",
        ));
    }
    let transaction_id = request.transaction_id.as_ref().map(|id| id.as_str());
    let failure = match queries.ping(&service, transaction_id).await {
        Ok(duration_ms) => {
            let duration = Duration::from_millis(duration_ms);
            let response = request_ping::v1::Response::new(duration);
            return Ok(MatrixResponse(response).into_response());
        }
        Err(failure) => failure,
    };
    Ok(match failure {
        PingFailure::Timeout => {
            let error = "the application service did not answer in time";
            let body = json!({ "errcode": "M_CONNECTION_TIMEOUT", "error": error });
            (StatusCode::GATEWAY_TIMEOUT, Json(body)).into_response()
        }
        PingFailure::Connection(error) => {
            let body = json!({ "errcode": "M_CONNECTION_FAILED", "error": error });
            (StatusCode::BAD_GATEWAY, Json(body)).into_response()
        }
        PingFailure::BadStatus { status, body } => {
            let error = format!("the application service answered with status {status}");
            let body = json!({
                "errcode": "M_BAD_STATUS", "error": error, "status": status, "body": body,
            });
            (StatusCode::BAD_GATEWAY, Json(body)).into_response()
        }
    })
}

/// `PUT /_matrix/client/*/directory/list/appservice/{networkId}/{roomId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#put_matrixclientv3directorylistappservicenetworkidroomid).
async fn set_room_visibility(
    State(rooms): State<Rooms>,
    MatrixRequest {
        from: service,
        request,
    }: MatrixRequest<set_room_visibility::v3::Request>,
) -> Result<MatrixResponse<set_room_visibility::v3::Response>> {
    check_visibility(&request.visibility)?;
    let room = rooms.memory.room(&request.room_id).await?;
    let network = NetworkListing {
        service_id: &service.registration.id,
        network: &request.network_id,
    };
    let is_listed = request.visibility == Visibility::Public;
    rooms
        .directory
        .set_listed_in_network(&room, network, is_listed)
        .await?;
    Ok(MatrixResponse(set_room_visibility::v3::Response::new()))
}
