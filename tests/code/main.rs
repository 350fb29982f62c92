//! Tests that read the source: its layers, its circles of imports, and how plainly it speaks.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod architecture;
mod circles;
mod plain_words;
mod source;
