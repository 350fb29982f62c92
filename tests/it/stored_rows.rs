//! Reads the rows of a stopped server's database, to check that deleted data is gone.

use parlour::{
    numbers::{Position, UserNum},
    storage::{
        Db, RawConnection, ReadAccess, WriteTx,
        rooms::{
            room_deletion::{self, RoomDeletionRow},
            room_table,
        },
    },
    tasks::Tasks,
};
use sqlx::{AssertSqlSafe, Connection, Row, SqlSafeStr};

use crate::harness::Server;

/// Tables that may mention a deleted room: the record of its deletion, the last events of its members, and
/// the reports of users.
const TABLES_KEPT: [&str; 3] = ["deleted_rooms", "removed_members", "reports"];

/// Tables that have no rows for a room in which only users of this server are members.
const TABLES_UNUSED_LOCALLY: [&str; 6] = [
    "arrived_events",
    "gaps",
    "removed_members",
    "server_notice_rooms",
    "unsent_rooms",
    "waiting_redactions",
];

/// The database of a stopped server.
pub(crate) struct StoredRows {
    db: Db,
}

impl StoredRows {
    pub(crate) async fn open(server: &Server) -> Self {
        let (url, folder) = server.database_location();
        let db = Db::open(url.expose(), &folder, &Tasks::default()).await;
        Self {
            db: db.expect("the database opens"),
        }
    }

    pub(crate) async fn begin_deletion(&mut self, room_id: &str, remover: &str) {
        let mut tx = self.db.write().await.expect("a write transaction");
        let deletion = new_deletion(&mut tx, room_id, remover).await;
        assert!(
            room_deletion::begin(&mut tx, &deletion)
                .await
                .expect("the rows are written")
        );
        tx.commit().await.expect("the transaction is committed");
        self.close().await;
    }

    /// Stores a deletion as it is when the server is killed after its members were removed.
    pub(crate) async fn begin_purge(&mut self, room_id: &str, remover: &str) {
        let mut tx = self.db.write().await.expect("a write transaction");
        let deletion = new_deletion(&mut tx, room_id, remover).await;
        let num = deletion.num;
        assert!(
            room_deletion::begin(&mut tx, &deletion)
                .await
                .expect("the rows are written")
        );
        let members = room_deletion::members(&mut tx, num, 100)
            .await
            .expect("the rows are read");
        let users: Vec<UserNum> = members.iter().map(|member| member.user_num).collect();
        for user in &users {
            let told =
                room_deletion::insert_removal(&mut tx, *user, num, Position::new(1), None).await;
            told.expect("is written");
        }
        let left = room_deletion::remove_memberships(&mut tx, num, &users).await;
        left.expect("the rows are written");
        room_deletion::remove_room(&mut tx, num)
            .await
            .expect("is written");
        let stage = room_deletion::set_stage(&mut tx, num, RoomDeletionRow::PURGING_STAGE).await;
        stage.expect("is written");
        tx.commit().await.expect("is on disk");
        self.close().await;
    }

    /// Runs an SQL statement that changes data.
    pub(crate) async fn execute_sql(&mut self, sql: &str) {
        let mut tx = self.db.write().await.expect("a write transaction");
        let done = tx.query(AssertSqlSafe(sql.to_owned())).execute().await;
        done.expect("the statement runs");
        tx.commit().await.expect("the transaction is committed");
    }

    pub(crate) async fn close(&mut self) {
        self.db.close().await;
    }

    /// Checks that every table with a room column has a row of this room.
    pub(crate) async fn check_all_tables_mention(&mut self, room_id: &str) {
        let sql = format!("SELECT num FROM rooms WHERE room_id = '{room_id}'");
        let num = self.query_numbers(&sql).await[0];
        for (table, columns) in self.table_columns().await {
            let is_used = columns.iter().any(|column| column == "room");
            if is_used && !TABLES_UNUSED_LOCALLY.contains(&&*table) {
                let sql = format!("SELECT room FROM {table} WHERE room IS NOT NULL");
                let rooms = self.query_numbers(&sql).await;
                assert!(rooms.contains(&num), "{table} has no row of the room");
            }
        }
    }

