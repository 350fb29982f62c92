//! Reading rooms: timelines, state, relations, search and the directory, as far as a user may see them.

pub(crate) mod access;
pub(crate) mod aggregations;
pub(crate) mod directory;
pub(crate) mod federation_format;
pub(crate) mod hierarchy;
pub(crate) mod ignored_users;
pub(crate) mod join_rules;
pub(crate) mod relation_filter;
pub(crate) mod search;
pub(crate) mod some_events;
pub(crate) mod state;
pub(crate) mod summary;
pub(crate) mod threads;
pub(crate) mod timeline;
pub(crate) mod timestamp_to_event;
