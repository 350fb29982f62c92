//! Server notices, at the path that the tools of other homeservers use.

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    routing::{MethodRouter, post, put},
};
use ruma::{OwnedUserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::{
        App, AuthenticatedSession,
        endpoint::{PathParams, object_text, read_body},
    },
    error::{Error, Result},
    matrix::MAX_JSON_DEPTH,
    users::Session,
    workflows::ServerNotice,
};

pub(super) fn routes() -> Router<App> {
    let send: MethodRouter<App> = post(send_server_notice);
    let send_once: MethodRouter<App> = put(send_server_notice_once);
    Router::new()
        .route("/_synapse/admin/v1/send_server_notice", send)
        .route("/_synapse/admin/v1/send_server_notice/{txn_id}", send_once)
}

#[derive(Deserialize)]
struct NoticeBody {
    user_id: OwnedUserId,
    #[serde(rename = "type", default = "message")]
    kind: TimelineEventType,
    content: Box<RawValue>,
}

fn message() -> TimelineEventType {
    TimelineEventType::RoomMessage
}

/// `POST /_synapse/admin/v1/send_server_notice`
async fn send_server_notice(
    State(app): State<App>,
    AuthenticatedSession(from): AuthenticatedSession,
    body: Body,
) -> Result<Json<Value>> {
    send(&app, &from, body, None).await
}

/// `PUT /_synapse/admin/v1/send_server_notice/{txnId}`
async fn send_server_notice_once(
    State(app): State<App>,
    AuthenticatedSession(from): AuthenticatedSession,
    PathParams(txn_id): PathParams<String>,
    body: Body,
) -> Result<Json<Value>> {
    send(&app, &from, body, Some(txn_id)).await
}

async fn send(
    app: &App,
    from: &Session,
    body: Body,
    txn_id: Option<String>,
) -> Result<Json<Value>> {
    if !from.is_admin {
        return Err(Error::forbidden("only administrators may do this"));
    }
    let body = read_body(body, app.config.limits.max_request_bytes).await?;
    let body = object_text(&body, MAX_JSON_DEPTH)?;
    let body: NoticeBody =
        serde_json::from_str(&body).map_err(|e| Error::BadJson(e.to_string()))?;
    let notice = ServerNotice {
        user_id: body.user_id,
        kind: body.kind,
        content: body.content,
        txn_id,
    };
    let event_id = app
        .workflows
        .notices
        .send_server_notice(from, notice)
        .await?;
    Ok(Json(json!({ "event_id": event_id })))
}
