//! Capabilities negotiation.

use std::sync::Arc;

use axum::{Json, Router, extract::State};
use ruma::api::client::discovery::get_capabilities;
use serde_json::{Map, Value, json};

use crate::{
    api::{App, MatrixRequest, endpoint},
    config::Config,
    error::Result,
    matrix::{OWNED_STATE_VERSIONS, STABLE_VERSIONS},
    rooms::{MAX_DELAY, MAX_SCHEDULED_EVENTS},
    users::Users,
};

pub(super) fn routes() -> Router<App> {
    endpoint::<get_capabilities::v3::Request, _>(get_capabilities)
}

/// `GET /_matrix/client/*/capabilities`
///
/// ruma's response omits values that are the specification's defaults. Some clients need them, so
/// all are written here.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3capabilities).
async fn get_capabilities(
    State(config): State<Arc<Config>>,
    State(users): State<Users>,
    MatrixRequest { from, .. }: MatrixRequest<get_capabilities::v3::Request>,
) -> Result<Json<Value>> {
    let web_push_key = users.pushers.web_push_key().await?;
    Ok(Json(json!({
        "capabilities": {
            "m.room_versions": {
                "default": config.server.default_room_version,
                "available": room_versions(),
            },
            "m.change_password": { "enabled": true },
            "m.set_displayname": { "enabled": true },
            "m.set_avatar_url": { "enabled": true },
            "m.profile_fields": { "enabled": true },
            "m.3pid_changes": { "enabled": config.mail.smtp_host.is_some() },
            "m.account_moderation": { "suspend": from.is_admin, "lock": from.is_admin },
            "m.get_login_token": { "enabled": !from.is_guest },
            "org.matrix.msc4140.delayed_events": {
                "max_delay_ms": u64::try_from(MAX_DELAY.as_millis()).unwrap_or(u64::MAX),
                "max_scheduled": MAX_SCHEDULED_EVENTS,
            },
            "org.matrix.msc4174.webpush": {
                "enabled": true,
                "vapid": web_push_key.public_key(),
            },
        },
    })))
}

fn room_versions() -> Map<String, Value> {
    let stable = STABLE_VERSIONS.map(|version| (version.to_string(), json!("stable")));
    let unstable = OWNED_STATE_VERSIONS.map(|version| (version.to_owned(), json!("unstable")));
    stable.into_iter().chain(unstable).collect()
}
