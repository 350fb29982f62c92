//! Notices of the server to its users, at the path where other homeservers' tools look for it.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    routing::{MethodRouter, post, put},
};
use ruma::{OwnedUserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::{App, Asker, endpoint::object_text},
    error::{Error, Result},
    matrix::MAX_JSON_DEPTH,
    users::Session,
    workflows::{Notice, Workflows},
};

pub(super) fn routes() -> Router<App> {
    let send: MethodRouter<App> = post(send_server_notice);
    let send_once: MethodRouter<App> = put(send_server_notice_once);
    Router::new()
        .route("/_synapse/admin/v1/send_server_notice", send)
        .route("/_synapse/admin/v1/send_server_notice/{txn_id}", send_once)
}

#[derive(Deserialize)]
struct Body {
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
    State(workflows): State<Workflows>,
    Asker(from): Asker,
    body: Bytes,
) -> Result<Json<Value>> {
    send(&workflows, &from, &body, None).await
}

/// `PUT /_synapse/admin/v1/send_server_notice/{txnId}`
async fn send_server_notice_once(
    State(workflows): State<Workflows>,
    Asker(from): Asker,
    Path(txn_id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>> {
    send(&workflows, &from, &body, Some(txn_id)).await
}

async fn send(
    workflows: &Workflows,
    from: &Session,
    body: &[u8],
    txn_id: Option<String>,
) -> Result<Json<Value>> {
    if !from.is_admin {
        return Err(Error::forbidden("only administrators may do this"));
    }
    let body = object_text(body, MAX_JSON_DEPTH)?;
    let body: Body = serde_json::from_str(&body).map_err(|e| Error::BadJson(e.to_string()))?;
    let notice = Notice {
        user_id: body.user_id,
        kind: body.kind,
        content: body.content,
        txn_id,
    };
    let event_id = workflows.send_server_notice(from, notice).await?;
    Ok(Json(json!({ "event_id": event_id })))
}
