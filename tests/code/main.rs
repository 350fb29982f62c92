//! Tests that read the source: its layers, its import cycles, and its wording.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod architecture;
mod cycles;
mod plain_words;
mod source;
