//! The client-server API, one file for each chapter of the specification.

mod account;
mod account_data;
mod admin_register;
mod administration;
mod application_services;
mod auth_pages;
mod capabilities;
mod delayed_events;
mod devices;
mod directory;
mod discovery;
mod email_addresses;
mod email_pages;
mod empty_fields;
mod ephemeral;
mod filters;
mod interactive_auth;
mod key_backup;
mod keys;
mod knock;
mod login;
mod media;
mod membership;
mod messages;
mod openid;
mod optional_fields;
mod peeking;
mod profile;
mod push;
mod push_rules;
mod register;
mod relations;
mod rendezvous;
mod reporting;
mod rooms;
mod rtc;
mod search;
mod send;
mod server_notices;
mod single_event;
mod sliding_sync;
mod spaces;
mod state;
mod sync;
mod tags;
mod third_party_ids;
mod third_party_networks;
mod threads;
mod to_device;
mod upgrade;
mod user_directory;
mod voip;

use axum::Router;

pub(super) use self::{
    auth_pages::auth_done_page,
    email_addresses::EmailTokenRequest,
    ephemeral::DEFAULT_TYPING_TIMEOUT,
    media::{disposition_of_file, disposition_of_thumbnail},
    profile::charge_profile_change,
    sync::filter as sync_filter,
};

use super::app::App;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(account::routes())
        .merge(account_data::routes())
        .merge(admin_register::routes())
        .merge(administration::routes())
        .merge(application_services::routes())
        .merge(auth_pages::routes())
        .merge(capabilities::routes())
        .merge(delayed_events::routes())
        .merge(devices::routes())
        .merge(directory::routes())
        .merge(discovery::routes())
        .merge(email_addresses::routes())
        .merge(email_pages::routes())
        .merge(ephemeral::routes())
        .merge(filters::routes())
        .merge(key_backup::routes())
        .merge(keys::routes())
        .merge(knock::routes())
        .merge(login::routes())
        .merge(media::routes())
        .merge(membership::routes())
        .merge(messages::routes())
        .merge(single_event::routes())
        .merge(openid::routes())
        .merge(peeking::routes())
        .merge(profile::routes())
        .merge(push::routes())
        .merge(push_rules::routes())
        .merge(register::routes())
        .merge(relations::routes())
        .merge(rendezvous::routes())
        .merge(reporting::routes())
        .merge(rooms::routes())
        .merge(rtc::routes())
        .merge(search::routes())
        .merge(send::routes())
        .merge(server_notices::routes())
        .merge(sliding_sync::routes())
        .merge(spaces::routes())
        .merge(state::routes())
        .merge(sync::routes())
        .merge(tags::routes())
        .merge(third_party_ids::routes())
        .merge(third_party_networks::routes())
        .merge(threads::routes())
        .merge(to_device::routes())
        .merge(upgrade::routes())
        .merge(user_directory::routes())
        .merge(voip::routes())
}
