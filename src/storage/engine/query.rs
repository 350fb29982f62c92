//! The abstraction from the two drivers: a statement is built once and runs on the open database.

use std::fmt::Write as _;

use sqlx::{
    Decode, Encode, FromRow, Postgres, SqlSafeStr, Sqlite, Type,
    postgres::{PgArguments, PgRow},
    query::Query as SqlxQuery,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{dialect::RawConnection, postgres_text::WithoutNul};
use crate::error::{Error, Result};

/// A value that both drivers can bind.
pub trait BindParam<'q>:
    Encode<'q, Sqlite> + Type<Sqlite> + Encode<'q, Postgres> + Type<Postgres>
{
}
impl<'q, T> BindParam<'q> for T where
    T: Encode<'q, Sqlite> + Type<Sqlite> + Encode<'q, Postgres> + Type<Postgres>
{
}

/// A row type that both drivers can produce: any struct with `#[derive(sqlx::FromRow)]`, or a tuple.
pub trait RowRecord:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}
impl<T> RowRecord for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

/// The value of a single column that both drivers can decode.
pub trait ScalarColumn:
    for<'r> Decode<'r, Sqlite>
    + Type<Sqlite>
    + for<'r> Decode<'r, Postgres>
    + Type<Postgres>
    + Send
    + Unpin
{
}
impl<T> ScalarColumn for T where
    T: for<'r> Decode<'r, Sqlite>
        + Type<Sqlite>
        + for<'r> Decode<'r, Postgres>
        + Type<Postgres>
        + Send
        + Unpin
{
}

/// A connection or transaction that a read-only statement can run on.
pub trait ReadAccess: Send {
    /// Returns the driver's connection.
    fn raw(&mut self) -> RawConnection<'_>;

    /// Begins a statement.
    fn query<'q>(&mut self, sql: impl SqlSafeStr) -> DbQuery<'_, 'q> {
        let sql = sql.into_sql_str();
        match self.raw() {
            RawConnection::Sqlite(conn) => DbQuery::Sqlite(sqlx::query(sql), conn),
            RawConnection::Postgres(conn) => DbQuery::Postgres(sqlx::query(sql), conn),
        }
    }
}

/// A statement being built for one database.
#[must_use = "a query does nothing until it is executed or fetched"]
pub enum DbQuery<'c, 'q> {
    /// For SQLite.
    Sqlite(
        SqlxQuery<'q, Sqlite, SqliteArguments>,
        &'c mut sqlx::SqliteConnection,
    ),
    /// For PostgreSQL.
    Postgres(
        SqlxQuery<'q, Postgres, PgArguments>,
        &'c mut sqlx::PgConnection,
    ),
}

impl<'q> DbQuery<'_, 'q> {
    /// Binds the value of the next placeholder.
    pub fn bind<T: BindParam<'q> + 'q>(self, value: T) -> Self {
        match self {
            Self::Sqlite(query, conn) => Self::Sqlite(query.bind(value), conn),
            Self::Postgres(query, conn) => Self::Postgres(query.bind(WithoutNul(value)), conn),
        }
    }

    /// Runs the statement and returns the number of rows that it changed.
    pub async fn execute(self) -> Result<u64> {
        Ok(match self {
            Self::Sqlite(query, conn) => query.execute(conn).await?.rows_affected(),
            Self::Postgres(query, conn) => query.execute(conn).await?.rows_affected(),
        })
    }

    /// Returns every row.
    pub async fn fetch_all<T: RowRecord>(self) -> Result<Vec<T>> {
        match self {
            Self::Sqlite(query, conn) => {
                collect_rows(&query.fetch_all(conn).await?, |r| T::from_row(r))
            }
            Self::Postgres(query, conn) => {
                collect_rows(&query.fetch_all(conn).await?, |r| T::from_row(r))
            }
        }
    }

    /// Returns the first row, if there is one.
    pub async fn fetch_optional<T: RowRecord>(self) -> Result<Option<T>> {
        Ok(match self {
            Self::Sqlite(query, conn) => query
                .fetch_optional(conn)
                .await?
                .map(|r| T::from_row(&r))
                .transpose()?,
            Self::Postgres(query, conn) => query
                .fetch_optional(conn)
                .await?
                .map(|r| T::from_row(&r))
                .transpose()?,
        })
    }

    /// Returns the one column of the first row, if there is one.
    pub async fn fetch_scalar<T: ScalarColumn>(self) -> Result<Option<T>> {
        Ok(self.fetch_optional::<(T,)>().await?.map(|(value,)| value))
    }

    /// Returns the one column of every row.
    pub async fn fetch_scalars<T: ScalarColumn>(self) -> Result<Vec<T>> {
        Ok(self
            .fetch_all::<(T,)>()
            .await?
            .into_iter()
            .map(|(value,)| value)
            .collect())
    }
}

fn collect_rows<R, T>(rows: &[R], from: impl Fn(&R) -> sqlx::Result<T>) -> Result<Vec<T>> {
    rows.iter()
        .map(|row| from(row).map_err(Error::from))
        .collect()
}

/// Returns the `VALUES ($1, $2), ($3, $4), …` of a statement that inserts `rows` rows of `columns` columns.
///
/// Callers split rows by a constant, so that the text, and with it the prepared statement, repeats.
pub fn values_clause(rows: usize, columns: usize) -> String {
    let mut sql = String::from("VALUES ");
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            let n = row * columns + column + 1;
            let separator = if column == 0 { "" } else { ", " };
            let _ = write!(sql, "{separator}${n}");
        }
        sql.push(')');
    }
    sql
}

/// Returns a list parameter of numbers, which `json_each($n)` unpacks; the value must be cast to BIGINT.
pub fn number_list(items: impl IntoIterator<Item: Into<i64>>) -> String {
    let numbers = items.into_iter().map(|item| item.into().into());
    serde_json::Value::Array(numbers.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_number_their_placeholders_row_by_row() {
        assert_eq!(values_clause(2, 3), "VALUES ($1, $2, $3), ($4, $5, $6)");
    }

    #[test]
    fn a_list_of_numbers_is_a_json_array() {
        assert_eq!(number_list([1_i64, -2]), "[1,-2]");
    }
}
