//! Unread counts, read markers and receipts.

pub(crate) mod push_counts;
pub(crate) mod read_markers;
pub(crate) mod receipts;
