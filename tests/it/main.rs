//! The integration tests: one binary, one file a feature. They start the real server in this process, at a
//! free port with a data directory of its own, and speak HTTP to it.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod architecture;
mod database;
mod discovery;
mod errors;
mod harness;
mod operator;
mod shutdown;
mod tls;
