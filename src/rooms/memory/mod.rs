//! The rooms and memberships that are kept in memory, and how they follow the journal.

pub(crate) mod journal_cache;
pub(crate) mod load;
pub(crate) mod recent_events;
pub(crate) mod room;
pub(crate) mod timetable;
pub(crate) mod user_rooms;
