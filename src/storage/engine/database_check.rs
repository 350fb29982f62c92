//! Checks a database before a server uses it, and changes nothing in it.

use std::{fs::File, path::PathBuf};

use ruma::{OwnedServerName, ServerName, UserId};
use sqlx::{ConnectOptions, error::DatabaseError, sqlite::SqliteConnectOptions};

use super::{
    dialect::{DatabaseTarget, WriterConnection},
    migrations,
    query::ScalarColumn,
};

/// PostgreSQL's error code for a missing table, and the beginning of SQLite's message.
const POSTGRES_NO_TABLE: &str = "42P01";
const SQLITE_NO_TABLE: &str = "no such table";

/// The reason why a server cannot use a database, with the key of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseCheckError {
    /// The path is a directory.
    #[error("database.url: {} is a directory", .0.display())]
    Directory(PathBuf),
    /// The database cannot be reached, refuses the user, or is not a database.
    #[error("database.url: the database is unavailable: {}", cause_of(.0))]
    Unusable(#[from] sqlx::Error),
    /// The schema is newer than this program.
    #[error("database.url: the database was written by a newer version of Parlour")]
    NewerVersion,
    /// The database has the accounts of another server.
    #[error(
        "server.name = \"{configured}\": the database has the accounts of the server \"{owner}\", and the name of a \
         server cannot change once it has been used"
    )]
    OtherServer {
        /// The name of the server that the accounts belong to.
        owner: OwnedServerName,
        /// The name in the configuration.
        configured: OwnedServerName,
    },
}

impl DatabaseTarget {
    /// Checks that a server of this name can use the database. A file that does not exist yet can be used.
    ///
    /// # Errors
    ///
    /// When it cannot be reached, is not a database, is from a newer version of this program, or belongs to a server of
    /// another name.
    pub async fn check_usable(&self, server_name: &ServerName) -> Result<(), DatabaseCheckError> {
        let mut conn = match self {
            Self::Sqlite(options) => {
                let file = options.get_filename();
                if !file.exists() {
                    return Ok(());
                }
                if file.is_dir() {
                    return Err(DatabaseCheckError::Directory(file.to_owned()));
                }
                // SQLite does not say why it cannot open a file.
                File::open(file).map_err(sqlx::Error::Io)?;
                let reader = SqliteConnectOptions::new().filename(file);
                let reader = reader.read_only(true).disable_statement_logging();
                WriterConnection::Sqlite(reader.connect().await?)
            }
            Self::Postgres(options) => WriterConnection::Postgres(options.connect().await?),
        };
        let schema: Option<i64> = first_value(
            &mut conn,
            "SELECT version FROM _sqlx_migrations ORDER BY version DESC LIMIT 1",
        )
        .await?;
        if schema.is_some_and(|schema| schema > migrations::newest_version()) {
            return Err(DatabaseCheckError::NewerVersion);
        }
        check_owner(&mut conn, server_name).await
    }
}

/// Checks that the accounts of a database are of the server with this name.
///
/// The newest account counts: earlier versions let a used server continue under another name.
async fn check_owner(
    conn: &mut WriterConnection,
    configured: &ServerName,
) -> Result<(), DatabaseCheckError> {
    let user_id: Option<String> = first_value(
        conn,
        "SELECT s.text
         FROM accounts a
         JOIN strings s ON s.num = a.user_num
         ORDER BY a.created_ts DESC, a.user_num DESC
         LIMIT 1",
    )
    .await?;
    let user_id = user_id.and_then(|user_id| UserId::parse(user_id).ok());
    match user_id {
        Some(user_id) if user_id.server_name() != configured => {
            Err(DatabaseCheckError::OtherServer {
                owner: user_id.server_name().to_owned(),
                configured: configured.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Returns the first value that a statement finds; none if its table does not exist.
async fn first_value<T: ScalarColumn>(
    conn: &mut WriterConnection,
    sql: &'static str,
) -> sqlx::Result<Option<T>> {
    let found = match conn {
        WriterConnection::Sqlite(conn) => sqlx::query_scalar(sql).fetch_optional(conn).await,
        WriterConnection::Postgres(conn) => sqlx::query_scalar(sql).fetch_optional(conn).await,
    };
    match found {
        Err(sqlx::Error::Database(error)) if is_about_missing_table(&*error) => Ok(None),
        other => other,
    }
}

fn is_about_missing_table(error: &dyn DatabaseError) -> bool {
    error.code().as_deref() == Some(POSTGRES_NO_TABLE)
        || error.message().starts_with(SQLITE_NO_TABLE)
}

/// Returns the cause of an error, without the context that sqlx adds.
fn cause_of(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ruma::server_name;

    use super::*;
    use crate::storage::{ReadAccess, testing::TestDb, users::accounts};

    async fn refusal(url: &str, folder: &Path, server_name: &ServerName) -> String {
        let target = DatabaseTarget::parse(url, folder).unwrap();
        target
            .check_usable(server_name)
            .await
            .unwrap_err()
            .to_string()
    }

    #[tokio::test]
    async fn a_database_belongs_to_the_server_of_its_accounts() {
        let test = TestDb::new().await;
        let target = DatabaseTarget::parse(&test.url, test.dir.path()).unwrap();
        target
            .check_usable(server_name!("other.org"))
            .await
            .unwrap();
        let mut tx = test.db.write().await.unwrap();
        let user_num = tx.intern_user("@anna:example.org:8448").await.unwrap();
        let account = accounts::Account {
            user_num,
            password_hash: None,
            admin: true,
            guest: false,
            deactivated: false,
            suspended: false,
            locked: false,
            erased_position: None,
            created_ts: 0,
        };
        accounts::insert(&mut tx, &account).await.unwrap();
        tx.commit().await.unwrap();

        target
            .check_usable(server_name!("example.org:8448"))
            .await
            .unwrap();
        let refused = refusal(&test.url, test.dir.path(), server_name!("example.org")).await;

        assert!(
            refused.starts_with("server.name = \"example.org\": "),
            "{refused}"
        );
        assert!(
            refused.contains("of the server \"example.org:8448\""),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_database_of_a_newer_version_is_not_used() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        tx.query("UPDATE _sqlx_migrations SET version = 9999 WHERE version = 23")
            .execute()
            .await
            .unwrap();
        tx.commit().await.unwrap();

        let refused = refusal(&test.url, test.dir.path(), server_name!("example.org")).await;

        assert!(
            refused.ends_with("by a newer version of Parlour"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn an_unusable_database_has_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("text.db"),
            "this is not a database at all",
        )
        .unwrap();

        for (url, reason) in [
            // Nothing listens on this port.
            (
                "postgres://me:swordfish@127.0.0.1:1/chat",
                "Connection refused",
            ),
            (
                "postgres://me:swordfish@host.invalid/chat",
                "failed to lookup address",
            ),
            ("sqlite:.", "is a directory"),
            ("sqlite:text.db", "file is not a database"),
        ] {
            let refused = refusal(url, folder.path(), server_name!("example.org")).await;

            assert!(refused.starts_with("database.url: "), "{refused}");
            assert!(refused.contains(reason), "{refused}");
            assert!(!refused.contains("swordfish"), "{refused}");
        }
    }
}
