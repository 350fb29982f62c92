//! Tests that read the source: its layers, its circles of imports, and how plainly it speaks.

mod architecture;
mod circles;
mod plain_words;
mod source;
