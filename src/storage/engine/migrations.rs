//! The migrations of the schema, which run at start: numbered files, forward only.

use std::borrow::Cow;

use sqlx::{
    AssertSqlSafe, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

use super::dialect::WriterConnection;
use crate::error::{Error, Result};

/// All migrations in order: file name and text.
const SCHEMA_MIGRATIONS: &[(&str, &str)] = &[
    (
        "0001_portable.postgres.sql",
        include_str!("../../../migrations/0001_portable.postgres.sql"),
    ),
    (
        "0002_foundation.sql",
        include_str!("../../../migrations/0002_foundation.sql"),
    ),
    (
        "0003_media.sql",
        include_str!("../../../migrations/0003_media.sql"),
    ),
    (
        "0004_directory_search.sql",
        include_str!("../../../migrations/0004_directory_search.sql"),
    ),
    (
        "0005_keys.sql",
        include_str!("../../../migrations/0005_keys.sql"),
    ),
    (
        "0006_relations.sql",
        include_str!("../../../migrations/0006_relations.sql"),
    ),
    (
        "0007_rooms.sql",
        include_str!("../../../migrations/0007_rooms.sql"),
    ),
    (
        "0008_accounts.sql",
        include_str!("../../../migrations/0008_accounts.sql"),
    ),
    (
        "0009_parlour.sql",
        include_str!("../../../migrations/0009_parlour.sql"),
    ),
    (
        "0011_server_keys.sql",
        include_str!("../../../migrations/0011_server_keys.sql"),
    ),
    (
        "0012_federation_rooms.sql",
        include_str!("../../../migrations/0012_federation_rooms.sql"),
    ),
    (
        "0013_sender.sql",
        include_str!("../../../migrations/0013_sender.sql"),
    ),
    (
        "0014_remote_devices.sql",
        include_str!("../../../migrations/0014_remote_devices.sql"),
    ),
    (
        "0015_arrived_events.sql",
        include_str!("../../../migrations/0015_arrived_events.sql"),
    ),
    (
        "0016_unsent_messages.sql",
        include_str!("../../../migrations/0016_unsent_messages.sql"),
    ),
    (
        "0017_withheld_redactions.sql",
        include_str!("../../../migrations/0017_withheld_redactions.sql"),
    ),
    (
        "0018_former_key_documents.sql",
        include_str!("../../../migrations/0018_former_key_documents.sql"),
    ),
    (
        "0019_media_freeze.sql",
        include_str!("../../../migrations/0019_media_freeze.sql"),
    ),
    (
        "0020_people_of_other_servers.sql",
        include_str!("../../../migrations/0020_people_of_other_servers.sql"),
    ),
    (
        "0021_batches.sql",
        include_str!("../../../migrations/0021_batches.sql"),
    ),
    (
        "0022_account_data_size.sql",
        include_str!("../../../migrations/0022_account_data_size.sql"),
    ),
    (
        "0023_alias_creators.sql",
        include_str!("../../../migrations/0023_alias_creators.sql"),
    ),
    (
        "0024_push.sql",
        include_str!("../../../migrations/0024_push.sql"),
    ),
    (
        "0025_application_services.sql",
        include_str!("../../../migrations/0025_application_services.sql"),
    ),
    (
        "0026_mail.sql",
        include_str!("../../../migrations/0026_mail.sql"),
    ),
    (
        "0027_web_push.sql",
        include_str!("../../../migrations/0027_web_push.sql"),
    ),
    (
        "0028_identity_servers.sql",
        include_str!("../../../migrations/0028_identity_servers.sql"),
    ),
    (
        "0029_stored_registrations.sql",
        include_str!("../../../migrations/0029_stored_registrations.sql"),
    ),
    (
        "0030_personal_notifications.sql",
        include_str!("../../../migrations/0030_personal_notifications.sql"),
    ),
    (
        "0031_related_redactions.sql",
        include_str!("../../../migrations/0031_related_redactions.sql"),
    ),
    (
        "0032_oauth.sql",
        include_str!("../../../migrations/0032_oauth.sql"),
    ),
    (
        "0033_identity_providers.sql",
        include_str!("../../../migrations/0033_identity_providers.sql"),
    ),
    (
        "0034_profile_changes.sql",
        include_str!("../../../migrations/0034_profile_changes.sql"),
    ),
    (
        "0035_calls.sql",
        include_str!("../../../migrations/0035_calls.sql"),
    ),
];

/// The values of the tokens in a migration, and the suffix of the files for one database.
struct MigrationDialect {
    suffix: &'static str,
    tokens: [(&'static str, &'static str); 4],
}

const SQLITE_DIALECT: MigrationDialect = MigrationDialect {
    suffix: ".sqlite",
    tokens: [
        ("{bytes}", "BLOB"),
        ("{key}", "INTEGER PRIMARY KEY"),
        ("{identity}", "INTEGER PRIMARY KEY AUTOINCREMENT"),
        (
            "{text_index}",
            "CREATE VIRTUAL TABLE text_index USING fts5 (text, tokenize = 'trigram')",
        ),
    ],
};
const POSTGRES_DIALECT: MigrationDialect = MigrationDialect {
    suffix: ".postgres",
    tokens: [
        ("{bytes}", "BYTEA"),
        ("{key}", "BIGINT PRIMARY KEY"),
        (
            "{identity}",
            "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        ),
        // Without this extension, a search reads every text.
        (
            "{text_index}",
            "CREATE TABLE text_index (rowid BIGINT PRIMARY KEY, text TEXT NOT NULL);
             DO $$ BEGIN
                 CREATE EXTENSION IF NOT EXISTS pg_trgm;
                 CREATE INDEX text_index_by_trigram ON text_index USING gin (text gin_trgm_ops);
             EXCEPTION WHEN OTHERS THEN
                 RAISE NOTICE 'no trigrams: %', SQLERRM;
             END $$",
        ),
    ],
};

/// Runs the migrations that have not run yet.
pub(crate) async fn run(conn: &mut WriterConnection) -> Result<()> {
    let outcome = match conn {
        WriterConnection::Sqlite(conn) => migrator(&SQLITE_DIALECT).run(conn).await,
        WriterConnection::Postgres(conn) => migrator(&POSTGRES_DIALECT).run(conn).await,
    };
    outcome.map_err(|source| Error::internal("bring the database up to date", source))
}

/// Returns the number of the newest migration.
pub(crate) fn newest_version() -> i64 {
    let numbers = SCHEMA_MIGRATIONS
        .iter()
        .map(|(name, _)| migration_number(name));
    numbers.max().unwrap_or_default()
}

/// Returns the number at the beginning of a migration's file name.
fn migration_number(name: &str) -> i64 {
    let number = name.split('_').next().and_then(|n| n.parse().ok());
    number.unwrap_or_default()
}

fn migrator(dialect: &MigrationDialect) -> Migrator {
    let ours = SCHEMA_MIGRATIONS.iter().filter(|(name, _)| {
        let stem = name.trim_end_matches(".sql");
        !stem.contains('.') || stem.ends_with(dialect.suffix)
    });
    let migrations = ours.map(|(name, text)| {
        let sql = dialect
            .tokens
            .iter()
            .fold((*text).to_owned(), |sql, (token, with)| {
                sql.replace(token, with)
            });
        let sql = AssertSqlSafe(sql).into_sql_str();
        Migration::new(
            migration_number(name),
            Cow::Borrowed(*name),
            MigrationType::Simple,
            sql,
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}
