//! The database: one SQL text for SQLite and PostgreSQL, and the journal for all changes.
//!
//! A table file has the queries on one subject, and makes no decisions and no commits. `journal` is the only writer,
//! `query` abstracts from the two drivers, and `dialect` has the few differences between the databases.

mod engine;
#[cfg(test)]
pub(crate) mod testing;

pub mod application_services;
pub mod devices;
pub mod federation;
pub mod media;
pub mod rooms;
pub mod sync;
pub mod users;

use std::path::Path;

use sqlx::{
    PgPool, Postgres, Sqlite, SqlitePool, Transaction, pool::PoolConnection,
    postgres::PgPoolOptions, sqlite::SqlitePoolOptions,
};

pub use self::engine::{
    backfilled_tables,
    change::{
        JournalChange, KeyCounts, ReadMarker, ReadPosition, Receipt, RoomRemoval, StickyEvent,
        ThreadMarker,
    },
    database_check::DatabaseCheckError,
    dialect::{DatabaseTarget, RawConnection},
    interned_strings,
    journal::{Journal, JournalFollower, PendingWrite, WriteIntent, WriteTx, last_position},
    postgres_text::{TextList, text_list},
    query::{DbQuery, ReadAccess, number_list, values_clause},
};
use self::engine::{dialect, directory_lock::DirectoryLock};
use crate::{error::Result, health::Health, tasks::Tasks};

/// The number of connections for reading. SQLite's readers never wait for the writer.
const MAX_READ_CONNECTIONS: u32 = 6;

/// The open database: a pool for reading, and the journal for writing.
#[derive(Clone)]
pub struct Db {
    readers: ReadPool,
    journal: Journal,
    /// The cache of texts that are stored as numbers.
    pub strings: interned_strings::InternedStrings,
}

#[derive(Clone)]
enum ReadPool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A connection for single statements, outside any transaction.
pub enum ReadConnection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// A read-only transaction: all its statements see the same state of the database.
pub enum ReadSnapshot {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl ReadAccess for ReadConnection {
    fn raw(&mut self) -> RawConnection<'_> {
        match self {
            Self::Sqlite(conn) => RawConnection::Sqlite(conn),
            Self::Postgres(conn) => RawConnection::Postgres(conn),
        }
    }
}

impl ReadAccess for ReadSnapshot {
    fn raw(&mut self) -> RawConnection<'_> {
        match self {
            Self::Sqlite(tx) => RawConnection::Sqlite(tx),
            Self::Postgres(tx) => RawConnection::Postgres(tx),
        }
    }
}

impl Db {
    /// Opens the database at `url`, brings its schema up to date and starts the journal.
    ///
    /// A relative SQLite path is relative to `data_dir`.
    ///
    /// # Errors
    ///
    /// When it cannot be opened or migrated, or another process writes to it.
    pub async fn open(url: &str, data_dir: &Path, tasks: &Tasks) -> Result<Self> {
        let target = DatabaseTarget::parse(url, data_dir)?;
        let locks = lock_directories(&target, data_dir)?;
        let strings = interned_strings::InternedStrings::default();
        let journal = Journal::open(&target, strings.clone(), tasks, locks).await?;
        let readers = match &target {
            DatabaseTarget::Sqlite(options) => ReadPool::Sqlite(
                SqlitePoolOptions::new()
                    .max_connections(MAX_READ_CONNECTIONS)
                    .test_before_acquire(false)
                    .connect_with(options.clone().read_only(true))
                    .await?,
            ),
            DatabaseTarget::Postgres(options) => ReadPool::Postgres(
                PgPoolOptions::new()
                    .max_connections(MAX_READ_CONNECTIONS)
                    .test_before_acquire(false)
                    .connect_with(options.clone())
                    .await?,
            ),
        };
        Ok(Self {
            readers,
            journal,
            strings,
        })
    }

    /// Returns a connection for reading.
    pub async fn read(&self) -> Result<ReadConnection> {
        Ok(match &self.readers {
            ReadPool::Sqlite(pool) => ReadConnection::Sqlite(pool.acquire().await?),
            ReadPool::Postgres(pool) => ReadConnection::Postgres(pool.acquire().await?),
        })
    }

    /// Begins a read-only transaction with a consistent view.
    pub async fn snapshot(&self) -> Result<ReadSnapshot> {
        Ok(match &self.readers {
            ReadPool::Sqlite(pool) => ReadSnapshot::Sqlite(pool.begin().await?),
            ReadPool::Postgres(pool) => {
                ReadSnapshot::Postgres(pool.begin_with(dialect::BEGIN_POSTGRES_SNAPSHOT).await?)
            }
        })
    }

    /// Waits for a turn to write; see [`WriteTx`].
    pub async fn write(&self) -> Result<WriteTx> {
        self.journal.write().await
    }

    /// Returns the health of the database, which has the reason why it cannot store anything, if there is one.
    pub fn health(&self) -> &Health {
        self.journal.health()
    }

    /// Returns the journal, to follow it.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Waits until all writes are on disk, and closes all connections.
    pub async fn close(&self) {
        self.journal.close().await;
        match &self.readers {
            ReadPool::Sqlite(pool) => pool.close().await,
            ReadPool::Postgres(pool) => pool.close().await,
        }
    }
}

/// Locks the data directory, and the directory of an SQLite file elsewhere.
fn lock_directories(target: &DatabaseTarget, data_dir: &Path) -> Result<Vec<DirectoryLock>> {
    let mut locks = vec![DirectoryLock::acquire(data_dir)?];
    let canonical = |path: &Path| path.canonicalize().ok();
    if let Some(other) = target.sqlite_file().and_then(Path::parent)
        && canonical(other) != canonical(data_dir)
    {
        locks.push(DirectoryLock::acquire(other)?);
    }
    Ok(locks)
}
