//! The server-server API, one file a chapter of the specification.
//!
//! Transactions are not taken yet: `PUT /_matrix/federation/v1/send/{txnId}` will stand here, and hand the events
//! and EDUs of an origin that `auth` has proved down to `federation`.

mod auth;
mod encryption;
mod keys;
mod media;
mod openid;
mod public_rooms;
mod query;
mod version;

use axum::Router;

use super::app::App;
use crate::config::Config;

pub(super) fn routes(config: &Config) -> Router<App> {
    // Who somebody is concerns services that are no servers, too.
    let always = openid::routes();
    if !config.federation.enabled {
        return always;
    }
    always
        .merge(encryption::routes())
        .merge(keys::routes())
        .merge(media::routes())
        .merge(public_rooms::routes())
        .merge(query::routes())
        .merge(version::routes())
}
