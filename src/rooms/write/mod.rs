//! Changing rooms on behalf of users of this server.

pub(crate) mod create;
pub(crate) mod delayed_events;
pub(crate) mod deletion;
pub(crate) mod expiring_invitations;
pub(crate) mod invite_links;
pub(crate) mod membership;
pub(crate) mod policy_server;
pub(crate) mod removal;
pub(crate) mod reports;
pub(crate) mod send;
pub(crate) mod upgrade;
