//! Push notifications: the pushers of a user and the list of notifications.

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{Method, StatusCode},
};
use ruma::api::client::push::{get_notifications, get_pushers, set_pusher};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    api::{
        App, AuthenticatedSession, MatrixRequest, MatrixResponse, RequestWithBody, endpoint,
        endpoint::{endpoint_at, object_text, read_body},
    },
    error::{Error, Result},
    matrix::MAX_JSON_DEPTH,
    sync::{NotificationSelection, Sync, parse_timeline_token},
    users::{PusherChange, PusherState, Users},
};

/// The paths of the endpoint that activates a pusher.
const ACTIVATION_PATHS: [&str; 2] = [
    "/_matrix/client/v3/pushers/ack",
    "/_matrix/client/unstable/org.matrix.msc4174/pushers/ack",
];
/// The names of the field that switches a pusher off: the one that the proposal suggests, and the one before it is
/// accepted.
const ENABLED_FIELDS: [&str; 2] = ["enabled", "org.matrix.msc3881.enabled"];

pub(super) fn routes() -> Router<App> {
    let mut router = Router::new();
    for path in ACTIVATION_PATHS {
        router = router.merge(endpoint_at(Method::POST, path, activate_pusher));
    }
    router
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
) -> Result<Json<Value>> {
    let pushers = users.pushers.list(&from).await?;
    Ok(Json(json!({ "pushers": pushers })))
}

/// `POST /_matrix/client/*/pushers/set`
///
/// A pusher can be switched off as in [MSC3881](https://github.com/matrix-org/matrix-spec-proposals/pull/3881), and can
/// use Web Push as in [MSC4174](https://github.com/matrix-org/matrix-spec-proposals/pull/4174).
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset).
async fn set_pusher(
    State(users): State<Users>,
    RequestWithBody {
        from,
        request,
        body,
    }: RequestWithBody<set_pusher::v3::Request>,
) -> Result<(StatusCode, Json<Value>)> {
    let change = PusherChange {
        action: request.action,
        is_enabled: is_enabled(&body)?,
    };
    let status = match users.pushers.set(&from, change).await? {
        PusherState::Active => StatusCode::OK,
        PusherState::AwaitsActivation => StatusCode::CREATED,
    };
    Ok((status, Json(json!({}))))
}

fn is_enabled(body: &Map<String, Value>) -> Result<bool> {
    match ENABLED_FIELDS.iter().find_map(|name| body.get(*name)) {
        None => Ok(true),
        Some(Value::Bool(is_enabled)) => Ok(*is_enabled),
        Some(_) => Err(Error::BadJson("enabled must be true or false".to_owned())),
    }
}

#[derive(Deserialize)]
struct ActivationBody {
    app_id: String,
    ack_token: String,
}

/// `POST /_matrix/client/*/pushers/ack`
///
/// See [MSC4174](https://github.com/matrix-org/matrix-spec-proposals/pull/4174).
async fn activate_pusher(
    State(app): State<App>,
    AuthenticatedSession(from): AuthenticatedSession,
    body: Body,
) -> Result<Json<Value>> {
    let body = read_body(body, app.config.limits.max_request_bytes).await?;
    let body = object_text(&body, MAX_JSON_DEPTH)?;
    let body: ActivationBody =
        serde_json::from_str(&body).map_err(|e| Error::BadJson(e.to_string()))?;
    let pushers = &app.users.pushers;
    pushers
        .activate(&from, &body.app_id, &body.ack_token)
        .await?;
    Ok(Json(json!({})))
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
