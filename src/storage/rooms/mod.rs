//! The tables of rooms: events, state, memberships, relations, receipts and everything else that `crate::rooms` stores.

pub mod aliases;
pub mod delayed_events;
pub mod event_graph;
pub mod events;
pub mod expiring_invites;
pub mod invite_links;
pub mod memberships;
pub mod personal_notifications;
pub mod queued_events;
pub mod receipts;
pub mod related_redactions;
pub mod relations;
pub mod reports;
pub mod room_deletion;
pub mod room_table;
pub mod running_counters;
pub mod state_snapshots;
pub mod sticky_events;
pub mod text_index;
pub mod thread_subscriptions;
pub mod threads;
pub mod timeline_gaps;
pub mod unread_counts;
