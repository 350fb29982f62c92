//! The client-server API, one file a chapter of the specification.

mod account;
mod account_data;
mod admin_register;
mod capabilities;
mod devices;
mod directory;
mod discovery;
mod ephemeral;
mod filters;
mod login;
mod media;
mod membership;
mod messages;
mod profile;
mod push_rules;
mod register;
mod relations;
mod rooms;
mod search;
mod send;
mod state;
mod sync;
mod tags;
mod threads;
mod to_device;

use axum::Router;

pub(super) use self::sync::filter as sync_filter;

use super::app::App;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(account::routes())
        .merge(account_data::routes())
        .merge(admin_register::routes())
        .merge(capabilities::routes())
        .merge(devices::routes())
        .merge(directory::routes())
        .merge(discovery::routes())
        .merge(ephemeral::routes())
        .merge(filters::routes())
        .merge(login::routes())
        .merge(membership::routes())
        .merge(messages::routes())
        .merge(media::routes())
        .merge(profile::routes())
        .merge(push_rules::routes())
        .merge(register::routes())
        .merge(relations::routes())
        .merge(rooms::routes())
        .merge(search::routes())
        .merge(send::routes())
        .merge(state::routes())
        .merge(sync::routes())
        .merge(tags::routes())
        .merge(threads::routes())
        .merge(to_device::routes())
}
