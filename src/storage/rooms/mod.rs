//! The tables of rooms: events, state, memberships, relations, receipts and whatever else `crate::rooms` stores.

pub mod aliases;
pub mod arrived_events;
pub mod delayed_events;
pub mod events;
pub mod expiring_invitations;
pub mod gaps;
pub mod graph;
pub mod invite_links;
pub mod memberships;
pub mod receipts;
pub mod relations;
pub mod reports;
pub mod room_deletion;
pub mod room_table;
pub mod search;
pub mod state;
pub mod thread_subscriptions;
pub mod threads;
pub mod unread;