    /// Checks that no table but the documented ones contains one of the texts or the number of a deleted room.
    pub(crate) async fn check_no_table_mentions(&mut self, needles: &[&str]) {
        let gone = self.query_numbers("SELECT num FROM deleted_rooms").await;
        assert!(!gone.is_empty());
        for (table, columns) in self.table_columns().await {
            if TABLES_KEPT.contains(&&*table) {
                continue;
            }
            for row in self.row_texts(&table).await {
                let found = needles.iter().find(|needle| row.contains(**needle));
                assert_eq!(found, None, "{table}: {row}");
            }
            if columns.iter().any(|column| column == "room") {
                let rooms = self
                    .query_numbers(&format!("SELECT room FROM {table} WHERE room IS NOT NULL"))
                    .await;
                assert!(rooms.iter().all(|room| !gone.contains(room)), "{table}");
            }
        }
    }

    pub(crate) async fn query_numbers(&mut self, sql: &str) -> Vec<i64> {
        let mut conn = self.db.read().await.expect("a connection");
        let found = conn
            .query(AssertSqlSafe(sql.to_owned()))
            .fetch_scalars()
            .await;
        found.expect("the query runs")
    }

    /// Returns all tables with their columns.
    async fn table_columns(&mut self) -> Vec<(String, Vec<String>)> {
        let mut conn = self.db.read().await.expect("a connection");
        let sql = match conn.raw() {
            RawConnection::Sqlite(_) => {
                "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
                 WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' AND m.name NOT LIKE 'text_index_%'
                   AND m.name NOT LIKE '_sqlx%' ORDER BY m.name"
            }
            RawConnection::Postgres(_) => {
                "SELECT table_name::text, column_name::text FROM information_schema.columns
                 WHERE table_schema = 'public' AND table_name NOT LIKE '\\_sqlx%' ORDER BY table_name"
            }
        };
        let found: Vec<(String, String)> =
            conn.query(sql).fetch_all().await.expect("the query runs");
        let mut tables: Vec<(String, Vec<String>)> = Vec::new();
        for (table, column) in found {
            match tables.last_mut() {
                Some((last, columns)) if *last == table => columns.push(column),
                _ => tables.push((table, vec![column])),
            }
        }
        assert!(tables.len() > 30, "{tables:?}");
        tables
    }

    /// Returns the rows of a table as text.
    pub(crate) async fn row_texts(&mut self, table: &str) -> Vec<String> {
        let tables = self.table_columns().await;
        let (_, columns) = tables
            .iter()
            .find(|(name, _)| name == table)
            .expect("a table");
        let mut conn = self.db.read().await.expect("a connection");
        let sql = match conn.raw() {
            RawConnection::Sqlite(_) => {
                let columns: Vec<String> = columns.iter().map(|c| format!("quote({c})")).collect();
                format!("SELECT {} FROM {table}", columns.join(" || ' ' || "))
            }
            RawConnection::Postgres(_) => format!("SELECT t::text FROM {table} t"),
        };
        let found = conn.query(AssertSqlSafe(sql)).fetch_scalars().await;
        found.expect("the query runs")
    }
}

async fn new_deletion(tx: &mut WriteTx, room_id: &str, remover: &str) -> RoomDeletionRow {
    let num = room_table::find_number(tx, room_id).await.expect("is read");
    RoomDeletionRow {
        num: num.expect("the room is there"),
        room_id: room_id.to_owned(),
        remover: remover.to_owned(),
        reason: "begun before".to_owned(),
        stage: RoomDeletionRow::EMPTYING_STAGE,
    }
}

/// A connection to a running server's database that observes the stage of its deletions.
pub(crate) enum DeletionProgress {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection),
}

impl DeletionProgress {
    pub(crate) async fn connect(server: &Server) -> Self {
        let (url, folder) = server.database_location();
        if let Some(file) = url.expose().strip_prefix("sqlite:") {
            let file = format!("sqlite:{}", folder.join(file).display());
            let conn = sqlx::SqliteConnection::connect(&file).await;
            return Self::Sqlite(conn.expect("the database opens"));
        }
        let conn = sqlx::PgConnection::connect(url.expose()).await;
        Self::Postgres(conn.expect("the database opens"))
    }

    pub(crate) async fn wait_until_finished(mut self) {
        let sql =
            || AssertSqlSafe("SELECT COUNT(*) FROM deleted_rooms WHERE stage < 2").into_sql_str();
        loop {
            let left: i64 = match &mut self {
                Self::Sqlite(conn) => {
                    let row = sqlx::query(sql()).fetch_one(conn).await;
                    row.expect("the query runs").get(0)
                }
                Self::Postgres(conn) => {
                    let row = sqlx::query(sql()).fetch_one(conn).await;
                    row.expect("the query runs").get(0)
                }
            };
            if left == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}
