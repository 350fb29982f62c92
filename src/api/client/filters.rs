//! Filtering.

use axum::{Json, Router, extract::State};
use ruma::api::client::filter::{create_filter, get_filter};
use serde_json::Value;

use crate::{
    api::{App, MatrixRequest, MatrixResponse, RequestWithBody, endpoint},
    error::Result,
    users::{SyncFilter, Users},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<create_filter::v3::Request, _>(create_filter))
        .merge(endpoint::<get_filter::v3::Request, _>(get_filter))
}

/// `POST /_matrix/client/*/user/{userId}/filter`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridfilter).
async fn create_filter(
    State(users): State<Users>,
    RequestWithBody {
        from,
        request,
        body,
    }: RequestWithBody<create_filter::v3::Request>,
) -> Result<MatrixResponse<create_filter::v3::Response>> {
    let filter = SyncFilter::parse(&Value::from(body).to_string())?;
    let id = users
        .filters
        .create(&from, &request.user_id, &filter)
        .await?;
    Ok(MatrixResponse(create_filter::v3::Response::new(id)))
}

/// `GET /_matrix/client/*/user/{userId}/filter/{filterId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3useruseridfilterfilterid).
async fn get_filter(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<get_filter::v3::Request>,
) -> Result<Json<Value>> {
    from.must_be_user(&request.user_id)?;
    let filter = users.filters.get(from.user, &request.filter_id).await?;
    Ok(Json(filter.to_json()?))
}
