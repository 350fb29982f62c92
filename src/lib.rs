//! Parlour: a Matrix homeserver in one binary.
//!
//! The modules are layers, lowest first. `docs/architecture.md` shows and explains them, and
//! `tests/code/architecture.rs` checks the imports against that picture.

pub mod api;
pub mod application_services;
pub mod calls;
pub mod cli;
pub mod clock;
pub mod config;
pub mod devices;
pub mod ephemeral;
pub mod error;
pub mod federation;
pub mod health;
pub mod json_web_token;
pub mod keyed_semaphore;
pub mod mail;
pub mod matrix;
pub mod media;
pub mod numbers;
pub mod outbound;
pub mod push;
pub mod rooms;
pub mod storage;
pub mod sync;
pub mod tasks;
pub mod users;
pub mod workflows;
