//! The server-server API, one file for each chapter of the specification. `auth` authenticates servers,
//! `signed_request` parses requests for which ruma's types are not enough, and `streamed_response` streams
//! responses that are too large for memory.

mod auth;
mod encryption;
mod events;
mod invite;
mod join_leave_knock;
mod keys;
mod media;
mod openid;
mod public_rooms;
mod query;
mod signed_request;
mod streamed_response;
mod third_party_invites;
mod transactions;
mod version;
mod x_matrix;

use axum::Router;

use super::app::App;
use crate::config::Config;

pub(super) fn routes(config: &Config) -> Router<App> {
    // Services other than servers also use this endpoint to identify a user.
    let always = openid::routes();
    if !config.federation.enabled {
        return always;
    }
    always
        .merge(encryption::routes())
        .merge(events::routes())
        .merge(join_leave_knock::routes())
        .merge(invite::routes())
        .merge(keys::routes())
        .merge(media::routes())
        .merge(public_rooms::routes())
        .merge(query::routes())
        .merge(third_party_invites::routes())
        .merge(transactions::routes())
        .merge(version::routes())
}
