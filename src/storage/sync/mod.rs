//! The tables of sync.

pub mod room_list;
