//! The integration tests: one binary, one file a feature. They start the real server in this process, at a
//! free port with a data directory of its own, and speak HTTP to it.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod account;
mod account_data;
mod architecture;
mod chat;
mod crash;
mod database;
mod delayed_events;
mod devices;
mod directory;
mod discovery;
mod errors;
mod filters;
mod garbage;
mod harness;
mod ignoring;
mod knock;
mod login;
mod media;
mod membership;
mod messages;
mod operator;
mod peeking;
mod portable_sql;
mod presence;
mod profile;
mod program;
mod push_rules;
mod receipts;
mod register;
mod reporting;
mod rooms;
mod send;
mod shutdown;
mod spaces;
mod state_after;
mod sync;
mod sync_folds;
mod sync_rooms;
mod tls;
mod to_device;
mod typing;
mod upgrade;
mod visibility;
mod websocket;
