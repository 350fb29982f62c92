//! The server-server API, one file a chapter of the specification. `auth` proves who asks; `signed` reads what ruma
//! does not, and `written` writes answers that are too large to be in memory.

mod auth;
mod encryption;
mod events;
mod handshakes;
mod invite;
mod keys;
mod media;
mod openid;
mod public_rooms;
mod query;
mod signed;
mod third_party;
mod transactions;
mod version;
mod written;
mod x_matrix;

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
        .merge(events::routes())
        .merge(handshakes::routes())
        .merge(invite::routes())
        .merge(keys::routes())
        .merge(media::routes())
        .merge(public_rooms::routes())
        .merge(query::routes())
        .merge(third_party::routes())
        .merge(transactions::routes())
        .merge(version::routes())
}
