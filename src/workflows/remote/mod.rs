//! Rooms on other servers: joining and leaving them, knocking, inviting, history, and the hierarchy of spaces.
//!
//! Each operation tries several servers, one after another, until one succeeds.

mod backfill;
mod candidates;
mod entry_route;
mod entry_services;
mod hierarchy;
mod invite;
mod join;
mod knock;
mod leave;
mod membership_locks;
mod running_joins;
mod single_event;

pub use self::{
    backfill::HistoryFetcher,
    hierarchy::SpaceReader,
    invite::RemoteInvitations,
    join::{JoinRequest, RoomJoins},
    knock::RoomKnocks,
    leave::RemoteLeaves,
    single_event::FetchedEvent,
};
pub(super) use self::{
    candidates::ServerFinder, entry_route::EntryRoutes, entry_services::EntryServices,
    membership_locks::MembershipLocks,
};
