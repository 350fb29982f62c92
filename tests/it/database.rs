//! A database for each server: an SQLite file, or a new PostgreSQL database if `TEST_POSTGRES_URL` is set.

use parlour::config::DatabaseUrl;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A database that is deleted when it is dropped.
pub(crate) enum Database {
    /// A file in the data directory, which is deleted with the directory.
    Sqlite,
    /// A separate database in the cluster at `cluster_url`.
    Postgres {
        /// The URL of a database from which others can be created.
        cluster: String,
        /// The name of this database.
        name: String,
    },
}

impl Database {
    pub(crate) async fn new() -> Self {
        let Some(cluster) = cluster_url() else {
            return Self::Sqlite;
        };
        let name = format!("parlour_it_{:016x}", rand::random::<u64>());
        run_statement(&cluster, format!("CREATE DATABASE {name}")).await;
        Self::Postgres { cluster, name }
    }

    pub(crate) fn url(&self) -> DatabaseUrl {
        let url = match self {
            Self::Sqlite => "sqlite:parlour.db".to_owned(),
            Self::Postgres { cluster, name } => {
                let (server, _) = cluster.rsplit_once('/').expect("a URL with a database");
                format!("{server}/{name}")
            }
        };
        DatabaseUrl::parse(&url).expect("a supported database URL")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Self::Postgres { cluster, name } = self else {
            return;
        };
        let (cluster, sql) = (
            cluster.clone(),
            format!("DROP DATABASE {name} WITH (FORCE)"),
        );
        // This needs its own thread, since the test's runtime may be shutting down.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .expect("a runtime")
                .block_on(run_statement(&cluster, sql));
        });
        dropping.join().expect("the database is dropped");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests read the database URL from the environment"
)]
fn cluster_url() -> Option<String> {
    std::env::var("TEST_POSTGRES_URL")
        .ok()
        .filter(|url| !url.is_empty())
}

async fn run_statement(cluster: &str, sql: String) {
    let mut conn = PgConnection::connect(cluster)
        .await
        .expect("PostgreSQL answers");
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await;
    done.expect("the statement runs");
}
