//! Rooms shared with other servers: events that they send, and answers to their requests.

pub(crate) mod backfill;
pub(crate) mod erased_users;
pub(crate) mod invite_remote_user;
pub(crate) mod join_import;
pub(crate) mod make_and_send_join;
pub(crate) mod missing_events;
pub(crate) mod outgoing;
pub(crate) mod outliers;
pub(crate) mod receive;
pub(crate) mod remote_membership;
pub(crate) mod serve_events;
pub(crate) mod serve_state;
pub(crate) mod stored_inbox;
