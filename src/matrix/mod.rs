//! The protocol as pure functions: building, signing and authorizing events, state, history visibility, push rules.
//!
//! Nothing here is asynchronous, reads the time, draws randomness, or uses the database or the network.

mod client_event;
mod default_push_rules;
mod event_builder;
mod event_format;
mod event_order;
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
mod room_notifications;
mod room_versions;
mod server_keys;
mod signed_json;
mod signing_key;
mod state_map;
mod state_resolution;
mod sticky_duration;
mod stripped_state;
mod timeline_event;
mod verified_event;

pub use self::{
    client_event::{
        UnsignedFields, client_event, federation_event, strip_remote_event, stripped_state_event,
        sync_event, write_event_head,
    },
    default_push_rules::{counting_rules, default_rules},
    event_builder::{EventContext, EventDraft, authorize, build_event, redact_json},
    event_format::read_event,
    event_order::sort_topologically,
    event_template::{CompletedEvent, EventTemplate, build_template, complete_template},
    filter::{
        RelationFilter, is_known_format, wants_event, wants_global, wants_room, wants_room_data,
        wants_type_of,
    },
    history_visibility::{EventVisibility, MembershipPeriod, may_see_event},
    ignored_users::{IgnoreSettings, InviteTreatment},
    json_text::{
        MAX_JSON_DEPTH, MAX_SERVER_JSON_DEPTH, canonical_object, canonical_text, check_depth,
        signed_object,
    },
    pdu::Pdu,
    power_levels::{check_power_levels, power_levels},
    push_evaluation::{
        PushOutcome, RoomFacts, default_push_outcome, depends_on_power_levels, matched_rule,
        possible_names, push_actions,
    },
    push_limits::check_push_rules,
    relation::{RelatesTo, rel_type},
    room_notifications::{RoomCounter, RoomPushRules, is_personal_notification},
    room_versions::{OWNED_STATE_VERSIONS, STABLE_VERSIONS, room_version_rules},
    server_keys::{KnownKey, ServerKeys},
    signed_json::{is_equal_without_signatures, is_signed_by_user, user_signature},
    signing_key::SigningKey,
    state_map::{StateMap, StateMapKey},
    state_resolution::{KnownEvents, ResolutionResult, resolve_state},
    sticky_duration::StickyDuration,
    stripped_state::StrippedState,
    timeline_event::{
        CountException, NotificationCounters, ResolvedState, ThreadPosition, TimelineEvent,
    },
    verified_event::{
        NeededKeys, VerifiedEvent, auth_types, authorize_by_auth_events, needed_keys,
    },
};
