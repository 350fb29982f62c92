//! Databases for tests: a new SQLite file, or a new PostgreSQL database where `TEST_POSTGRES_URL` is set.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{Db, ReadAccess};
use crate::tasks::Tasks;

/// A database for one test.
pub(crate) struct TestDb {
    pub(crate) db: Db,
    pub(crate) tasks: Tasks,
    /// The address of the database, to open it again.
    pub(crate) url: String,
    pub(crate) dir: tempfile::TempDir,
    _follower_guard: FollowerGuard,
}

/// A guard that drops the followers of a database. Otherwise the followers and the database would keep each other, and
/// all connections, alive.
struct FollowerGuard(Db);

impl Drop for FollowerGuard {
    fn drop(&mut self) {
        self.0.journal().remove_followers();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests learn from the environment which database to use"
)]
fn postgres_url() -> Option<String> {
    std::env::var("TEST_POSTGRES_URL").ok()
}

impl TestDb {
    /// Creates and opens a database.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = match postgres_url() {
            None => "sqlite:test.db".to_owned(),
            Some(url) => create_postgres(&url).await,
        };
        let tasks = Tasks::default();
        let db = Db::open(&url, dir.path(), &tasks).await.unwrap();
        let follower_guard = FollowerGuard(db.clone());
        Self {
            db,
            tasks,
            url,
            dir,
            _follower_guard: follower_guard,
        }
    }

    /// Removes data about the stored events that older versions of the server did not keep.
    pub(crate) async fn remove_derived_data(&self) {
        let mut tx = self.db.write().await.unwrap();
        for sql in [
            "DELETE FROM relations",
            "DELETE FROM threads",
            "UPDATE events SET thread = NULL, origin_server_ts = 0",
            "UPDATE fills SET done = 0, up_to = (SELECT MAX(position) FROM events)
             WHERE name = 'relations'",
        ] {
            tx.query(sql).execute().await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    /// Closes the database and opens it again, as a restart would.
    pub(crate) async fn reopen(self) -> Self {
        self.db.close().await;
        let tasks = Tasks::default();
        let db = Db::open(&self.url, self.dir.path(), &tasks).await.unwrap();
        let follower_guard = FollowerGuard(db.clone());
        Self {
            db,
            tasks,
            _follower_guard: follower_guard,
            ..self
        }
    }
}

async fn create_postgres(url: &str) -> String {
    let name = format!("parlour_unit_{:016x}", rand::random::<u64>());
    let mut conn = PgConnection::connect(url).await.unwrap();
    conn.execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .await
        .unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}
