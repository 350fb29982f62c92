//! The tables of federation: what is to be sent to other servers, and their keys.

pub mod outbox;
pub mod server_keys;
