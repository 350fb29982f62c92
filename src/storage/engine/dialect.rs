//! The differences between SQLite and PostgreSQL in connections, transactions and locks. `migrations` has the
//! differences in the schema, and `failure` those in errors.

use std::{path::Path, str::FromStr};

use sqlx::{
    ConnectOptions, Executor, PgConnection, SqliteConnection,
    error::DatabaseError,
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::error::{Error, Result};

/// The number of prepared statements that each connection keeps: more than the program has.
const STATEMENT_CACHE_CAPACITY: usize = 512;
/// The number of pages (4 KiB each) in the write-ahead log after which SQLite moves them into the database.
const CHECKPOINT_PAGES: &str = "4000";
/// The key of PostgreSQL's advisory lock for the only writer: "parlour" in ASCII.
const WRITER_LOCK_KEY: i64 = 0x70_61_72_6c_6f_75_72;
/// The statement that limits the wait for that lock. After a server was killed, PostgreSQL needs a while to notice that
/// the connection that holds the lock is dead.
const SET_LOCK_TIMEOUT: &str = "SET lock_timeout = '10s'";
/// PostgreSQL's error code when another connection has held a lock for longer than that.
const LOCK_TIMEOUT_CODE: &str = "55P03";

/// The statement that begins a read-only transaction with a consistent view.
pub(crate) const BEGIN_POSTGRES_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A borrowed connection to the open database.
pub enum RawConnection<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// The database, and the options to connect to it.
#[derive(Clone, Debug)]
pub enum DatabaseTarget {
    /// An SQLite file.
    Sqlite(SqliteConnectOptions),
    /// A PostgreSQL server.
    Postgres(PgConnectOptions),
}

impl DatabaseTarget {
    /// Parses `sqlite:PATH` or `postgres://…`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when it is neither.
    pub fn parse(url: &str, data_dir: &Path) -> Result<Self> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::Sqlite(
                SqliteConnectOptions::new()
                    .filename(data_dir.join(path))
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(true)
                    .statement_cache_capacity(STATEMENT_CACHE_CAPACITY)
                    .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
                    .pragma("temp_store", "MEMORY")
                    .disable_statement_logging(),
            ));
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = PgConnectOptions::from_str(url).map_err(|e| {
                Error::invalid_param(format!("database.url is not a PostgreSQL address: {e}"))
            })?;
            return Ok(Self::Postgres(
                options
                    .statement_cache_capacity(STATEMENT_CACHE_CAPACITY)
                    .disable_statement_logging(),
            ));
        }
        Err(Error::invalid_param(
            "database.url must begin with sqlite: or postgres://",
        ))
    }

    /// Returns the file of SQLite; `None` for a database without a file.
    pub fn sqlite_file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(options) => {
                let file = options.get_filename();
                (!file.ends_with(":memory:")).then_some(file)
            }
            Self::Postgres(_) => None,
        }
    }

    /// Opens the writer's connection. On PostgreSQL it also takes the lock that only one writer can hold.
    pub(crate) async fn connect_writer(&self) -> Result<WriterConnection> {
        match self {
            Self::Sqlite(options) => Ok(WriterConnection::Sqlite(options.connect().await?)),
            Self::Postgres(options) => {
                let mut conn = options.connect().await?;
                conn.execute(SET_LOCK_TIMEOUT).await?;
                let locking = sqlx::query("SELECT pg_advisory_lock($1)").bind(WRITER_LOCK_KEY);
                locking.execute(&mut conn).await.map_err(lock_error)?;
                Ok(WriterConnection::Postgres(conn))
            }
        }
    }
}

/// Returns the error to report when the writer's lock cannot be taken.
fn lock_error(error: sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(DatabaseError::code);
    if code.as_deref() == Some(LOCK_TIMEOUT_CODE) {
        return Error::Unavailable("another server is using this database".to_owned());
    }
    error.into()
}

/// An owned connection, for the writer.
pub(crate) enum WriterConnection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl WriterConnection {
    pub(crate) fn raw(&mut self) -> RawConnection<'_> {
        match self {
            Self::Sqlite(conn) => RawConnection::Sqlite(conn),
            Self::Postgres(conn) => RawConnection::Postgres(conn),
        }
    }

    /// Runs statements without parameters.
    pub(crate) async fn run_sql(&mut self, sql: &'static str) -> Result<()> {
        match self {
            Self::Sqlite(conn) => conn.execute(sql).await.map(drop)?,
            Self::Postgres(conn) => conn.execute(sql).await.map(drop)?,
        }
        Ok(())
    }

    /// Begins the transaction of a batch.
    pub(crate) async fn begin_transaction(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(_) => self.run_sql("BEGIN IMMEDIATE").await,
            Self::Postgres(_) => self.run_sql("BEGIN").await,
        }
    }

    /// Rolls back the open transaction, and releases the writer's lock for the next connection.
    pub(crate) async fn abort_transaction(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(_) => self.run_sql("ROLLBACK").await,
            Self::Postgres(_) => {
                self.run_sql("ROLLBACK; SELECT pg_advisory_unlock_all()")
                    .await
            }
        }
    }

    /// Prepares the database for the next start: with an empty log, and without a writer.
    pub(crate) async fn prepare_close(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(_) => self.run_sql("PRAGMA wal_checkpoint(TRUNCATE)").await,
            Self::Postgres(_) => self.run_sql("SELECT pg_advisory_unlock_all()").await,
        }
    }
}
