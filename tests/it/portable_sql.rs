//! Every statement in the source stands in `storage`, and prepares on the database that the tests run on: one text
//! has to do for both.

use std::{
    fs,
    path::{Path, PathBuf},
};

use parlour::{
    storage::{Db, RawConnection, ReadAccess},
    tasks::Tasks,
};
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use crate::database::Database;

/// How a statement begins.
const VERBS: [&str; 5] = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "];
/// Fewer statements than these mean that the scan misses some.
const AT_LEAST: usize = 80;

#[tokio::test]
async fn every_statement_prepares() {
    let (database, folder) = (Database::new().await, tempfile::tempdir());
    let folder = folder.expect("a folder");
    let url = database.url();
    let db = Db::open(url.expose(), folder.path(), &Tasks::default()).await;
    let db = db.expect("the database opens");
    let mut conn = db.read().await.expect("a connection");

    let statements = all_statements();
    let mut broken = Vec::new();
    for (file, sql) in &statements {
        let text = AssertSqlSafe(sql.clone()).into_sql_str();
        let prepared = match conn.raw() {
            RawConnection::Sqlite(conn) => conn.prepare(text).await.map(drop),
            RawConnection::Postgres(conn) => conn.prepare(text).await.map(drop),
        };
        if !file.contains("/src/storage/") {
            broken.push(format!("{file}: SQL outside storage\n{sql}"));
        }
        if let Err(error) = prepared {
            broken.push(format!("{file}: {error}\n{sql}"));
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
    assert!(statements.len() >= AT_LEAST, "{} only", statements.len());
    drop(conn);
    db.close().await;
}

#[test]
fn statements_are_found_in_the_code() {
    let code = r#"
        db.query("SELECT a FROM b").fetch();
        f("SELECTION", 'x', "no statement");
        let sql = format!("INSERT INTO c (d, e) {}", values(n, 2));
        let sql = "DELETE FROM c
                   WHERE d LIKE $1 ESCAPE '\\'";
    "#;

    let found = statements(code);

    assert_eq!(found[0], "SELECT a FROM b");
    assert_eq!(found[1], "INSERT INTO c (d, e) VALUES ($1, $2), ($3, $4)");
    assert!(found[2].starts_with("DELETE FROM c\n") && found[2].ends_with(r"ESCAPE '\'"));
    assert_eq!(found.len(), 3);
}

/// Every statement of the source, with the file that it stands in.
///
/// The dialect is left out: it is there for what only one of the databases knows.
fn all_statements() -> Vec<(String, String)> {
    let mut files = sources(&root());
    files.retain(|path| !path.ends_with("engine/dialect.rs") && !is_of_tests(path));
    let mut found = Vec::new();
    for path in files {
        let file = path.display().to_string();
        let in_file = statements(&code(&path)).into_iter();
        found.extend(in_file.map(|sql| (file.clone(), sql)));
    }
    found
}

fn is_of_tests(path: &Path) -> bool {
    path.ends_with("storage/testing.rs") || path.file_name().is_some_and(|name| name == "tests.rs")
}

/// The literals of some code that begin as a statement does.
fn statements(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices('"') {
        let text = &code[at + 1..];
        if VERBS.iter().any(|verb| text.starts_with(verb)) {
            let literal = text.split('"').next().unwrap_or_default();
            found.push(filled(&literal.replace(r"\\", r"\")));
        }
    }
    found
}

/// Puts two rows of values where a statement is told how many it has to insert.
fn filled(literal: &str) -> String {
    if !literal.contains("{}") {
        return literal.to_owned();
    }
    let columns = literal.split(['(', ')']).nth(1).unwrap_or_default();
    let columns = columns.split(',').count();
    literal.replace("{}", &parlour::storage::values_clause(2, columns))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Returns the code of a file without its inline tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("source is UTF-8");
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}
