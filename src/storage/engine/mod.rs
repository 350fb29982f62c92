//! The engine under the tables: connections, transactions, the journal, migrations and the seam between SQLite and
//! PostgreSQL. It knows no table but the journal's own.

pub(crate) mod change;
pub(crate) mod dialect;
pub(crate) mod failure;
pub mod fills;
pub(crate) mod journal;
pub(crate) mod lock;
pub(crate) mod migrate;
pub(crate) mod postgres_text;
pub(crate) mod probe;
pub(crate) mod query;
pub mod strings;
