//! The protocol as pure functions: building, signing and authorizing events, state, history visibility, push rules.
//!
//! Nothing here is asynchronous, reads the time, draws randomness, or uses the database or the network.

mod client_event;
mod default_push_rules;
mod event_builder;
mod event_format;
mod event_template;
mod filter;
mod glob;
mod history_visibility;
mod ignored_users;
mod json_text;
mod owned_state;
mod pdu;
mod power_levels;
mod push_evaluation;
mod push_limits;
mod relation;
mod room_versions;
mod server_keys;
mod signed_json;
mod signing_key;
mod state_map;
mod state_resolution;
mod stripped_state;
mod timeline_event;
mod verified_event;

pub use self::{
    client_event::{Unsigned, client_event, federation_event, head, strip, stripped, sync_event},
    default_push_rules::default_rules,
    event_builder::{Draft, Site, authorize, build, redact_json},
    event_format::read_event,
    event_template::{Signed, Template, complete, template},
    filter::{
        RelationFilter, knows_format, wants_event, wants_global, wants_room, wants_room_data,
        wants_type_of,
    },
    history_visibility::{Membership, Visibility, may_see},
    ignored_users::{Invitation, Shield},
    json_text::{
        MAX_JSON_DEPTH, MAX_SERVER_JSON_DEPTH, canonical_object, canonical_text, check_depth,
        signed_object,
    },
    pdu::Pdu,
    power_levels::{check_power_levels, power_levels},
    push_evaluation::{
        Notice, RoomFacts, actions, asks_for_levels, default_notice, notice, possible_names,
    },
    push_limits::check_push_rules,
    relation::{RelatesTo, rel_type},
    room_versions::{OWNED_STATE_VERSIONS, STABLE_VERSIONS, rules},
    server_keys::{KnownKey, ServerKeys},
    signed_json::{is_signed_by, says_the_same, signature},
    signing_key::SigningKey,
    state_map::StateMap,
    state_resolution::{KnownEvents, Resolution, resolve},
    stripped_state::StrippedState,
    timeline_event::{Counters, Exception, InThread, Resolved, TimelineEvent},
    verified_event::{NeededKeys, Verified, auth_types, authorize_by_auth_events, needed_keys},
};
