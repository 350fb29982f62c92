//! The lock on a data directory: only one server at a time uses it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::error::{Error, Result};

/// The file in the directory that is locked.
const LOCK_FILE: &str = "parlour.lock";

/// A lock on a directory. It is released when this is dropped or the process ends in any way.
#[derive(Debug)]
pub(crate) struct DirectoryLock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl DirectoryLock {
    /// Locks a directory.
    ///
    /// # Errors
    ///
    /// When another server has locked it, or the file cannot be created.
    pub(crate) fn acquire(directory: &Path) -> Result<Self> {
        let path = directory.join(LOCK_FILE);
        let failed = |error: std::io::Error| {
            let text = format!("{}: {error}", path.display());
            Error::internal("lock the data directory", text)
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Unavailable(format!(
                "another server is running on the data directory {}",
                directory.display()
            ))),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once_until_the_lock_is_dropped() {
        let directory = tempfile::tempdir().unwrap();

        let first = DirectoryLock::acquire(directory.path()).unwrap();
        let second = DirectoryLock::acquire(directory.path()).unwrap_err();
        drop(first);

        let text = second.to_string();
        assert!(text.contains("another server is running"), "{text}");
        assert!(text.contains(&directory.path().display().to_string()));
        assert!(DirectoryLock::acquire(directory.path()).is_ok());
    }
}
