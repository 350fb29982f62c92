//! Push notifications: the pushers of a user and the list of notifications.

use axum::{Router, extract::State};
use ruma::api::client::push::{get_notifications, get_pushers, set_pusher};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    error::Result,
    sync::{NotificationSelection, Sync, parse_timeline_token},
    users::Users,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_pushers::v3::Request, _>(get_pushers))
        .merge(endpoint::<set_pusher::v3::Request, _>(set_pusher))
        .merge(endpoint::<get_notifications::v3::Request, _>(
            get_notifications,
        ))
}

/// `GET /_matrix/client/*/pushers`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushers).
async fn get_pushers(
    State(users): State<Users>,
    MatrixRequest { from, .. }: MatrixRequest<get_pushers::v3::Request>,
) -> Result<MatrixResponse<get_pushers::v3::Response>> {
    let pushers = users.pushers.list(&from).await?;
    Ok(MatrixResponse(get_pushers::v3::Response::new(pushers)))
}

/// `POST /_matrix/client/*/pushers/set`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset).
async fn set_pusher(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<set_pusher::v3::Request>,
) -> Result<MatrixResponse<set_pusher::v3::Response>> {
    users.pushers.set(&from, request.action).await?;
    Ok(MatrixResponse(set_pusher::v3::Response::new()))
}

/// `GET /_matrix/client/*/notifications`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3notifications).
async fn get_notifications(
    State(sync): State<Sync>,
    MatrixRequest { from, request }: MatrixRequest<get_notifications::v3::Request>,
) -> Result<MatrixResponse<get_notifications::v3::Response>> {
    let only = match request.only.as_deref() {
        Some("highlight") => NotificationSelection::Highlights,
        _ => NotificationSelection::Everything,
    };
    let start = request
        .from
        .as_deref()
        .map(parse_timeline_token)
        .transpose()?;
    let limit = request.limit.map(u64::from);
    let response = sync.notifications(&from, start, limit, only).await?;
    Ok(MatrixResponse(response))
}
