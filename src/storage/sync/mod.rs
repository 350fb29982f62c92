//! The tables of sync.

pub mod roster;
