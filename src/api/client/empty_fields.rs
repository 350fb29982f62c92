//! The lists and maps that responses of the client-server API contain even when they are empty.
//!
//! A response that is not listed here already has them, or its handler writes them.

use ruma::api::client::{
    account::get_3pids,
    context::get_context,
    keys::{claim_keys, get_keys, upload_signatures},
    message::get_message_events,
    peeking::get_current_state,
};

use crate::api::complete_response::EmptyFields;

impl EmptyFields for get_3pids::v3::Response {
    const LIST_FIELDS: &'static [&'static str] = &["threepids"];
}

impl EmptyFields for get_context::v3::Response {
    const LIST_FIELDS: &'static [&'static str] = &["events_before", "events_after", "state"];
}

impl EmptyFields for claim_keys::v3::Response {
    const MAP_FIELDS: &'static [&'static str] = &["failures", "one_time_keys"];
}

impl EmptyFields for get_keys::v3::Response {
    const MAP_FIELDS: &'static [&'static str] = &[
        "failures",
        "device_keys",
        "master_keys",
        "self_signing_keys",
        "user_signing_keys",
    ];
}

impl EmptyFields for upload_signatures::v3::Response {
    const MAP_FIELDS: &'static [&'static str] = &["failures"];
}

impl EmptyFields for get_message_events::v3::Response {
    const LIST_FIELDS: &'static [&'static str] = &["chunk", "state"];
}

impl EmptyFields for get_current_state::v3::Response {
    const LIST_FIELDS: &'static [&'static str] = &["account_data", "state"];
}
