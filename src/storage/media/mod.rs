//! The tables of uploaded and remote media.

pub mod media_table;
pub mod reserved_media_ids;
