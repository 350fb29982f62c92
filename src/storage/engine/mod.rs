//! The engine under the tables: connections, transactions, the journal, migrations and the seam between SQLite and
//! PostgreSQL. It knows no table but the journal's own.

pub mod backfilled_tables;
pub(crate) mod change;
pub(crate) mod database_check;
pub(crate) mod dialect;
pub(crate) mod directory_lock;
pub(crate) mod failure;
pub mod interned_strings;
mod interning;
pub(crate) mod journal;
pub(crate) mod migrations;
pub(crate) mod postgres_text;
pub(crate) mod query;
