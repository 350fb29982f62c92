//! Room tagging.

use axum::{Router, extract::State};
use ruma::api::client::tag::{create_tag, delete_tag, get_tags};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    error::Result,
    users::{NewRoomTag, Users},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_tags::v3::Request, _>(get_tags))
        .merge(endpoint::<create_tag::v3::Request, _>(create_tag))
        .merge(endpoint::<delete_tag::v3::Request, _>(delete_tag))
}

/// `GET /_matrix/client/*/user/{userId}/rooms/{roomId}/tags`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridroomsroomidtags).
async fn get_tags(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<get_tags::v3::Request>,
) -> Result<MatrixResponse<get_tags::v3::Response>> {
    let tags = users
        .room_tags
        .of_room(&from, &request.user_id, &request.room_id)
        .await?;
    Ok(MatrixResponse(get_tags::v3::Response::new(tags)))
}

/// `PUT /_matrix/client/*/user/{userId}/rooms/{roomId}/tags/{tag}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag).
async fn create_tag(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<create_tag::v3::Request>,
) -> Result<MatrixResponse<create_tag::v3::Response>> {
    let tag = NewRoomTag {
        name: &request.tag,
        info: request.tag_info,
    };
    users
        .room_tags
        .set(&from, &request.user_id, &request.room_id, tag)
        .await?;
    Ok(MatrixResponse(create_tag::v3::Response::new()))
}

/// `DELETE /_matrix/client/*/user/{userId}/rooms/{roomId}/tags/{tag}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag).
async fn delete_tag(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<delete_tag::v3::Request>,
) -> Result<MatrixResponse<delete_tag::v3::Response>> {
    users
        .room_tags
        .remove(&from, &request.user_id, &request.room_id, &request.tag)
        .await?;
    Ok(MatrixResponse(delete_tag::v3::Response::new()))
}
