//! The log of events: the only code that adds an event to a room.

pub(crate) mod append;
pub(crate) mod backfill_columns;
pub(crate) mod redactions;
pub(crate) mod relations;
pub(crate) mod resolution;
pub(crate) mod snapshots;
