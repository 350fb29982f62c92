//! Room tagging.

use axum::{Router, extract::State};
use ruma::api::client::tag::{create_tag, delete_tag, get_tags};

use crate::{
    api::{App, Incoming, Outgoing, endpoint},
    error::Result,
    users::Users,
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
    Incoming { from, request }: Incoming<get_tags::v3::Request>,
) -> Result<Outgoing<get_tags::v3::Response>> {
    let tags = users
        .tags(&from, &request.user_id, &request.room_id)
        .await?;
    Ok(Outgoing(get_tags::v3::Response::new(tags)))
}

/// `PUT /_matrix/client/*/user/{userId}/rooms/{roomId}/tags/{tag}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag).
async fn create_tag(
    State(users): State<Users>,
    Incoming { from, request }: Incoming<create_tag::v3::Request>,
) -> Result<Outgoing<create_tag::v3::Response>> {
    let tag = (request.tag.as_str(), request.tag_info);
    users
        .set_tag(&from, &request.user_id, &request.room_id, tag)
        .await?;
    Ok(Outgoing(create_tag::v3::Response::new()))
}

/// `DELETE /_matrix/client/*/user/{userId}/rooms/{roomId}/tags/{tag}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag).
async fn delete_tag(
    State(users): State<Users>,
    Incoming { from, request }: Incoming<delete_tag::v3::Request>,
) -> Result<Outgoing<delete_tag::v3::Response>> {
    users
        .remove_tag(&from, &request.user_id, &request.room_id, &request.tag)
        .await?;
    Ok(Outgoing(delete_tag::v3::Response::new()))
}
