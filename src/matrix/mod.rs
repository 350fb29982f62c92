//! The protocol as pure functions: building, signing and authorizing events, state, history visibility, push rules.
//!
//! Nothing here is asynchronous, reads the time, draws randomness, or uses the database or the network.

mod build;
mod client_event;
mod default_rules;
mod event_format;
mod filter;
mod glob;
mod json_text;
mod owned_state;
mod pdu;
mod power_levels;
mod push;
mod push_limits;
mod relation;
mod resolve;
mod server_keys;
mod shield;
mod signed_json;
mod signing_key;
mod state;
mod stripped_state;
mod template;
mod timeline_event;
mod verified;
mod versions;
mod visibility;

pub use self::{
    build::{Draft, Site, authorize, build, redact_json},
    client_event::{Unsigned, client_event, federation_event, head, strip, stripped, sync_event},
    default_rules::default_rules,
    event_format::read_event,
    filter::{
        RelationFilter, knows_format, wants_event, wants_global, wants_room, wants_room_data,
        wants_type_of,
    },
    json_text::{
        MAX_JSON_DEPTH, MAX_SERVER_JSON_DEPTH, canonical_object, canonical_text, check_depth,
        signed_object,
    },
    pdu::Pdu,
    power_levels::{check_power_levels, power_levels},
    push::{Notice, RoomFacts, actions, asks_for_levels, default_notice, notice, possible_names},
    push_limits::check_push_rules,
    relation::{RelatesTo, rel_type},
    resolve::{KnownEvents, Resolution, resolve},
    server_keys::{KnownKey, ServerKeys},
    shield::{Invitation, Shield},
    signed_json::{is_signed_by, says_the_same, signature},
    signing_key::SigningKey,
    state::StateMap,
    stripped_state::StrippedState,
    template::{Signed, Template, complete, template},
    timeline_event::{Counters, Exception, InThread, Resolved, TimelineEvent},
    verified::{NeededKeys, Verified, auth_types, authorize_by_auth_events, needed_keys},
    versions::{OWNED_STATE_VERSIONS, STABLE_VERSIONS, rules},
    visibility::{Membership, Visibility, may_see},
};
