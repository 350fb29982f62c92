//! Answers other servers' queries about users and rooms.

use axum::{Router, extract::State};
use ruma::{
    api::federation::query::{
        get_custom_information, get_profile_information, get_room_information,
    },
    profile::UserProfile,
};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    error::{Error, Result},
    rooms::Rooms,
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_profile_information::v1::Request, _>(
            get_profile_information,
        ))
        .merge(endpoint::<get_room_information::v1::Request, _>(
            get_room_information,
        ))
        .merge(endpoint::<get_custom_information::v1::Request, _>(
            get_custom_information,
        ))
}

/// `GET /_matrix/federation/v1/query/{queryType}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryquerytype).
async fn get_custom_information(
    MatrixRequest { request, .. }: MatrixRequest<get_custom_information::v1::Request>,
) -> Error {
    Error::not_found(format!(
        "there are no queries of type {}",
        request.query_type
    ))
}

/// `GET /_matrix/federation/v1/query/profile`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryprofile).
async fn get_profile_information(
    State(workflows): State<Workflows>,
    State(rooms): State<Rooms>,
    MatrixRequest { request, .. }: MatrixRequest<get_profile_information::v1::Request>,
) -> Result<MatrixResponse<get_profile_information::v1::Response>> {
    let user_id = &request.user_id;
    if !rooms.memory.is_local(user_id) {
        return Err(Error::invalid_param("the user belongs to another server"));
    }
    let mut profile = workflows.profiles.profile(user_id).await?;
    if let Some(field) = &request.field {
        // "If the user does not have a particular field set on their profile, the server MUST either exclude it
        // from the response body or give it the value `null`."
        let value = profile.get(field.as_str()).cloned();
        profile = UserProfile::new();
        if let Some(value) = value {
            profile.set(field.to_string(), value);
        }
    }
    Ok(MatrixResponse(profile.into()))
}

/// `GET /_matrix/federation/v1/query/directory`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1querydirectory).
async fn get_room_information(
    State(workflows): State<Workflows>,
    State(rooms): State<Rooms>,
    MatrixRequest { request, .. }: MatrixRequest<get_room_information::v1::Request>,
) -> Result<MatrixResponse<get_room_information::v1::Response>> {
    let alias = &request.room_alias;
    if alias.server_name() != rooms.memory.server_name() {
        return Err(Error::invalid_param("the alias belongs to another server"));
    }
    let (room_id, servers) = workflows.directory.resolve_alias(alias).await?;
    let response = get_room_information::v1::Response::new(room_id, servers);
    Ok(MatrixResponse(response))
}
