//! The meaning of database errors: the disk is full, the database is unavailable, or something is broken.

use std::sync::Arc;

use crate::error::Error;

/// Primary result codes of SQLite.
///
/// See <https://www.sqlite.org/rescode.html>.
const SQLITE_BUSY: i32 = 5;
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
/// PostgreSQL's error code for a full disk.
///
/// See <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
const POSTGRES_DISK_FULL: &str = "53100";
/// The classes of PostgreSQL's temporary errors: lost connections, too few resources, an operator who stops the
/// database, failing disks.
const POSTGRES_TEMPORARY_CLASSES: [&str; 4] = ["08", "53", "57P", "58"];

/// PostgreSQL's error codes for a text with U+0000, the same in JSON, and a text that is too long for an index. The
/// length of texts is limited when they are received. If a text is too long nevertheless, only the request with it is
/// refused.
const POSTGRES_UNSTORABLE_CODES: [&str; 3] = ["22021", "22P05", "54000"];

impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        match failure_kind(&source) {
            FailureKind::DiskFull => Self::StorageFull,
            FailureKind::Unavailable => {
                tracing::error!(error = %source, "the database is unavailable");
                Self::Unavailable("the database is unavailable at the moment".to_owned())
            }
            FailureKind::Unstorable => {
                tracing::warn!(error = %source, "the database refused a text");
                Self::invalid_param("a text is too long, or has a character that cannot be stored")
            }
            FailureKind::Broken => Self::internal("use the database", source),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    DiskFull,
    /// The database may be available again after a while.
    Unavailable,
    /// The stored value is the cause.
    Unstorable,
    Broken,
}

fn failure_kind(error: &sqlx::Error) -> FailureKind {
    match error {
        sqlx::Error::Database(error) => {
            failure_kind_of_code(error.code().as_deref().unwrap_or_default())
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => FailureKind::Unavailable,
        _ => FailureKind::Broken,
    }
}

fn failure_kind_of_code(code: &str) -> FailureKind {
    // SQLite's codes are numbers of up to four digits, PostgreSQL's are five letters and digits.
    if let (true, Ok(code)) = (code.len() < 5, code.parse::<i32>()) {
        return match code & 0xff {
            SQLITE_FULL => FailureKind::DiskFull,
            SQLITE_BUSY | SQLITE_READONLY | SQLITE_IOERR | SQLITE_CANTOPEN => {
                FailureKind::Unavailable
            }
            _ => FailureKind::Broken,
        };
    }
    if code == POSTGRES_DISK_FULL {
        FailureKind::DiskFull
    } else if POSTGRES_TEMPORARY_CLASSES
        .iter()
        .any(|class| code.starts_with(class))
    {
        FailureKind::Unavailable
    } else if POSTGRES_UNSTORABLE_CODES.contains(&code) {
        FailureKind::Unstorable
    } else {
        FailureKind::Broken
    }
}

/// The reason why a batch was lost, for all writers of the batch.
#[derive(Clone, Debug)]
pub(crate) enum BatchLoss {
    DiskFull,
    Unavailable,
    Broken(Arc<str>),
}

impl BatchLoss {
    /// Returns the reason why nothing can be stored, if it may last for a while.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self {
            Self::DiskFull => Some("the disk is full: nothing can be stored"),
            Self::Unavailable => Some("the database is unavailable: nothing can be stored"),
            Self::Broken(_) => None,
        }
    }
}

impl From<&Error> for BatchLoss {
    fn from(error: &Error) -> Self {
        match error {
            Error::StorageFull => Self::DiskFull,
            Error::Unavailable(_) => Self::Unavailable,
            other => Self::Broken(other.to_string().into()),
        }
    }
}

impl From<BatchLoss> for Error {
    fn from(loss: BatchLoss) -> Self {
        match loss {
            BatchLoss::DiskFull => Self::StorageFull,
            BatchLoss::Unavailable => {
                Self::Unavailable("the database is unavailable at the moment".to_owned())
            }
            BatchLoss::Broken(reason) => {
                Self::internal("write to the database", reason.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_have_the_right_failure_kind() {
        for code in ["13", "53100"] {
            assert_eq!(failure_kind_of_code(code), FailureKind::DiskFull, "{code}");
        }
        for code in ["10", "778", "14", "8", "57P01", "57P03", "08006", "53300"] {
            assert_eq!(
                failure_kind_of_code(code),
                FailureKind::Unavailable,
                "{code}"
            );
        }
        for code in ["22021", "22P05", "54000"] {
            assert_eq!(
                failure_kind_of_code(code),
                FailureKind::Unstorable,
                "{code}"
            );
        }
        for code in ["1", "11", "19", "2067", "23505", "42P01", ""] {
            assert_eq!(failure_kind_of_code(code), FailureKind::Broken, "{code}");
        }
    }

    #[test]
    fn all_writers_of_a_lost_batch_get_the_same_error() {
        let after_loss = |error: Error| Error::from(BatchLoss::from(&error));

        assert!(matches!(after_loss(Error::StorageFull), Error::StorageFull));
        let unavailable = Error::Unavailable("gone".to_owned());
        assert!(matches!(after_loss(unavailable), Error::Unavailable(_)));
        let broken = Error::internal("write", "odd");
        assert!(matches!(after_loss(broken), Error::Internal { .. }));
    }
}
