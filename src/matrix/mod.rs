//! The protocol as pure functions: events, their building, signing and authorization, state, visibility.
//!
//! Nothing here is asynchronous, reads the time, draws randomness, or touches the database or the network.

mod build;
mod client_event;
mod filter;
mod pdu;
mod power_levels;
mod push;
mod relation;
mod signing_key;
mod state;
mod timeline_event;
mod visibility;

pub use self::{
    build::{Draft, Site, authorize, build, redact_json},
    client_event::{Unsigned, client_event, head, stripped, sync_event},
    filter::{
        RelationFilter, wants_event, wants_global, wants_room, wants_room_data, wants_type_of,
    },
    pdu::Pdu,
    power_levels::power_levels,
    push::{Notice, RoomFacts, default_notice, default_rules, notice, possible_names},
    relation::{RelatesTo, rel_type},
    signing_key::SigningKey,
    state::StateMap,
    timeline_event::{Counters, Exception, InThread, TimelineEvent},
    visibility::{Membership, Visibility, may_see},
};

/// The room versions that this server supports.
pub const SUPPORTED_VERSIONS: [ruma::RoomVersionId; 7] = [
    ruma::RoomVersionId::V6,
    ruma::RoomVersionId::V7,
    ruma::RoomVersionId::V8,
    ruma::RoomVersionId::V9,
    ruma::RoomVersionId::V10,
    ruma::RoomVersionId::V11,
    ruma::RoomVersionId::V12,
];
