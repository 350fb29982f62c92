//! The client-server API, one file a chapter of the specification.

mod account;
mod account_data;
mod admin_register;
mod capabilities;
mod delayed_events;
mod devices;
mod directory;
mod discovery;
mod ephemeral;
mod filters;
mod knock;
mod login;
mod media;
mod membership;
mod messages;
mod peeking;
mod profile;
mod push_rules;
mod register;
mod reporting;
mod rooms;
mod send;
mod spaces;
mod state;
mod sync;
mod tags;
mod to_device;
mod upgrade;

use axum::Router;

pub(super) use self::sync::filter as sync_filter;

use super::app::App;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(account::routes())
        .merge(account_data::routes())
        .merge(admin_register::routes())
        .merge(capabilities::routes())
        .merge(delayed_events::routes())
        .merge(devices::routes())
        .merge(directory::routes())
        .merge(discovery::routes())
        .merge(ephemeral::routes())
        .merge(filters::routes())
        .merge(knock::routes())
        .merge(login::routes())
        .merge(membership::routes())
        .merge(messages::routes())
        .merge(media::routes())
        .merge(peeking::routes())
        .merge(profile::routes())
        .merge(push_rules::routes())
        .merge(register::routes())
        .merge(reporting::routes())
        .merge(rooms::routes())
        .merge(send::routes())
        .merge(spaces::routes())
        .merge(state::routes())
        .merge(sync::routes())
        .merge(tags::routes())
        .merge(to_device::routes())
        .merge(upgrade::routes())
}
